"""Nothing of a row is lost in silence: it is in the conversation, or a finding names its key."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.leftovers import leftovers
from biddable.data.readers import ReadResult, read


def read_rows(folder: Path, rows: list[Any], **options: Any) -> ReadResult:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read([str(path)], **options)


def said(row: dict[str, Any]) -> str:
    """A message in short: role, content, weight."""
    weight = "" if row["weight"] is None else f" x{row['weight']:g}"
    calls = [c["function"] for c in row["extra"].get("tool_calls", [])]
    return f"{row['role']}: {row['content']}{json.dumps(calls) if calls else ''}{weight}"


def messages(folder: Path, row: Any) -> list[str]:
    result = read_rows(folder, [row])
    assert not result.errors(), result.errors()
    fields = ("role", "content", "weight", "extra")
    [conversation] = result.conversations
    return [said({f: getattr(m, f) for f in fields}) for m in conversation.messages]


# Rows of every format; each text marked with # must come out or be named.
CALL = {"id": "c1", "type": "function", "function": {"name": "#f", "arguments": {"x": "#arg"}}}
TOOL = {"type": "function", "function": {"name": "#f", "description": "#what", "parameters": {}}}
HH = "\n\nHuman: #1\n\nAssistant: #2\n\nHuman: #3\n\nAssistant: #4"
ROWS: list[dict[str, Any]] = [
    {"system": "#s", "user": "#u", "assistant": "#a", "weight": 2.5, "group": "#g"},
    {"system_prompt": "#s", "question": "#u", "response": "#a", "context": ["#1", 77]},
    {
        "messages": [
            {"role": "System", "content": "#s"},
            {"role": "user", "content": [{"type": "input_text", "text": "#u"}], "name": "#n"},
            {"role": "assistant", "content": "#draft", "loss": False},
            {"role": "user", "content": "#again"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "#result", "tool_call_id": "c1"},
            {"role": "assistant", "content": "#a", "reasoning_content": "#why", "weight": 0.5},
        ],
        "tools": [TOOL],
    },
    {
        "messages": [
            {"role": "user", "content": "#u"},
            {
                "role": "assistant",
                "content": "#a",
                "function_call": {"name": "#f", "arguments": ""},
            },
            {"role": "function", "name": "#f", "content": "#r"},
        ],
        "functions": [{"name": "#f", "description": "#what", "parameters": {"x": "#p"}}],
    },
    {
        "conversations": [
            {"from": "HUMAN", "value": "#u"},
            {"from": "function_call", "value": '{"name": "#f", "arguments": {"x": "#arg"}}'},
            {"from": "observation", "value": "#r"},
            {"from": "gpt", "value": "#a"},
        ],
        "tools": json.dumps([{"name": "#f", "parameters": {"d": "#what"}}]),
    },
    {"conversation": [{"human": "#1", "assistant": "#2"}, {"human": "#3", "bot": "#4"}]},
    {"conversations": [{"from": "human", "value": "#u"}], "chosen": {"from": "gpt", "value": "#a"}},
    {"instruction": "#i", "input": 70.5, "output": "#o", "history": [["#1", "#2"]]},
    {"instruction": "", "input": "#in", "output": "#o"},
    {"instruction": "#i", "input": "#in", "chosen": "#a", "rejected": "#b"},
    {"instruction": "#i", "context": "#c [3]", "response": "#a"},
    {
        "prompt": [{"role": "user", "content": "#u"}],
        "completion": [{"role": "ai", "content": "#a"}],
    },
    {"prompt": "#u", "completion": "#a", "input": {}, "history": []},
    {"prompt": "#1", "chosen": HH, "rejected": "#no"},
    {"subject": 71, "body": "#b", "reply": "#a"},
    {"id": "#id", "instruction": "#i", "instances": [{"input": 72, "output": "#o"}]},
    {"text": "### Human: #u### Assistant: #a"},
    {
        "message_tree_id": "#t",
        "prompt": {
            "role": "prompter",
            "text": "#u",
            "replies": [
                {"role": "assistant", "text": "#a", "rank": 0},
                {"role": "assistant", "text": "#worse", "rank": 1},
            ],
        },
    },
]
EXTRA = ("name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning")
EXTRA_KEYS = st.sampled_from(
    [
        *("id", "note", "Context", "input", "choices", "rejected", "system", "label", "score"),
        *("lang", "images", "annotations", "name", "parallel_tool_calls", "refusal", "channel"),
        *("weight", "group", "loss", "train", "history", "prompt", "thinking", "content", "text"),
    ]
)
VALUES = st.recursive(
    st.one_of(
        st.integers(1000, 9999).map(lambda n: f"#{n}"),
        st.integers(1000, 9999),
        st.booleans(),
        st.none(),
        st.just(float("nan")),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(EXTRA_KEYS, inner, max_size=2),
    max_leaves=4,
)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within a row but tool calls and schemas, which are handed on as they are."""
    if isinstance(value, dict):
        yield value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list) and key not in ("tool_calls", "function_call", "tools"):
            yield from objects(item)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Texts that are marked with #, and numbers of two digits and more, with the way to them."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, path)
    elif isinstance(value, str) and "#" in value and not value.startswith(("\n", "### ", "[", "{")):
        yield path, value.removesuffix(" [3]")
    elif isinstance(value, int | float) and not isinstance(value, bool) and value > 9:
        yield path, json.dumps(value)


