"""Near-duplicate images: they must share a fold, and a test image with a twin in train is half known.

Two images are twins if their 64-bit difference hashes differ in at most two bits and their gray thumbnails
correlate above 0.98.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.train.datasets import biq2021
from metaqap_fast.train.features import decoded
from metaqap_fast.train.member import VIEW_SIZE

MAX_BITS = 2
MIN_CORRELATION = 0.98
THUMBNAIL = 32


def near_duplicates(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Index pairs (i < j) of near-duplicate images; of an image that is not square its first view counts."""
    thumbnails = np.empty((len(files), THUMBNAIL, THUMBNAIL), np.float32)
    for i, image in enumerate(decoded(files)):
        step = VIEW_SIZE // THUMBNAIL
        gray = image.views[0].mean(axis=2, dtype=np.float32)
        thumbnails[i] = gray.reshape(THUMBNAIL, step, THUMBNAIL, step).mean((1, 3))
    return similar(thumbnails)


def similar(thumbnails: NDArray[np.float32]) -> list[tuple[int, int]]:
    """The rule above on gray thumbnails [n, 32, 32]."""
    hashes = difference_hash(thumbnails)
    flat = thumbnails.reshape(len(thumbnails), -1)
    flat = flat - flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    pairs = []
    for i in range(len(hashes) - 1):
        near = i + 1 + np.flatnonzero(np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= MAX_BITS)
        pairs += [(i, int(j)) for j in near if float(flat[i] @ flat[j]) > MIN_CORRELATION]
    return pairs


def difference_hash(thumbnails: NDArray[np.float32]) -> NDArray[np.uint64]:
    """dHash [n]: the signs of the 8 x 8 horizontal differences of an 8 x 9 reduction."""
    rows = thumbnails.reshape(len(thumbnails), 8, -1, thumbnails.shape[2]).mean(2)  # [n, 8, 32]
    edges = np.linspace(0, thumbnails.shape[2], 10).round().astype(int)
    small = np.stack([rows[:, :, a:b].mean(2) for a, b in pairwise(edges)], axis=2)  # [n, 8, 9]
    bits = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(thumbnails), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def groups(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Group number of each of `count` images: twins, and twins of twins, share one."""
    parent = np.arange(count)

    def root(i: int) -> int:
        while parent[i] != i:
            i = int(parent[i])
        return i

    for i, j in pairs:
        parent[root(i)] = root(j)
    return np.array([root(i) for i in range(count)], np.int64)


def main() -> None:
    """Write the labels of BIQ2021's test images that have no twin in the training split."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("biq2021", type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path, help="csv to write")
    options = parser.parse_args()
    train, test = (biq2021(options.biq2021, split) for split in ("train", "test"))
    count = len(train.files)
    pairs = near_duplicates([*train.files, *test.files])
    twins = {j - count for i, j in pairs if i < count <= j}
    rows = [row for k, row in enumerate(zip(test.labels, test.mos, strict=True)) if k not in twins]
    with open(options.output, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Image Name", "MOS"), *rows])
    print(f"{len(rows)} of {len(test.files)} test images have no twin in train")


if __name__ == "__main__":
    main()
