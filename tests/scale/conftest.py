"""Fixtures of the tests on several machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metaqap_fast.bench.cluster_rows import cluster


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of a cluster of two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # and as it was before, when the cluster has gone
        with cluster("--num-cpus=2") as address:
            yield address
