"""Which rows are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from metaqap_fast.errors import Status, UsageError
from metaqap_fast.options import Some
from metaqap_fast.review.select import Choice, chosen
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row

SCORES = {"a/1": 0.9, "a/2": 0.1, "a/3": 0.5, "b/1": 0.6, "b/2": 0.7, "b/3": 0.8, "b/4": 0.95}


def keys(choice: Choice, pieces: int = 3) -> list[str]:
    rows = [a_row(key.encode(), score) for key, score in SCORES.items()]
    rows.insert(2, a_row(b"a/2x", status=Status.corrupt))
    rows.append(a_row(b"c", status=Status.unreadable))
    table = ScoreTable.from_rows(rows, ATTRIBUTES)
    tables: Sequence[ScoreTable] = [table[start : start + pieces] for start in range(0, len(table), pieces)]
    return [key.decode() for found in chosen(lambda: tables, choice) for key in found.keys]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(worst=Some(2)), ["a/2", "a/3"]),
        (Choice(best=Some(2)), ["b/4", "a/1"]),
        (Choice(worst=Some(100)), ["a/2", "a/3", "b/1", "b/2", "b/3", "a/1", "b/4"]),
        (Choice(worst=Some(1, True)), ["a/2"]),  # 1 % of seven is one, not none
        (Choice(worst=Some(100 * 2 / 7, True)), ["a/2", "a/3"]),
        (Choice(best=Some(50, True), by_folder=True), ["a/1", "a/3", "b/4", "b/3"]),
        (Choice(worst=Some(1), by_folder=True), ["a/2", "b/1"]),
        (Choice(below=0.6), ["a/2", "a/3"]),
        (Choice(above=0.6, below=0.8), ["b/2"]),
        (Choice(worst=Some(30, True), above=0.3), ["a/3", "b/1"]),  # percent are of the file
        (Choice(worst=Some(2), above=0.55), ["b/1", "b/2"]),  # a number is of what meets the rest
        (Choice(status="failed"), ["a/2x", "c"]),
        (Choice(status="corrupt"), ["a/2x"]),
        (Choice(status="ok"), list(SCORES)),
    ],
)
def test_choices(choice: Choice, expected: list[str]) -> None:
    assert keys(choice) == expected == keys(choice, 100)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (Choice(), "say what to select"),
        (Choice(worst=Some(1), best=Some(1)), "cannot be given together"),
        (Choice(status="bad"), "no status 'bad': one of ok, unreadable"),
        (Choice(status="corrupt", below=0.5), "have no score"),
        (Choice(below=0.5, by_folder=True), "goes with --worst"),
        (Choice(reason="blur"), "has no reasons"),
    ],
)
def test_what_cannot_be_chosen_is_said(choice: Choice, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        keys(choice)


def test_a_reason() -> None:
    reasons = ["blur", "noise"]
    rows = [replace(a_row(b"%d" % i, i / 9), reason=reason) for i, reason in enumerate(["blur", "", "noise", "blur"])]
    table = ScoreTable.from_rows(rows, {**ATTRIBUTES, "reasons": reasons})
    (found,) = chosen(lambda: [table], Choice(reason="blur", best=Some(1)))
    assert found.keys == [b"3"]
    with pytest.raises(UsageError, match="no reason 'dust': one of blur, noise"):
        list(chosen(lambda: [table], Choice(reason="dust")))


def test_equal_scores_are_chosen_in_the_order_of_the_file() -> None:
    table = ScoreTable.from_rows([a_row(b"%03d" % i, 0.5) for i in range(50)], ATTRIBUTES)
    for choice in (Choice(worst=Some(3)), Choice(best=Some(3))):
        (found,) = chosen(lambda: [table[:20], table[20:]], choice)
        assert found.keys == [b"000", b"001", b"002"]


def test_a_large_choice_is_the_sorted_table() -> None:
    scores = np.random.default_rng(0).random(2000).astype(np.float32)
    table = ScoreTable.from_rows([a_row(b"%05d" % i, s) for i, s in enumerate(scores.tolist())], ATTRIBUTES)
    (found,) = chosen(lambda: [table[:700], table[700:]], Choice(worst=Some(25, True)))
    np.testing.assert_array_equal(found.score, np.sort(scores)[:500])
