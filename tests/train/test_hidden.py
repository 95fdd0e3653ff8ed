"""The parts of fitting hidden units: components, what rungs teach, the loss, and a teacher's mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaqap_fast.train import hidden
from metaqap_fast.train.components import components, joined, standard, standardised
from metaqap_fast.train.damage import KINDS, PROBES, Step, named
from metaqap_fast.train.hidden import Layer, Photographs, Weights, distil, fit, joined_layers, lessons, mean_of, without
from metaqap_fast.train.rungs import Rung
from metaqap_fast.train.units import units

RNG = np.random.default_rng(1)
POOLED = (RNG.normal(3, 2, (60, 12)) @ RNG.normal(0, 1, (12, 40))).astype(np.float16)
POOLED[:, 7] = 1  # a channel that never varies
NOISE, BLUR = named("white noise"), named("Gaussian blur")


def test_components_keep_distances_and_a_flat_column_says_nothing() -> None:
    x = standardised(POOLED, standard(POOLED[30:], POOLED[:30]))
    assert not x[:, 7].any()
    found = components(POOLED[30:], POOLED[:30], 1000, 0)(POOLED)  # as many as there are
    between = [np.linalg.norm(values[:, None] - values, axis=2) for values in (x, found)]
    scale = between[1].sum() / between[0].sum()
    assert between[1] == pytest.approx(scale * between[0], rel=0.02, abs=0.01)
    assert np.square(found).mean() == pytest.approx(1, rel=0.01)
    few = components(POOLED[30:], POOLED[:30], 3, 0)(POOLED)
    assert few.shape == (60, 3)
    for one, other in zip(few.T, found.T, strict=False):  # the first of them, whatever sign
        assert abs(np.corrcoef(one, other)[0, 1]) > 0.99


def test_components_of_very_many_rows_are_those_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has an end. More rows of the same kind change nothing that matters, and which are taken is no accident."""
    many = np.concatenate([POOLED[:30]] * 40)
    whole = components(POOLED[30:], many, 3, 0)(POOLED)
    monkeypatch.setattr("metaqap_fast.train.components.MOST", 1000)
    some = components(POOLED[30:], many, 3, 0)(POOLED)
    assert np.array_equal(some, components(POOLED[30:], many, 3, 0)(POOLED)) and not np.array_equal(some, whole)
    for one, other in zip(some.T, whole.T, strict=True):
        assert abs(np.corrcoef(one, other)[0, 1]) > 0.99


def test_units_on_raw_taps_are_the_layer_on_components() -> None:
    parts = [components(POOLED[30:], POOLED[:30], 8, seed) for seed in (0, 1)]
    layer = Layer(16, 5, 3)
    with torch.no_grad():
        wanted = layer(joined(parts, [POOLED, POOLED])).numpy()
    made = units(layer, parts)
    assert made([POOLED, POOLED]) == pytest.approx(wanted, abs=1e-3) and np.ptp(wanted) > 0.01
    assert np.max([np.abs(share).max(0) for share in made.shares], axis=0) == pytest.approx(1)
    moved = made.scaled(np.array([2.0, 1, 0]), np.array([0.0, 1, 5]))([POOLED, POOLED])
    assert moved == pytest.approx(wanted * [2, 1, 0] + [0, 1, 5], abs=2e-3)


def test_what_rungs_teach() -> None:
    probe = PROBES[0]
    steps = [(), (Step(NOISE, 0),), (Step(NOISE, 1),), (Step(BLUR, 3), Step(NOISE, 0)), (Step(probe, 0),), ()]
    rungs = [Rung(int(i == 5), one, 0) for i, one in enumerate(steps)]
    made = lessons(rungs, torch.zeros(6, 2), np.ones(6), np.ones(6), np.zeros((6, 1)))
    assert made.original.tolist() == [0, 0, 0, 0, 0, 5]
    assert made.milder.tolist() == [-1, 0, 1, -1, -1, -1]  # two kinds at once, and a probe, have no order
    assert made.cell.tolist() == [-1, 5 * NOISE, 5 * NOISE + 1, -1, 5 * probe, -1]
    assert made.probe.tolist() == [False] * 4 + [True, False]
    assert [rows.tolist() for rows in made.contents] == [[0, 1, 2, 3, 4], [5]]
    left = without(made, rungs, {BLUR})
    assert [rows.tolist() for rows in left.contents] == [[0, 1, 2, 4], [5]]


def world(count: int = 40) -> tuple[hidden.Lessons, Photographs]:
    """A column says how much noise there is; of the others the first is what people like."""
    rng = np.random.default_rng(2)
    rungs, rows, kept = [], [], []
    for content in range(count):
        own = rng.normal(0, 1, 6)
        for level in range(-1, 5):
            rungs.append(Rung(content, (Step(NOISE, level),) if level >= 0 else (), 0))
            rows.append([level + 1 + rng.normal(0, 0.05), *own])
            kept.append(1 - 0.1 * (level + 1))
    severity = np.array([[(len(rung.steps) and rung.steps[0].level + 1) / 5] for rung in rungs])
    taught = lessons(rungs, torch.tensor(rows, dtype=torch.float32), np.full(len(rows), 0.8), np.array(kept), severity)
    people = torch.tensor(rng.normal(0, 1, (300, 7)), dtype=torch.float32)
    people[:, 0] = 0
    mos = 0.7 + 0.1 * people[:, 1]
    return taught, Photographs(people, torch.full((300,), 0.7), mos, mos > 0.7)


