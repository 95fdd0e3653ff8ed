"""How well new heads do on photographs that they were not fitted on, and how that grows with the number of photographs.

    python -m metaqap_fast.train.learning PHOTOGRAPHS --opinions CELLS.csv --work work -o learning.json

Only damaged photographs are needed, no labelled set: five folds of them, each scored by heads fitted on the others.
What members see is kept in the work folder, where `train heads` finds it.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.evaluation import plcc, srocc
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train import heads, rungs
from metaqap_fast.train.damage import KADIS, KINDS
from metaqap_fast.train.diagnose import BANDS, area
from metaqap_fast.train.opinion import link, opinions, originals, read_cells, targets
from metaqap_fast.train.reasons import REASONS, fit, severities
from metaqap_fast.train.refit import SEED, Settings, cache_of, own_heads, predictions, scores
from metaqap_fast.train.rungs import Rung
from metaqap_fast.train.seen import Eyes, Pooled, remember
from metaqap_fast.train.trial import SAME, SLACK

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
FOLDS = 5


class Learning:
    """Rungs, what members see in them, and what each should score.

    Args:
        bundle: the members.
        steps: rungs, each photograph's together and itself first.
        pooled: what each member sees in them.
        cells: KADID's mean opinions [25, 5].
    """

    def __init__(self, bundle: Bundle, steps: list[Rung], pooled: Sequence[Pooled], cells: F64) -> None:
        self._bundle, self._steps, self._said = bundle, steps, opinions(cells)
        self._pair = np.array([bool(rung.steps) for rung in steps])
        self._photograph = np.array([rung.photograph for rung in steps])
        self._original = originals(steps)
        own = own_heads(bundle)
        self.as_it_is = scores(bundle, pooled, own)
        self._single = predictions(pooled, own)
        wanted = targets(steps, self.as_it_is, self._said, link(steps, self.as_it_is, self._said))
        self._drop = wanted - wanted[self._original]
        self._kernels = []
        for seen in pooled:
            by = heads.standard(seen[~self._pair], seen)
            self._kernels.append(heads.gram(heads.standardised(seen, by)))

    def held_out(self, penalty: float, count: int = 0, without: Collection[str] = ()) -> F64:
        """Scores [n] by heads fitted on photographs of other folds: all of them, or `count`; and on other kinds of
        damage than those `without`, and what is like them."""
        out = np.empty(len(self._steps))
        left = {place for place, kind in enumerate(KINDS) if {kind.name, kind.like} & set(without)}
        taught = self._pair & np.array([not any(step.kind in left for step in rung.steps) for rung in self._steps])
        for fold in range(FOLDS):
            others = np.unique(self._photograph[self._photograph % FOLDS != fold])
            rows = np.flatnonzero(taught & np.isin(self._photograph, others[: count or None]))
            score = np.full(len(out), self._bundle.meta.intercept)
            for member, weight in enumerate(self._bundle.meta.weights):
                now = self._single[:, member]
                missing = (self._drop - (now - now[self._original]))[rows]
                asked = heads.Change(rows, self._original[rows], missing, np.ones(len(rows)))
                change = self._kernels[member] @ heads.solve(self._kernels[member], asked, penalty)
                score += weight * (now + change - change[~self._pair].mean())
            here = self._photograph % FOLDS == fold
            out[here] = score[here]
        return out

    def unseen_kinds(self, penalty: float) -> dict[str, float]:
        """SROCC of drops on KADIS' kinds alone: as it is, by heads that were taught them, and by heads that were not.

        For the last the kinds are dealt to five folds, each left out in turn, with what is like them.
        """
        single = np.array([rung.steps[0].kind if len(rung.steps) == 1 else KADIS for rung in self._steps])
        order = np.random.default_rng(SEED).permutation(KADIS)
        new = np.full(len(self._steps), np.nan)
        for fold in range(FOLDS):
            kinds = order[fold::FOLDS]
            score = self.held_out(penalty, without=[KINDS[int(kind)].name for kind in kinds])
            new = np.where(np.isin(single, kinds), score - score[self._original], new)
        rows, known = single < KADIS, self.held_out(penalty)
        wanted = self._drop[rows]
        return {
            "as it is": srocc((self.as_it_is - self.as_it_is[self._original])[rows], wanted),
            "taught": srocc((known - known[self._original])[rows], wanted),
            "not taught": srocc(new[rows], wanted),
        }

    def judged(self, score: F64) -> dict[str, float]:
        """How drops of scores agree with what people's opinions make of them, and the order of each ladder."""
        drop, wanted = (score - score[self._original])[self._pair], self._drop[self._pair]
        right, above = [], []
        for ladder in self._ladders():
            values = score[[self._original[ladder[0]], *ladder]]
            steps = np.diff(values)
            right += (steps < 0)[np.abs(steps) > SAME].tolist()
            above.append(values[1:].max() > values[0] + SLACK)
        return {
            "SROCC of drops": srocc(drop, wanted),
            "PLCC of drops": plcc(drop, wanted),
            "RMSE of drops": float(np.sqrt(np.square(drop - wanted).mean())),
            "adjacent levels in order": float(np.mean(right)),
            "ladders with a level above the original": float(np.mean(above)),
        }

    def reasons(self, member: int, penalty: float) -> dict[str, list[float | None]]:
        """AUC of every reason, mild, middle and severe, against all that is not damaged so, which others damaged."""
        severity = severities(self._steps, self._said)
        kernel, given = self._kernels[member], np.empty_like(severity)
        for fold in range(FOLDS):
            rows = np.flatnonzero(self._photograph % FOLDS != fold)
            coefficients = fit(kernel, severity[rows], rows, penalty)
            here = self._photograph % FOLDS == fold
            given[here] = (kernel @ coefficients + coefficients.sum(0))[here]
        found = {}
        for place, reason in enumerate(REASONS):
            none, has = severity[:, place] == 0, severity[:, place]
            bands = [(has >= low) & (has < high) for low, high in BANDS.values()]
            values = [area(given[rows, place], given[none, place]) if rows.any() else np.nan for rows in bands]
            found[reason] = [None if np.isnan(value) else round(float(value), 3) for value in values]
        return found

    def _ladders(self) -> list[list[int]]:
        """Rows of each ladder of an ordered kind, the mildest first."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, rung in enumerate(self._steps):
            if len(rung.steps) == 1:
                kind = rung.steps[0].kind
                if KINDS[kind].ordered and len(KINDS[kind].levels) > 1:
                    found.setdefault((rung.photograph, kind), []).append(row)
        return list(found.values())


def main() -> None:
    """Measure, print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--opinions", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--count", type=int, default=0, help="photographs to take; all of the part train if 0")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    bundle, cells = bundles.load(options.model), read_cells(options.opinions)
    files = rungs.photographs(options.photographs, "train")[: options.count or None]
    settings = Settings(precision=options.precision)
    steps = rungs.plan(len(files), settings.kinds, 2, 2, SEED)
    folder = cache_of(bundle, options.work, settings) / "train"
    eyes = Eyes(bundle, settings.precision)
    pooled = remember(eyes, len(steps), lambda start, stop: rungs.views(files, steps[start:stop]), folder)
    learning = Learning(bundle, steps, pooled, cells)
    fitted = len(files) - len(files) // FOLDS
    figures = {
        "model": bundle.name,
        "photographs": len(files),
        "views": len(steps),
        "as it is": learning.judged(learning.as_it_is),
        "by penalty": {str(p): learning.judged(learning.held_out(p)) for p in (0.03, 0.1, 0.3, 1.0, 3.0)},
        "by photographs, penalty .1": {
            str(count): learning.judged(learning.held_out(0.1, count))
            for count in sorted({fitted * part // 8 for part in (1, 2, 4, 8)})
        },
        "kinds left out, penalty .1": learning.unseen_kinds(0.1),
        "AUC of reasons, mild, middle, severe": {
            member.name: learning.reasons(place, 0.1) for place, member in enumerate(bundle.members)
        },
    }
    text = json.dumps(figures, indent=1)
    options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