def read_texts(result: ReadResult) -> str:
    """Everything that conversations hold, without the keys that only a template might print."""
    rows = [
        [c.group, list(c.tools), m.content, m.weight, [m.extra.get(key) for key in EXTRA]]
        for c in result.conversations
        for m in c.messages
    ]
    return json.dumps(rows)


def named(path: tuple[str, ...], said: str) -> bool:
    return any(f"{key}'".casefold() in said.casefold() for key in path)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_every_leaf_of_a_row_is_in_the_conversation_or_named_in_a_finding(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    row = copy.deepcopy(data.draw(st.sampled_from(ROWS)))
    holders = list(objects(row))
    for _ in range(data.draw(st.integers(0, 3))):
        holder = data.draw(st.sampled_from(holders))
        key = data.draw(EXTRA_KEYS)
        if key not in holder:
            holder[key] = data.draw(VALUES)
    result = read_rows(tmp_path_factory.mktemp("unread"), [row])
    if result.errors():
        assert not result.conversations or row.get("instances")
        return
    texts, findings = read_texts(result), "\n".join(str(f) for f in result.findings)
    for path, leaf in leaves(row):
        assert leaf in texts or named(path, findings), (path, leaf, findings)


def test_rows_of_every_format_are_read_as_they_are(tmp_path: Path) -> None:
    """Without additions there is no error, so the law above does not hold by refusing."""
    for row in ROWS:
        assert not read_rows(tmp_path, [row]).errors(), row


def test_columns_that_a_map_does_not_name_are_told(tmp_path: Path) -> None:
    row = {"q 1": "u", "a": "b", "why": "c", "id": 7}
    mapping = {"user": '"{q 1}: {id}"', "assistant": "a"}
    [finding] = read_rows(tmp_path, [row], mapping=mapping).findings
    assert "'why' of 1 row " in finding.message


def test_a_map_reads_lists_and_missing_numbers_as_columns_do(tmp_path: Path) -> None:
    mapping = {"user": '"{q}\\n{choices}{note}"', "assistant": "a"}
    rows = [
        {"q": "u", "choices": ["A. x", "B. y"], "note": None, "a": 1},
        {"q": "u", "choices": [], "note": 2.5, "a": float("nan")},
        {"q": "u", "choices": {"label": ["A"]}, "note": "", "a": 1},
    ]
    result = read_rows(tmp_path, rows, mapping=mapping)
    assert [m.content for m in result.conversations[0].messages] == ["u\nA. x\nB. y", "1"]
    codes = [(f.code, f.line) for f in result.errors()]
    assert codes == [("empty_assistant", 2), ("data_type", 3)]


U, A = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
MEANINGS: list[tuple[str, Any, list[str]]] = [
    ("number", {"instruction": "i", "input": 10, "output": "o"}, ["user: i\n10", "assistant: o"]),
    (
        "passages",
        {"question": "q", "context": ["one", "two"], "answer": "a"},
        ["user: q\none\ntwo", "assistant: a"],
    ),
    (
        "NaN",
        {"instruction": "i", "input": float("nan"), "output": "o"},
        ["user: i", "assistant: o"],
    ),
    ("empty", {"instruction": " ", "input": "u", "output": "o"}, ["user: u", "assistant: o"]),
    (
        "ms-swift loss",
        {"messages": [U, {**A, "loss": False}, U, {**A, "loss": True}]},
        ["user: u", "assistant: a x0", "user: u", "assistant: a"],
    ),
    (
        "axolotl train",
        {"conversations": [{**U, "train": False}, {**A, "train": "false"}, U, A]},
        ["user: u", "assistant: a x0", "user: u", "assistant: a"],
    ),
    (
        "OpenAI function_call",
        {"messages": [U, {**A, "function_call": {"name": "f", "arguments": '{"x": 1}'}}]},
        ["user: u", 'assistant: a[{"name": "f", "arguments": {"x": 1}}]'],
    ),
    (
        "ms-swift tool calls",
        {
            "messages": [
                U,
                {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'},
                {"role": "tool_call", "content": '{"name": "g", "arguments": {}}'},
                {"role": "tool_response", "content": "r"},
                A,
            ]
        },
        [
            "user: u",
            'assistant: [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
            "tool: r",
            "assistant: a",
        ],
    ),
    (
        "roles",
        {"conversations": [{"from": "USER", "value": "u"}, {"from": " AI ", "value": "a"}]},
        ["user: u", "assistant: a"],
    ),
    (
        "Responses API",
        {
            "messages": [
                {"role": "developer", "content": [{"type": "input_text", "text": "s"}]},
                {"role": "user", "content": [{"text": "u"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "a", "annotations": []}],
                },
            ]
        },
        ["system: s", "user: u", "assistant: a"],
    ),
    (
        "a refusal",
        {"messages": [U, {"role": "assistant", "content": None, "refusal": "no"}]},
        ["user: u", "assistant: no"],
    ),
    (
        "OpenOrca",
        {"system_prompt": "s", "question": "q", "response": "r"},
        ["system: s", "user: q", "assistant: r"],
    ),
    (
        "LLaMA-Factory preferences",
        {"instruction": "i", "input": "x", "chosen": "a", "rejected": "b"},
        ["user: i\nx", "assistant: a"],
    ),
    (
        "ms-swift conversation",
        {
            "system": "s",
            "conversation": [{"human": "1", "assistant": "2"}, {"human": "3", "gpt": "4"}],
        },
        ["system: s", "user: 1", "assistant: 2", "user: 3", "assistant: 4"],
    ),
    ("Label Studio", {"prompt": "p", "answer": [{"text": ["a"]}]}, ["user: p", "assistant: a"]),
    ("mail", {"subject": 5, "body": "b", "reply": "r"}, ["user: 5\n\nb", "assistant: r"]),
    ("a number", {"prompt": "p", "completion": 42}, ["user: p", "assistant: 42"]),
    ("a truth value", {"messages": [U, {**A, "content": True}]}, ["user: u", "assistant: true"]),
    (
        "a row's flag, of which a turn's own is stronger",
        {"messages": [U, A, U, {**A, "loss": True}, U, {**A, "weight": 2}], "train": False},
        ["user: u", "assistant: a x0", "user: u", "assistant: a", "user: u", "assistant: a x2"],
    ),
    (
        "a row's flag true",
        {"messages": [U, {**A, "train": False}, U, A], "loss": 1},
        ["user: u", "assistant: a x0", "user: u", "assistant: a"],
    ),
    (
        "Anthropic",
        {
            "system": [{"type": "text", "text": "s"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "u"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
                        {"type": "tool_use", "id": "v", "name": "g", "input": {}},
                    ],
                },
                {
                    "Role": "Human",
                    "Content": [
                        {"type": "tool_result", "tool_use_id": "t", "content": "1"},
                        {
                            "type": "tool_result",
                            "tool_use_id": "v",
                            "content": [{"type": "text", "text": "2"}],
                        },
                        {"type": "text", "text": "and?"},
                    ],
                },
                {"role": "assistant", "content": "b"},
            ],
        },
        [
            "system: s",
            "user: u",
            'assistant: a[{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]',
            "tool: 1",
            "tool: 2",
            "user: and?",
            "assistant: b",
        ],
    ),
]


@pytest.mark.parametrize(
    ("row", "expected"), [m[1:] for m in MEANINGS], ids=[m[0] for m in MEANINGS]
)
def test_what_other_tools_write_means_what_it_means_there(
    tmp_path: Path, row: Any, expected: list[str]
) -> None:
    assert messages(tmp_path, row) == expected


REFUSED: list[tuple[Any, str, int | None]] = [
    ({"instruction": "i", "input": {"a": 1}, "output": "o"}, "data_type", None),
    ({"question": "q", "context": [{"title": "t", "text": "x"}], "answer": "a"}, "data_type", None),
    ({"question": "q", "answer": ["a", "b"]}, "data_type", None),
    ({"messages": [{**U, "loss": True}, A]}, "weight_invalid", 0),
    ({"messages": [U, {**A, "loss": "maybe"}]}, "weight_invalid", 1),
    ({"messages": [U, {**A, "train": False, "weight": 1}]}, "weight_invalid", 1),
    ({"messages": [U, {**A, "train_detail": [{"train": False}]}]}, "weight_invalid", 1),
    ({"messages": [U, {**A, "value": "b"}]}, "data_type", 1),
    (
        {"messages": [U, {**A, "tool_calls": [{"name": "f"}], "function_call": {"name": "g"}}]},
        "tool_calls_invalid",
        1,
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_image"}]}, A]},
        "content_not_text",
        0,
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "audio", "url": "x"}]}, A]},
        "content_not_text",
        0,
    ),
    (
        {
            "messages": [
                U,
                {
                    **A,
                    "content": [{"type": "tool_use", "name": "f"}, {"type": "text", "text": "a"}],
                },
            ]
        },
        "content_not_text",
        1,
    ),
    (
        {"messages": [U, {**A, "content": [{"type": "redacted_thinking", "data": "x"}]}]},
        "content_not_text",
        1,
    ),
    (
        {"messages": [U, {**A, "content": [{"type": "tool_use", "input": {}}]}]},
        "tool_calls_invalid",
        1,
    ),
    ({"messages": [U, {**A, "loss": True, "train": False}]}, "weight_invalid", 1),
    ({"user": "u", "assistant": "a", "loss": 0.31}, "weight_invalid", None),
    ({"user": "u", "assistant": "a", "loss": True, "weight": 0}, "weight_invalid", None),
    (
        {"system": "s", "system_prompt": "t", "user": "u", "assistant": "a"},
        "two_system_prompts",
        None,
    ),
    ({"user": "u", "assistant": "a", "functions": "f"}, "tools_invalid", None),
]


