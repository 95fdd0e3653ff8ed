"""The rows that an output has already, in 31 bytes each: of ten million, 310 MB."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b
from typing import Literal

import numpy as np

from metaqap_fast.errors import Status
from metaqap_fast.records import Past
from metaqap_fast.scores.table import ScoreTable

Need = Literal["new", "changed", "failed"]


class KeySet:
    """A set of keys that costs 16 bytes each. Equal 120-bit digests count as equal keys."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._digests = np.unique(np.frombuffer(b"".join(map(_digest, keys)), "S16"))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, key: bytes) -> bool:
        return self.find(key) is not None

    def find(self, key: bytes) -> int | None:
        """The place of a key; None if it is not there."""
        digest = _digest(key)
        at = int(self._digests.searchsorted(digest))
        return at if at < len(self._digests) and self._digests[at] == digest else None


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=15).digest() + b"."  # numpy takes zeros off the end of a string


class Done(KeySet):
    """Rows: what became of each image, and what was seen of its file.

    Attributes:
        status: [N] uint8, see `Status`; score: [N] float32; seen: [N] uint64, see `Row.seen`; reason: [N] uint16,
            places in `reasons`, the different ones; named: [N] whether the source has named the image so far.
    """

    def __init__(self, tables: Iterable[ScoreTable] = ()) -> None:
        """Of rows whose keys are all different."""
        digests, places = bytearray(), {"": 0}
        status, score, seen = [np.empty(0, np.uint8)], [np.empty(0, np.float32)], [np.empty(0, np.uint64)]
        reason = [np.empty(0, np.uint16)]
        for table in tables:
            digests += b"".join(map(_digest, table.keys))
            status.append(table.status)
            score.append(table.score)
            seen.append(table.seen)
            reason.append(np.array([places.setdefault(name, len(places)) for name in table.reason], np.uint16))
        every = np.frombuffer(digests, "S16")
        order = every.argsort()  # np.unique would hold three more copies of them
        self._digests = every[order]
        del every, digests
        self.status, self.score = np.concatenate(status)[order], np.concatenate(score)[order]
        self.seen, self.reason = np.concatenate(seen)[order], np.concatenate(reason)[order]
        self.reasons = list(places)
        self.named = np.zeros(len(order), np.bool_)

    def need(self, key: bytes, seen: int, retry_failed: bool = False) -> Need | None:
        """Why an image that the source has named is to be scored; None if its row is good.

        Args:
            key: of the image.
            seen: of its file, see `Row.seen`.
            retry_failed: whether that it failed is reason enough.
        """
        at = self.find(key)
        if at is None:
            return "new"
        self.named[at] = True
        if self.status[at] != Status.ok and retry_failed:
            return "failed"
        then = int(self.seen[at])
        # A file that could not even be looked at then can be now.
        appeared = not then and self.status[at] == Status.unreadable
        return "changed" if seen and seen != then and (then or appeared) else None

    def past(self, key: bytes) -> Past:
        """The row of a key that is there."""
        at = self.find(key)
        assert at is not None, "a key without a row"
        return Past(os.fsdecode(key), int(self.status[at]), float(self.score[at]), self.reasons[self.reason[at]])

    def is_gone(self, key: bytes) -> bool:
        """Whether an image has a row here, but the source has not named it."""
        at = self.find(key)
        return at is not None and not self.named[at]
