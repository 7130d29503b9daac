"""What can be measured on one answer: pure functions of texts, without models."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel

from biddable.data.wording import WORD

_WORD = re.compile(rf"{WORD.pattern}|[^\w\s]")
# An opening quote and its closing one.
QUOTES = ('""', "''", "``", "“”", "„“", "\u2018\u2019", "«»")
# A span of this many words is hardly written twice by chance.
COPY_WORDS = 8
LOOP_WORDS = 4
LOOP_TIMES = 3


def words(text: str) -> list[str]:
    """Words and punctuation marks, lower case."""
    return _WORD.findall(text.casefold())


def normalized(text: str) -> str:
    """For comparing short answers: case, spaces, quotes around them and a final mark do not count.

    >>> normalized('  "The  Cat". ')
    'the cat'
    """
    plain = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    bare = plain.rstrip(".!?。 ")
    if len(bare) > 1 and bare[0] + bare[-1] in QUOTES:
        bare = normalized(bare[1:-1])
    # Where marks are all there is, they are the answer.
    return bare or plain


def similarity(answer: str, reference: str) -> float:
    """ROUGE-L F1: twice the longest common subsequence of words over all words of both."""
    return float(Indel.normalized_similarity(words(answer), words(reference)))


def repeats(answer: str) -> bool:
    """Whether some four words in a row come three times or more."""
    counts = Counter(spans(words(answer), LOOP_WORDS))
    return bool(counts) and max(counts.values()) >= LOOP_TIMES


def spans(tokens: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    """Every run of `length` words."""
    return (tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))


def copier(training_answers: Sequence[str]) -> Callable[[str], tuple[int, int, int]]:
    """A function that says how much of a text stands in the training answers.

    Returns:
        From a text: (its runs of eight words that a training answer has too, all its runs of
        eight words, words of the longest run shared with one training answer).
    """
    sources = [words(text) for text in training_answers]

    @cache
    def seen(length: int) -> NDArray[np.int64]:
        # Sorted hashes of 64 bits: a tenth of the memory of the spans themselves, and among a few
        # million of them no two are ever equal.
        return np.unique(hashes(span for source in sources for span in spans(source, length)))

    def known(tokens: Sequence[str], length: int) -> NDArray[np.bool_]:
        own, there = hashes(spans(tokens, length)), seen(length)
        if not len(there):
            return np.zeros(len(own), np.bool_)
        places = np.searchsorted(there, own).clip(max=len(there) - 1)
        same: NDArray[np.bool_] = there[places] == own
        return same

    def copied(text: str) -> tuple[int, int, int]:
        tokens = words(text)
        low, high = 0, len(tokens)
        # A shared run of n words holds shared runs of every smaller number.
        while low < high:
            middle = (low + high + 1) // 2
            if known(tokens, middle).any():
                low = middle
            else:
                high = middle - 1
        runs = known(tokens, COPY_WORDS)
        return int(runs.sum()), len(runs), low

    return copied


def hashes(runs: Iterable[tuple[str, ...]]) -> NDArray[np.int64]:
    """The hash of each span, the same within one process."""
    return np.fromiter(map(hash, runs), np.int64)