@pytest.mark.parametrize(("row", "code", "turn"), REFUSED)
def test_what_cannot_be_meant_is_refused_at_its_row(
    tmp_path: Path, row: Any, code: str, turn: int | None
) -> None:
    result = read_rows(tmp_path, [{"user": "u", "assistant": "a"}, row])
    assert [(f.code, f.line, f.turn) for f in result.errors()] == [(code, 2, turn)]


def test_reserved_columns_are_announced_in_one_line_each(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{k}", "answer": "a", "weight": k + 0.5, "group": k % 3, "system": "s"}
        for k in range(30)
    ]
    notes = [f.message for f in read_rows(tmp_path, rows).findings]
    assert notes == [
        "Weights 0.5 to 29.5 from the column 'weight' of 30 rows.",
        "Groups from the column 'group' of 30 rows, 3 different.",
        "System prompts from the column 'system' of 30 rows, 1 different.",
    ]


def test_thinking_in_parts_is_thinking_and_its_signature_is_named(tmp_path: Path) -> None:
    parts = [
        {"type": "thinking", "thinking": "why", "signature": "s"},
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
    ]
    result = read_rows(tmp_path, [{"messages": [U, {**A, "content": parts}]}])
    assert result.conversations[0].messages[1].extra == {"reasoning_content": "why"}
    [finding] = result.findings
    assert (finding.code, finding.severity) == ("message_unrecognized_key", "warning")
    assert "'content.signature', 'content.cache_control'" in finding.message


