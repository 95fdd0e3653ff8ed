"""Options: one default and one list of choices for the command line and the library, sizes with units, help for all."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from metaqap_fast import Scorer, UsageError, options
from metaqap_fast.cli import main
from metaqap_fast.errors import MetaqapError
from metaqap_fast.run import run
from metaqap_fast.scale.shards import run_shards
from metaqap_fast.scores.store import Store

# Makes imports fail as if a package was not installed: those named first, or all but click and this one.
WITHOUT = """
import importlib.abc, json, sys
class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        kept = {{*sys.stdlib_module_names, "click", "metaqap_fast"}}
        if top in {names!r} if {names!r} else top not in kept:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
from metaqap_fast.cli import main
"""


def commands(group: click.Group, names: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {names: group}
    for name, command in group.commands.items():
        deeper = commands(command, (*names, name)) if isinstance(command, click.Group) else {(*names, name): command}
        found |= deeper
    return found


ALL = commands(main)


def defaults(function: Any) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


def converted(name: str, *arguments: str) -> dict[str, Any]:
    """What a command gets when only what it needs is given."""
    return dict(ALL[(name,)].make_context(name, [*arguments]).params)


def test_the_command_line_and_the_library_have_the_same_defaults() -> None:
    score, library = converted("score", "x"), defaults(Scorer.__init__)
    for name in set(library) - {"isolate"}:
        assert score[name] == library[name], name
    assert {name: library[name] for name in ("model", "engine", "device", "precision", "batch_size")} == {
        "model": options.MODEL, "engine": options.ENGINE, "device": options.DEVICE, "precision": options.PRECISION,
        "batch_size": None,
    }  # fmt: skip
    assert library["raw"] == options.RAW == "preview" and library["min_size"] == options.MIN_SIZE == 1
    limits = ("max_pixels", "max_bytes", "max_seconds", "max_memory")
    assert [library[name] for name in limits] == [200_000_000, 512 << 20, 60.0, 4 << 30]
    for function in (run, Store.__init__):
        assert defaults(function)["rows_per_part"] == score["rows_per_part"] == options.ROWS_PER_PART
        assert defaults(function)["moved"] is score["moved"] is False
        assert defaults(function)["mode"] == "new"
    for function in (run, run_shards):
        for name in ("retry_failed", "prune", "moved", "shard"):
            assert defaults(function)[name] == score[name]
    evaluate = converted("evaluate", "x", "--labels", "y")
    for name in ("model", "engine", "device", "precision"):
        assert evaluate[name] == library[name]


def test_the_smallest_limits() -> None:
    for name, least in (("pixels", "1"), ("bytes", "1"), ("memory", "1B"), ("seconds", "0.001")):
        assert converted("score", "x", f"--max-{name}", least)[f"max_{name}"] == float(least.rstrip("B"))
        with pytest.raises(click.BadParameter):
            converted("score", "x", f"--max-{name}", "0")


def test_every_option_of_the_library_is_one_of_the_command() -> None:
    kept = {"isolate"}  # it costs too little to be worth an option
    assert set(defaults(Scorer.__init__)) - kept <= {p.name for p in ALL[("score",)].params}


def test_choices_are_those_of_the_library(bundle: Path) -> None:
    choices = {p.name: list(p.type.choices) for p in ALL[("score",)].params if isinstance(p.type, click.Choice)}
    assert choices["engine"] == list(options.ENGINES) == list(get_args(options.EngineName))
    assert choices["precision"] == list(options.PRECISIONS) == list(get_args(options.Precision))
    for name in ("engine", "precision"):
        with pytest.raises(UsageError, match="nonsense"):
            Scorer(str(bundle), device="cpu", **{name: "nonsense"})
    for engine in options.ENGINES[1:]:  # each is known: what is missing here is said, and is no mistake
        try:
            Scorer(str(bundle), device="cpu", engine=engine).close()
        except MetaqapError as error:
            assert "unknown" not in str(error)


def test_limits_reach_the_scorer(cli: Any, bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    arguments = ["score", folder, "--model", bundle, "-o", out, "--max-bytes", "0.1kB", "--json"]
    result = cli(*arguments)
    # All but two tiny ones, which are no images.
    assert result.exit_code == 5 and json.loads(result.stdout)["failed"]["too_large"] == 11


def test_help_needs_no_extra() -> None:
    """With every package out of reach but click."""
    code = WITHOUT.format(names=()) + (
        "for names in json.loads(sys.argv[1]):\n"
        "    try: main([*names, '--help'])\n"
        "    except SystemExit as stop: print(f'<{stop.code}>')\n"
    )
    names = json.dumps([list(each) for each in ALL])
    result = subprocess.run([sys.executable, "-c", code, names], capture_output=True, text=True)
    assert result.stderr == "" and result.stdout.count("<0>") == result.stdout.count("Usage:") == len(ALL) >= 18


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("torch", ["train", "run", ".", "--data", "biq2021", "-o", "out"]),
        ("torch", ["train", "pretrain", ".", "-o", "out"]),
        ("timm", ["train", "ablation", ".", "--data", "biq2021", "-o", "out"]),
        ("onnx", ["bench", "scale", "--rows", "5"]),
    ],
)
def test_what_a_missing_extra_is_called(missing: str, arguments: list[str], tmp_path: Path) -> None:
    code = WITHOUT.format(names=(missing,)) + "main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    name = arguments[0]
    assert result.returncode == 1 and not list(tmp_path.iterdir())
    needed = f"{name} needs more packages: pip install 'metaqap-fast[{name}]' (No module named '{missing}')"
    assert result.stderr == f"metaqap-fast: {needed}\n"


def test_help_is_whole_sentences() -> None:
    """Of every command and option, and none of them a fragment that needs the one before."""
    for names, command in ALL.items():
        assert (command.help or "").strip().endswith("."), names
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.help:
                text = parameter.help.split("  [default")[0]
                assert text.endswith("."), (names, parameter.name)
                assert not text.startswith(("Of ", "That ")), (names, parameter.name)
                has_default = isinstance(parameter.default, (str, int, float)) and parameter.default not in ("", False)
                assert not has_default or parameter.show_default, (names, parameter.name)


@pytest.mark.parametrize("where", ["photographs", "./photographs", "{tmp}/photographs", "sub/../photographs"])
def test_pretraining_finds_its_photographs(
    cli: Any, folder: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metaqap_fast.train import pretrain

    folder.rename(tmp_path / "photographs")
    (tmp_path / "sub").mkdir()
    (tmp_path / "photographs" / "0.png").rename(tmp_path / "photographs" / os.fsdecode(b"\xff.png"))
    monkeypatch.chdir(tmp_path)
    given: list[list[Path]] = []

    def record(path: Path, config: Any, files: list[Path], *_: Any) -> str:
        given.append(files)
        return "done"

    monkeypatch.setattr(pretrain, "pretrain", record)
    result = cli("train", "pretrain", where.format(tmp=tmp_path), "-o", "out", "--networks", "mobilenetv2")
    assert result.exit_code == 0, result.output
    assert len(given[0]) == 13 and all(path.is_file() for path in given[0])


def test_what_is_neither_scores_nor_images_is_called_that(
    cli: Callable[..., Any], bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("name,mos\na.jpg,1\n")
    (tmp_path / "a.jpg").write_text("hello")
    result = cli("evaluate", tmp_path / "a.jpg", "--labels", tmp_path / "labels.csv", "--model", bundle)
    assert result.exit_code == 2 and "a.jpg is neither a score file (.h5) nor images" in result.stderr