def test_a_layer_learns_damage_opinions_and_reasons() -> None:
    taught, photographs = world()
    layer = fit(taught, photographs, Weights(still=0.0, reasons=1.0, dropout=0.0, steps=300), 16, 0)
    with torch.no_grad():
        given, liked = layer(taught.x), layer(photographs.x)
    drops = (given[:, 0] - given[taught.original, 0]).numpy()
    off = drops - 0.8 * (taught.kept.numpy() - 1)
    assert np.abs(off).mean() < 0.02 and np.abs(off).max() < 0.1
    assert float((0.7 + liked[:, 0] - photographs.mos).abs().mean()) < 0.03
    assert given[:, 1].numpy() == pytest.approx(taught.severity[:, 0].numpy(), abs=0.15)


def test_what_is_not_asked_teaches_nothing() -> None:
    taught, photographs = world()
    few = Weights(steps=5)
    unasked = hidden.Lessons(
        taught.x, taught.score, taught.kept, torch.full_like(taught.severity, torch.nan), taught.original,
        taught.milder, taught.cell, taught.probe, taught.contents,
    )  # fmt: skip
    layers = [fit(one, photographs, few, 4, 3) for one in (taught, unasked)]  # reasons weigh nothing here
    for one, other in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(one, other)
    alone = fit(unasked, photographs, Weights(score=0.0, reasons=1.0, steps=5), 4, 3)
    assert all(bool(value.isfinite().all()) for value in alone.parameters())


def of_probes(copies: int, damage: bool = True) -> float:
    """The loss of a photograph with one damaged copy and some negatives, none of which scores less."""
    steps = [(), *([(Step(NOISE, 0),)] if damage else []), *[(Step(PROBES[0], 0),)] * copies]
    rungs = [Rung(0, one, 0) for one in steps]
    count = len(rungs)
    one = lessons(rungs, torch.zeros(count, 1), np.full(count, 0.8), np.full(count, 0.5), np.zeros((count, 1)))
    asked = Weights(cells=0.0)
    return float(hidden._order(one, np.arange(count), torch.zeros(count), asked))


def test_how_many_probes_there_are_does_not_change_what_they_weigh() -> None:
    assert of_probes(1) == pytest.approx(of_probes(7))
    each = 0.4**2  # of .8, half is to be left
    assert of_probes(7) == pytest.approx(each + hidden.MARGIN + hidden.PROBE * each)
    assert of_probes(0) == pytest.approx(each + hidden.MARGIN)
    assert of_probes(3, damage=False) == pytest.approx(hidden.PROBE * each)


def test_the_same_seed_gives_the_same_layer_and_leaves_torch_as_it_was() -> None:
    taught, photographs = world(5)
    before = torch.random.get_rng_state()
    layers = [fit(taught, photographs, Weights(steps=3), 4, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    first = [next(layer.parameters()) for layer in layers]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_a_student_says_what_its_teachers_say_in_the_mean() -> None:
    torch.manual_seed(0)
    layers, x = [Layer(6, 4, 3) for _ in range(2)], torch.randn(500, 6)
    teacher = mean_of([layer.reasons for layer in layers])
    student = distil(teacher, x, 32, 0, 800)
    with torch.no_grad():
        wanted, found = teacher(x), student(x)
        assert torch.equal(wanted, (layers[0](x) + layers[1](x))[:, 1:] / 2)
    assert float((found - wanted).square().mean() / wanted.var(0).mean()) < 0.05


def test_layers_become_one() -> None:
    scores, reasons, x = [Layer(6, 3, 4), Layer(6, 3, 4)], Layer(6, 5, 3), torch.randn(20, 6)
    with torch.no_grad():
        both, alone = joined_layers(scores, reasons), joined_layers([], reasons)
        assert both.units.out_features == 11 and alone.units.out_features == 5
        mean = (scores[0](x) + scores[1](x))[:, :1] / 2
        assert torch.allclose(both(x), torch.cat([mean, reasons(x)], 1), atol=1e-6)
        assert torch.allclose(alone(x)[:, 1:], reasons(x), atol=1e-6) and not alone(x)[:, 0].any()


def test_every_kind_has_a_cell_of_its_own() -> None:
    rungs = [Rung(0, (), 0), *(Rung(0, (Step(kind, 0),), 0) for kind in range(len(KINDS)))]
    made = lessons(rungs, torch.zeros(len(rungs), 1), *(np.ones(len(rungs)),) * 2, np.zeros((len(rungs), 1)))
    assert len(set(made.cell.tolist())) == len(rungs)
