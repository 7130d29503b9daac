"""Formats to conversations: laws of round trips first, then one example of every shape."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.conversation import Conversation, Message
from biddable.data.readers import ReadResult, read
from biddable.errors import BiddableError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
ANSWER = TEXT.filter(lambda text: text.strip() != "")
TURNS = st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=3)


def written(tmp_path: Path, rows: list[Any], name: str = "data.jsonl") -> str:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_rows(tmp_path: Path, rows: list[Any], **options: Any) -> ReadResult:
    return read([written(tmp_path, rows)], **options)


def only(tmp_path: Path, row: Any, **options: Any) -> list[tuple[str, str]]:
    """Role and content of the one conversation of a row."""
    result = read_rows(tmp_path, [row], **options)
    assert not result.errors(), result.errors()
    [conversation] = result.conversations
    return [(message.role, message.content) for message in conversation.messages]


def flat(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [said for u, a in turns for said in (("user", u), ("assistant", a))]


def as_openai(turns: list[tuple[str, str]]) -> Any:
    return {"messages": [{"role": role, "content": text} for role, text in flat(turns)]}


def as_sharegpt(turns: list[tuple[str, str]]) -> Any:
    names = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[role], "value": t} for role, t in flat(turns)]}


def as_gemini(turns: list[tuple[str, str]]) -> Any:
    pairs = [(r, t) for user, answer in turns for r, t in (("user", user), ("model", answer))]
    return {"contents": [{"role": role, "parts": [{"text": text}]} for role, text in pairs]}


def as_alpaca(turns: list[tuple[str, str]]) -> Any:
    *history, (asked, answered) = turns
    return {
        "instruction": asked,
        "input": "",
        "output": answered,
        "history": [list(pair) for pair in history],
    }


def as_prompt_completion(turns: list[tuple[str, str]]) -> Any:
    messages = as_openai(turns)["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


@settings(max_examples=60, deadline=None)
@given(st.lists(TURNS, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_every_format_of_the_same_turns_reads_as_the_same_conversations(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[tuple[str, str]]],
    newline: str,
    bom: bool,
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    for form in (as_openai, as_sharegpt, as_gemini, as_alpaca, as_prompt_completion):
        text = ("\n\n" + newline).join(json.dumps(form(turns)) for turns in rows) + newline
        path = folder / f"{form.__name__}.jsonl"
        path.write_bytes(("\ufeff" * bom + text).encode())
        result = read([str(path)])
        assert not result.errors()
        read_back = [[(m.role, m.content) for m in c.messages] for c in result.conversations]
        assert read_back == [flat(turns) for turns in rows]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=5))
def test_lines_arrays_pretty_printed_arrays_and_gzip_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    rows = [{"user": user, "assistant": assistant} for user, assistant in pairs]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    stored = {
        "lines.jsonl": lines.encode(),
        "array.json": json.dumps(rows).encode(),
        "pretty.json": json.dumps(rows, indent=4, ensure_ascii=False).encode(),
        "objects.json": "\n".join(json.dumps(row, indent=1) for row in rows).encode(),
        "array.jsonl": json.dumps(rows, indent=0).encode(),
        "packed.jsonl.gz": gzip.compress(lines.encode()),
    }
    for name, data in stored.items():
        (folder / name).write_bytes(data)
        result = read([str(folder / name)])
        assert not result.errors(), (name, result.errors())
        contents = [(c.messages[0].content, c.messages[1].content) for c in result.conversations]
        assert contents == pairs, name


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_bad_rows_are_told_by_line_and_good_ones_keep_order_and_line(
    tmp_path_factory: pytest.TempPathFactory, good: list[bool]
) -> None:
    path = tmp_path_factory.mktemp("mixed") / "data.jsonl"
    lines = [f'{{"user": "u", "assistant": "{k}"}}' if ok else "{" for k, ok in enumerate(good)]
    path.write_text("\n".join(lines))
    result = read([str(path)])
    assert [c.line for c in result.conversations] == [k + 1 for k, ok in enumerate(good) if ok]
    assert [f.line for f in result.errors()] == [k + 1 for k, ok in enumerate(good) if not ok]
    assert result.rows == len(good)


def test_a_pretty_printed_array_keeps_the_line_on_which_each_row_begins(tmp_path: Path) -> None:
    rows = [{"user": "a", "assistant": "b"}, {"user": "c", "assistant": "d"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=2))
    assert [c.line for c in read([str(path)]).conversations] == [2, 6]


HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: Because."
SHAPES: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    (
        "system/user/assistant",
        {"system": "s", "user": "u", "assistant": "a"},
        [("system", "s"), ("user", "u"), ("assistant", "a")],
    ),
    ("system/user/assistant", {"system": "", "user": "u", "assistant": "a"}, flat([("u", "a")])),
    ("prompt/completion", {"prompt": "u", "completion": "a"}, flat([("u", "a")])),
    (
        "Alpaca",
        {"instruction": "Add.", "input": "2, 3", "output": "5", "system": "s"},
        [("system", "s"), ("user", "Add.\n2, 3"), ("assistant", "5")],
    ),
    (
        "Dolly",
        {"instruction": "Who?", "context": "She[1] is Ada.[23]", "response": "Ada"},
        flat([("Who?\nShe is Ada.", "Ada")]),
    ),
    (
        "HH-RLHF (chosen)",
        {"chosen": HH, "rejected": HH},
        flat([("Hi", "Hello."), ("Why?", "Because.")]),
    ),
    ("HH-RLHF (chosen)", {"prompt": "u", "chosen": "a", "rejected": "b"}, flat([("u", "a")])),
    ("InstructGPT demonstrations", {"prompt": "u", "demonstration": "a"}, flat([("u", "a")])),
    ("question/answer", {"question": "u", "answer": "a"}, flat([("u", "a")])),
    ("prompt/response", {"Prompt": "u", " Response ": "a"}, flat([("u", "a")])),
    ("input/output", {"input": "u", "output": "a"}, flat([("u", "a")])),
    (
        "mail (subject, body)",
        {"subject": "Bill", "body": "Too high.", "reply": "Sorry."},
        flat([("Bill\n\nToo high.", "Sorry.")]),
    ),
    (
        "text with ### Human and ### Assistant",
        {"text": "### Human: u### Assistant: a\n### Human: v### Assistant: b"},
        flat([("u", "a"), ("v", "b")]),
    ),
    (
        "ShareGPT",
        {
            "conversations": [{"from": "human", "value": "u"}, {"from": "bard", "value": "a"}],
            "system": "s",
        },
        [("system", "s"), ("user", "u"), ("assistant", "a")],
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), SHAPES)
def test_each_shape_is_detected_and_said(
    tmp_path: Path, name: str, row: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert only(tmp_path, row) == expected
    assert read_rows(tmp_path, [row]).format == name


def test_only_the_last_answer_of_a_chosen_transcript_is_trained(tmp_path: Path) -> None:
    [conversation] = read_rows(tmp_path, [{"chosen": HH}]).conversations
    assert [m.weight for m in conversation.messages] == [None, 0, None, None]


def test_answers_in_a_conversational_prompt_are_context(tmp_path: Path) -> None:
    row = as_prompt_completion([("u", "a"), ("v", "b")])
    [conversation] = read_rows(tmp_path, [row]).conversations
    assert [m.weight for m in conversation.messages] == [None, 0, None, None]


def test_self_instruct_gives_one_conversation_an_instance_in_one_group(tmp_path: Path) -> None:
    row = {
        "id": "seed_task_0",
        "instruction": "Double it.",
        "instances": [{"input": "2", "output": "4"}, {"input": "", "output": "?"}],
    }
    first, second = read_rows(tmp_path, [row]).conversations
    assert first.messages[0].content == "Double it.\n2"
    assert second.messages[0].content == "Double it."
    assert first.group == second.group == "seed_task_0"


def node(name: str, role: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
    return {"message_id": name, "role": role, "text": name, "rank": rank, **more}


TREE = {
    "message_tree_id": "t",
    "prompt": node(
        "root",
        "prompter",
        replies=[
            node("second", "assistant", 1, replies=[]),
            node("deleted", "assistant", 0, deleted=True),
            node(
                "best",
                "assistant",
                0,
                replies=[node("why", "prompter", replies=[node("so", "assistant", 0, replies=[])])],
            ),
        ],
    ),
}


def test_openassistant_trees_and_flat_rows_give_the_best_path(tmp_path: Path) -> None:
    expected = flat([("root", "best"), ("why", "so")])
    assert only(tmp_path, TREE) == expected
    rows: list[dict[str, Any]] = []
    todo = [(TREE["prompt"], None)]
    while todo:
        item, parent = todo.pop()
        assert isinstance(item, dict)
        todo += [(reply, item["message_id"]) for reply in item.get("replies", [])]
        kept = {k: v for k, v in item.items() if k != "replies"}
        rows.append({**kept, "parent_id": parent, "message_tree_id": "t"})
    result = read_rows(tmp_path, rows[::-1])
    assert [(m.role, m.content) for m in result.conversations[0].messages] == expected
    assert result.conversations[0].group == "t"
    assert len(result.conversations) == 1


def test_a_tree_without_an_answer_is_told(tmp_path: Path) -> None:
    deleted = {**node("a", "assistant"), "deleted": True}
    tree = {"message_tree_id": "t", "prompt": node("root", "prompter", replies=[deleted])}
    flat = {**node("b", "prompter"), "parent_id": None, "message_tree_id": "t"}
    for row in (tree, flat):
        result = read_rows(tmp_path, [row])
        assert result.conversations == []
        assert [(f.code, f.line) for f in result.findings if f.code == "no_answer"] == [
            ("no_answer", 1)
        ]


def test_a_flat_row_whose_parent_is_missing_is_told(tmp_path: Path) -> None:
    row = {**node("x", "assistant"), "parent_id": "gone", "message_tree_id": "t"}
    assert [f.code for f in read_rows(tmp_path, [row]).findings] == ["missing_parent"]


def test_the_keys_of_flat_rows_are_read_in_any_letter_case(tmp_path: Path) -> None:
    rows = [
        {"Message_ID": "r", "Parent_ID": None, "Role": "prompter", "Text": "u"},
        {"message_id": "a", "parent_id": "r", "role": "assistant", "text": "a"},
    ]
    [conversation] = read_rows(tmp_path, rows).conversations
    assert [m.content for m in conversation.messages] == ["u", "a"]


def test_tool_calls_weights_tools_and_names_reach_the_messages(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Add "}, "one."]},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "2", "tool_call_id": "1", "name": "add"},
            {"role": "assistant", "content": "Two.", "weight": 0.5, "refusal": None},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    result = read_rows(tmp_path, [row])
    assert not result.findings
    user, called, tool, answer = result.conversations[0].messages
    assert user == Message("user", "Add one.")
    assert called.weight == 0
    assert called.extra["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert tool.extra == {"tool_call_id": "1", "name": "add"}
    assert answer == Message("assistant", "Two.", 0.5)
    assert result.conversations[0].tools[0]["function"]["name"] == "add"


@pytest.mark.parametrize("rank", [None, "", "first", [1], 10**400])
def test_a_rank_that_is_no_number_comes_last(tmp_path: Path, rank: Any) -> None:
    replies = [node("odd", "assistant", rank), node("ranked", "assistant", 3)]
    row = {"message_tree_id": "t", "prompt": node("root", "prompter", replies=replies)}
    assert only(tmp_path, row) == flat([("root", "ranked")])


def test_tool_calls_of_a_message_without_content_are_kept(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    row = {
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
    }
    [conversation] = read_rows(tmp_path, [row]).conversations
    assert conversation.messages[1] == Message("assistant", "", None, {"tool_calls": [call]})


def test_a_sharegpt_function_call_becomes_a_tool_call(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "u"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "a"},
        ]
    }
    messages = read_rows(tmp_path, [row]).conversations[0].messages
    assert [m.role for m in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1].extra["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}


def test_messages_of_both_conventions_in_one_row_are_all_read(tmp_path: Path) -> None:
    row = {"messages": [{"from": "human", "value": "u"}, {"role": "assistant", "content": "a"}]}
    assert only(tmp_path, row) == flat([("u", "a")])


def test_a_row_weight_goes_to_answers_without_their_own(tmp_path: Path) -> None:
    row = {**as_openai([("u", "a"), ("v", "b")]), "weight": 0.25}
    row["messages"][1]["weight"] = 1
    messages = read_rows(tmp_path, [row]).conversations[0].messages
    assert [m.weight for m in messages] == [None, 1, None, 0.25]


def test_the_systems_of_rows_win_over_the_runs(tmp_path: Path) -> None:
    rows = [{"user": "u", "assistant": "a"}, {"system": "own", "user": "u", "assistant": "a"}]
    result = read_rows(tmp_path, rows, system="run")
    assert [c.messages[0].content for c in result.conversations] == ["run", "own"]


def test_the_system_instruction_of_gemini_is_the_system_prompt(tmp_path: Path) -> None:
    row = {"systemInstruction": {"role": "system", "parts": [{"text": "own"}]}}
    result = read_rows(tmp_path, [row | as_gemini([("u", "a")])])
    assert [m.content for m in result.conversations[0].messages] == ["own", "u", "a"]


def test_groups_come_from_the_row_or_the_named_column(tmp_path: Path) -> None:
    rows = [{"user": "u", "assistant": "a", "group": "g", "ticket": 7}]
    assert read_rows(tmp_path, rows).conversations[0].group == "g"
    assert read_rows(tmp_path, rows, group_by="ticket").conversations[0].group == "7"
    [finding] = read_rows(tmp_path, rows, group_by="tickets").errors()
    assert "Did you mean 'ticket'" in finding.fix


def test_columns_and_message_keys_that_are_not_read_are_told_once(tmp_path: Path) -> None:
    rows = [{"user": "u", "assistant": "a", "id": k} for k in range(3)]
    [finding] = read_rows(tmp_path, rows).findings
    assert finding.code == "unused_columns"
    assert "'id'" in finding.message
    assert finding.count == 3
    row = {
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a", "wieght": 0},
        ]
    }
    [finding] = read_rows(tmp_path, [row]).findings
    assert (finding.code, finding.severity) == ("message_unrecognized_key", "warning")


def test_several_files_and_folders_keep_their_order_and_hashes(tmp_path: Path) -> None:
    for name in ("b", "a"):
        written(tmp_path, [{"user": "u", "assistant": name}], f"{name}.jsonl")
    written(tmp_path, [{"user": "u", "assistant": "single"}], "c.txt")
    result = read([str(tmp_path), str(tmp_path / "c.txt")])
    assert [c.messages[1].content for c in result.conversations] == ["a", "b", "single"]
    assert [len(value) for value in result.hashes.values()] == [64, 64, 64]


def test_a_folder_with_a_train_file_gives_only_that_and_says_so(tmp_path: Path) -> None:
    for name in ("train", "test"):
        written(tmp_path, [{"user": "u", "assistant": name}], f"{name}.jsonl")
    result = read([str(tmp_path)])
    assert [c.messages[1].content for c in result.conversations] == ["train"]
    assert [f.code for f in result.findings] == ["files_left_out"]


def test_rows_of_two_formats_are_read_and_told(tmp_path: Path) -> None:
    result = read_rows(tmp_path, [{"user": "u", "assistant": "a"}, as_openai([("u", "a")])])
    assert len(result.conversations) == 2
    assert "mixed_formats" in [f.code for f in result.findings]


def test_the_demo_data_reads_without_a_finding() -> None:
    folder = Path(__file__).parents[1] / "examples" / "tool-library"
    train, held_out = (read([str(folder / f"{name}.jsonl")]) for name in ("train", "heldout"))
    assert not train.findings + held_out.findings
    assert (len(train.conversations), len(held_out.conversations)) == (96, 32)
    prompts = {c.messages[0].content for c in train.conversations + held_out.conversations}
    assert len(prompts) == 1
    assert 40 <= len(prompts.pop().split()) <= 80


def test_a_conversation_can_be_written_by_hand() -> None:
    conversation = Conversation([Message("user", "Hi?"), Message("assistant", "Hello.")])
    assert isinstance(conversation.messages, tuple)


def test_no_source_is_an_error() -> None:
    with pytest.raises(BiddableError, match="No data"):
        read([])
