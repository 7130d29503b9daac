"""Rows that say the same: exactly, nearly, asking the same, or as the beginning of a longer row.

Two rows are near duplicates if they have the same answer and their questions are equal but for
letter case, punctuation, white space and a polite frame, or differ in a word or two (`variants`);
or if their whole texts share most word triples (`minhash`) and what differs is not what the answer
is about. One sentence pattern filled with other names or numbers, hence with another answer, makes
no duplicates. docs/guide/formats.md has the definition in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from biddable.data import minhash, variants
from biddable.data.conversation import Conversation
from biddable.data.wording import (
    Words,
    digest,
    is_number,
    question_and_answer,
    signs,
    spoken,
    system_of,
    with_digits,
    without_politeness,
    words,
)

# Answers of fewer words have to be equal for two rows to be near duplicates.
LONG_ANSWER = 25
# A polite frame is taken off a question of fewer words only where the answer is the same too.
FEWEST_FRAMED = 4


def groups_by(keys: Iterable[Any]) -> list[list[int]]:
    """Indices of equal keys, in order; keys that come once and None are left out."""
    by_key: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            by_key.setdefault(key, []).append(index)
    return [group for group in by_key.values() if len(group) > 1]


def clusters(rows: int, groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """All indices in clusters: groups with a member in common are one; ordered by first members."""
    united = DisjointSet(range(rows))
    for group in groups:
        for member in group[1:]:
            united.merge(group[0], member)
    return sorted(sorted(cluster) for cluster in united.subsets())


class Duplicates(NamedTuple):
    """Indices of rows that say the same, in groups; `inspect` and `split` both need them."""

    exact: list[list[int]]
    near: list[list[int]]
    prompts: list[list[int]]
    prefixes: list[list[int]]


def find(conversations: Sequence[Conversation]) -> Duplicates:
    """All kinds of duplicates among rows; by far the longest part is the near ones."""
    reading = _read(conversations)
    return Duplicates(
        exact_groups(conversations),
        near_groups(conversations, reading),
        prompt_groups(conversations, reading),
        prefix_groups(conversations),
    )


def exact_groups(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Indices of rows that are equal, system prompts aside; each group in file order."""
    return groups_by(digest(spoken(conversation)) for conversation in conversations)


class _Reading(NamedTuple):
    """Rows as arrays of hashes, so that many are compared at once.

    Args:
        triples, ends: of the words of whole rows.
        questions: the short ones word by word.
        question_keys: a key of each row's question.
        row_keys: a key of each row's question, without its polite frame, and its answer.
    """

    triples: Any
    ends: Any
    questions: variants.Questions
    question_keys: list[int]
    row_keys: list[int]


def _read(conversations: Sequence[Conversation]) -> _Reading:
    counts: list[int] = []
    seen: set[int] = set()
    triples, question_keys, row_keys = [np.zeros(0, np.uint32)], [], []
    flat, lengths, replies = [np.zeros((0, 3), np.uint64)], [], []
    for start in range(0, len(conversations), minhash.CHUNK):
        all_words: list[list[bytes]] = []
        short: list[bytes] = []
        for conversation in conversations[start : start + minhash.CHUNK]:
            question, answer = question_and_answer(conversation)
            of_question, of_answer = words(question), words(answer)
            bare, reply = without_politeness(of_question), hash((tuple(of_answer), signs(answer)))
            framed = len(bare) < FEWEST_FRAMED and len(bare) < len(of_question)
            question_keys.append(hash((tuple(of_question) if framed else bare, signs(question))))
            row_keys.append(hash((bare, reply)))
            all_words.append([*of_question, *of_answer] or [b""])
            # Rows with the same key are compared once.
            looked_at = 1 < len(bare) <= variants.LONGEST and row_keys[-1] not in seen
            seen.add(row_keys[-1])
            lengths.append(len(bare) if looked_at else 0)
            short += bare[: lengths[-1]]
            replies.append(reply)
        triples.append(minhash.chunk_triples(all_words))
        counts += map(len, all_words)
        table = {
            word: (hash(word) % 2**64, int.from_bytes(word[:8].ljust(8)), is_number(word))
            for word in set(short)
        }
        flat.append(np.array([table[word] for word in short], np.uint64).reshape(-1, 3))
    hashes, initials, number = np.concatenate(flat).T
    questions = variants.Questions(
        hashes,
        initials,
        number.astype(bool),
        np.cumsum(lengths, dtype=np.int64),
        np.array(replies, np.int64).view(np.uint64),
    )
    return _Reading(np.concatenate(triples), np.cumsum(counts), questions, question_keys, row_keys)