@pytest.mark.parametrize("flag", [{"loss": False}, {"train": "false"}, {"weight": 0}, {"loss": 0}])
def test_a_row_of_which_nothing_is_trained_is_left_out_and_counted(
    tmp_path: Path, flag: dict[str, Any]
) -> None:
    rows = [{"user": f"u{k}", "assistant": "a", **(flag if k % 3 else {})} for k in range(9)]
    rows += [{"messages": [U, {**A, **flag}]}]
    result = read_rows(tmp_path, rows)
    assert [c.line for c in result.conversations] == [1, 4, 7]
    codes = {f.code: (f.severity, f.line, f.count) for f in result.findings}
    assert codes["all_masked"] == ("warning", 2, 7)
    assert codes["reserved_column"] == ("note", 2, 6)


def test_numbers_as_answers_are_one_note(tmp_path: Path) -> None:
    rows = [{"question": f"q{k}", "answer": k} for k in range(5)]
    [finding] = read_rows(tmp_path, rows).findings
    assert (finding.code, finding.severity, finding.count) == ("number_as_text", "note", 5)


@pytest.mark.parametrize(
    "tools",
    [
        {"name": "f", "parameters": {}},
        json.dumps({"name": "f", "parameters": {}}),
        [json.dumps({"type": "function", "function": {"name": "f", "parameters": {}}})],
        {"type": "function", "function": {"name": "f", "parameters": {}}},
        [{"name": "f", "input_schema": {}}],
    ],
)
def test_one_tool_and_schemas_of_other_tools_are_read(tmp_path: Path, tools: Any) -> None:
    [conversation] = read_rows(
        tmp_path, [{"user": "u", "assistant": "a", "tools": tools}]
    ).conversations
    assert conversation.tools == (
        {"type": "function", "function": {"name": "f", "parameters": {}}},
    )


