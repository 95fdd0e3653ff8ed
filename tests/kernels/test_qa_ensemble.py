from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from kernel_cases import DEVICE, Ensemble, ensemble, error, errors, formula, on_kernels, outcome
from metaqap_fast import kernels

pytestmark = pytest.mark.full

TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}
# Examples are whole ensembles from a seed: there is nothing to shrink, and shrinking takes minutes in the interpreter.
QUIET = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def check(case: Ensemble, tolerance: float, grad_score: torch.Tensor | None = None) -> None:
    found = errors(case, grad_score)
    assert max(found.values()) < tolerance, found


shapes = {
    "seed": st.integers(0, 2**31),
    "rows": st.integers(1, 40) | st.integers(500, 530) | st.integers(1000, 1600),
    "columns": st.integers(1, 16),
    "levels": st.sampled_from([0, 0, 2, 5]),
    "masked": st.sampled_from([0.0, 0.0, 0.2, 0.9]),
}


@QUIET
@given(
    **shapes,
    scale=st.sampled_from([1e-3, 0.02, 0.2, 1.0, 3.0]),
    offset=st.sampled_from([0.5, -3.0, 70.0]),
    noise=st.sampled_from([0.1, 0.5, 3.0]),
)
@example(seed=0, rows=1, columns=1, scale=0.2, offset=0.5, noise=0.5, levels=0, masked=0.0)
@example(seed=0, rows=512, columns=8, scale=0.2, offset=0.5, noise=0.5, levels=0, masked=0.0)
@example(seed=0, rows=513, columns=5, scale=0.2, offset=0.5, noise=0.5, levels=2, masked=0.2)
def test_fp32_is_the_formula(seed, rows, columns, scale, offset, noise, levels, masked):
    check(ensemble(seed, rows, columns, scale, offset, noise, levels, masked), TOLERANCE[torch.float32])