def prompt_groups(
    conversations: Sequence[Conversation], reading: _Reading | None = None
) -> list[list[int]]:
    """Indices of rows that ask the same, whatever they answer.

    Letter case, punctuation, white space and a polite frame make no other question. Another system
    prompt does, but a row without one asks what all of them ask.
    """
    groups: list[list[int]] = []
    for group in groups_by((reading or _read(conversations)).question_keys):
        systems = [system_of(conversations[k]) for k in group]
        if "" in systems:
            groups.append(group)
        else:
            groups += [[group[k] for k in same] for same in groups_by(systems)]
    return groups


def prefix_groups(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Pairs of rows of which one is the whole beginning of the other (one row a turn)."""
    indices = {digest(spoken(c)): index for index, c in enumerate(conversations)}
    pairs = []
    for index, conversation in enumerate(conversations):
        messages = spoken(conversation)
        for end, message in enumerate(messages[:-1], start=1):
            if message.role == "assistant":
                other = indices.get(digest(messages[:end]))
                if other is not None:
                    pairs.append([other, index])
    return pairs


def near_groups(
    conversations: Sequence[Conversation], reading: _Reading | None = None
) -> list[list[int]]:
    """Indices of rows that are near duplicates, exact ones among them; sorted groups.

    All candidates are confirmed on the words themselves, so no pair is united by chance.
    """
    if len(conversations) < 2:
        return []
    reading = reading or _read(conversations)
    united = DisjointSet(range(len(conversations)))
    for group in groups_by(reading.row_keys):
        for member in group[1:]:
            united.merge(group[0], member)

    @cache
    def texts(index: int) -> tuple[str, str]:
        return question_and_answer(conversations[index])

    @cache
    def question(index: int) -> Words:
        return without_politeness(words(texts(index)[0]))

    for one, other, spelling_only in variants.candidates(reading.questions):
        if not united.connected(one, other) and variants.variant(
            question(one), question(other), spelling_only=spelling_only
        ):
            united.merge(one, other)
    triples, ends = minhash.without_template(reading.triples, reading.ends)
    for one, other in minhash.candidates(minhash.signatures(triples, ends)):
        if (
            not united.connected(one, other)
            and minhash.alike(triples, ends, one, other)
            and _says_the_same(texts(one), texts(other))
        ):
            united.merge(one, other)
    return sorted(sorted(cluster) for cluster in united.subsets() if len(cluster) > 1)


def _says_the_same(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether what differs between two rows of nearly the same text is only wording.

    It is not where a short answer or a number differs, nor where a word that only one question has
    also stands in its answer alone: a name that the pattern was filled with.
    """
    (my_question, my_answer), (your_question, your_answer) = (
        (set(words(question)), words(answer)) for question, answer in (one, other)
    )
    changed = my_question ^ your_question
    if not changed:
        return True
    short = min(len(my_answer), len(your_answer)) < LONG_ANSWER
    if my_answer == your_answer and signs(one[1]) == signs(other[1]):
        return not (short and with_digits(changed))
    if short or with_digits(my_answer) != with_digits(your_answer):
        return False
    if any(text.lstrip().startswith(("{", "[")) for _, text in (one, other)):
        return False
    return not changed & (set(my_answer) ^ set(your_answer))