def test_bare_letters_are_named_where_their_options_are_not_read(tmp_path: Path) -> None:
    def fix(answer: Any) -> str:
        rows = [{"question": "q", "choices": ["x", "y"], "answer": answer}]
        return next(f.fix for f in read_rows(tmp_path, rows).findings if f.severity == "warning")

    assert all("bare letters" in fix(answer) for answer in ("A", "(b)", "2.", 1))
    assert all("bare letters" not in fix(answer) for answer in ("x", "AB", "I"))


def test_a_key_in_two_letter_cases_is_no_silent_choice(tmp_path: Path) -> None:
    result = read_rows(tmp_path, [{"user": "u", "assistant": "a", "Context": "x", "CONTEXT": "y"}])
    [finding] = result.findings
    assert all(key in finding.message for key in ("'Context'", "'CONTEXT'"))


def test_what_the_answer_may_depend_on_is_a_warning_with_a_map(tmp_path: Path) -> None:
    rows = [{"question": "q", "choices": ["x", "y"], "answer": "A", "id": 1}]
    levels = {f.message.split("'")[1]: f.severity for f in read_rows(tmp_path, rows).findings}
    assert levels == {"choices": "warning", "id": "note"}


def test_trailing_commas_and_arrays_of_rows_in_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"user": "u", "assistant": "1"},\n[{"user": "u", "assistant": "2"}],\n')
    assert [c.messages[1].content for c in read([str(path)]).conversations] == ["1", "2"]
    path.write_text("\n".join(json.dumps([U, {**A, "content": str(k)}]) for k in (1, 2)))
    result = read([str(path)])
    assert [(c.line, c.messages[1].content) for c in result.conversations] == [(1, "1"), (2, "2")]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Yes.</s>", "control_token_in_answers"),
        ("Yes.<|im_end|>", "control_token_in_answers"),
        ("Yes.<|eot_id|>", "control_token_in_answers"),
        ("Yes.<end_of_turn>", "control_token_in_answers"),
        ("<|channel|>final<|message|>Yes.", "control_token_in_answers"),
        ("Yes.<\uff5cend\u2581of\u2581sentence\uff5c>", "control_token_in_answers"),
        ("Yes.\r\nBye.", "carriage_return_in_answers"),
        ("NaN", "no_value_as_answer"),
        ("None", "no_value_as_answer"),
        ("null ", "no_value_as_answer"),
    ],
)
def test_what_other_tools_left_in_answers_is_one_warning(
    tmp_path: Path, answer: str, code: str
) -> None:
    rows = [{"user": f"u{k}", "assistant": answer} for k in range(12)]
    findings = list(leftovers(read_rows(tmp_path, rows).conversations))
    assert [(f.code, f.severity) for f in findings] == [(code, "warning")]
    assert "12 of 12" in findings[0].message
    clean = [{"user": "u", "assistant": "Is a < b | c > d? [INS] none of it\n"}]
    assert not list(leftovers(read_rows(tmp_path, clean).conversations))


