"""The format rule: what is learnt from which answers, and that it can be read back."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biddable.errors import BiddableError
from biddable.judging.format import given_format, learn_format
from biddable.judging.parts import learn_parts
from biddable.judging.pattern import group_names
from biddable.judging.structure import INVALID, read_pairs, read_xml

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
    assert rule.read is not None
    assert rule.read(HOUSE[0]) == {"Shelf": "wood", "Borrow": "a saw"}
    assert rule.read("Shelf: Wood") is INVALID
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
    assert rule.labels == ("delay", "refund")
    assert rule.follows(" REFUND. ")
    assert not rule.follows("refunds")
    assert learn_format(["a", "b", "c", "d", "e", "f"]) is None


def test_json_objects_become_their_keys() -> None:
    rule = learn_format([json.dumps({"name": str(i), "size": i, "note": None}) for i in range(6)])
    assert rule is not None
    assert rule.shown == "keys:name,size,note"
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
    assert group_names(pattern) == names
    assert re.compile(pattern).groups == len(names)


THINGS = ["saw", "drill", "awl", "file", "vise", "plane", "clamp"]
ROWS = [(f"{THINGS[i % 7]} {i}", ["mon", "tue", "wed"][i % 3], 3 + i % 7) for i in range(24)]
STRUCTURES = {
    "xml:tool,day,number": "<tool>{}</tool><day>{}</day><number>{}</number>",
    "lines:Tool,Day,Number": "Tool: {}\nDay: {}\nNumber: {}",
    "pairs;:tool,day,number": "tool = {}; day = {}; number = {}",
    "pairs,:tool,day,number": "tool: {}, day: {}, number: {}",
    "table:column 1,column 2,column 3": "| {} | {} | {} |",
    "table:Tool,Day,No": "| Tool | Day | No |\n|---|:-:|--:|\n| {} | {} | {} |",
    "csv:column 1,column 2,column 3": '"{}",{},{}',
    "csv:tool,day,no": "tool,day,no\n{},{},{}",
    "xml:a": '<a tool="{}" day="{}" number="{}"/>',
    "jsonl:tool": '{{"tool": "{}", "day": "{}"}}\n{{"tool": "x", "number": {}}}',
    "fenced:xml:a": "```xml\n<a>\n<tool>{}</tool><day>{}</day><n>{}</n></a>\n```",
    "list:tool,day,number": '[{{"tool": "{}", "day": "{}", "number": {}}}]',
}


@pytest.mark.parametrize("shown", STRUCTURES)
def test_named_parts_of_any_kind_are_a_rule_that_is_read_back(shown: str) -> None:
    answers = [STRUCTURES[shown].format(*row) for row in ROWS]
    rule = learn_format(answers)
    assert rule is not None
    assert rule.shown == shown
    assert all(map(rule.follows, answers))
    assert not rule.follows("It is tool 3, on mon.")
    assert not rule.follows(answers[0][: len(answers[0]) // 2])
    assert not rule.follows("")
    again = given_format(rule.shown)
    assert [again.follows(a) for a in answers] == [True] * len(answers)
    assert again.read is not None
    parts = learn_parts(again.read, answers)
    assert parts is not None
    assert len(parts.fields) == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<a>1</a>\n<b>x &amp; Y.</b>", {"a": 1, "b": "x & y"}),
        ("<r><i>a</i><i>b</i></r>", {"r": {"i": ["a", "b"]}}),
        ("<a href='x'>y</a><b/>", {"a": {"@href": "x", "": "y"}, "b": None}),
        ("<a b='1' c=\"x\"/>", {"a": {"@b": 1, "@c": "x"}}), ("<a b/>", {"a": {"@": "b"}}),
        ("<p>Use <b>this</b> one</p>", {"p": "use <b>this</b> one"}),
        ("<?xml version='1.0'?><a>x < y</a>", {"a": "x < y"}),
        ("<a>1</b>", INVALID), ("<a>1", INVALID), ("</a>", INVALID), ("a <b>c</b>", INVALID),
        ("<a>1</a> and", INVALID), ("", INVALID), ("<" * 50_000, INVALID),
        ("<a>" * 50_000, INVALID),
    ],
)  # fmt: skip
def test_xml_is_read_leniently_but_whole(text: str, value: object) -> None:
    assert read_xml(text) == value


@pytest.mark.parametrize(
    ("text", "delimiter", "value"),
    [
        ("A: 1\n- **B**: x: y", "\n", {"A": 1, "B": "x: y"}), ("A: 1\nand", "\n", INVALID),
        ("a: 1, b: x, y", ",", {"a": 1, "b": "x, y"}), ("x, a: 1", ",", INVALID),
        ("a: 1; a: 02", ";", {"a": [1, "02"]}), ("", ";", INVALID), ("a:", ";", {"a": None}),
    ],
)  # fmt: skip
def test_pairs_are_keys_with_values(text: str, delimiter: str, value: object) -> None:
    assert read_pairs(text, delimiter) == value


def test_a_short_slot_is_parted_at_what_all_have() -> None:
    names = ["Ann", "Bo", "Cy", "Di", "Ed", "Flo", "Gus"]
    answers = [f"Order {i} for {names[i % 7]}: {7 * i % 10} left" for i in range(30)]
    rule = learn_format(answers)
    assert rule is not None
    assert rule.read is not None
    assert list(rule.read(answers[8]).values()) == [8, "bo", 6]


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


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_fetched_for_a_schema(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        file.write_text(json.dumps({"$ref": url}), encoding="utf-8")
        rule = given_format(f"schema:{file}")
        # A request would wait for an answer.
        socket.setdefaulttimeout(2)
        with pytest.raises(BiddableError, match="cannot be followed"):
            rule.follows("{}")
        socket.setdefaulttimeout(None)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_schema_of_a_file_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    long = json.dumps({"a": "a" * 40 + "!"})
    for schema, answer in (
        ({"properties": {"a": {"pattern": "^(a|aa)+$"}}}, long),
        ({"$ref": "#/nowhere"}, "{}"),
        ({"$ref": "#"}, "{}"),
    ):
        file.write_text(json.dumps(schema), encoding="utf-8")
        with pytest.raises(BiddableError) as raised:
            given_format(f"schema:{file}").follows(answer)
        assert raised.value.finding.code == "format"
    file.write_text('{"properties": {"a": {"pattern": "^a+$"}}}', encoding="utf-8")
    assert given_format(f"schema:{file}").follows('{"a": "aa"}')
    assert not given_format(f"schema:{file}").follows(long)


@pytest.mark.parametrize("pattern", [r"(a|aa)+", r"(?:\w|\w\w)*"])
def test_a_pattern_that_takes_too_long_is_a_named_error(pattern: str) -> None:
    with pytest.raises(BiddableError, match="takes more than 1 s") as raised:
        given_format(pattern).follows("a" * 60 + "!")
    assert raised.value.finding.code == "format"


def test_a_schema_with_patterns_of_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"patternProperties": {"(a+)+$": {}}}', encoding="utf-8")
    with pytest.raises(BiddableError, match="patternProperties"):
        given_format(f"schema:{file}")


@pytest.mark.parametrize("text", ["(", "labels:", "schema:no/such/file.json"])
def test_a_format_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BiddableError, match="--format"):
        given_format(text)
