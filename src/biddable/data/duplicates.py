"""Rows that say the same: exactly, nearly (MinHash), or as the beginning of a longer row.

System prompts are left out of every comparison: a prompt that all rows share would make them look
alike.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from datasketch import MinHash

from biddable.data.conversation import Conversation, Message

# Share of common word triples from which two texts count as near duplicates.
NEAR = 0.8
# 12 bands of 4: two texts at 0.8 meet in some band with probability 0.998.
BANDS, BAND_ROWS = 12, 4
# Scripts written without spaces are cut into characters, everything else into words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
# Odd constants that make a triple's hash depend on the order of its words.
MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
# ASCII letters, digits and underscores stay, all else becomes a space.
ASCII_WORDS = bytes(c if chr(c).isalnum() or c == 95 else 32 for c in range(128)) + bytes(128)
CHUNK = 2000
# What most of so many rows share is taken for their template.
FEWEST_FOR_TEMPLATE, TEMPLATE_SAMPLE = 20, 1000


def spoken(conversation: Conversation) -> list[Message]:
    """The messages without system prompts."""
    return [message for message in conversation.messages if message.role != "system"]


def digest(messages: Iterable[Message]) -> bytes:
    """A key that messages share exactly if their roles, texts and tool calls are equal."""
    key = blake2b(digest_size=16)
    for message in messages:
        extra = repr(message.extra) if message.extra else ""
        for part in (message.role, message.content.strip(), extra):
            data = part.encode("utf-8", "surrogatepass")
            key.update(b"%d:" % len(data))
            key.update(data)
    return key.digest()


def groups_by(keys: Iterable[Any]) -> list[list[int]]:
    """Indices of equal keys, in order; keys that come once and None are left out."""
    found: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            found.setdefault(key, []).append(index)
    return [group for group in found.values() if len(group) > 1]


class Duplicates(NamedTuple):
    """Indices of rows that say the same, in groups: what `inspect` and `split` both need."""

    exact: list[list[int]]
    near: list[list[int]]
    prompts: list[list[int]]
    prefixes: list[list[int]]


def find(conversations: Sequence[Conversation]) -> Duplicates:
    """All kinds of duplicates among rows; by far the longest part is the near ones."""
    return Duplicates(
        exact_groups(conversations),
        near_groups(conversations),
        prompt_groups(conversations),
        prefix_groups(conversations),
    )


def exact_groups(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Indices of rows that are equal, system prompts aside; each group in file order."""
    return groups_by(digest(spoken(conversation)) for conversation in conversations)


