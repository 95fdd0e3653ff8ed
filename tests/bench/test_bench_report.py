"""From samples to figures, pages and documents: a busy machine gives none, and a browser shows them."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from bench_runs import record, samples, stage_samples
from metaqap_fast.bench import idle, plots, report, sampling
from metaqap_fast.bench.figures import Figures, Section, show
from metaqap_fast.bench.quote import BLOCK, NONE, quoted
from metaqap_fast.bench.repeat import compared
from metaqap_fast.bench.runs import RunError, read
from metaqap_fast.bench.sampling import Settings
from metaqap_fast.bench.stats import Interval
from metaqap_fast.errors import MetaqapError

ROOT = Path(__file__).parents[2]
QUICK = Settings(repeats=1, seconds=0.0, patience=0.0)


# --- figures ---


def test_what_is_quoted_are_rates_hours_and_the_share_of_what_stages_allow(tmp_path: Path) -> None:
    made = report.summary(read(record(tmp_path / "a", samples=stage_samples([False, False, False]))))
    row = dict(zip(made.columns, made.rows[0], strict=True))
    assert row["engine"] == "openvino" and row["inference, images/s"].value == pytest.approx(10)
    assert row["whole, images/s"].value == pytest.approx(100 / 10.5)
    assert row["hours for a million"].value == pytest.approx(10_500 / 360)
    assert row["whole over what its stages allow"].value == pytest.approx(12.5 / 10.5)
    busy = report.summary(read(record(tmp_path / "b", samples=stage_samples([True, True, False]))))
    assert "busy machine (2 of 3)" in busy.rows[0]


def test_efficiency_is_the_whole_over_its_slowest_stage(tmp_path: Path) -> None:
    run = read(record(tmp_path / "a", samples=stage_samples([False, False, False])))
    rates, costs = report.sections(run)
    row = dict(zip(rates.columns, rates.rows[0], strict=True))
    assert row["slowest stage"] == "inference" and row["whole over slowest stage"].value == pytest.approx(10 / 10.5)
    cost = dict(zip(costs.columns, costs.rows[0], strict=True))
    assert cost["CPU s / 1,000"].value == pytest.approx(105) and cost["J / 1,000"] == "no meter"
    assert "no RAPL" in costs.note


def test_a_busy_machine_gives_no_figure(tmp_path: Path) -> None:
    run = read(record(tmp_path / "a", samples=stage_samples([True, True, False])))
    text = report.text(run)
    assert "busy machine (2 of 3)" in text and "14 of 21 repetitions" in text and "0.952" not in text
    assert "0.952" in report.text(run, even_busy=True) and "no results" in report.text(run, even_busy=True)
    once_busy = read(record(tmp_path / "b", samples=stage_samples([True, False, False])))
    assert "0.952" in report.text(once_busy)


def test_a_busy_repetition_does_not_count(tmp_path: Path) -> None:
    found = samples("x", [1.0, 1.0, 50.0], [False, False, True])
    figures = Figures(read(record(tmp_path / "a", samples=found)))
    assert figures.rates("x") == [100.0, 100.0]


def test_repeated_runs_are_compared_by_their_ratios(tmp_path: Path) -> None:
    quiet = [False] * 3
    runs = [read(record(tmp_path / n, samples=stage_samples(quiet, w))) for n, w in (("a", 10.5), ("b", 12.5))]
    (section,) = report.repeated(runs)
    assert section.rows[0][-1] == pytest.approx(0.16) and "NOT within" in section.note
    assert "within 10%" in compared([(run.name, report.sections(run)) for run in (runs[0], runs[0])]).note
    assert report.repeated(runs[:1]) == []


# --- documents ---


def test_the_documents_quote_committed_runs() -> None:
    for path in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "coming-from.md"):
        text = path.read_text()
        assert BLOCK.search(text), path
        assert quoted(text, ROOT) == text, f"run: metaqap-fast bench quote {path}"


def test_a_quote_is_the_run_s(tmp_path: Path, cli: Callable[..., Any]) -> None:
    record(tmp_path / "a", samples=stage_samples([False] * 3))
    document = tmp_path / "d.md"
    document.write_text("x\n<!-- bench: a -->\n0.99\n<!-- end -->\ny\n<!-- bench: b -->\n<!-- end -->\n")
    assert cli("bench", "quote", document, "--root", tmp_path).exit_code == 0
    text = document.read_text()
    assert "1.19" in text and "0.99" not in text and text.startswith("x\n") and f"-->\n{NONE}<!--" in text
    assert quoted(text, tmp_path) == text and quoted(text.replace("1.19", "1.29"), tmp_path) == text
    shutil.rmtree(tmp_path / "a")
    record(tmp_path / "a", samples=stage_samples([True] * 3))
    with pytest.raises(MetaqapError, match="busy machine"):
        quoted(text, tmp_path)


def test_one_table_of_several_runs(tmp_path: Path) -> None:
    found = stage_samples([False] * 3)
    for each in found:
        if each["labels"]["stage"] == "whole":
            each["facts"] = {"engine": "native", "precision": "bf16", "device": "cpu: X, AMX, 2 threads"}
    record(tmp_path / "a", samples=found)
    record(tmp_path / "b", samples=stage_samples([False] * 3))  # by OpenVINO: left out
    text = quoted("<!-- bench: hours a b -->\n<!-- end -->", tmp_path)
    assert text.count("X, AMX, 2 threads") == 1 and "| bf16 | 9.52" in text and "| 29.2" in text
    assert text.count(" at ") == 1 and quoted(text, tmp_path) == text
    with pytest.raises(MetaqapError, match="unknown view 'days': one of hours"):
        quoted("<!-- bench: days a b -->\n<!-- end -->", tmp_path)
    assert NONE in quoted("<!-- bench: hours a none -->\n<!-- end -->", tmp_path)


def test_cost_and_agreement_side_by_side(tmp_path: Path) -> None:
    found = samples("ours fp32 files", [1.0] * 3, [False] * 3, who="ours", size="files", precision="fp32")
    found += samples("pyiqa:x files", [4.0] * 3, [False] * 3, who="pyiqa:x", size="files")
    found += samples("cleanvision files", [0.5] * 3, [True, True, False], who="cleanvision", size="files")
    for each in found[3:6]:
        each["facts"] = {"weights": "random: no network"}
    record(tmp_path / "a", "peers", found)
    row = {"SROCC": {"value": 0.9, "low": 0.8, "high": 1.0, "count": 9}, "CleanVision, blurry": 0.25}
    document = [{"sections": [{"title": "Calibration", "rows": []}, {"title": "Sets by family", "rows": [row]}]}]
    (tmp_path / "b.json").write_text(json.dumps(document))
    text = quoted("<!-- bench: beside a b.json -->\n<!-- end -->", tmp_path)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert rows["metaqap-fast, fp32"].endswith("| 2.78 [2.78, 2.78] | 0.900 [0.800, 1.00] |")
    assert rows["IQA-PyTorch, x, untrained"].endswith("| 11.1 [11.1, 11.1] | not measured |")
    assert rows["CleanVision, its default issues"].endswith("| 0.250, of blurry |")
    assert "Other programs were busy in 2 of 9 repetitions." in text
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(RunError, match="not a run of peers and a report of accuracy"):
        quoted("<!-- bench: beside a b.json -->\n<!-- end -->", tmp_path)


def test_bars_are_as_long_as_their_values() -> None:
    figure = plots.bars("t", [("a", Interval(0.5, 0.4, 0.7, 5)), ("<b>", Interval(2.0, 2.0, 2.0, 1))], limit=1.0)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.5, 2.0]
    whiskers = axes.collections[0].get_segments()
    assert [segment[:, 0].tolist() for segment in whiskers] == [[0.4, 0.7], [2.0, 2.0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "<b>"] and axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["0.500", "2.00"]
    assert axes.lines[0].get_xdata() == [1.0, 1.0] and axes.get_xlim()[0] == 0


def test_the_page_is_self_contained_and_shows_in_a_browser(tmp_path: Path) -> None:
    """Tables and pictures; nothing fetched, no scripts."""
    found = [*stage_samples([False, False, True]), {"case": "z", "labels": {"stage": "z"}, "failed": "<b>&x"}]
    run = read(record(tmp_path / "a", samples=found))
    page = report.page([run])
    assert page == report.page([run])
    assert "http://" not in page and "https://" not in page
    assert "<script" not in page and "&lt;b&gt;&amp;x" in page
    (data,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    picture = ElementTree.fromstring(base64.b64decode(data))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium: the page was not looked at in a browser (Debian's package is `chromium`)")
    path, shot = tmp_path / "page.html", tmp_path / "page.png"
    path.write_text(page)
    options = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
        "--no-first-run", f"--user-data-dir={tmp_path}/profile", "--window-size=1000,1400",
    ]  # fmt: skip
    dom = subprocess.run([*options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=180)
    assert "whole over slowest stage" in dom.stdout and "7 of 21 repetitions" in dom.stdout
    subprocess.run([*options, f"--screenshot={shot}", path.as_uri()], check=True, capture_output=True, timeout=180)
    from PIL import Image

    pixels = np.array(Image.open(shot).convert("RGB")).astype(int)
    for colour in ((0x1F, 0x77, 0xB4), (0xFF, 0xF0, 0xD8)):  # the bar and the warning
        assert (np.abs(pixels - np.array(colour)).sum(2) < 12).any()


def test_the_table_of_peers(tmp_path: Path) -> None:
    found = samples("ours fp32 files", [1.0] * 3, [False] * 3, who="ours", size="files", precision="fp32")
    found += samples("eager files", [4.0] * 3, [False] * 3, who="eager", size="files")
    found.append({"case": "brisque files", "labels": {"who": "brisque", "size": "files"}, "skipped": "not installed"})
    for each in found[:6]:
        each["facts"] = {"scores": [0.5, 0.25 if each["case"][0] == "o" else 0.3], "versions": {"torch": "2"}}
    run = read(record(tmp_path / "a", "peers", found))
    (section,) = report.sections(run)
    rows = {row[0]: row for row in section.rows}
    eager = rows["torch eager, one image at a time"]
    assert show(eager[2]).startswith("4.00") and eager[5] == pytest.approx(0.05)
    assert rows["BRISQUE (package brisque)"][1] == "skipped" and "not installed" in "".join(report.warnings(run))
    assert report.summary(run).columns == ["", "speed-up, fp32"]


def test_markdown() -> None:
    assert report.markdown(Section("t", ["a", "b"], [[1, 0.5]])) == "| a | b |\n| --- | --- |\n| 1 | 0.500 |"


def test_sampling_defaults_are_those_of_the_rules() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert f"{idle.LIMIT:.0%}".replace("%", " %") in text and f"{sampling.REPEATS} repetitions" in text
