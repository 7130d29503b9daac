"""Rows whose questions differ in a word or two and that have the same answer.

Word triples say little about short questions: one word changed in eight leaves five of eleven. Here
each question leaves a key for itself without each of its words, and one for each third of it. Two
questions that differ in one word share such a key, wherever the word stands.

A place that many rows fill with other words, or whose words decide the answer, is the blank of a
pattern ("the weather in {city}", "turn {on} the light"), and what fills it is what the row is
about; there only words that are spelled alike are variants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import OSA

from biddable.data.wording import Words, is_number

# The longest question whose words are left out one at a time, and the shortest cut into thirds.
LONGEST, FEWEST_FOR_THIRDS = 32, 9
# A question of fewer words is another one as soon as a word is, unless it is a misspelling.
FEWEST_WORDS = 5
# One word in this many may differ.
WORDS_FOR_EACH = 6
# More words than these in one place are the fillings of a pattern.
MOST_VARIANTS = 4
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)


class Questions(NamedTuple):
    """Short questions as hashes of their words, flat.

    Args:
        words: uint64 of every word, one question after another.
        initials: the first eight bytes of the word as a number, which sorts words by spelling.
        number: whether the word holds a digit.
        ends: where each question's words end; as those of the one before where it is too long.
        replies: uint64, a key of each row's answer.
    """

    words: Any
    initials: Any
    number: Any
    ends: Any
    replies: Any


def candidates(questions: Questions) -> Iterator[tuple[int, int, bool]]:
    """Pairs of rows that share a key, and whether only another spelling makes them variants."""
    if not len(questions.words):
        return
    keys, owners, fillers = _keys(questions)
    order = np.lexsort((fillers, keys))
    keys, owners, fillers = keys[order], owners[order], fillers[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    ends = np.append(starts[1:], len(keys))
    several = ends - starts > 1
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        rows = list(dict.fromkeys(owners[start:end].tolist()))
        replies = questions.replies[owners[start:end]].tolist()
        blank = len(rows) > 2 * MOST_VARIANTS or _is_blank(fillers[start:end].tolist(), replies)
        for one, other in pairwise(rows) if blank else combinations(rows, 2):
            if questions.replies[one] == questions.replies[other]:
                yield one, other, blank


def _is_blank(fillers: Sequence[int], replies: Sequence[int]) -> bool:
    """Whether the words in one place are the fillings of a pattern: many, or with no answer that
    all of them can have."""
    of: dict[int, set[int]] = {}
    for filler, reply in zip(fillers, replies, strict=True):
        of.setdefault(filler, set()).add(reply)
    return len(of) > MOST_VARIANTS or not set.intersection(*of.values())


def _keys(questions: Questions) -> tuple[Any, Any, Any]:
    """Keys, the row that each is of, and the initials of the word left out; 0 where none was."""
    words, initials, number, ends, _ = questions
    starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
    # Polynomial hashes: of any run of words from two sums, so of all but one word as well.
    powers = _powers(_BASE, len(words) + 1)
    inverse = _powers(_INVERSE, len(words) + 1)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words * powers[:-1])))

    def run(first: Any, last: Any) -> Any:
        return (sums[last] - sums[first]) * inverse[first]

    rows = np.arange(len(ends))
    there = ends > starts
    owner = np.repeat(rows, ends - starts)
    places = np.flatnonzero(~number)
    owner = owner[places]
    first, last = starts[owner], ends[owner]
    before = sums[places] - sums[first]
    behind = (sums[last] - sums[places + 1]) * np.uint64(_INVERSE)
    without = (before + behind) * inverse[first]
    parts = [(without, owner, initials[places])]
    parts.append((run(starts[there], ends[there]), rows[there], None))
    long = rows[ends - starts >= FEWEST_FOR_THIRDS]
    for third in range(3):
        count = ends[long] - starts[long]
        cuts = (starts[long] + count * k // 3 for k in (third, third + 1))
        parts.append((run(*cuts) + np.uint64(third + 1), long, None))
    keys = np.concatenate([key for key, _, _ in parts])
    fillers = [np.zeros(len(of), np.uint64) if f is None else f for _, of, f in parts]
    return keys, np.concatenate([of for _, of, _ in parts]), np.concatenate(fillers)


def _powers(base: int, count: int) -> Any:
    """base^0, base^1, ... modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def variant(one: Words, other: Words, *, spelling_only: bool = False) -> bool:
    """Whether two questions with the same answer ask the same in other words. Symmetrical.

    The words that only one of them has decide: none may be a number; those spelled alike (a letter
    more, less, changed or exchanged; two in long words) pair off. One in `WORDS_FOR_EACH` may be
    spelled otherwise, and as many may be others in a question of `FEWEST_WORDS` or more.
    """
    only_one = list((Counter(one) - Counter(other)).elements())
    only_other = list((Counter(other) - Counter(one)).elements())
    if any(map(is_number, (*only_one, *only_other))):
        return False
    shortest = min(len(one), len(other))
    alike = _spelled_alike(only_one, only_other)
    left = max(len(only_one), len(only_other)) - alike
    most = max(1, shortest // WORDS_FOR_EACH)
    if left == 0 or alike > most:
        return alike <= most
    return not spelling_only and shortest >= FEWEST_WORDS and left <= most


def _spelled_alike(only_one: Sequence[bytes], only_other: Sequence[bytes]) -> int:
    """How many words of one side pair off with words of the other that are nearly spelled so."""
    rest = [word.decode("utf-8", "replace") for word in sorted(only_other)]
    count = 0
    for word in sorted(only_one):
        text = word.decode("utf-8", "replace")
        near = next((w for w in rest if OSA.distance(text, w) <= _slips(text, w)), None)
        if near is not None:
            rest.remove(near)
            count += 1
    return count


def _slips(one: str, other: str) -> int:
    """How many letters two words of these lengths may differ by and be the same, misspelled."""
    shorter = min(len(one), len(other))
    return 0 if shorter < 3 else 1 if shorter < 8 else 2
