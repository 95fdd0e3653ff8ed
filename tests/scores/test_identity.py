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
    "decoder": "x", "preprocessing": "views=unscaled, view size 384", "program_version": "0.2.0",
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


def test_the_old_name_of_a_view_mode_is_the_same_mode() -> None:
    old = {**FOUND, "preprocessing": "views=native, view size 384", "program_version": "0.1.0"}
    assert agreed("s.h5", old, OURS)["preprocessing"] == "views=unscaled, view size 384"
    with pytest.raises(
        UsageError, match="made with preprocessing 'views=native, view size 384', this run has 'views=fit"
    ):
        agreed("s.h5", old, {**OURS, "preprocessing": "views=fit, view size 384"})
    with pytest.raises(UsageError, match="preprocessing"):
        agreed("s.h5", {**old, "preprocessing": "views=native, view size 385"}, OURS)
    with pytest.raises(UsageError, match="preprocessing None"):
        agreed("s.h5", {**old, "preprocessing": None}, OURS)


def test_the_earlier_run_s_attributes_stay_and_new_ones_are_added() -> None:
    ours: dict[str, Any] = {**OURS, "created": "now", "device": "cuda:0", "reasons": ["blur"]}
    assert agreed("s.h5", FOUND, ours) == {**OURS, "created": "then", "reasons": ["blur"]}
    bare = {"bundle_digest": None, "precision": None, "engine": None}
    assert agreed("s.h5", bare, {"members": []}) == {**bare, "members": []}
