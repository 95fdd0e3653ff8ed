"""Hidden units for a bundle: they learn what ladders teach, lose nothing on photographs, and are written."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from torch import nn

from metaqap_fast.engine.native.isa import Isa
from metaqap_fast.engine.openvino_engine import OpenVINOEngine
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train.damage import KADIS, KINDS
from metaqap_fast.train.diagnose import area, diagnose
from metaqap_fast.train.material import Material, Seen, Settings, cache_of
from metaqap_fast.train.opinion import TAUGHT, of_originals
from metaqap_fast.train.reasons import REASONS
from metaqap_fast.train.refit import Larger, Refit, moved, own_heads, predictions, scores
from metaqap_fast.train.refit_run import better_told, settings_of
from metaqap_fast.train.rehead import digest_of_body
from metaqap_fast.train.revise import revise
from metaqap_fast.train.rungs import Rung, everything, plan
from metaqap_fast.train.seen import Eyes, remember
from metaqap_fast.train.units import Units, shipped_fine, shipped_units
from native_reference import exported, member, need

VIEWS = generated(512, 3)
CELLS = np.linspace(4.5, 1.2, 5) - np.linspace(0, 0.1, KADIS)[:, None]
SIGNAL, CONTENT = len(KINDS), 12  # columns that stand for kinds and contents; the last of contents is what people like


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two small networks, whose heads like one content and see only the kinds that were taught."""
    folder = tmp_path_factory.mktemp("bundle")
    names = ["first", "second"]
    for name in names:
        exported(member(["ds_r1_k3_s2_e1_c16"], 96, activation=nn.ReLU6, views=VIEWS[:1]), folder / f"{name}.onnx")
        model = onnx.load(folder / f"{name}.onnx")
        weights = np.zeros(next(t.dims[0] for t in model.graph.initializer if t.name == "weights"))
        weights[list(TAUGHT)], weights[SIGNAL + CONTENT - 1] = -0.5, 0.1
        for tensor in model.graph.initializer:
            if tensor.name in ("weights", "bias"):
                value = weights[:, None] if tensor.name == "weights" else np.array(0.75)
                tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), tensor.name))
        onnx.save(model, folder / f"{name}.onnx")
    document = {
        "format": "metaqap-bundle",
        "format_version": 1,
        "name": "small",
        "view_size": 512,
        "members": [{"name": name, "file": f"{name}.onnx"} for name in names],
        "meta_learner": {"weights": [0.5, 0.5], "intercept": 0.0, "variance_floor": 0.01, "variance_slope": 0.0},
        "files": {f"{name}.onnx": digest(folder / f"{name}.onnx") for name in names},
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    return bundles.load(folder)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def world(width: int) -> Material:
    """Taps in which every kind of damage has a column of its own, and photographs differ in others."""
    rng = np.random.default_rng(4)

    def taps(rungs: list[Rung], count: int) -> NDArray[np.float16]:
        contents = rng.normal(0, 1, (count, CONTENT))
        rows = np.zeros((len(rungs), width))
        rows[:, :SIGNAL] = rng.normal(0, 0.002, (len(rungs), SIGNAL))
        for row, rung in enumerate(rungs):
            rows[row, SIGNAL : SIGNAL + CONTENT] = contents[rung.photograph]
            for kind, level in rung.steps:
                said = CELLS[kind, level] if kind < KADIS else (KINDS[kind].opinions or ())[level]
                rows[row, kind] += (4.6 - said) / 3.6
        return rows.astype(np.float16)

    def photographs(count: int) -> tuple[list[NDArray[np.float16]], NDArray[np.float64]]:
        rows = taps([Rung(i, (), 0) for i in range(count)], count)
        return [rows, rows + np.float16(0)], 0.75 + 0.1 * rows[:, SIGNAL + CONTENT - 1] + rng.normal(0, 0.02, count)

    taught, judged = plan(40, 3, 1, 1, 1), everything(3, 2)
    seen = [taps(taught, 40), taps(judged, 3)]
    (labelled, mos), (held, held_mos) = photographs(120), photographs(600)
    return Material(labelled, mos, held, held_mos, Seen(taught, [seen[0]] * 2), Seen(judged, [seen[1]] * 2), CELLS)


@pytest.fixture(scope="module")
def seen(bundle: Bundle) -> Material:
    return world(len(own_heads(bundle)[0][0]))


SMALL = Settings(
    components=64, layers=2, score_units=8, reason_units=16, steps=150, score_steps=150, dropout=0.0, score_dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def fits(bundle: Bundle, seen: Material) -> Refit:
    return Refit(bundle, seen, SMALL)


@pytest.fixture(scope="module")
def made(fits: Refit) -> Units:
    return fits.fit()


def test_units_learn_what_ladders_teach_and_photographs_keep_their_scores(fits: Refit, made: Units) -> None:
    (before, held_before), (after, held) = fits.judge(), fits.judge(made)
    assert before.people < 0.7 < 0.9 < after.people
    assert np.mean(list(before.adjacent.values())) < 0.75 < 0.95 < np.mean(list(after.adjacent.values()))
    assert held["srocc"] > held_before["srocc"] - 0.02
    assert after.people > fits.unseen_kinds() > before.people - 0.1


def test_a_smaller_model_follows_a_larger_one(bundle: Bundle, seen: Material, made: Units) -> None:
    """To which the worst damage costs a tenth of the score, as the mildest does."""
    says = np.array([0.72 if rung.steps else 0.8 for rung in seen.taught.rungs])
    follower = Refit(bundle, seen, SMALL)
    follower.follow(Larger(says, seen.mos, None))
    steps = seen.judged.rungs
    worst = np.array([row for row, rung in enumerate(steps) if worse_than(1.6, rung)])

    def kept(said: Units) -> float:
        score = scores(bundle, seen.judged.pooled, own_heads(bundle)) + moved(bundle, said(seen.judged.pooled))
        return float(np.mean(score[worst] / of_originals(steps, score)[worst]))

    assert kept(made) < 0.5 and kept(follower.fit()) > 0.75  # not .9: levels are to be in order all the same


def test_reasons_are_told_and_a_bundle_with_them_is_written(
    bundle: Bundle, seen: Material, fits: Refit, made: Units, tmp_path: Path
) -> None:
    need(Isa.AVX2, "fp32")
    found = diagnose(seen, fits.said, made)
    assert np.nanmin(found.auc[:, 2]) > 0.97 and found.flagged.mean() < 0.05
    (tmp_path / "out").mkdir()
    revise(bundle, seen, made, tmp_path / "out", "better")
    written = bundles.load(tmp_path / "out")
    assert written.name == "better" and written.reasons == REASONS
    assert [member.units for member in written.members] == [2 * 8 + SMALL.reason_units] * 2
    assert cache_of(written, tmp_path, SMALL) == cache_of(bundle, tmp_path, SMALL)  # the same is seen
    other = onnx.load(written.members[0].file)
    body, first = digest_of_body(other), next(one for one in other.graph.initializer if len(one.dims) == 4)
    first.raw_data = bytes(len(first.raw_data))
    assert digest_of_body(other) != body  # by another network, something else
    pooled = [np.stack(taps) for taps in zip(*Eyes(written).look(VIEWS), strict=True)]
    members, reasons = written.readout(rows(written))
    given = made(pooled)
    assert members == pytest.approx(predictions(pooled, own_heads(bundle)) + given[:, :1], abs=0.02)
    roots = np.minimum(given[:, 1:], 0.5 + (1 + made.steeper) * (given[:, 1:] - 0.5))
    assert reasons == pytest.approx(roots.clip(0) ** 2, abs=0.05) and (made.steeper >= 0).all()
    assert made.severities(pooled) == pytest.approx(reasons.clip(0, 1), abs=0.05)
    assert written.meta.severity_variance[0] == (0.0, 0.0) and len(written.meta.severity_variance) > 1


def test_reasons_alone_leave_scores_as_they_are(bundle: Bundle, seen: Material, fits: Refit, tmp_path: Path) -> None:
    need(Isa.AVX2, "fp32")
    revise(bundle, seen, fits.fit("reasons"), tmp_path / "out", "same", fitted="reasons")
    written = bundles.load(tmp_path / "out")
    assert written.reasons == REASONS
    assert replace(written.meta, severity_variance=()) == bundle.meta
    assert np.array_equal(*(one.readout(rows(one))[0] for one in (bundle, written)))


def test_what_is_not_fitted_stays_as_it_is(
    bundle: Bundle, seen: Material, fits: Refit, made: Units, tmp_path: Path
) -> None:
    """Of a bundle that has everything, with units for fine views among them."""
    need(Isa.AVX2, "fp32")
    rng = np.random.default_rng(5)
    odd, others = (
        [rng.normal(mean, 1, (60, each.shape[1])).astype(np.float16) for each in seen.held] for mean in (2, -2)
    )
    fine = Units([rng.normal(size=(each.shape[1], 3)) / 9 for each in seen.held], np.ones(3), np.full((3, 1), -0.1),
                 np.zeros(1), np.zeros(0), (), (0.3, 0.5, 0.1), 900)  # fmt: skip
    revise(bundle, seen, fits._with_strange(made, odd), tmp_path / "one", "one", fine=fine)
    one = bundles.load(tmp_path / "one")
    assert one.has_fine and one.reasons == (*REASONS, "unfamiliar")

    again = Refit(one, seen, SMALL)
    told = again.fit("unfamiliar", others)
    revise(one, seen, told, tmp_path / "two", "two", fitted="reasons", fine=shipped_fine(one))
    two = bundles.load(tmp_path / "two")
    assert two.document["training"]["heads"]["of"] == bundle.name and two.document["training"]["reasons"]["of"] == "one"
    (scores, severities), (kept, told_severities) = (each.readout(rows(each)) for each in (one, two))
    assert np.array_equal(scores, kept) and np.array_equal(severities[:, :-1], told_severities[:, :-1])
    assert np.array_equal(*(each.readout.lowered(rows(each), scores) for each in (one, two)))
    assert one.readout.fading == two.readout.fading == fine.fading and one.fine_lines == two.fine_lines == 900
    before = shipped_units(one)
    assert before is not None
    assert np.median(told.severities(others)[:, -1]) > 0.25 > np.median(before.severities(others)[:, -1])

    assert better_told(told, before, seen, others) is told  # each tells best what it was taught
    assert better_told(told, before, seen, odd).severities(odd) == pytest.approx(before.severities(odd), abs=1e-6)
    assert better_told(told, None, seen, others) is told

    reasons = Refit(one, seen, replace(SMALL, steps=50)).fit("reasons")
    revise(one, seen, reasons, tmp_path / "three", "three", fitted="reasons", fine=shipped_fine(one))
    three = bundles.load(tmp_path / "three")
    assert three.reasons == one.reasons and three.has_fine
    kept, new_severities = three.readout(rows(three))
    assert kept == pytest.approx(scores, abs=1e-6) and not np.array_equal(severities, new_severities)
    assert new_severities[:, -1] == pytest.approx(severities[:, -1], abs=1e-5)

    other = Refit(one, seen, replace(SMALL, mos=1.0)).fit("scores")
    revise(one, seen, other, tmp_path / "scored", "scored", fitted="scores", fine=shipped_fine(one))
    scored = bundles.load(tmp_path / "scored")
    new_scores, same = scored.readout(rows(scored))
    assert np.array_equal(severities, same) and scored.has_fine and scored.readout.fading == fine.fading
    assert new_scores != pytest.approx(scores, abs=1e-4) and scored.meta.variance_floor != one.meta.variance_floor
    facts = scored.document["training"]
    assert facts["heads"]["of"] == bundle.name and facts["scores"]["of"] == "one"

    revise(two, seen, told, tmp_path / "four", "four", fine=shipped_fine(two))
    facts = bundles.load(tmp_path / "four").document["training"]
    assert facts["heads"]["of"] == "two" and "reasons" not in facts  # those were of units that are no longer there


def worse_than(opinion: float, rung: Rung) -> bool:
    return any(kind < KADIS and CELLS[kind, level] < opinion for kind, level in rung.steps)


def rows(bundle: Bundle) -> NDArray[np.float32]:
    """The columns of VIEWS by OpenVINO."""
    engine = OpenVINOEngine(bundle, "fp32")
    try:
        return np.concatenate([rows for _, rows in engine.predict((i, view[None]) for i, view in enumerate(VIEWS))])
    finally:
        engine.close()


def test_what_was_seen_is_kept_piece_by_piece(bundle: Bundle, tmp_path: Path) -> None:
    need(Isa.AVX2, "fp32")
    eyes, asked = Eyes(bundle), []

    def views(start: int, stop: int) -> NDArray[np.uint8]:
        asked.append((start, stop))
        return VIEWS[start:stop]

    first = remember(eyes, 2, views, tmp_path / "seen", piece=2)
    whole = remember(eyes, 3, views, tmp_path / "seen", piece=2)
    assert asked == [(0, 2), (2, 3)] and [len(member) for member in whole] == [3, 3]
    assert all(np.array_equal(a, b[:2]) for a, b in zip(first, whole, strict=True))
    one = remember(eyes, 1, views, tmp_path / "seen", piece=2)
    assert len(asked) == 2 and all(np.array_equal(a, b[:1]) for a, b in zip(one, whole, strict=True))
    shutil.move(tmp_path / "seen/000002.npz", tmp_path / "seen/000000.npz")  # as the end of a run of one row
    longer = remember(eyes, 2, views, tmp_path / "seen", piece=2)
    assert asked[2:] == [(0, 2)] and all(np.array_equal(a, b) for a, b in zip(first, longer, strict=True))


def test_settings_are_checked() -> None:
    assert settings_of({"images": 5, "mos": 2}) == replace(Settings(), images=5, mos=2.0)
    for changes, message in (
        ({"size": 5}, "no setting 'size'"),
        ({"still": -1}, "weights at least 0"),
        ({"layers": 0}, "counts are above 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"score_dropout": 1.0}, "less than 1"),
        ({"large": 0}, "above 0"),
        ({"precision": "fp13"}, "precision is fp32 or bf16"),
        ({"images": 2.5}, "--set images=2.5: images is a whole number"),
        ({"fine_lines": 1000.5}, "fine_lines is a whole number"),
        ({"components": True}, "components is a whole number"),
        ({"mos": "x"}, "--set mos=x: mos is a number"),
        ({"precision": 1}, "precision is a word"),
    ):
        with pytest.raises(UsageError, match=message):
            settings_of(changes)


def test_area_under_the_curve() -> None:
    assert area(np.array([3.0, 4]), np.array([1.0, 2])) == 1 and area(np.ones(3), np.ones(5)) == 0.5
