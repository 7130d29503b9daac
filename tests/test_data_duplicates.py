"""Duplicates and the split: laws of what may stand on which side."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data import duplicates, minhash
from biddable.data.conversation import Conversation, Message
from biddable.data.duplicates import exact_groups, near_groups, prefix_groups, prompt_groups
from biddable.data.split import split

# Letters only: a word that holds a digit is a number, and another number is another row.
WORDS = ["".join(letters) for letters in product("bdfklmnprt", "aeiou", "bdgklmst")]


def talk(*said: str, system: str = "", group: str | None = None) -> Conversation:
    roles = ["user", "assistant"] * len(said)
    messages = [Message(role, text) for role, text in zip(roles, said, strict=False)]
    first = [Message("system", system)] if system else []
    return Conversation([*first, *messages], group=group)


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def sides(train: list[int], held_out: list[int], rows: int) -> list[bool]:
    assert sorted(train + held_out) == list(range(rows))
    assert train == sorted(train)
    assert held_out == sorted(held_out)
    kept = set(held_out)
    return [k in kept for k in range(rows)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30), st.integers(0, 3)), max_size=60),
    st.floats(0, 0.5),
    st.integers(0, 12),
    st.integers(0, 5),
)
def test_groups_and_duplicates_never_straddle_the_split(
    rows: list[tuple[int, int, int]], share: float, at_least: int, seed: int
) -> None:
    conversations = [
        talk(
            f"{words(random.Random(text), 30)} tail{chr(97 + answer)}",
            "yes",
            group=str(group) if group < 6 else None,
        )
        for group, text, answer in rows
    ]
    train, held_out = split(conversations, share=share, at_least=at_least, seed=seed)
    side = sides(train, held_out, len(rows))
    groups = duplicates.groups_by(c.group for c in conversations)
    for group in groups + exact_groups(conversations) + near_groups(conversations):
        assert len({side[k] for k in group}) == 1
    assert len(held_out) <= max(round(share * len(rows)), at_least)
    assert len(held_out) <= len(rows) / 2
    assert (train, held_out) == split(conversations, share=share, at_least=at_least, seed=seed)


@settings(deadline=None)
@given(st.integers(0, 300), st.floats(0, 0.5), st.integers(0, 20), st.integers())
def test_unrelated_rows_are_split_to_the_row(
    rows: int, share: float, at_least: int, seed: int
) -> None:
    conversations = [talk(f"question {k}", f"answer {k} {k}") for k in range(rows)]
    _, held_out = split(conversations, share=share, at_least=at_least, seed=seed)
    assert len(held_out) == min(max(round(share * rows), at_least), rows // 2)


def test_another_seed_gives_another_split() -> None:
    conversations = [talk(f"question {k}", f"answer {k} {k}") for k in range(100)]
    assert len({tuple(split(conversations, seed=seed)[1]) for seed in range(5)}) == 5


def test_rows_with_the_same_prompt_and_unrolled_turns_stay_together() -> None:
    rng = random.Random(0)
    rows = []
    for k in range(40):
        turns = [words(rng, 30) for _ in range(4)]
        rows += [talk(*turns[:2]), talk(*turns), talk(f"prompt {k}", words(rng, 9))]
        rows += [talk(f"prompt {k}", words(rng, 9))]
    for seed in range(5):
        side = sides(*split(rows, seed=seed), len(rows))
        for k in range(0, len(rows), 4):
            assert side[k] == side[k + 1]
            assert side[k + 2] == side[k + 3]


def test_a_prompt_that_all_rows_share_does_not_prevent_a_split() -> None:
    rows = [talk("Tell me a joke.", f"Joke {k} about {k * k}.") for k in range(100)]
    assert len(split(rows)[1]) == 10


def test_a_template_that_all_rows_share_makes_no_near_duplicates() -> None:
    rng = random.Random(0)
    template = words(rng, 80)
    rows = [talk(f"{template} {words(rng, 6)}", "yes", system=template) for _ in range(60)]
    assert near_groups(rows) == []
    assert len(split(rows)[1]) == 8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 120))
def test_a_changed_word_is_near_and_a_changed_half_is_not(seed: int, length: int) -> None:
    rng = random.Random(seed)
    rows = [words(rng, length) for _ in range(5)]
    half = length // 2
    near = rows[0].split()
    near[half] = "other"
    far = rows[1].split()
    far[half:] = words(rng, length - half).split()
    texts = [*rows, " ".join(near), " ".join(far)]
    assert near_groups([talk(text) for text in texts]) == [[0, 5]]


def test_case_punctuation_and_spacing_make_no_difference_to_nearness() -> None:
    rows = [talk("What is it?", "It is  a Dog."), talk("what is IT", "it is a dog"), talk("Other.")]
    assert near_groups(rows) == [[0, 1]]
    assert exact_groups(rows) == []


def test_texts_without_words_or_spaces_are_compared_too() -> None:
    same = "今日はとても良い天気ですね"
    rows = [talk(same), talk(same + "。"), talk("明日は雨が降ると思います"), talk("🙂"), talk("🙃")]
    assert near_groups(rows) == [[0, 1]]
    assert near_groups([talk(""), talk(""), talk("x")]) == [[0, 1]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), min_size=1, max_size=9)
)
def test_the_signatures_are_those_of_datasketch(rows: list[list[int]]) -> None:
    triples = np.array([value for row in rows for value in row], dtype=np.uint32)
    signatures = minhash.signatures(triples, np.cumsum([len(row) for row in rows]))
    for row, signature in zip(rows, signatures, strict=True):
        oracle = MinHash(num_perm=len(signature), scheme="affine32", hashfunc=int)
        oracle.update_batch(row)
        assert signature.tolist() == oracle.hashvalues.tolist()


def test_near_groups_do_not_depend_on_the_order_of_rows() -> None:
    rng = random.Random(1)
    texts = [words(rng, 40) for _ in range(200)]
    rows = [talk(text + f" tail{chr(97 + k)}") for k in range(2) for text in texts]
    order = list(range(len(rows)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    expected = sorted(sorted(place[k] for k in group) for group in near_groups(rows))
    assert sorted(near_groups([rows[k] for k in order])) == expected


def test_a_longer_row_is_linked_to_the_row_that_begins_it() -> None:
    rows = [talk("a", "b", "c", "d"), talk("a", "b", system="s"), talk("a", "c")]
    assert prefix_groups(rows) == [[1, 0]]


def test_the_system_prompt_belongs_to_the_prompt_but_not_to_the_duplicate() -> None:
    rows = [talk("a", "b", system="s"), talk("a", "b", system="t"), talk("a", "c", system="s")]
    assert exact_groups(rows) == [[0, 1]]
    assert prompt_groups(rows) == [[0, 2]]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_tiny_sets_split_without_an_error(rows: int) -> None:
    train, held_out = split([talk(f"q {k}", f"a {k}") for k in range(rows)])
    assert len(train) + len(held_out) == rows
    assert len(held_out) == rows // 2
