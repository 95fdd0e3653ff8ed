"""What the costs of many images are worked out from, and that the document has them as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaqap_fast.bench.costs import WORKERS, Surroundings, Worker, plan, table, workers_before

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


def test_the_document_has_the_table() -> None:
    text = DEPLOY.read_text()
    assert text.split("<!-- costs -->\n")[1].split("\n<!-- end -->")[0] == table()
    assert f"some {workers_before('reading', WORKERS[0]) // 10 * 10} cores with AMX" in text


def test_the_slowest_part_is_the_rate_of_all() -> None:
    worker = Worker("test", 10.0, 0.5)
    few = plan(36_000_000, 100, worker)
    assert few.limit == "scoring" and few.scoring_hours == pytest.approx(10) and few.dollars == pytest.approx(500)
    many = plan(36_000_000, 10_000, worker, Surroundings(store=1e8))  # a thousand images a second
    assert many.limit == "reading" and many.scoring_hours == pytest.approx(10)
    assert plan(1000, 10_000, worker, Surroundings(network=524e3)).limit == "collecting"
    assert few.hours == pytest.approx(10 + 36e6 * 18.5e-6 / 3600)