def prompt_groups(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Indices of rows that ask the same: equal in all before the last answer, system included."""
    return groups_by(digest(_prompt(conversation)) for conversation in conversations)


def _prompt(conversation: Conversation) -> Sequence[Message]:
    messages = conversation.messages
    last = max((k for k, m in enumerate(messages) if m.role == "assistant"), default=0)
    return messages[:last]


def prefix_groups(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Pairs of rows of which one is the whole beginning of the other (one row a turn)."""
    whole = {digest(spoken(c)): index for index, c in enumerate(conversations)}
    pairs = []
    for index, conversation in enumerate(conversations):
        messages = spoken(conversation)
        for end, message in enumerate(messages[:-1], start=1):
            if message.role == "assistant":
                other = whole.get(digest(messages[:end]))
                if other is not None:
                    pairs.append([other, index])
    return pairs


def near_groups(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Indices of rows whose texts share at least `NEAR` of their word triples; sorted groups.

    Candidates come from banded MinHash signatures and are confirmed on the triples themselves, so
    no pair is united by chance; exact duplicates are near as well.
    """
    if len(conversations) < 2:
        return []
    triples, ends = _without_template(*_triples(conversations))
    parents = list(range(len(conversations)))
    for one, other in _candidates(signatures(triples, ends)):
        if root(parents, one) != root(parents, other) and _alike(triples, ends, one, other):
            unite(parents, one, other)
    return [cluster for cluster in clusters(parents) if len(cluster) > 1]


def root(parents: list[int], index: int) -> int:
    """The representative of an index in a union-find forest; the path is shortened on the way."""
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def unite(parents: list[int], one: int, other: int) -> None:
    """Joins two trees of a union-find forest under the smaller index."""
    low, high = sorted((root(parents, one), root(parents, other)))
    parents[high] = low


def clusters(parents: list[int]) -> list[list[int]]:
    """The trees of a union-find forest, single ones too, in the order of their first members."""
    found: dict[int, list[int]] = {}
    for index in range(len(parents)):
        found.setdefault(root(parents, index), []).append(index)
    return list(found.values())


def _words(conversation: Conversation) -> list[bytes]:
    """Lower-case words without punctuation, never none; characters where there are no words."""
    text = "\n".join([m.content for m in spoken(conversation)]).lower()
    if text.isascii():
        words = text.encode().translate(ASCII_WORDS).split()
    else:
        words = [w.encode("utf-8", "surrogatepass") for w in WORD.findall(text)]
    return words or [c.encode("utf-8", "surrogatepass") for c in text.strip()] or [b""]


def _triples(conversations: Sequence[Conversation]) -> tuple[Any, Any]:
    """Hashes of the word triples of all rows, one uint32 array, and where each row's end."""
    parts, lengths = [], []
    for start in range(0, len(conversations), CHUNK):
        rows = [_words(c) for c in conversations[start : start + CHUNK]]
        parts.append(_chunk_triples(rows))
        lengths += [len(row) for row in rows]
    return np.concatenate(parts), np.cumsum(lengths)


def _chunk_triples(rows: list[list[bytes]]) -> Any:
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


def _without_template(triples: Any, ends: Any) -> tuple[Any, Any]:
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
    made = np.empty((len(ends), BANDS * BAND_ROWS), dtype=np.uint32)
    for row in range(0, len(ends), CHUNK):
        last = min(row + CHUNK, len(ends))
        values = _finalized(triples[starts[row] : ends[last - 1]])
        cuts = starts[row:last] - starts[row]
        for k, (multiplier, offset) in enumerate(zip(multipliers, offsets, strict=True)):
            made[row:last, k] = np.minimum.reduceat(values * multiplier + offset, cuts)
    return made


def _finalized(values: Any) -> Any:
    """MurmurHash3's 32-bit finalizer, with which the scheme spreads its input."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def _candidates(made: Any) -> Iterator[tuple[int, int]]:
    """Pairs that share a band, each row with the one before and the first of its bucket.

    Two pairs a row and band, not all pairs: in templated data a bucket can hold every row.
    """
    least = NEAR - 0.2  # Four standard errors of 48 hashes below, so that no true pair is lost.
    for band in range(0, BANDS * BAND_ROWS, BAND_ROWS):
        keys = _band_keys(made[:, band : band + BAND_ROWS])
        order = np.argsort(keys, kind="stable")
        same = np.concatenate(([False], keys[order][1:] == keys[order][:-1]))
        first = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))]
        pairs = np.concatenate(
            (
                np.stack((first[same], order[same]), 1),
                np.stack((np.roll(order, 1)[same], order[same]), 1),
            )
        )
        pairs = np.unique(pairs, axis=0)
        shares = (made[pairs[:, 0]] == made[pairs[:, 1]]).mean(1)
        yield from map(tuple, pairs[shares >= least].tolist())


def _band_keys(rows: Any) -> Any:
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        keys = (keys ^ rows[:, column]) * np.uint64(MIX[0])
        keys ^= keys >> np.uint64(29)
    return keys


def _alike(triples: Any, ends: Any, one: int, other: int) -> bool:
    first, second = (np.unique(triples[(ends[k - 1] if k else 0) : ends[k]]) for k in (one, other))
    common = len(np.intersect1d(first, second, assume_unique=True))
    return bool(common >= NEAR * (len(first) + len(second) - common))
