"""Rows whose texts share most of their word triples: candidates by banded MinHash signatures."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from datasketch import MinHash

# Share of common word triples from which two texts count as nearly the same.
NEAR = 0.8
# 12 bands of 4: two texts at 0.8 meet in some band with probability 0.998.
BANDS, BAND_ROWS = 12, 4
# Odd constants that make a triple's hash depend on the order of its words.
MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
CHUNK = 2000
# In at least so many rows, triples that most of a sample share count as their template.
FEWEST_FOR_TEMPLATE, TEMPLATE_SAMPLE = 20, 1000


def chunk_triples(rows: list[list[bytes]]) -> Any:
    """Hashes of the word triples of rows, uint32, as many for each as it has words."""
    # Two closing marks give a row of n words n triples, so that the shortest row has one.
    closed = [word for row in rows for word in (*row, b"\n", b"\n")]
    table = {word: zlib.crc32(word) for word in set(closed)}
    hashes = np.fromiter(map(table.__getitem__, closed), np.uint64, len(closed))
    first, second, third = (hashes[k : len(hashes) - 2 + k] * np.uint64(MIX[k]) for k in range(3))
    mixed = (first + second + third) >> np.uint64(32)
    inside = np.ones(len(hashes), dtype=bool)
    ends = np.cumsum([len(row) + 2 for row in rows])
    inside[ends - 1] = inside[ends - 2] = False
    return mixed[inside[:-2]].astype(np.uint32)


def without_template(triples: Any, ends: Any) -> tuple[Any, Any]:
    """Leaves out the triples of more than half of the rows: a fixed instruction or closing line.

    They say nothing about likeness, and with them all rows of templated data would be near
    duplicates. The last triple of a row stays, so that no row is empty.
    """
    if len(ends) < FEWEST_FOR_TEMPLATE:
        return triples, ends
    starts = np.concatenate(([0], ends[:-1]))
    rows = np.unique(np.linspace(0, len(ends) - 1, TEMPLATE_SAMPLE).astype(int))
    seen = np.concatenate([np.unique(triples[starts[k] : ends[k]]) for k in rows])
    values, counts = np.unique(seen, return_counts=True)
    common = values[counts > len(rows) / 2]
    if not len(common):
        return triples, ends
    keep = ~np.isin(triples, common)
    keep[ends - 1] = True
    return triples[keep], np.cumsum(np.add.reduceat(keep.astype(np.int64), starts))


def signatures(triples: Any, ends: Any) -> Any:
    """MinHash signatures of rows: (rows, BANDS * BAND_ROWS) of uint32.

    They are those of datasketch's `affine32` scheme for the same values. Its own way of one row at
    a time takes eight times as long, so its permutations are applied to many rows at once here.
    """
    multipliers, offsets = MinHash(num_perm=BANDS * BAND_ROWS, scheme="affine32").permutations
    starts = np.concatenate(([0], ends[:-1]))
    table = np.empty((len(ends), BANDS * BAND_ROWS), dtype=np.uint32)
    for row in range(0, len(ends), CHUNK):
        last = min(row + CHUNK, len(ends))
        values = _finalized(triples[starts[row] : ends[last - 1]])
        cuts = starts[row:last] - starts[row]
        for k, (multiplier, offset) in enumerate(zip(multipliers, offsets, strict=True)):
            table[row:last, k] = np.minimum.reduceat(values * multiplier + offset, cuts)
    return table


def _finalized(values: Any) -> Any:
    """MurmurHash3's 32-bit finalizer, with which the scheme spreads its input."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def candidates(table: Any) -> Iterator[tuple[int, int]]:
    """Pairs that share a band, each row with the one before and the first of its bucket.

    Two pairs a row and band, not all pairs: in templated data a bucket can hold every row.
    """
    least = NEAR - 0.2  # Four standard errors of 48 hashes below, so that no true pair is lost.
    for band in range(0, BANDS * BAND_ROWS, BAND_ROWS):
        keys = _band_keys(table[:, band : band + BAND_ROWS])
        order = np.argsort(keys, kind="stable")
        same = np.concatenate(([False], keys[order][1:] == keys[order][:-1]))
        first = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))]
        others = np.concatenate((first[same], np.roll(order, 1)[same]))
        pairs = np.unique(np.stack((others, np.tile(order[same], 2)), 1), axis=0)
        shares = (table[pairs[:, 0]] == table[pairs[:, 1]]).mean(1)
        yield from map(tuple, pairs[shares >= least].tolist())


def _band_keys(rows: Any) -> Any:
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        keys = (keys ^ rows[:, column]) * np.uint64(MIX[0])
        keys ^= keys >> np.uint64(29)
    return keys


def alike(triples: Any, ends: Any, one: int, other: int) -> bool:
    """Whether two rows share at least `NEAR` of their triples."""
    first, second = (np.unique(triples[(ends[k - 1] if k else 0) : ends[k]]) for k in (one, other))
    common = len(np.intersect1d(first, second, assume_unique=True))
    return bool(common >= NEAR * (len(first) + len(second) - common))