@pytest.mark.parametrize("key", ["training", "mask", "loss_scale", "do_train", "ignore"])
def test_a_flag_that_is_not_known_is_refused_not_trained(tmp_path: Path, key: str) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", key: 0}]
    [error] = read_rows(tmp_path, [{"messages": turns}]).errors()
    assert (error.code, error.turn) == ("weight_invalid", 1)
    assert key in error.message


def test_keys_of_messages_are_read_in_any_letter_case(tmp_path: Path) -> None:
    turns = [{"From": "Human", "Value": "Hi"}, {"ROLE": "Bot", "Content": "Yo", "Loss": False}]
    expected = ["user: Hi", "assistant: Yo x0", "assistant: a"]
    assert messages(tmp_path, {"messages": [*turns, A]}) == expected


def test_one_finding_names_every_unused_key_and_the_documented_row_has_none(tmp_path: Path) -> None:
    row = {"system": "S", "user": "a", "assistant": "b"}
    assert not read_rows(tmp_path, [row]).findings
    [finding] = read_rows(tmp_path, [{**row, "id": 1, "lead_time": 2, "day": 3}]).findings
    assert "'id', 'lead_time', 'day'" in finding.message


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"Ticket ID": 7, "Public comments": "p"}], ["Public comments, Ticket ID"]),
        ([{"data": [{"user": "u", "assistant": "a"}] * 3}], ["a list of objects", "jq -c"]),
        ([{"inputs": {"question": "q"}, "outputs": {}}] * 2, ["'inputs' holds an object", "top"]),
        ([{"Where is it?": "Why?", "On shelf 4.": "So."}], ["On shelf 4.", "header"]),
    ],
)
def test_rows_of_no_known_format_are_named_as_they_are_written(
    tmp_path: Path, rows: list[Any], words: list[str]
) -> None:
    result = read_rows(tmp_path, rows)
    assert result.format == ""
    assert {f.code for f in result.findings} == {"unknown_format"}
    for word in words:
        assert word in f"{result.findings[0].message} {result.findings[0].fix}"


def test_an_unused_column_is_named_as_it_is_written(tmp_path: Path) -> None:
    [note] = read_rows(tmp_path, [{"User": "u", "Assistant": "a", "Weight (kg)": 7}]).findings
    assert "'Weight (kg)'" in note.message


@pytest.mark.parametrize("key", ["split", "is_valid", "Deleted", "fold", "quality", "is_correct"])
def test_a_column_that_may_set_rows_aside_is_a_warning_where_rows_differ(
    tmp_path: Path, key: str
) -> None:
    pair = {"user": "u", "assistant": "a"}
    for values, severity in (([1, 0, 1], "warning"), ([1, 1, 1], "note")):
        [one] = read_rows(tmp_path, [{**pair, key: value} for value in values]).findings
        assert (one.code, one.severity, one.count) == ("unused_columns", severity, 3)
        assert repr(key) in one.message


def test_answers_that_kto_calls_bad_are_not_trained_without_a_word(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {k}", "completion": "c", "label": k % 2 == 0} for k in range(4)]
    [one] = read_rows(tmp_path, rows).findings
    assert (one.code, one.severity, one.count) == ("unused_columns", "warning", 4)
    assert "calls answers bad" in one.fix


def test_a_weight_of_a_sample_is_a_warning_and_one_beyond_fp32_is_refused(tmp_path: Path) -> None:
    pair = {"user": "u", "assistant": "a"}
    [one] = read_rows(tmp_path, [{**pair, "sample_weight": 0.5}]).findings
    assert (one.code, one.severity) == ("unused_columns", "warning")
    for weight in (1e38, 1e308, "inf", 1_000_001):
        assert [f.code for f in read_rows(tmp_path, [{**pair, "weight": weight}]).findings] == [
            "weight_invalid"
        ]
