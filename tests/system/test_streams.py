"""Streams that cannot be written: progress never stops the work, and results that are lost are no success."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench_runs import record, stage_samples
from command import COMMAND, run
from metaqap_fast.scores.table import ScoreTable

REASONS = {"broken pipe": "Broken pipe", "full": "No space left on device", "closed": "Bad file descriptor"}


def each_way(names: Iterable[str], repeated: Sequence[str] = ()) -> list[Any]:
    """(name, way) for every way. Each starts a command, which takes a second: the quick tests do with one way. What is
    `repeated` adds little to the others, and is left to the full tests in one way and to the night in the rest.
    """
    sets = [[], pytest.mark.full, pytest.mark.nightly]
    return [
        pytest.param(name, way, marks=sets[(way != "broken pipe") + (name in repeated)], id=f"{name}-{way}")
        for name in names
        for way in REASONS
    ]


@contextmanager
def broken(way: str) -> Iterator[int | None]:
    """A descriptor that cannot be written; None for one that is to be closed."""
    if way == "closed":
        yield None
        return
    if way == "full":
        fd = os.open("/dev/full", os.O_WRONLY)
    else:
        read, fd = os.pipe()
        os.close(read)
    try:
        yield fd
    finally:
        os.close(fd)


def with_broken(
    arguments: list[object], way: str, stdout: bool = False, stderr: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """The command with standard output, standard error or both of them broken."""
    closing = f"{'>&- ' if stdout and way == 'closed' else ''}{'2>&-' if stderr and way == 'closed' else ''}"
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", *COMMAND, *map(str, arguments)]
    with broken(way) as fd:
        return subprocess.run(
            command,
            stdout=fd if stdout and fd is not None else subprocess.PIPE,
            stderr=fd if stderr and fd is not None else subprocess.PIPE,
            timeout=120,
        )


@pytest.fixture(scope="module")
def scores(bundle: Path, photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score file, and beside it labels for it."""
    tmp = tmp_path_factory.mktemp("scores")
    (tmp / "photos").mkdir()
    for i in range(6):
        photo.crop((60 * i, 0, 60 * i + 64, 64)).save(tmp / "photos" / f"{i}.png")
    assert run("score", tmp / "photos", "--model", bundle, "-o", tmp / "s.h5", "--quiet").returncode == 0
    (tmp / "labels.csv").write_text("name,mos\n" + "".join(f"{i}.png,{i / 9}\n" for i in range(6)))
    return tmp / "s.h5"


RESULTS = {
    "help": ["--help"],
    "help of a command": ["score", "--help"],
    "version": ["--version"],
    "inspect scores": ["inspect", "{scores}"],
    "bench report": ["bench", "report", "{run}"],
    "inspect bundle": ["inspect", "{bundle}"],
    "score --json": ["score", "{folder}", "--model", "{bundle}", "-o", "{tmp}/new.h5", "--json"],
    "score --json --strict": ["score", "{folder}", "--model", "{bundle}", "-o", "{tmp}/new.h5", "--json", "--strict"],
}


@pytest.mark.parametrize(("name", "way"), each_way(RESULTS, ["score --json --strict", "bench report"]))
def test_results_that_are_lost_are_an_error(
    name: str, way: str, scores: Path, bundle: Path, folder: Path, tmp_path: Path
) -> None:
    places = {
        "scores": scores,
        "run": record(tmp_path / "run", samples=stage_samples([False])),
        "labels": scores.with_name("labels.csv"),
        "bundle": bundle,
        "folder": folder,
    }
    arguments = [text.format(**places, tmp=tmp_path) for text in RESULTS[name]]
    result = with_broken([*arguments], way, stdout=True)
    assert result.returncode == 1
    assert result.stderr.decode() == f"metaqap-fast: cannot write to standard output: {REASONS[way]}\n"
    makes = name.startswith("score")
    if makes:  # the work is done
        assert len(ScoreTable.read(tmp_path / "new.h5")) == 13
    silent = with_broken([*arguments, *["--overwrite"] * makes], way, stdout=True, stderr=True)
    assert silent.returncode == 1


@pytest.mark.full
def test_an_evaluation_that_is_lost_is_an_error(scores: Path) -> None:
    arguments = ["evaluate", scores, "--labels", scores.with_name("labels.csv"), "--draws", 100]
    result = with_broken([*arguments], "full", stdout=True)
    assert result.returncode == 1 and result.stderr.decode().startswith("metaqap-fast: cannot write to standard output")


