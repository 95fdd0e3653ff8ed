"""A run is resumed only where it would give the scores that are there; a newer version of the program may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.errors import UsageError
from metaqap_fast.scores.identity import agreed
from metaqap_fast.scores.store import Store
from metaqap_fast.scores.table import ScoreTable
from rows import a_row

OURS = {
    "members": ["a", "b"], "bundle_digest": "d", "engine": "e", "precision": "fp32", "engine_version": "1",
    "decoder": "x", "preprocessing": "views=fit, view size 384", "program_version": "0.2.0",
    "device": "cpu", "source": ["photos"],
}  # fmt: skip
FOUND = {**OURS, "format": "metaqap-scores", "format_version": 1, "format_minor": 3, "created": "then"}


COMPARED = ["bundle_digest", "precision", "engine", "preprocessing", "engine_version", "decoder"]


@pytest.mark.parametrize(("name", "finished"), [*((name, False) for name in COMPARED), ("preprocessing", True)])
def test_what_decides_the_scores_is_compared(tmp_path: Path, name: str, finished: bool) -> None:
    """With a finished output and with an interrupted run's parts; the refusal leaves either as it was."""
    out = tmp_path / "s.h5"
    store = Store(out, OURS, rows_per_part=1)
    store.add(a_row(b"a"))
    store.finish() if finished else store.close()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.h5"))
    with pytest.raises(
        UsageError, match=f"rows were made with {name} {OURS[name]!r}, this run has 'other'. Use the same"
    ):
        Store(out, {**OURS, name: "other"}, "resume")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.h5")) == before
    store = Store(out, OURS, "resume")
    assert b"a" in store.done
    store.finish()
    assert ScoreTable.read(out).attributes[name] == OURS[name]


@pytest.mark.parametrize("name", ["bundle_digest", "precision", "engine", "preprocessing"])
def test_what_was_never_recorded_is_not_the_same(name: str) -> None:
    with pytest.raises(UsageError, match=f"made with {name} None, this run has '{OURS[name]}"):
        agreed("s.h5", {k: v for k, v in FOUND.items() if k != name}, OURS)


@pytest.mark.parametrize("name", ["engine_version", "decoder"])
def test_what_earlier_versions_did_not_record_is_taken_from_now(name: str) -> None:
    assert agreed("s.h5", {k: v for k, v in FOUND.items() if k != name}, OURS)[name] == OURS[name]
    assert agreed("s.h5", FOUND, {k: v for k, v in OURS.items() if k != name})[name] == OURS[name]


def test_another_version_of_the_program_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    for version, key in (("0.2.0", b"a"), ("0.1.0", b"b"), ("0.2.0", b"c")):
        store = Store(out, {**OURS, "program_version": version}, "resume")
        store.add(a_row(key))
        store.finish()
    table = ScoreTable.read(out)
    assert table.keys == [b"a", b"b", b"c"] and table.attributes["program_version"] == "0.1.0, 0.2.0"


def test_the_earlier_run_s_attributes_stay_and_new_ones_are_added() -> None:
    ours: dict[str, Any] = {**OURS, "created": "now", "device": "cuda:0", "reasons": ["blur"]}
    assert agreed("s.h5", FOUND, ours) == {**OURS, "created": "then", "reasons": ["blur"]}
    bare = {"bundle_digest": None, "precision": None, "engine": None}
    assert agreed("s.h5", bare, {"members": []}) == {**bare, "members": []}


def keyed(root: str | None, *sources: str, **more: Any) -> dict[str, Any]:
    """Attributes of a run over sources below one folder; `root` None: an older version's, which did not record it."""
    if root is None:
        return {**OURS, "source": [*sources], **more}
    return {**OURS, "root": root, "source": [*sources], "roots": [f"file://{s}" for s in sources], **more}


def test_keys_are_relative_to_the_same_folder() -> None:
    assert agreed("s.h5", keyed("file:///a", "/a"), keyed("file:///a", "/a"))["root"] == "file:///a"
    words = "its keys are relative to file:///a, those of this run relative to file:///b. Name the same sources"
    with pytest.raises(UsageError, match=f"^cannot resume s.h5: {words}, or another -o; .* give --moved$"):
        agreed("s.h5", keyed("file:///a", "/a"), keyed("file:///b", "/b"))
    with pytest.raises(UsageError, match="its keys are whole paths, those of this run relative to file:///b"):
        agreed("s.h5", keyed("", "/a", "s3://b"), keyed("file:///b", "/b"))
    moved = agreed("s.h5", keyed("file:///a", "/a"), keyed("file:///b", "/b"), moved=True)
    assert (moved["root"], moved["source"], moved["roots"]) == ("file:///b", ["/b"], ["file:///b"])
    assert agreed("s.h5", keyed("file:///a", "/a"), keyed("file:///b", "/b"), merging=True)["root"] == "file:///b"


def test_a_run_of_an_older_version_goes_on_if_it_had_one_source() -> None:
    assert agreed("s.h5", keyed(None, "/a"), keyed("file:///a", "/a"))["root"] == "file:///a"
    with pytest.raises(UsageError, match="an older version of the program wrote it, which gave images of several"):
        agreed("s.h5", keyed(None, "/a", "/b"), keyed("file:///", "/a", "/b"))
    assert agreed("s.h5", keyed(None, "/a", "/b"), keyed(None, "/a", "/b"))["source"] == ["/a", "/b"]
    assert agreed("s.h5", keyed("file:///", "/a", "/b"), keyed(None, "/a"))["root"] == "file:///"


def test_each_share_has_an_output_of_its_own() -> None:
    whole, share = keyed("file:///a", "/a"), keyed("file:///a", "/a", shard="1/3")
    assert agreed("s.h5", share, share)["shard"] == "1/3"
    with pytest.raises(UsageError, match="it holds share 1/3, this run is for the whole source"):
        agreed("s.h5", share, whole)
    with pytest.raises(UsageError, match="it holds the whole source, this run is for share 1/3"):
        agreed("s.h5", whole, share)


def test_sources_are_all_that_was_named_each_once() -> None:
    """Under its present name; what another run is told of must be whole."""
    before, now = keyed("file:///", "/a", "/b"), keyed("file:///", "/b", "/c")
    found = agreed("s.h5", before, {**now, "source": ["./b", "./c"]})
    assert found["source"] == ["/a", "./b", "./c"] and found["roots"] == ["file:///a", "file:///b", "file:///c"]
    with pytest.raises(ValueError, match="zip"):
        agreed("s.h5", before, {**now, "source": ["/b"]})
