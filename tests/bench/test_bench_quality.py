"""The benchmarks of quality, limits and growth: formulas by hand, and the commands on little work."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bench_runs import record, samples
from bundles import write_bundle
from metaqap_fast import engine as engines
from metaqap_fast.bench import accuracy, ceilings, flops, gate, report, soak
from metaqap_fast.bench.job import NotInstalled, prepare
from metaqap_fast.bench.quality import CHANGES, coverage, ordered_pairs
from metaqap_fast.bench.runs import read
from metaqap_fast.bench.stages import alone
from metaqap_fast.errors import UsageError
from metaqap_fast.model import bundle as bundles

pytestmark = pytest.mark.full

# --- quality ---


def test_ordered_pairs_counts_pairs_in_the_right_order() -> None:
    scores = np.array([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [5, 4, 3, 3, 1], [1, 1, 1, 1, 1.0]])
    assert ordered_pairs(scores).tolist() == [1.0, 0.0, 0.9, 0.0]


def test_coverage_of_a_calibrated_uncertainty() -> None:
    rng = np.random.default_rng(0)
    score, sigma = rng.random(50_000), rng.uniform(0.05, 0.2, 50_000)
    mos = score + sigma * rng.standard_normal(50_000)
    inside = coverage(mos, score, sigma)
    assert inside[68].mean() == pytest.approx(0.683, abs=0.01) and inside[95].mean() == pytest.approx(0.95, abs=0.005)
    assert coverage(mos, score, sigma / 2)[95].mean() < 0.75


def test_harmless_changes_are_what_they_say(photo: Image.Image) -> None:
    image = np.asarray(photo)
    shapes = {name: change(image).shape for name, change in CHANGES.items()}
    assert shapes["crop by 1 pixel"] == (511, 511, 3) and shapes["resize by 2 %"] == (502, 502, 3)
    assert (CHANGES["flip"](CHANGES["flip"](image)) == image).all() and not (CHANGES["flip"](image) == image).all()
    moved = np.abs(CHANGES["JPEG at quality 95"](image).astype(int) - image).mean()
    assert 0 < moved < 4


def rows(precision: str, shift: float, noise: float = 0.0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    mos = rng.random(40)
    score = mos + 0.05 * rng.standard_normal(40) + shift + noise * rng.standard_normal(40)
    return [
        {"case": "set", "set": "s", "precision": precision, "name": str(i), "mos": float(mos[i]),
         "score": float(score[i]), "uncertainty": 0.05, "twin": i < 4}
        for i in range(40)
    ]  # fmt: skip


def test_the_tables_of_quality_are_computed_from_raw_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "METRIC_DRAWS", 5)
    found = rows("fp32", 0.0) + rows("int8", 0.02, 0.03)
    found[0]["score"] = found[40]["score"] = None
    found.append({"case": "unavailable", "set": "s", "precision": "fp16", "reason": "no fp16 here"})
    for kind, name, ordered, scores in ((1, "blur", True, [0.9, 0.7, 0.8]), (2, "shift", False, [0.1, 0.2, 0.3])):
        found.append({"case": "distortion", "photo": "p", "kind": kind, "distortion": name, "ordered": ordered,
                      "scores": scores})  # fmt: skip
    found += [{"case": "change", "photo": "p", "change": "flip", "before": 0.5, "after": a} for a in (0.52, 0.46)]
    sections = {s.title: s for s in report.sections(read(record(tmp_path / "a", "accuracy", found)))}
    agreement = sections["Agreement with opinion scores"].rows
    assert [row[1:5] for row in agreement] == [
        ["all", "fp32", 39, 1], ["without twins", "fp32", 36, 0], ["all", "int8", 39, 1],
        ["without twins", "int8", 36, 0],
    ]  # fmt: skip
    assert agreement[0][5].value > agreement[2][5].value > 0.8
    assert sections["Calibration of the uncertainty"].rows[0][2].value == pytest.approx(0.68, abs=0.15)
    parity = sections["Parity of precisions"].rows
    assert parity[0][1:3] == ["int8", "fp32"] and parity[0][4] == pytest.approx(0.03, abs=0.01) and parity[0][5] > 0
    assert parity[1][1:4] == ["fp16", "", "no fp16 here"]
    monotonicity = sections["Monotonicity"].rows
    assert monotonicity[0][3].value == pytest.approx(2 / 3) and monotonicity[1][3] == "levels are not an order"
    assert monotonicity[2][3].value == pytest.approx(2 / 3)
    robustness = sections["Robustness"].rows[0]
    assert robustness[2].value == pytest.approx(0.03) and robustness[3] == pytest.approx(0.04)
    few = accuracy.metrics(rows("fp32", 0.0)[:3])
    assert set(few) == {"under 5 images"}


def test_accuracy_end_to_end(
    bundle: Path, photo: Image.Image, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        photo.crop((60 * i, 0, 60 * i + 64, 64)).save(folder / name)
    (tmp_path / "labels.csv").write_text("image,mos\n" + "".join(f"photos/{n},{i}\n" for i, n in enumerate(names)))
    monkeypatch.setattr(accuracy, "METRIC_DRAWS", 5)
    out = tmp_path / "run"
    how = ["--low", 0, "--high", 10, "--precisions", "fp32,fp16,int8", "--photos", 1, "--model", bundle, "-o", out]
    result = cli("bench", "accuracy", "--set", f"csv={tmp_path / 'labels.csv'}", "--pristine", folder, *how)
    assert result.exit_code == 0, result.stderr
    found = read(out)
    cases = [sample["case"] for sample in found.samples]
    assert cases.count("set") == 6 and cases.count("unavailable") == 2
    assert cases.count("distortion") == 25 and cases.count("change") == len(CHANGES)
    first = next(sample for sample in found.samples if sample["case"] == "set")
    pixels = np.asarray(Image.open(folder / "0.png").convert("RGB"))
    wanted = 0.5 * pixels.mean() / 255 + 0.25 * 0.8 * pixels.max() / 255 + 0.1
    assert first["score"] == pytest.approx(wanted, abs=1e-4)
    darken = next(s for s in found.samples if s["case"] == "distortion" and s["distortion"] == "darken")
    assert np.all(np.diff(darken["scores"]) < 0)  # this bundle scores brightness
    assert "Monotonicity" in result.stdout and str(tmp_path) not in (out / "run.json").read_text()


# --- limits ---


def conv_member(path: Path) -> Path:
    """[N, 64, 64, 3] -> conv 8@3x3 -> conv 8@3x3 in 4 groups -> mean -> matrix product with [8, 1]."""
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "d"], ["b"], pads=[1, 1, 1, 1], group=4),
        helper.make_node("ReduceMean", ["b"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["prediction"]),
    ]
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "d": (8, 2, 3, 3), "v": (8, 1)}
    constants = [onnx.numpy_helper.from_array(rng.random(s).astype(np.float32), n) for n, s in shapes.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 64, 64, 3])
    out = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes, "conv", [image], [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_operations_are_counted_from_the_graph(tmp_path: Path) -> None:
    from dataclasses import replace

    loaded = bundles.load(str(write_bundle(tmp_path / "b")))
    member = replace(loaded.members[0], file=conv_member(tmp_path / "conv.onnx"))
    work = flops.count(replace(loaded, members=(member,)))
    pixels = 64 * 64
    assert work.operations == 2 * pixels * 8 * 27 + 2 * pixels * 8 * 18 + 2 * 8
    numbers = (pixels * 3 + 8 * 27 + pixels * 8) + (pixels * 8 + 8 * 18 + pixels * 8) + (8 + 8 + 1)
    assert work.numbers == numbers and work.intensity("bf16") == 2 * work.intensity("fp32")


def test_one_member_alone(bundle: Path) -> None:
    loaded = bundles.load(str(bundle))
    views = np.zeros((1, loaded.view_size, loaded.view_size, 3), np.uint8)
    views[0, 0, 0] = 255
    predictions = []
    for some in (
        alone(loaded, "max"),
        loaded,
        alone(loaded, "max"),
    ):  # compiled models are kept, but not taken for others
        engine = engines.create(some, "openvino", "cpu", "fp32")
        predictions += [values[0].tolist() for _, values in engine.predict([(0, views)])]
        engine.close()
    (first,), (mean, largest), (again,) = predictions
    assert mean < 0.01 < largest == first == again
    with pytest.raises(UsageError, match="one of mean, max"):
        alone(loaded, "nosuch")


@pytest.fixture
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "SIDE", 64)
    monkeypatch.setattr(ceilings, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(ceilings, "DISK_BYTES", 2 << 20)


@pytest.mark.usefixtures("small_ceilings")
@pytest.mark.parametrize("name", ["gemm fp32", "gemm bf16", "gemm int8", "copy", "jpeg", "disk_read", "disk_write"])
def test_ceilings_do_the_work_that_they_count(name: str, tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.jpg")
    photo.save(tmp_path / "b.png")
    kind, _, precision = name.partition(" ")
    work = prepare(f"limit.{kind}", {"sources": [str(tmp_path)], "count": None, "precision": precision})
    work.warm()
    units = work.run()
    work.close()
    expected = {"copy": 2 << 20, "jpeg": 1, "disk_read": 2 << 20, "disk_write": 2 << 20}
    if kind == "gemm":
        assert units > 0 and units % (2 * 64**3 * ceilings.CHAIN) == 0
    else:
        assert units == expected[kind]
    (tmp_path / "a.jpg").unlink()
    if kind == "jpeg":
        with pytest.raises(NotInstalled, match="no JPEG"):
            prepare("limit.jpeg", {"sources": [str(tmp_path)], "count": None})


def test_stages_are_shown_in_percent_of_their_limit(tmp_path: Path) -> None:
    quiet = [False] * 3
    found = samples("copy", [1e-9] * 3, quiet, ceiling="copy")  # 100 units each: 1e11 a second
    found += samples("gemm bf16", [1e-10] * 3, quiet, ceiling="gemm", precision="bf16")  # 1e12
    member = {"stage": "inference", "precision": "bf16", "member": "m", "operations": 5e9, "intensity": 40.0}
    found += samples("inference bf16 m", [1.0] * 3, quiet, **member)  # 100 images a second of 2 views
    for each in found[-3:]:
        each["facts"] = {"views_per_image": 2.0}
    run = read(record(tmp_path / "a", "limit", found))
    stages = {row[0]: row for row in report.sections(run)[1].rows}
    assert stages["inference bf16 m"][3].value == pytest.approx(100 * 2 * 5e9 / 1e12)
    assert stages["decode"][3] == "not run"
    (picture,) = report.sections(run)[1].pictures
    (axes,) = picture().axes
    roof, point = (line.get_xydata() for line in axes.lines)
    assert roof == pytest.approx(np.array([(0.1, 10), (10, 1000), (1000, 1000)]))  # of 100 GB/s and 1000 Gop/s
    assert point.tolist() == [[40, 100 * 2 * 5]] and axes.get_title() == "Roofline"


@pytest.mark.usefixtures("in_process", "small_ceilings")
def test_limit_end_to_end(bundle: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    how = ["--repeats", 1, "--seconds", 0, "--patience", 0, "--precisions", "fp32", "--even-busy"]
    out = tmp_path / "run"
    result = cli("bench", "limit", "--synthetic", 2, "--sizes", "64x64", "--model", bundle, "-o", out, *how)
    assert result.exit_code == 0, result.stderr
    assert "Stages in percent of their limit" in result.stdout
    missing = report.Figures(read(out)).failures()  # another kind of network; and a CPU without AVX2 has no peak
    assert any("the native engine does not run this model" in line for line in missing)
    assert all("parts fp32" in line or "peak fp32" in line for line in missing)


def test_without_a_ceiling_there_is_no_roofline(tmp_path: Path) -> None:
    run = read(record(tmp_path / "a", "limit", samples("decode", [1.0], [False], stage="decode")))
    assert not report.sections(run)[1].pictures


# --- scale ---


@pytest.mark.usefixtures("in_process")
def test_scale_end_to_end(tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    how = ["--repeats", 1, "--seconds", 0, "--patience", 0, "--even-busy", "-o", out]
    result = cli("bench", "scale", "--rows", "100,400", "--workers", "2", *how)
    assert result.exit_code == 0, result.stderr
    by_case = {sample["case"]: sample for sample in read(out).samples}
    assert by_case["100 rows"]["units"] == 100 and by_case["100 rows"]["facts"]["scored"] == 99
    assert by_case["400 rows"]["units"] == by_case["2 workers"]["units"] == 400
    assert by_case["2 workers"]["facts"]["scored"] == 396


def test_growth_is_fitted(tmp_path: Path) -> None:
    found = []
    for number in (1000, 10_000, 100_000):
        each = samples(f"{number} rows", [2e-5 * number**1.2] * 2, [False] * 2, axis="rows", rows=number)
        found += [{**sample, "units": number} for sample in each]
    times, growth = report.sections(read(record(tmp_path / "a", "scale", found)))
    (axes,) = times.pictures[0]().axes
    assert axes.get_ylim() == (10, 1000) and len(axes.lines[0].get_xydata()) == 6  # 80 to 200 us a row
    assert growth.rows[0][1].value == pytest.approx(1.2) and growth.rows[1][1].value == pytest.approx(0)


def test_the_soak_watches_a_process() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"here\n"  # it has started: a program that starts opens its libraries
        seen = soak.sample(psutil.Process(process.pid))
    assert seen["handles"] == 3 and seen["threads"] == 1 and 0 < seen["memory_mb"] < 10
    assert soak.growth([0, 1, 2, 3, 4, 5], [90, 10, 12, 14, 16, 18]) == pytest.approx(8)  # not the warm-up


# --- the gate ---


def test_ratios_hold_on_this_machine() -> None:
    """The regression gate itself: ours against the loop, its stages and the bytes that must move, in one process."""
    ratios = gate.measure()
    assert not gate.broken(ratios), ratios


def test_the_gate_names_what_is_out_of_bounds() -> None:
    good = {name: low * 1.01 if low else (high or 1.0) * 0.9 for name, (low, high) in gate.BOUNDS.items()}
    assert gate.broken(good) == []
    for name, (low, high) in gate.BOUNDS.items():
        wrong = 0.1 if low else 2 * (high or 1.0)
        (said,) = gate.broken({**good, name: wrong})
        assert said.startswith(f"{name}: {wrong:.2f}")
    assert len(gate.broken({**good, "bytes read over bytes of the files": 2.0})) == 1
