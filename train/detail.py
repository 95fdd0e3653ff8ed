"""What fine views add to a bundle: units for them are fitted, judged by copies of large photographs, and chosen."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train import finer, large
from metaqap_fast.train.material import SEED, Material
from metaqap_fast.train.refit import said
from metaqap_fast.train.units import Units

log = logging.getLogger(__name__)

COPIES = "agreement with metrics on copies of large photographs"  # a part of the figures


class Detail:
    """Fine views of a bundle.

    Args:
        bundle: the members.
        seen: what they see; of that, copies of large photographs.
    """

    def __init__(self, bundle: Bundle, seen: Material) -> None:
        self._bundle, self._seen = bundle, seen

    def fit(self, made: Units) -> Units | None:
        """Units that read fine views, beside those that are there; None without large photographs."""
        seen = self._seen
        if seen.large is None or seen.judged_large is None:
            return None
        kept = large.share_kept(seen.large.target, seen.cells, finer.share)
        lacks = finer.lacks(seen.large, said(self._bundle, seen.large.pooled, made), kept, self._bundle.meta)
        return finer.fit(lacks, seen.judged_large, SEED)

    def better(self, made: Units, fitted: Units | None, own: Units | None) -> Units | None:
        """Of units that read fine views, those with which scores agree more with metrics on copies that were not
        taught: new ones, or those that the bundle has, of which what they say then fades as well. Where there is one of
        them alone, that one; where there is none, None. New ones that see other lines are taken as they are: what the
        others would say of these copies is not known.
        """
        if own is None or (fitted is not None and fitted.lines != own.lines):
            return fitted
        own = replace(own, fading=finer.fading(self._bundle.meta))
        if fitted is None:
            return own
        offered = fitted, own
        agreements = [self.judge(made, each)["over all"] for each in offered]
        log.info("fine views: agreement over all %.3f, with the units that the bundle had %.3f", *agreements)
        return offered[int(np.argmax(agreements))]

    def judge(self, made: Units | None = None, fine: Units | None = None) -> dict[str, float]:
        """Agreement with full-reference metrics on copies of large photographs that were not taught."""
        seen = self._seen.judged_large
        assert seen is not None
        members = said(self._bundle, seen.pooled, made)
        if fine is not None:
            members = members + finer.lowered(fine, seen.fine, members.mean(1))[:, None]
        return large.agreement(seen, members @ np.array(self._bundle.meta.weights) + self._bundle.meta.intercept)

    def figures(self, made: Units, fine: Units | None) -> dict[str, Any]:
        """The same as the members are, with units, and with fine views, under COPIES; nothing without such copies."""
        if self._seen.judged_large is None:
            return {}
        found = {"as it was": self.judge(), "refitted": self.judge(made), "with fine views": self.judge(made, fine)}
        return {COPIES: found}
