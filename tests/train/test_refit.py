"""New heads for a bundle's members: they learn what ladders teach, lose nothing on photographs, and are written."""

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
from metaqap_fast.train.damage import KADIS, KINDS, named
from metaqap_fast.train.diagnose import area, diagnose, teach
from metaqap_fast.train.learning import Learning
from metaqap_fast.train.opinion import TAUGHT
from metaqap_fast.train.reasons import REASONS
from metaqap_fast.train.refit import Material, Refit, Seen, Settings, cache_of, own_heads, predictions
from metaqap_fast.train.refit_run import _settings
from metaqap_fast.train.rehead import digest_of_body
from metaqap_fast.train.revise import revise
from metaqap_fast.train.rungs import Rung, everything, plan
from metaqap_fast.train.seen import Eyes, remember
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


def test_heads_learn_what_ladders_teach_and_photographs_keep_their_scores(bundle: Bundle, seen: Material) -> None:
    fits = Refit(bundle, seen)
    before, held_before = fits.judge()
    settings = Settings(penalty=0.003)
    after, held = fits.judge(fits.fit(settings))
    assert before.people < 0.7 < 0.95 < after.people
    assert np.mean(list(before.adjacent.values())) < 0.75 < 0.95 < np.mean(list(after.adjacent.values()))
    assert held["srocc"] > held_before["srocc"] - 0.01
    without = fits.judge(fits.fit(settings, ["brighten"]))[0]
    drops = [np.ptp(found.cells[named("over-exposure")]) for found in (without, after)]  # it is like what was left out
    assert drops[0] < 0.5 * drops[1]


def test_reasons_are_told_and_a_bundle_with_them_is_written(bundle: Bundle, seen: Material, tmp_path: Path) -> None:
    need(Isa.AVX2, "fp32")
    fits = Refit(bundle, seen)
    reasons = teach(seen, fits.said, 1, 0.003)
    found = diagnose(seen, fits.said, 1, reasons)
    assert np.nanmin(found.auc[:, 2]) > 0.97 and found.flagged.mean() < 0.05
    of = fits.fit(Settings(penalty=0.003))
    (tmp_path / "out").mkdir()
    revise(bundle, seen, of, tmp_path / "out", "better", reasons, 1)
    made = bundles.load(tmp_path / "out")
    assert made.name == "better" and made.reasons == REASONS and made.members[0].outputs == ()
    assert cache_of(made, tmp_path, Settings()) == cache_of(bundle, tmp_path, Settings())  # the same is seen
    other = onnx.load(made.members[0].file)
    body, first = digest_of_body(other), next(one for one in other.graph.initializer if len(one.dims) == 4)
    first.raw_data = bytes(len(first.raw_data))
    assert digest_of_body(other) != body  # by another network, something else
    pooled = [np.stack(taps) for taps in zip(*Eyes(made).look(VIEWS), strict=True)]
    engine = OpenVINOEngine(made, "fp32")
    given = np.concatenate([rows for _, rows in engine.predict((i, view[None]) for i, view in enumerate(VIEWS))])
    engine.close()
    assert given[:, list(made.layout.scores)] == pytest.approx(predictions(pooled, of), abs=0.02)
    assert given[:, list(made.layout.reasons)] == pytest.approx(reasons(pooled[1]), abs=0.05)


def test_reasons_alone_leave_scores_as_they_are(bundle: Bundle, seen: Material, tmp_path: Path) -> None:
    need(Isa.AVX2, "fp32")
    revise(bundle, seen, None, tmp_path / "out", "same", teach(seen, Refit(bundle, seen).said, 1, 0.003), 1)
    made = bundles.load(tmp_path / "out")
    assert made.reasons == REASONS and made.meta == bundle.meta
    columns = []
    for one in (bundle, made):
        engine = OpenVINOEngine(one, "fp32")
        rows = np.concatenate([rows for _, rows in engine.predict((i, view[None]) for i, view in enumerate(VIEWS))])
        columns.append(rows[:, list(one.layout.scores)])
        engine.close()
    assert np.array_equal(*columns)


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
    assert _settings({"images": 5}) == replace(Settings(), images=5)
    for changes, message in (({"size": 5}, "no setting 'size'"), ({"still": -1}, "still at least 0")):
        with pytest.raises(UsageError, match=message):
            _settings(changes)


def test_area_under_the_curve() -> None:
    assert area(np.array([3.0, 4]), np.array([1.0, 2])) == 1 and area(np.ones(3), np.ones(5)) == 0.5


@pytest.mark.full
def test_heads_are_judged_on_photographs_that_they_were_not_fitted_on(bundle: Bundle, seen: Material) -> None:
    learning = Learning(bundle, seen.taught.rungs, seen.taught.pooled, seen.cells)
    before, after = learning.judged(learning.as_it_is), learning.judged(learning.held_out(0.003))
    few = learning.judged(learning.held_out(0.003, count=3))
    assert before["SROCC of drops"] < few["SROCC of drops"] < after["SROCC of drops"]
    assert before["RMSE of drops"] > 1.5 * after["RMSE of drops"] and after["adjacent levels in order"] > 0.9
    kinds = learning.unseen_kinds(0.003)
    assert kinds["taught"] > kinds["not taught"] and set(kinds) == {"as it is", "taught", "not taught"}
    told = learning.reasons(0, 0.003)
    assert set(told) == set(REASONS) and min(severe or 0 for *_, severe in told.values()) > 0.9