@settings(QUIET, max_examples=12)
@given(**shapes, noise=st.sampled_from([0.1, 0.5, 3.0]))
@example(seed=191, rows=1214, columns=14, levels=0, masked=0.0, noise=0.5)
def test_unscaled_mos(seed, rows, columns, levels, masked, noise):
    """MOS from 0 to 150: softmax leaves one image of the batch.

    Its gradient is then the difference of two numbers as large as the batch, of which fp32 keeps a digit less than the
    1e-5 that all else is held to.
    """
    check(ensemble(seed, rows, columns, 20.0, 70.0, noise, levels, masked), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@settings(QUIET, max_examples=8)
@given(**shapes, scale=st.sampled_from([0.02, 0.2, 5.0]))
def test_half_precision_is_the_formula(dtype, seed, rows, columns, levels, masked, scale):
    """Members, weights and MOS in half precision: what the formula gives for exactly these numbers."""
    case = ensemble(seed, rows, columns, scale, 0.5, 0.5, levels, masked, dtype)
    halves = {name: getattr(case, name).to(dtype) for name in ("weights", "bias", "mos")}
    check(replace(case, **halves), TOLERANCE[dtype])


@pytest.mark.parametrize("spread", [1e-6, 1e-4])
def test_scores_that_hardly_vary_keep_their_digits(spread):
    """Sums of exponentials in fp32 would leave nothing of a variance of 1e-12 beside a mean of 1."""
    case = ensemble(3, 2000, 5)
    members = 0.5 + spread * torch.randn(2000, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    check(replace(case, members=members.float()), 1e-5)


@pytest.mark.parametrize("noise", [1e-2, 1e-4])
def test_a_nearly_perfect_fit_keeps_its_digits(noise):
    """1 - r is about noise^2 here: taken as a difference in fp32 it would be noise."""
    check(replace(ensemble(4, 1500, 4, noise=noise), l1=0.0), 1e-5)


@pytest.mark.parametrize(
    ("scale", "offset"), [(300.0, 0.0), (1e4, 1e6), (1e12, 0.0), (1e-2, 1e3)], ids=["300", "1e4", "1e12", "0.01"]
)
def test_values_far_outside_the_unit_interval(scale, offset):
    check(ensemble(5, 1030, 3, scale, offset), 1e-5)


@pytest.mark.parametrize("scale", [300.0, 1e12])
def test_the_correlation_far_outside_the_unit_interval(scale):
    """Alone, since beside such a squared error nothing else would be seen: one image is left, and no gradient."""
    case = replace(ensemble(5, 1030, 3, scale, noise=2.0), l1=0.0)
    got, expected = outcome(case), formula(case)
    assert got.loss == pytest.approx(float(expected.loss), rel=1e-5, abs=1e-6)
    assert (got.members - expected.members).abs().max() < 1e-6


def test_one_outlier_in_every_block():
    case = ensemble(6, 1200, 4, scale=1e-3)
    members, mos = case.members.clone(), case.mos.clone()
    members[::300] += 6.0
    mos[::400] += 5.0
    check(replace(case, members=members, mos=mos), 1e-5)


def test_many_blocks():
    check(ensemble(7, 20_003, 3, masked=0.1), 1e-5)


@pytest.mark.parametrize(("l1", "l2"), [(1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])
def test_the_two_weights(l1, l2):
    check(replace(ensemble(8, 700, 5), l1=l1, l2=l2), 1e-5)


def test_a_gradient_that_arrives_at_the_score():
    case = ensemble(9, 900, 5, masked=0.3)
    check(case, 1e-5, grad_score=torch.randn(900, generator=torch.Generator().manual_seed(1)).to(DEVICE))


def test_a_mask_is_as_good_as_leaving_the_rows_out():
    case = ensemble(10, 1300, 4, masked=0.4)
    assert case.mask is not None
    members, mos = case.members.clone(), case.mos.clone()
    members[~case.mask] = torch.nan
    mos[~case.mask] = torch.nan
    whole = outcome(replace(case, members=members, mos=mos))
    part = outcome(replace(case, members=members[case.mask], mos=mos[case.mask], mask=None))
    keep = case.mask.cpu()
    for name in ("loss", "weights", "bias"):
        assert error(getattr(whole, name), getattr(part, name)) < 1e-6
    assert error(whole.members[keep], part.members) < 1e-6
    assert torch.equal(whole.score[keep], part.score)
    assert whole.score[~keep].isnan().all()
    assert (whole.members[~keep] == 0).all()


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_defined_values(impl):
    """No variance: r = 0 and no gradient from it. No rows: 0."""
    flat = ensemble(11, 600, 3)
    flat = replace(flat, members=torch.full_like(flat.members, 0.7).requires_grad_())
    with on_kernels():
        loss, score = kernels.quality_aware_loss(flat.members, flat.weights, flat.bias, flat.mos, impl=impl)
        loss.backward()
    miss = score.detach() - flat.mos
    assert loss.item() == pytest.approx(0.25 * float((miss**2).mean()) + 0.5, rel=1e-6)
    expected = 0.5 / 600 * miss[:, None] * flat.weights
    assert torch.allclose(flat.members.grad, expected, rtol=1e-4, atol=1e-9)

    one = ensemble(12, 1, 3)
    none = replace(ensemble(12, 700, 3), mask=torch.zeros(700, dtype=torch.bool, device=DEVICE))
    none.members[3] = torch.nan
    with on_kernels():
        loss, score = kernels.quality_aware_loss(one.members, one.weights, one.bias, one.mos, impl=impl)
        assert loss.item() == pytest.approx(0.25 * float(score - one.mos) ** 2 + 0.5, rel=1e-6)
        none = none.leaves()
        loss, _ = kernels.quality_aware_loss(none.members, none.weights, none.bias, none.mos, mask=none.mask, impl=impl)
        loss.backward()
    assert loss.item() == 0
    for leaf in (none.members, none.weights, none.bias):
        assert (leaf.grad == 0).all()


def test_bitwise_the_same_on_every_run():
    case = ensemble(13, 5000, 5, masked=0.1)
    first, second = outcome(case), outcome(case)
    for field in fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))


def test_a_row_has_the_same_score_in_any_batch():
    case = ensemble(14, 1500, 5)
    with on_kernels():
        whole = kernels.combine(case.members, case.weights, case.bias)
        for at in (0, 511, 512, 1499):
            alone = kernels.combine(case.members[at : at + 1], case.weights, case.bias)
            assert alone[0].item() == whole[0][at].item()
            assert alone[1].item() == whole[1][at].item()
        _, score = kernels.quality_aware_loss(case.members, case.weights, case.bias, case.mos)
    assert torch.equal(score, whole[0])


@pytest.mark.parametrize("layout", ["transposed", "columns", "rows", "expanded", "backwards-weights"])
def test_strides_are_followed_without_a_copy(layout, monkeypatch):
    case = ensemble(15, 1100, 5, masked=0.2)
    p = case.members
    wide = torch.randn(2200, 11, device=DEVICE)
    if layout == "transposed":
        strided = p.t().contiguous().t()
    elif layout == "columns":
        strided = wide[:1100, 1::2]
        strided.copy_(p)
    elif layout == "rows":
        strided = wide[::2, 3:8]
        strided.copy_(p)
    elif layout == "expanded":
        strided = p[:1].expand(1100, 5)
        p = strided.contiguous()
    else:
        strided = p
    every_third = torch.stack([case.mos] * 3, dim=1)[:, 0]
    mask = torch.stack([case.mask] * 2, dim=1)[:, 1]
    weights = torch.stack([case.weights] * 2, dim=1)[:, 0]
    plain = outcome(replace(case, members=p))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("copied")

    with on_kernels(), monkeypatch.context() as patch:
        for name in ("contiguous", "clone", "copy_"):
            patch.setattr(torch.Tensor, name, refuse)
        score, spread = kernels.combine(strided, weights, case.bias, mask=mask)
    with on_kernels():
        expected = kernels.combine(p, case.weights, case.bias, mask=case.mask)
    assert torch.equal(score, expected[0])
    assert torch.equal(spread, expected[1])
    if layout != "expanded":  # an expanded leaf would have to collect its gradient in one row
        got = outcome(replace(case, members=strided, mos=every_third, mask=mask, weights=weights))
        for field in fields(got):
            assert torch.equal(getattr(got, field.name), getattr(plain, field.name))


def test_nothing_of_the_size_of_the_batch_is_written_besides_the_outputs():
    from torch.utils._python_dispatch import TorchDispatchMode

    made = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if "empty" in str(func) or "zeros" in str(func) or "clone" in str(func):
                made.append(out.numel())
            return out

    from metaqap_fast.kernels import qa_ensemble_launch as ops

    case = ensemble(16, 30_000, 3)
    with Record():
        loss, _, stats = ops.loss_forward(case.members, case.weights, case.bias, case.mos, None, 0.5, 0.5)
    assert sum(size >= 3000 for size in made) == 1  # the score
    made.clear()
    with Record():
        ops.loss_backward(
            torch.ones_like(loss), None, case.members, case.weights, case.bias, case.mos, None, stats, True
        )
    assert sum(size >= 3000 for size in made) == 1  # the members' gradient


@settings(QUIET, max_examples=20)
@given(**shapes, scale=st.sampled_from([1e-3, 0.2, 20.0]), offset=st.sampled_from([0.5, 70.0]))
def test_combine_is_the_formula(seed, rows, columns, levels, masked, scale, offset):
    case = ensemble(seed, rows, columns, scale, offset, 0.5, levels, masked)
    with on_kernels():
        score, spread = kernels.combine(case.members, case.weights, case.bias, case.mask)
    p, w, b = (x.cpu().double().numpy() for x in (case.members, case.weights, case.bias))
    expected = p @ w + b
    apart = np.sqrt((np.abs(w) * (p - expected[:, None]) ** 2).sum(axis=1) / np.abs(w).sum())
    assert np.allclose(score.cpu().numpy(), expected, rtol=1e-6, atol=1e-9 * scale)
    # Where all members are equal to the score but for fp64's rounding, there is no relative error to speak of.
    assert np.allclose(spread.cpu().numpy(), apart, rtol=1e-6, atol=1e-13 * abs(offset))


def test_combine_without_weight_or_disagreement():
    with on_kernels():
        score, spread = kernels.combine(torch.rand(5, 3, device=DEVICE), torch.zeros(3, device=DEVICE), 0.25)
        assert (score == 0.25).all()
        assert (spread == 0).all()
        members = torch.full((4, 2), 0.5, device=DEVICE, requires_grad=True)
        score, spread = kernels.combine(members, torch.full((2,), 0.5, device=DEVICE), 0.0)
        (score.sum() + spread.sum()).backward()
    assert (spread == 0).all()
    assert torch.equal(members.grad, torch.full((4, 2), 0.5, device=DEVICE))


def test_combine_agrees_with_the_scorer_on_a_cpu():
    from metaqap_fast.model.meta import spread as numpy_spread

    case = ensemble(17, 50, 4)
    with on_kernels():
        score, spread = kernels.combine(case.members, case.weights, case.bias)
    p, w = case.members.cpu().numpy().astype(np.float64), case.weights.cpu().numpy().astype(np.float64)
    expected = (p * w).sum(axis=1) + float(case.bias)
    assert np.allclose(score.cpu().numpy(), expected, rtol=1e-6)
    assert np.allclose(spread.cpu().numpy(), numpy_spread(p, expected, w), rtol=1e-6)
