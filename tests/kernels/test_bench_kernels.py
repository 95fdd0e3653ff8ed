"""The benchmark's steps run; what they time is only known on a GPU."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

import kernel_cases  # noqa: F401  (first: it decides how Triton is imported)
from metaqap_fast.bench import kernels as bench
from metaqap_fast.errors import MetaqapError

pytestmark = pytest.mark.full


@pytest.fixture
def on_cpu(monkeypatch):
    """The same code on CPU tensors, compiled without a code generator, and timed as instantaneous."""
    monkeypatch.setattr(bench, "DEVICE", "cpu")
    monkeypatch.setattr(bench, "COMPILE", {"backend": "aot_eager"})

    def timed(step):
        step()
        return (1.0, 2.0, 3.0), 0

    monkeypatch.setattr(bench, "timed", timed)


def test_every_implementation_is_measured(on_cpu):
    rows = list(bench.measure([64], [3], [32], bandwidth=1e6))
    assert [(row.operation, row.implementation) for row in rows] == [
        (operation, name)
        for operation in ("quality_aware_loss", "soft_spearman")
        for name in ("torch-eager", "torch-compile", "triton")
    ]
    # [64, 3] read twice and written once, [64] read twice and written once, 4 bytes each, in 2 ms.
    assert rows[0].bytes == 64 * 4 * (9 + 3)
    assert rows[0].percent_of_copy == pytest.approx(100 * rows[0].bytes / 2e-3 / 1e6)
    assert asdict(rows[0])["p20_ms"] == 1.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to time")
def test_without_a_gpu_it_says_so():
    with pytest.raises(MetaqapError, match="needs a CUDA GPU"):
        bench.main([])


def test_the_committed_sizes():
    assert bench.BATCHES[0] == 256
    assert bench.BATCHES[-1] == 4 * 2**20
    assert bench.MEMBERS == [3, 5, 8]
