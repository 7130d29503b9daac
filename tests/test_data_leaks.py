"""What training knows of held-out rows, and what only looks like it: laws over made-up rows."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.conversation import Conversation, Message
from biddable.data.duplicates import near_groups
from biddable.data.quality import known_rows
from biddable.data.split import cluster_numbers, split, why_unsplit
from biddable.data.variants import variant

FRAMES: list[Callable[[str], str]] = [
    "Please {}, thank you".format,
    "Hi, {}".format,
    "Could you {}?".format,
    "Hello there! I was wondering if you could tell me {} Thanks so much in advance!".format,
    "{}, please".format,
    "{} - thanks a lot for your help.".format,
    "Sorry to bother you, but {}".format,
    "I hope you are well. Could you {}?".format,
    "Do you know if you could {}?".format,
    "Dear team, kindly {}. Best regards, Anna".format,
    "{}. I'd really appreciate it.".format,
    "{}, if possible?".format,
    "  {} ".format,
    str.upper,
    lambda text: text.replace(" ", "  ") + " !!",
    lambda text: f"\u201c{text}\u201d",
]
NAMES = ["Maria", "Tom", "Ada", "Omar", "Eva", "Jan", "Ana", "Ken", "Paul", "Ines", "Noor", "Bo"]
NOUNS = ["parcel", "kettle", "invoice", "router", "bicycle", "passport", "garden", "piano", "oven"]
VERBS = ["repair", "collect", "insure", "photograph", "replace", "inspect", "borrow", "measure"]
PLACES = ["harbour", "school", "market", "museum", "station", "bakery", "library", "stadium"]


def talk(user: str, assistant: str, system: str = "", group: str | None = None) -> Conversation:
    first = [Message("system", system)] if system else []
    messages = [*first, Message("user", user), Message("assistant", assistant)]
    return Conversation(messages, "f.jsonl", 1, group)


def sentences() -> st.SearchStrategy[list[str]]:
    """Requests that differ in three words or more."""
    few = st.sampled_from(range(8))
    shifts = st.lists(few, min_size=2, max_size=8, unique=True)
    return shifts.map(
        lambda ks: [
            f"{VERBS[k]} the {NOUNS[k]} that {NAMES[k]} left at the {PLACES[k]} gate" for k in ks
        ]
    )


def test_the_beginning_of_a_trained_talk_is_known_and_its_continuation_is_not() -> None:
    first, second = talk("Hi, is it open?", "It is."), talk("Until when?", "Until six.")
    longer = Conversation([*first.messages, *second.messages], "f.jsonl", 2)
    assert known_rows([longer], [first]) == {0: ("is the beginning of", 0)}
    assert known_rows([first], [longer]) == {}


@settings(max_examples=80, deadline=None)
@given(sentences(), st.sampled_from(FRAMES), st.sampled_from(FRAMES), st.booleans(), st.data())
def test_a_planted_row_is_known_in_any_polite_frame(
    texts: list[str],
    frame: Callable[[str], str],
    other: Callable[[str], str],
    with_system: bool,
    data: st.DataObject,
) -> None:
    train = [talk(text, f"label {text.split()[0]}") for text in texts[1:]]
    k = data.draw(st.integers(0, len(train) - 1))
    train[k] = talk(other(texts[k + 1]), train[k].messages[-1].content)
    system = "Be brief." if with_system else ""
    held_out = [
        talk(frame(texts[k + 1]), f"Label  {texts[k + 1].split()[0]}.", system),
        talk(frame(texts[0]), "label"),
    ]
    assert {member: source for member, (_, source) in known_rows(train, held_out).items()} == {0: k}


@settings(max_examples=60, deadline=None)
@given(sentences(), st.sampled_from(FRAMES), st.sampled_from(FRAMES))
def test_the_same_question_is_known_whatever_it_answers(
    texts: list[str], frame: Callable[[str], str], other: Callable[[str], str]
) -> None:
    train = [talk(frame(texts[0]), "yes"), *(talk(text, "no") for text in texts[1:])]
    assert known_rows(train, [talk(other(texts[0]), "Something else entirely")]).keys() == {0}


def test_another_system_prompt_asks_another_question_unless_the_answer_is_the_same() -> None:
    train = [talk("The soup was cold.", "negative", "Name the feeling.")]
    held_out = [
        talk("The soup was cold.", "La soupe", "Translate."),
        talk("The soup was cold.", "negative", "Say how it feels."),
        talk("The soup was cold.", "bad"),
    ]
    assert known_rows(train, held_out).keys() == {1, 2}


PATTERNS: list[Callable[[int, int], tuple[str, str]]] = [
    lambda a, b: (f"What is {a} plus {b}?", str(a + b)),
    lambda a, b: (f"{a} + {b} =", str(a + b)),
    lambda a, b: (
        f"Order {1000 + 31 * a + b} for {NAMES[a % 12]} {NAMES[b % 12]} is late",
        json.dumps({"order": 1000 + 31 * a + b}),
    ),
    lambda a, b: (f"{a} x {NOUNS[b % 9]} at {b}.50 EUR", f"{NOUNS[b % 9]};{a};{b}.50"),
    lambda a, b: (
        f"Hello, this is {NAMES[a % 12]}. I would like to borrow the {NOUNS[b % 9]} for the whole "
        "weekend and bring it back to you on Monday morning before the shop opens again, if I may.",
        json.dumps({"member": NAMES[a % 12], "tool": NOUNS[b % 9], "day": None}),
    ),
    lambda a, b: (
        f"Write to {NAMES[a % 12]} that the {NOUNS[b % 9]} is ready.",
        f"Dear {NAMES[a % 12]}, good news: your {NOUNS[b % 9]} is ready and waits for you at our "
        "counter. Please bring the slip that we gave you, and some patience, since the queue is "
        "long on most days. With kind regards from all of us at the shop.",
    ),
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(PATTERNS),
    st.sets(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=2, max_size=40),
)
def test_a_pattern_filled_otherwise_and_answered_otherwise_is_neither_leak_nor_duplicate(
    pattern: Callable[[int, int], tuple[str, str]], fillings: set[tuple[int, int]]
) -> None:
    rows: dict[str, Conversation] = {}
    for filling in sorted(fillings):
        question, answer = pattern(*filling)
        rows.setdefault(question, talk(question, answer))
    conversations = list(rows.values())
    assert near_groups(conversations) == []
    half = len(conversations) // 2
    assert known_rows(conversations[:half], conversations[half:]) == {}
    assert len(set(cluster_numbers(conversations))) == len(conversations)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("turn on the light", "turn on teh light"),
        ("turn on the light", "turn on the lights"),
        ("my parcel has not arrived yet", "my package has not arrived yet"),
        ("where is my refund from last week", "so where is my refund from last week"),
        ("what's my balance this month", "Whats my balance this month???"),
        ("C'est où la gare de Lyon", "c\u2019est où la gare de lyon"),
    ],
)  # fmt: skip
def test_variants_with_the_same_answer_are_near_and_with_another_are_not(
    one: str, other: str
) -> None:
    assert near_groups([talk(one, "a"), talk(other, "a")]) == [[0, 1]]
    assert near_groups([talk(other, "a"), talk("No!", "b"), talk(one, "a")]) == [[0, 2]]
    if one.lower().replace("'", "") != other.lower().replace("\u2019", ""):
        differ = near_groups([talk(one, "a"), talk(other, "b")])
        assert differ == []


def test_a_word_that_decides_the_answer_is_no_variant() -> None:
    def paint(color: str, answer: str) -> Conversation:
        return talk(f"please paint the big {color} door today", answer)

    warm = [paint("red", "warm"), paint("orange", "warm")]
    assert near_groups(warm) == [[0, 1]]
    assert near_groups([*warm, paint("blue", "cold")]) == []
    # More words than four fill the place, so none of them is another word for a sixth.
    for count in range(2, 9):
        rows = [talk(f"is there a lamp in the {noun} now", "yes") for noun in NOUNS[:count]]
        assert (near_groups(rows) == []) == (count > 4)


def test_another_number_is_another_question_though_the_answer_is_the_same() -> None:
    seats = [f"is seat number {number} in the first row free" for number in ("7", "8", "17a")]
    assert near_groups([talk(text, "yes") for text in seats]) == []
    pair = [tuple(text.encode().split()) for text in seats[:2]]
    assert not variant(*pair)
    assert not variant(*pair, spelling_only=True)


words = st.lists(st.sampled_from([b"on", b"off", b"lamp", b"lamps", b"the", b"7", b"turn"]))


@given(words, words, st.booleans())
def test_being_a_variant_is_symmetrical(one: list[bytes], other: list[bytes], only: bool) -> None:
    pair = tuple(one), tuple(other)
    there = variant(*pair, spelling_only=only)
    assert there == variant(*reversed(pair), spelling_only=only)
    assert variant(pair[0], pair[0])
    if only and there:
        assert variant(*pair)


@settings(max_examples=40, deadline=None)
@given(sentences(), st.lists(st.sampled_from(FRAMES), min_size=1, max_size=4), st.integers(0, 9))
def test_a_split_leaves_nothing_that_training_knows(
    texts: list[str], frames: list[Callable[[str], str]], seed: int
) -> None:
    rows = [talk(frame(text), text.split()[0]) for text in texts for frame in frames]
    train, held_out = split(rows, seed=seed)
    assert known_rows([rows[k] for k in train], [rows[k] for k in held_out]) == {}


@settings(max_examples=40, deadline=None)
@given(sentences(), st.permutations(range(10)))
def test_the_clusters_of_held_out_rows_do_not_depend_on_their_order(
    texts: list[str], order: list[int]
) -> None:
    rows = [talk(frame(text), text[:5]) for text in texts[:2] for frame in FRAMES[:5]]
    numbers = cluster_numbers([rows[k] for k in order])
    for i, one in enumerate(order):
        for j, other in enumerate(order):
            assert (numbers[i] == numbers[j]) == (one // 5 == other // 5)


def test_rows_that_cannot_be_split_say_why() -> None:
    from biddable.data.duplicates import find

    def why(rows: list[Conversation]) -> str:
        assert split(rows)[1] == []
        return why_unsplit(rows, find(rows))[0]

    different = [talk(f"{v} the {n}", n) for v, n in zip(VERBS, NOUNS, strict=False)]
    assert why(different[:1]) == "there is only one usable row"
    assert why([different[0]] * 12) == "all 12 rows are equal"
    framed = [talk(frame("open the big gate"), "x") for frame in FRAMES]
    assert why(framed) == f"all {len(FRAMES)} rows are near duplicates of one another"
    named = [talk(c.messages[0].content, c.messages[1].content, group="g") for c in different]
    assert why(named) == "all 8 rows are of one group"


def test_groups_larger_than_wanted_are_held_out_whole_while_they_are_few_rows() -> None:
    rows = [
        talk(f"{NAMES[k % 12]} {VERBS[k % 8]} {k}", str(k), group=f"client {k % 4}")
        for k in range(80)
    ]
    _, held_out = split(rows)
    assert len(held_out) == 20
    assert len({rows[k].group for k in held_out}) == 1
