"""What can be measured on one answer: pure functions of texts, without models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from rapidfuzz.distance import Indel

# Scripts without spaces between words: there each character counts as a word.
_SPACELESS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0e7f"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|[^\w\s]")
# A span of this many words is hardly written twice by chance.
COPY_WORDS = 8
LOOP_WORDS = 4
LOOP_TIMES = 3


def words(text: str) -> list[str]:
    """Words and punctuation marks, lower case."""
    return _WORD.findall(text.casefold())


def normalised(text: str) -> str:
    """For comparing short answers: case, spaces and a final mark do not count.

    >>> normalised("  The  Cat. ")
    'the cat'
    """
    return " ".join(text.casefold().split()).rstrip(".!?。 ")


def similarity(answer: str, reference: str) -> float:
    """ROUGE-L F1: twice the longest common subsequence of words over all words of both."""
    return float(Indel.normalized_similarity(words(answer), words(reference)))


def repeats(answer: str) -> bool:
    """Whether some four words in a row come three times or more."""
    counts = Counter(spans(words(answer), LOOP_WORDS))
    return bool(counts) and max(counts.values()) >= LOOP_TIMES


def spans(of: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    """Every run of `length` words."""
    return (tuple(of[i : i + length]) for i in range(len(of) - length + 1))


def copier(training_answers: Sequence[str]) -> Callable[[str], tuple[int, int, int]]:
    """A function that says how much of a text stands in the training answers.

    Returns:
        From a text: (its runs of eight words that a training answer has too, all its runs of
        eight words, words of the longest run shared with one training answer).
    """
    sources = [words(text) for text in training_answers]

    @cache
    def seen(length: int) -> frozenset[int]:
        # Hashes of 64 bits: a third of the memory, and no two of a few million are ever equal.
        return frozenset(hash(span) for source in sources for span in spans(source, length))

    def copied(text: str) -> tuple[int, int, int]:
        of = words(text)
        runs = list(spans(of, COPY_WORDS))
        low, high = 0, len(of)
        # A shared run of n words holds shared runs of every smaller number.
        while low < high:
            middle = (low + high + 1) // 2
            if any(hash(span) in seen(middle) for span in spans(of, middle)):
                low = middle
            else:
                high = middle - 1
        return sum(hash(run) in seen(COPY_WORDS) for run in runs), len(runs), low

    return copied


def label_in(answer: str, labels: Sequence[str]) -> str | None:
    """The one label that an answer names; None where it names none or several.

    Args:
        labels: normalised.
    """
    text = normalised(answer)
    if text in labels:
        return text
    held = f" {' '.join(words(text))} "
    named = [label for label in labels if f" {' '.join(words(label))} " in held]
    # "credit card" names no "credit".
    longest = [a for a in named if not any(a != b and a in b for b in named)]
    return longest[0] if len(longest) == 1 else None
