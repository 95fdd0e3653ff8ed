"""The operators as torch sees them, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kernel_cases import DEVICE, Ensemble, ensemble, error, formula, on_kernels
from metaqap_fast import kernels

pytestmark = pytest.mark.full


def loss_arguments(case: Ensemble) -> tuple[object, ...]:
    return (case.members, case.weights, case.bias, case.mos, case.mask, 0.5, 0.5, False)


@pytest.mark.parametrize("masked", [0.0, 0.3])
@pytest.mark.parametrize("where", ["kernels", "cpu"])
def test_opcheck(masked, where):
    case = ensemble(0, 20, 3, masked=masked).leaves()
    if where == "cpu":
        leaves = case.double().leaves()
        names = ("members", "weights", "bias", "mos")
        case = replace(leaves, **{name: getattr(leaves, name).float() for name in names}).leaves()
    grad = torch.ones_like(case.mos)
    ops = torch.ops.metaqap_fast
    with on_kernels() if where == "kernels" else torch.enable_grad():
        torch.library.opcheck(ops.combine, (case.members, case.weights, case.bias, case.mask, False))
        torch.library.opcheck(ops.quality_aware_loss, loss_arguments(case))
        with torch.no_grad():
            stats = ops.quality_aware_loss(*loss_arguments(case))[2]
        detached = [x.detach() for x in (case.members, case.weights, case.bias)]
        for upstream in ((grad[0], None), (None, grad), (grad[0], grad)):
            torch.library.opcheck(
                ops.quality_aware_loss_backward, (*upstream, *detached, case.mos, case.mask, stats, True)
            )
        score = case.members[:, 0].detach().requires_grad_()
        torch.library.opcheck(ops.soft_spearman, (score, case.mos, 0.1, case.mask, False))
        with torch.no_grad():
            _, ranks, stats = ops.soft_spearman(score, case.mos, 0.1, case.mask, False)
        torch.library.opcheck(ops.soft_spearman_backward, (grad[0], score.detach(), 0.1, case.mask, ranks, stats))


@pytest.mark.parametrize("masked", [0.0, 0.3])
def test_gradcheck_of_the_reference(masked):
    case = ensemble(1, 12, 3, masked=masked).double().leaves()

    def loss(members, weights, bias):
        return kernels.quality_aware_loss(members, weights, bias, case.mos, mask=case.mask, impl="torch")

    def combine(members, weights, bias):
        return kernels.combine(members, weights, bias, impl="torch")

    def spearman(score):
        return kernels.soft_spearman(score, case.mos, 0.1, case.mask, impl="torch")

    leaves = (case.members, case.weights, case.bias)
    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradcheck(combine, leaves)
    assert torch.autograd.gradcheck(spearman, (case.members[:, 0].detach().requires_grad_(),))


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_cpu_tensors_need_no_kernel(impl, monkeypatch):
    """The fp64 torch that CPUs run, and plain torch, against the formula; no Triton is touched."""
    from metaqap_fast.kernels import launch

    monkeypatch.setattr(launch, "triton_module", None)
    case = ensemble(2, 300, 5, masked=0.2).double()
    narrow = {name: getattr(case, name).float() for name in ("members", "weights", "bias", "mos")}
    case = replace(case, **narrow).leaves()
    loss, score = kernels.quality_aware_loss(case.members, case.weights, case.bias, case.mos, mask=case.mask, impl=impl)
    (loss + score[case.mask].sum()).backward()
    grad_score = case.mask.float()
    expected = formula(case, grad_score)
    assert error(loss.detach().double(), expected.loss) < (1e-6 if impl == "triton" else 1e-5)
    assert error(score.detach().double(), expected.score) < 1e-6
    for got, want in ((case.members, expected.members), (case.weights, expected.weights), (case.bias, expected.bias)):
        assert error(got.grad.double(), want) < 1e-5


def test_gradients_of_combine():
    case = ensemble(3, 200, 4)
    wide = case.double().leaves()
    score, spread = kernels.combine(wide.members, wide.weights, wide.bias, impl="torch")
    pull = torch.linspace(-1, 1, 200, dtype=torch.float64)
    ((score + spread) * pull).sum().backward()
    case = case.leaves()
    with on_kernels():
        score, spread = kernels.combine(case.members, case.weights, case.bias)
        ((score + spread) * pull.float().to(DEVICE)).sum().backward()
    for name in ("members", "weights", "bias"):
        assert error(getattr(case, name).grad.cpu().double(), getattr(wide, name).grad) < 1e-5


def test_compile_and_export_see_one_node():
    case = ensemble(4, 600, 5)

    def step(members, weights, bias, mos):
        loss, score = kernels.quality_aware_loss(members, weights, bias, mos)
        return loss + 0.1 * kernels.soft_spearman(score[:50], mos[:50], 0.05)

    with on_kernels():
        eager = case.leaves()
        expected = step(eager.members, eager.weights, eager.bias, eager.mos)
        expected.backward()
        compiled = case.leaves()
        got = torch.compile(step, backend="aot_eager", fullgraph=True)(
            compiled.members, compiled.weights, compiled.bias, compiled.mos
        )
        got.backward()
    assert torch.equal(got, expected)
    for name in ("members", "weights", "bias"):
        assert torch.equal(getattr(compiled, name).grad, getattr(eager, name).grad)

    class Combine(torch.nn.Module):
        def forward(self, members, weights, bias):
            return kernels.combine(members, weights, bias)

    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Combine(), (case.members, case.weights, case.bias), dynamic_shapes=({0: batch}, None, None)
    )
    assert [str(node.target) for node in program.graph.nodes].count("metaqap_fast.combine.default") == 1
    with on_kernels():
        score, _ = program.module()(case.members[:7], case.weights, case.bias)
        assert torch.equal(score, kernels.combine(case.members[:7], case.weights, case.bias)[0])


B, M = 6, 3
GOOD = {
    "members": torch.rand(B, M),
    "weights": torch.rand(M),
    "bias": torch.tensor(0.1),
    "mos": torch.rand(B),
    "mask": torch.ones(B, dtype=torch.bool),
}
HOLE = torch.where(torch.arange(B) == 2, torch.nan, torch.rand(B))
BAD = [
    ("members", torch.rand(B)),
    ("members", torch.rand(B, 17)),
    ("members", torch.rand(B, 0)),
    ("members", torch.rand(0, M)),
    ("members", torch.ones(B, M, dtype=torch.int32)),
    ("members", [[0.5]]),
    ("members", HOLE[:, None].expand(B, M)),
    ("members", torch.full((B, M), torch.inf)),
    ("weights", torch.rand(M + 1)),
    ("weights", torch.rand(M, 1)),
    ("weights", torch.rand(M, device="meta")),
    ("weights", torch.full((M,), torch.nan)),
    ("bias", torch.rand(2)),
    ("bias", torch.tensor(torch.inf)),
    ("mos", torch.rand(B + 1)),
    ("mos", torch.ones(B, dtype=torch.long)),
    ("mos", HOLE),
    ("mask", torch.ones(B)),
    ("mask", torch.ones(B + 1, dtype=torch.bool)),
    ("impl", "cuda"),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}-{at}" for at, (name, _) in enumerate(BAD)])
@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_bad_input_is_a_value_error_that_names_the_argument(name, value, impl):
    arguments = {**GOOD, "impl": impl, name: value}
    move = {key: v.to(DEVICE) if isinstance(v, torch.Tensor) and v.device.type == "cpu" else v
            for key, v in arguments.items()}  # fmt: skip
    with on_kernels():
        with pytest.raises(ValueError, match=f"^{name}: "):
            kernels.quality_aware_loss(**move)
        if name != "mos":
            move.pop("mos")
            with pytest.raises(ValueError, match=f"^{name}: "):
                kernels.combine(**move)
        if name in ("mos", "mask", "impl"):
            ranked = {key: move.get(key, GOOD["mos"].to(DEVICE)) for key in ("mos", "mask", "impl")}
            with pytest.raises(ValueError, match=f"^{name}: "):
                kernels.soft_spearman(GOOD["mos"].to(DEVICE), temperature=0.1, **ranked)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_bad_scores_and_temperatures(impl):
    mos = GOOD["mos"].to(DEVICE)
    with on_kernels():
        for bad in (torch.rand(B, 1), torch.rand(0), HOLE, torch.ones(B, dtype=torch.long)):
            with pytest.raises(ValueError, match=r"^score: "):
                kernels.soft_spearman(bad.to(DEVICE), mos, 0.1, impl=impl)
        for temperature in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=r"^temperature: "):
                kernels.soft_spearman(mos, mos, temperature, impl=impl)


def test_float64_is_for_torch_alone():
    with pytest.raises(ValueError, match=r"^members: expected one of float16, bfloat16, float32, got float64"):
        kernels.combine(torch.rand(3, 2, dtype=torch.float64), torch.rand(2), 0.0)


def test_a_nan_is_not_looked_for_where_the_caller_says_so():
    case = ensemble(5, 700, 3)
    case.members[600, 1] = torch.nan
    with on_kernels():
        leaves = case.leaves()
        loss, score = kernels.quality_aware_loss(leaves.members, leaves.weights, leaves.bias, leaves.mos, check=False)
        loss.backward()
        ranks = kernels.soft_spearman(score.detach(), case.mos, 0.1, check=False)
        combined, _ = kernels.combine(case.members, case.weights, case.bias, check=False)
    assert loss.isnan()
    assert leaves.weights.grad.isnan().all()
    assert leaves.bias.grad.isnan()
    assert ranks.isnan()
    assert combined.isnan().nonzero().flatten().tolist() == [600]


def train(impl: str, steps: int = 25) -> tuple[list[float], torch.Tensor]:
    """A small ensemble on fixed features, trained with both losses; every loss and the last scores."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(40, 8, generator=random).to(DEVICE)
    teacher = torch.randn(8, generator=random).to(DEVICE)
    mos = torch.sigmoid(features @ teacher)
    net = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
    net = net.to(DEVICE)
    weights = torch.full((3,), 0.3, device=DEVICE, requires_grad=True)
    bias = torch.zeros((), device=DEVICE, requires_grad=True)
    optimiser = torch.optim.Adam([*net.parameters(), weights, bias], lr=0.05)
    losses = []
    for _ in range(steps):
        loss, score = kernels.quality_aware_loss(net(features), weights, bias, mos, impl=impl)
        loss = loss + 0.2 * kernels.soft_spearman(score, mos, 0.1, impl=impl)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, score.detach()


