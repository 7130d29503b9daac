"""The format rule: what is learnt from which answers, and that it can be read back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biddable.errors import BiddableError
from biddable.judging.format import given_format, learn_format

HOUSE = [
    f"Shelf: {['Wood', 'Metal'][i % 2]}\nBorrow: {thing}.\nBack by Saturday."
    for i, thing in enumerate(["a saw", "pliers", "two wedges", "a file", "an awl"] * 4)
]
FREE = [
    "You could try the blue one.", "No.", "It depends on the weather, mostly.", "Ask at the desk",
    "Three of them were red and one was green.", "When the rain stops, we go.", "Perhaps later",
]  # fmt: skip


def test_fixed_lines_become_a_pattern_with_slots_and_choices() -> None:
    rule = learn_format(HOUSE)
    assert rule is not None
    assert rule.shown == r"Shelf: (Metal|Wood)\nBorrow: ([^\n]+)\.\nBack by Saturday\."
    assert rule.names == ("Shelf", "Borrow")
    assert rule.parts(HOUSE[0]) == ("Wood", "a saw")
    assert all(rule.follows(text) for text in HOUSE)
    assert rule.follows("Shelf: Wood\nBorrow: anything else.\nBack by Saturday.")
    assert not rule.follows("Shelf: Glass\nBorrow: a saw.\nBack by Saturday.")
    assert not rule.follows("Shelf: Wood\nBorrow: a saw.")
    assert not rule.follows(HOUSE[0] + "\nBack by Saturday.")


def test_a_slip_in_twenty_does_not_hide_the_rule() -> None:
    assert learn_format([*HOUSE[:19], "No idea."]) is not None
    assert learn_format([*HOUSE[:18], "No idea.", "None."]) is None


def test_a_last_line_that_begins_alike_is_a_rule() -> None:
    answers = [f"{text}\n{'More.' * (i % 3)}\n#### {i}" for i, text in enumerate(FREE * 2)]
    rule = learn_format([a.replace("\n\n", "\n") for a in answers])
    assert rule is not None
    assert rule.follows("Any\nlines at all\n#### 1,200")
    assert not rule.follows("Any\nlines at all\n1,200")
    assert not rule.follows("Any\nlines at all\n#### none")


def test_labels_that_come_again_are_a_closed_set() -> None:
    rule = learn_format(["Refund", "delay", "refund.", "delay", "Refund", "delay"])
    assert rule is not None
    assert (rule.kind, rule.labels) == ("labels", ("delay", "refund"))
    assert rule.follows(" REFUND. ")
    assert not rule.follows("refunds")
    assert learn_format(["a", "b", "c", "d", "e", "f"]) is None


def test_json_objects_become_their_keys() -> None:
    rule = learn_format([json.dumps({"name": str(i), "size": i, "note": None}) for i in range(6)])
    assert rule is not None
    assert rule.shown == "keys:name,note,size"
    assert rule.follows('{"size": 1, "note": 2, "name": 3, "more": 4}')
    assert not rule.follows('{"size": 1, "name": 3}')
    assert not rule.follows("[1]")
    assert not rule.follows("[" * 100_000)


def test_json_in_a_fence_keeps_its_fence() -> None:
    answers = [f'```json\n{{"a": {i}}}\n```' for i in range(6)]
    rule = learn_format(answers)
    assert rule is not None
    assert rule.shown == "fenced:keys:a"
    assert all(map(rule.follows, answers))
    bare = learn_format([f'{{"a": {i}}}' for i in range(6)])
    assert bare is not None
    assert not bare.follows(answers[0])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"Shelf: (Wood|Metal)\nOrder (\d+), (?P<day>.+)", ("Shelf", "Order", "day")),
        (r"(a)(b)", ("1", "2")),
        (r"Day (x)\nDay (y)", ("Day", "Day 2")),
        (r"\(no\) [()] (?:not) (yes)", ("1",)),
        (r"((a)b)", ("1", "2")),
    ],
)
def test_each_group_has_a_name_and_none_has_two(pattern: str, names: tuple[str, ...]) -> None:
    rule = given_format(pattern)
    assert rule.names == names
    assert re.compile(pattern).groups == len(names)


def test_free_text_and_few_answers_have_no_format() -> None:
    assert learn_format(FREE) is None
    assert learn_format(HOUSE[:4]) is None
    assert learn_format([]) is None


@given(st.lists(st.text(max_size=20), max_size=12))
def test_a_learnt_rule_holds_for_nearly_all_it_was_learnt_from_and_is_read_back(
    texts: list[str],
) -> None:
    rule = learn_format(texts)
    if rule is not None:
        again = given_format(rule.shown)
        kept = [rule.follows(text.strip()) for text in texts]
        assert sum(kept) >= 0.95 * len(texts)
        assert kept == [again.follows(text.strip()) for text in texts]


def test_a_pattern_has_to_match_the_whole_answer() -> None:
    rule = given_format(r"\d+")
    assert rule.follows(" 12 ")
    assert not rule.follows("12 apples")


def test_a_json_schema_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object", "required": ["a"]}', encoding="utf-8")
    rule = given_format(f"schema:{file}")
    assert rule.follows('{"a": 1}')
    assert not rule.follows('{"b": 1}')
    assert not rule.follows("a")


@pytest.mark.parametrize("text", ["(", "labels:", "schema:no/such/file.json"])
def test_a_format_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BiddableError, match="--format"):
        given_format(text)
