from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from kernel_cases import DEVICE, error, on_kernels, pearson
from metaqap_fast import kernels

pytestmark = pytest.mark.full

QUIET = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def case(seed, rows, noise=0.5, scale=0.2, offset=0.5, levels=0, masked=0.0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    mos = offset + scale * torch.randn(rows, generator=random, dtype=torch.float64)
    score = mos + noise * scale * torch.randn(rows, generator=random, dtype=torch.float64)
    if levels:
        step = 2 * scale / levels
        mos, score = (mos / step).round() * step, (score / step).round() * step
    mask = torch.rand(rows, generator=random) >= masked if masked else None
    return score.to(DEVICE, dtype), mos.to(DEVICE, dtype), None if mask is None else mask.to(DEVICE)


def kernel(score, mos, temperature, mask=None):
    """Loss and gradient from the kernels, in float64 on the CPU."""
    score = score.detach().requires_grad_()
    with on_kernels():
        loss = kernels.soft_spearman(score, mos, temperature, mask)
        loss.backward()
    return loss.detach().cpu().double(), score.grad.cpu().double()


def formula(score, mos, temperature, mask=None):
    """The same in float64 from the definition: sigmoids, sums, Pearson."""
    score = score.detach().cpu().double().requires_grad_()
    mos = mos.cpu().double()
    keep = torch.ones(len(score), dtype=torch.bool) if mask is None else mask.cpu()
    x, t = score[keep], mos[keep]
    if len(x) == 0:
        loss = 0.0 * score.sum()
    elif x.max() == x.min() or t.max() == t.min():
        loss = 1.0 + 0.0 * score.sum()
    else:
        ranks = [torch.sigmoid((v[:, None] - v[None, :]) / temperature).sum(dim=1) for v in (x, t)]
        loss = 1.0 - pearson(*ranks)
        if len(x) == 2:  # 1 or -1 whatever they are
            loss = loss.detach().round() + 0.0 * score.sum()
    loss.backward()
    return loss.detach(), score.grad


def check(*arguments, tolerance):
    (loss, grad), (expected_loss, expected_grad) = kernel(*arguments), formula(*arguments)
    assert abs(loss - expected_loss) <= tolerance * abs(expected_loss)
    # Where every pair is saturated or the order is perfect the gradient is 0 but for float64's own rounding.
    assert error(grad, expected_grad, 1e-12 / arguments[2]) < tolerance


shapes = {
    "seed": st.integers(0, 2**31),
    "rows": st.integers(1, 40) | st.integers(120, 140),  # one tile of columns, partly filled, and more than one
    "levels": st.sampled_from([0, 0, 2, 5]),
    "masked": st.sampled_from([0.0, 0.0, 0.3, 0.9]),
}


@QUIET
@given(
    **shapes,
    scale=st.sampled_from([0.02, 0.2, 20.0]),
    offset=st.sampled_from([0.5, -70.0]),
    noise=st.sampled_from([0.5, 3.0]),
    temperature=st.sampled_from([0.05, 0.5, 5.0]),
)
def test_fp32_is_the_formula(seed, rows, levels, masked, scale, offset, noise, temperature):
    score, mos, mask = case(seed, rows, noise, scale, offset, levels, masked)
    check(score, mos, temperature * scale, mask, tolerance=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@settings(QUIET, max_examples=12)
@given(**shapes)
def test_half_precision_is_the_formula(dtype, seed, rows, levels, masked):
    score, mos, mask = case(seed, rows, levels=levels, masked=masked, dtype=dtype)
    check(score, mos, 0.05, mask, tolerance=5e-3)


@pytest.mark.parametrize("noise", [1e-2, 1e-3])
def test_a_nearly_perfect_order_keeps_its_digits(noise):
    score, mos, _ = case(1, 400, noise)
    check(score, mos, 0.05, tolerance=1e-5)


def test_several_tiles():
    score, mos, mask = case(2, 401, masked=0.1)
    check(score, mos, 0.02, mask, tolerance=1e-5)


def test_values_far_apart_are_ordered_without_overflow():
    score, mos, _ = case(3, 200, scale=1e30)
    loss, grad = kernel(score, mos, 1e-3)
    assert loss == pytest.approx(1 - spearmanr(score.cpu(), mos.cpu()).statistic, rel=1e-5)
    assert (grad == 0).all()


def test_a_low_temperature_is_spearman():
    score, mos, _ = case(4, 300, levels=0)
    loss, _ = kernel(score, mos, 1e-7)
    assert loss == pytest.approx(1 - spearmanr(score.cpu(), mos.cpu()).statistic, rel=1e-3)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_defined_values(impl):
    score, mos, _ = case(5, 30)
    with on_kernels():
        for a, b in ((torch.full_like(score, 0.5), mos), (score, torch.full_like(mos, 0.5)), (score[:1], mos[:1])):
            a = a.detach().requires_grad_()
            loss = kernels.soft_spearman(a, b, 0.1, impl=impl)
            loss.backward()
            assert loss.item() == 1
            assert (a.grad == 0).all()
        a = torch.full_like(score, torch.nan).requires_grad_()
        loss = kernels.soft_spearman(a, mos, 0.1, torch.zeros_like(score, dtype=torch.bool), impl=impl)
        loss.backward()
    assert loss.item() == 0
    assert (a.grad == 0).all()


def test_a_mask_is_as_good_as_leaving_the_rows_out():
    score, mos, mask = case(6, 333, masked=0.4)
    score[~mask] = torch.nan
    loss, grad = kernel(score, mos, 0.05, mask)
    expected_loss, expected_grad = kernel(score[mask], mos[mask], 0.05)
    assert loss == pytest.approx(float(expected_loss), rel=1e-6)
    assert error(grad[mask.cpu()], expected_grad) < 1e-6
    assert (grad[~mask.cpu()] == 0).all()


def test_strides_and_repeats_give_the_same_bits():
    score, mos, mask = case(7, 260, masked=0.2)
    first = kernel(score, mos, 0.05, mask)
    wide = torch.stack([score, score], dim=1)[:, 1]
    assert wide.stride() == (2,)
    for again in (
        kernel(score, mos, 0.05, mask),
        kernel(wide, torch.stack([mos] * 3, dim=1)[:, 2], 0.05, torch.stack([mask] * 2, dim=1)[:, 0]),
    ):
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


def test_the_cpu_implementation_is_the_formula_and_holds_no_square():
    score, mos, mask = case(8, 900, masked=0.2)
    score, mos, mask = score.cpu().requires_grad_(), mos.cpu(), mask.cpu()
    loss = kernels.soft_spearman(score, mos, 0.05, mask)
    loss.backward()
    expected_loss, expected_grad = formula(score, mos, 0.05, mask)
    assert loss.item() == pytest.approx(float(expected_loss), rel=1e-6)
    assert error(score.grad.double(), expected_grad) < 1e-6

    from metaqap_fast.kernels.soft_spearman_torch import STRIP, _strips

    assert all(len(range(8192)[rows]) * 8192 <= STRIP for rows in _strips(torch.empty(8192)))


@pytest.mark.nightly
def test_8192_rows():
    """On a GPU a moment; interpreted, minutes."""
    score, mos, _ = case(9, 8192)
    check(score, mos, 0.05, tolerance=1e-5)
