"""What the kernel tests share: where kernels run, random ensembles, and the formulas in float64.

Without a GPU the kernels run through Triton's interpreter, which must be chosen before Triton is imported: test modules
here import this one first. With a GPU the same tests run on it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def interpreter() -> Iterator[None]:
    """TRITON_INTERPRET for as long as kernels are imported or run, and not for the tests of other folders."""
    if DEVICE == "cuda":
        yield
        return
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


def _import_kernels() -> None:
    import importlib

    early = "triton" in sys.modules
    with interpreter():
        importlib.import_module("metaqap_fast.kernels.qa_ensemble_launch")
        importlib.import_module("metaqap_fast.kernels.soft_spearman_triton")
    from triton.runtime.interpreter import InterpretedFunction

    from metaqap_fast.kernels.qa_ensemble_triton import combine_kernel

    if DEVICE == "cpu" and early and not isinstance(combine_kernel, InterpretedFunction):
        raise RuntimeError("Triton was imported before the kernel tests: run pytest with TRITON_INTERPRET=1")


_import_kernels()

from metaqap_fast import kernels  # noqa: E402


@contextmanager
def on_kernels() -> Iterator[None]:
    """Inside, the operators run the Triton kernels: on the GPU, or interpreted."""
    with interpreter(), nullcontext() if DEVICE == "cuda" else kernels.interpreted():
        yield


@dataclass(frozen=True)
class Ensemble:
    members: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor
    mos: torch.Tensor
    mask: torch.Tensor | None
    l1: float = 0.5
    l2: float = 0.5

    def leaves(self) -> Ensemble:
        """Fresh copies of members, weights and bias, with their strides, that collect gradients."""
        fresh = {name: getattr(self, name).detach().requires_grad_() for name in ("members", "weights", "bias")}
        return replace(self, **fresh)

    def double(self) -> Ensemble:
        return replace(
            self,
            members=self.members.cpu().double(),
            weights=self.weights.cpu().double(),
            bias=self.bias.cpu().double(),
            mos=self.mos.cpu().double(),
            mask=None if self.mask is None else self.mask.cpu(),
        )


def ensemble(
    seed: int,
    rows: int,
    columns: int,
    scale: float = 0.2,
    offset: float = 0.5,
    noise: float = 0.5,
    levels: int = 0,
    masked: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Ensemble:
    """MOS about `offset` with standard deviation `scale`, members that miss it by `noise` of that; `levels` ties."""
    rng = np.random.default_rng(seed)
    mos = offset + scale * rng.standard_normal(rows)
    members = mos[:, None] + noise * scale * rng.standard_normal((rows, columns))
    if levels:
        step = 2 * scale / levels
        mos, members = np.round(mos / step) * step, np.round(members / step) * step
    weights = rng.dirichlet(np.ones(columns)) + 0.05 * rng.standard_normal(columns)
    mask = rng.random(rows) >= masked if masked else None
    put = {"dtype": dtype, "device": DEVICE}
    return Ensemble(
        torch.tensor(members, **put),
        torch.tensor(weights, dtype=torch.float32, device=DEVICE),
        torch.tensor(0.01 * scale, dtype=torch.float32, device=DEVICE),
        torch.tensor(mos, dtype=torch.float32, device=DEVICE),
        None if mask is None else torch.tensor(mask, device=DEVICE),
    )


@dataclass(frozen=True)
class Outcome:
    loss: torch.Tensor
    score: torch.Tensor
    members: torch.Tensor  # the gradients
    weights: torch.Tensor
    bias: torch.Tensor


def outcome(case: Ensemble, grad_score: torch.Tensor | None = None) -> Outcome:
    """Loss, score and gradients from the kernels, in float64 on the CPU; `grad_score` arrives at the score as well."""
    case = case.leaves()
    with on_kernels():
        loss, score = kernels.quality_aware_loss(
            case.members, case.weights, case.bias, case.mos, case.l1, case.l2, case.mask
        )
        total = loss if grad_score is None else loss + (score * grad_score).sum()
        total.backward()
    parts = (loss.detach(), score.detach(), case.members.grad, case.weights.grad, case.bias.grad)
    return Outcome(*(part.cpu().double() for part in parts))


def formula(case: Ensemble, grad_score: torch.Tensor | None = None) -> Outcome:
    """The same in float64 from the formula as the paper gives it, rows dropped where masked.

    Softmax, Pearson and mean are spelled out; autograd differentiates them. Only what is undefined is filled in: no
    rows, or no variance.
    """
    case = case.double().leaves()
    score = case.members @ case.weights + case.bias
    keep = torch.ones(len(score), dtype=torch.bool) if case.mask is None else case.mask
    y, t = score[keep], case.mos[keep]
    loss = 0.0 * score.sum()
    if len(y):
        loss = case.l1 * 0.5 * ((t - y) ** 2).mean()
        if y.max() - y.min() > 1e-11 and t.max() > t.min() and len(y) > 2:
            loss = loss + case.l2 * (1.0 - pearson(y.softmax(0), t.softmax(0)))
        elif y.max() - y.min() > 1e-11 and t.max() > t.min():  # two rows: 1 or -1 whatever they are
            loss = loss + case.l2 * (1.0 - ((y[0] - y[1]) * (t[0] - t[1])).sign().detach())
        else:
            loss = loss + case.l2
    total = loss if grad_score is None else loss + (score * grad_score.cpu().double()).sum()
    total.backward()
    parts = (loss.detach(), score.detach(), case.members.grad, case.weights.grad, case.bias.grad)
    return Outcome(*parts)


def pearson(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    x, z = x - x.mean(), z - z.mean()
    return (x * z).sum() / torch.sqrt((x * x).sum() * (z * z).sum())


def error(got: torch.Tensor, expected: torch.Tensor, size: float = 0.0) -> float:
    """Largest deviation relative to `size` or the largest expected value; the deviation itself where both are 0."""
    assert got.shape == expected.shape
    size = max(size, float(expected.abs().max()))
    return float((got - expected).abs().max()) / (size if size > 0 else 1.0)


def errors(case: Ensemble, grad_score: torch.Tensor | None = None) -> dict[str, float]:
    """Relative errors of the kernels against the formula, by output and gradient.

    The gradients of weights and intercept are sums over the batch, sum_i g_i p_im and sum_i g_i. Their terms cancel, to
    0 at the optimum, where a relative error means nothing: they are held to the sum of the terms' magnitudes.
    """
    got, expected = outcome(case, grad_score), formula(case, grad_score)
    wide = case.double()
    at = int(wide.weights.abs().argmax())
    g = (expected.members[:, at] / wide.weights[at]).abs()
    terms = {"weights": float((g[:, None] * wide.members.abs()).sum(dim=0).max()), "bias": float(g.sum())}
    names = ("loss", "score", "members", "weights", "bias")
    return {name: error(getattr(got, name), getattr(expected, name), terms.get(name, 0.0)) for name in names}