def test_training_with_the_kernels_ends_at_the_same_loss():
    with on_kernels():
        ours, scores = train("triton")
    reference, expected = train("torch")
    assert ours[-1] < 0.05 * ours[0]
    assert ours[-1] == pytest.approx(reference[-1], rel=1e-3)
    assert F.l1_loss(scores, expected) < 1e-3


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_no_torch():
    code = "import sys, metaqap_fast; print([m for m in ('torch', 'triton') if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_a_missing_library_is_one_line_that_names_the_extra():
    code = """
import sys
sys.modules["torch"] = None
try:
    import metaqap_fast.kernels
except metaqap_fast.errors.MetaqapError as error:
    print(error)
"""
    assert "metaqap-fast[gpu]" in run_python("import metaqap_fast.errors\n" + code)
    code = """
import sys
import torch
sys.modules["triton"] = None
import metaqap_fast.errors
from metaqap_fast import kernels
print(kernels.combine(torch.ones(2, 3), torch.ones(3), 0.0)[0].tolist())
try:
    with kernels.interpreted():
        kernels.combine(torch.ones(2, 3), torch.ones(3), 0.0)
except metaqap_fast.errors.MetaqapError as error:
    print(error)
"""
    cpu, gpu = run_python(code).splitlines()
    assert cpu == "[3.0, 3.0]"
    assert gpu == "the GPU kernels need triton: pip install 'metaqap-fast[gpu]'"
