"""Fixtures of the tests on several machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ray_cluster


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of a cluster of two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a token would be written to HOME
        yield from ray_cluster.started()