@pytest.mark.parametrize(
    ("options", "way"), each_way(["", "--quiet", "--json", "--device cpu,cpu"], ["--quiet", "--json"])
)
def test_progress_that_is_lost_stops_no_run(options: str, way: str, bundle: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["score", folder, "--model", bundle, "-o", tmp_path / "s.h5", *options.split()]
    result = with_broken(arguments, way, stderr=True)
    assert result.returncode == 0 and len(ScoreTable.read(tmp_path / "s.h5")) == 13
    assert result.stdout.startswith(b"{") == ("--json" in options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "s.h5"]
    missing = with_broken(["score", tmp_path / "missing"], way, stderr=True)
    assert (missing.returncode, missing.stdout) == (2, b"")


@pytest.mark.parametrize(("name", "way"), each_way(["several"], ["several"]))
def test_other_commands_need_no_standard_error(name: str, way: str, scores: Path, tmp_path: Path) -> None:
    for arguments, status in (
        (["export", scores, tmp_path / "s.csv"], 0),
        (["export", scores, tmp_path / "s.csv"], 2),  # it exists
        (["inspect", scores], 0),
        (["export", scores.with_name("labels.csv"), tmp_path / "t.csv"], 1),
        (["nonsense"], 2),
    ):
        assert with_broken(arguments, way, stderr=True).returncode == status, arguments
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 7


def test_a_reader_that_leaves_stops_no_run(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """As in `metaqap-fast score ... 2>&1 | head -1`."""
    arguments = ["score", folder, "--model", bundle, "-o", tmp_path / "s.h5"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("engine ")
    process.stdout.close()
    assert process.wait(120) == 0 and len(ScoreTable.read(tmp_path / "s.h5")) == 13


def test_no_file_takes_the_place_of_a_closed_stream(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """What a library prints would end in it."""
    code = (
        "import os\nfrom metaqap_fast.cli import main\nfrom metaqap_fast.scores import parts\n"
        "real = parts.write_scores\n"
        "def write(*arguments):\n"
        "    assert [os.readlink(f'/proc/self/fd/{n}') for n in range(3)] == ['/dev/null'] * 3\n    real(*arguments)\n"
        "parts.write_scores = write\nmain()"
    )
    arguments = ["score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--engine", "openvino"]
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", COMMAND[0], "-c", code, *map(str, arguments)]
    assert subprocess.run(command, timeout=120).returncode == 0
    assert len(ScoreTable.read(tmp_path / "s.h5")) == 13


def test_a_stream_made_non_blocking_is_waited_for(scores: Path) -> None:
    """Whoever shares the terminal or the pipe may have done that; a result is all there, or an error."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    process = subprocess.Popen([*COMMAND, "inspect", str(scores)], stdout=write)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().lstrip(b"x").decode()
    assert process.wait(60) == 0 and "6 rows, 6 scored" in text and "bundle_digest" in text


def test_names_do_not_act_on_a_terminal(bundle: Path, folder: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """In what is printed they are escaped, in files they stay."""
    name, bad = "\x1b]0;owned\x07 [red]\n.png", os.fsdecode(b"b\x1b[2J\xff.png")
    (folder / "0.png").rename(folder / name)
    (folder / "1.png").rename(folder / bad)
    out = tmp_path / "\x1b[31ms.h5"
    scored = run("score", folder, "--model", bundle, "-o", out)
    assert scored.returncode == 0 and "\\x1b]0;owned\\x07 [red]\\n.png" in scored.stderr
    assert "\\x1b[31ms.h5" in scored.stderr
    assert {os.fsencode(name), os.fsencode(bad)} < set(ScoreTable.read(out).keys)
    inspected, exported = cli("inspect", out), cli("export", out, tmp_path / "\x1b.csv")
    assert inspected.exit_code == exported.exit_code == 0
    texts = [scored.stderr, inspected.stdout, exported.stderr]
    for arguments in (
        ["score", tmp_path / name],
        ["score", folder, "--model", name],
        ["score", folder, "-o", out],
        ["inspect", name],
        ["inspect", tmp_path / name],
        ["evaluate", out, "--labels", name],
        ["export", out, f"{tmp_path}/{name}"],
        [name],
        ["score", folder, "--device", name],
        ["bench", "quote", name],
    ):
        result = cli(*arguments)
        assert result.exit_code in (1, 2), arguments
        texts.append(result.stderr)
    for text in texts:
        assert text and not set(text) & {"\x1b", "\x07", "\x9b"}, text
