"""Kinds of files, and every bad input with its place, its code and no traceback."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.readers import read
from biddable.errors import BiddableError, capped

GOOD = {"user": "u", "assistant": "a"}
USER = {"role": "user", "content": "u"}


def codes(path: Path, data: bytes | str | Any) -> list[tuple[str, int, int | None]]:
    """Code, line and turn of each error of a file with this content."""
    if not isinstance(data, bytes | str):
        data = json.dumps(data)
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    errors = read([str(path)]).errors()
    for finding in errors:
        assert finding.message.endswith((".", "?", ":")) or ":" in finding.message
        assert finding.fix
        assert finding.file == str(path)
    return [(finding.code, finding.line, finding.turn) for finding in errors]


BAD_ROWS: list[tuple[Any, str, int | None]] = [
    ("{not json", "invalid_json", None),
    ("{'user': 'u'}", "invalid_json", None),
    ('{"user": "u", "user": "v", "assistant": "a"}', "invalid_json", None),
    ('{"user": ' + "1" * 5000 + ', "assistant": "a"}', "invalid_json", None),
    ("[" * 100_000, "invalid_json", None),
    ('"text"', "data_type", None),
    ("[1, 2]", "data_type", None),
    ("null", "data_type", None),
    ({}, "unknown_format", None),
    ({"a": "b"}, "unknown_format", None),
    ({"user": "u"}, "example_missing_assistant_message", None),
    ({"user": "u", "assistant": ""}, "empty_assistant", 1),
    ({"system": "s", "user": "u", "assistant": " \n"}, "empty_assistant", 2),
    ({"user": "u", "assistant": None}, "empty_assistant", 1),
    ({"user": "u", "assistant": {"a": 7}}, "content_not_text", 1),
    ({"user": ["u"], "assistant": "a"}, "data_type", 0),
    ({"user": None, "assistant": "a"}, "missing_content", 0),
    ({"system": 1, "user": "u", "assistant": "a"}, "content_not_text", None),
    ({"messages": []}, "missing_messages_list", None),
    ({"messages": None}, "missing_messages_list", None),
    ({"messages": {"role": "user"}}, "missing_messages_list", None),
    ({"messages": [USER]}, "example_missing_assistant_message", None),
    ({"messages": [USER, "a"]}, "data_type", 1),
    ({"messages": [{"content": "u"}]}, "message_missing_key", 0),
    ({"messages": [{"role": "usr", "content": "u"}]}, "unrecognized_role", 0),
    ({"messages": [{"role": ["user"], "content": "u"}]}, "unrecognized_role", 0),
    ({"messages": [USER, {"role": "assistant"}]}, "empty_assistant", 1),
    ({"messages": [USER, {"role": "assistant", "content": {"a": 1}}]}, "content_not_text", 1),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content_not_text", 0),
    (
        {"messages": [USER, {"role": "assistant", "content": "a", "weight": -1}]},
        "weight_invalid",
        1,
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": "a", "weight": True}]},
        "weight_invalid",
        1,
    ),
    ({"messages": [{**USER, "weight": 1}]}, "weight_invalid", 0),
    ({**GOOD, "weight": "much"}, "weight_invalid", None),
    ('{"user": "u", "assistant": "a", "weight": NaN}', "weight_invalid", None),
    ('{"user": "\\ud800", "assistant": "a"}', "invalid_text", 0),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": 1}]}]},
        "tool_calls_invalid",
        1,
    ),
    ({"messages": [USER, {"role": "assistant", "tool_calls": "x"}]}, "tool_calls_invalid", 1),
    ({**GOOD, "tools": {"f": "g"}}, "tools_invalid", None),
    ({"text": "Once upon a time."}, "text_only", None),
    ({**GOOD, "messages": [USER]}, "ambiguous_format", None),
    (
        {
            "system": "s",
            "messages": [
                {"role": "system", "content": "t"},
                USER,
                {"role": "assistant", "content": "a"},
            ],
        },
        "two_system_prompts",
        None,
    ),
    ({"chosen": "no transcript"}, "data_type", None),
    ({"message_tree_id": "t", "prompt": "no tree"}, "data_type", None),
    ({"instruction": "i", "instances": {}}, "data_type", None),
    ({"instruction": "i", "output": "o", "history": [["one"]]}, "data_type", None),
]


@pytest.mark.parametrize(
    ("row", "code", "turn"), BAD_ROWS, ids=[str(k) for k in range(len(BAD_ROWS))]
)
def test_a_bad_row_gives_one_finding_with_line_and_turn(
    tmp_path: Path, row: Any, code: str, turn: int | None
) -> None:
    text = row if isinstance(row, str) else json.dumps(row)
    content = f"{json.dumps(GOOD)}\n\n{text}\n{json.dumps(GOOD)}\n"
    assert codes(tmp_path / "data.jsonl", content) == [(code, 3, turn)]


def test_a_role_with_a_typing_error_is_guessed(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": [{"role": "asistant", "content": "a"}]}')
    assert "Did you mean 'assistant'?" in read([str(path)]).findings[0].fix


def test_bytes_that_are_not_utf8_are_told_by_line_and_column(tmp_path: Path) -> None:
    data = json.dumps(GOOD).encode() + b'\n{"user": "\xe4"}\n' + json.dumps(GOOD).encode()
    assert codes(tmp_path / "data.jsonl", data) == [("invalid_utf8", 2, None)]
    assert codes(tmp_path / "data.json", b'[\n{"user": "\xe4"}]') == [("invalid_utf8", 2, None)]
    assert codes(tmp_path / "data.csv", b"user,assistant\nu,a\n\xe4,a\n") == [
        ("invalid_utf8", 3, None)
    ]


def test_a_row_beyond_the_limit_is_refused_without_being_parsed(tmp_path: Path) -> None:
    huge = b'{"user": "' + b"x" * (1 << 24) + b'", "assistant": "a"}\n'
    good = json.dumps(GOOD).encode()
    assert codes(tmp_path / "data.jsonl", huge + good) == [("row_too_large", 1, None)]
    assert codes(tmp_path / "data.json", b"[" + huge + b"]") == [("row_too_large", 1, None)]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ('[{"user": "u"\n', "invalid_json", 1),
        ('[\n{"user": "u", "assistant": "a"}\n', "invalid_json", 3),
        ('[{"user": "u", "assistant": "a"},,]', "invalid_json", 1),
        ("[]]", "invalid_json", 1),
        ("[[1]]", "data_type", 1),
        ("[1, {}]", "data_type", 1),
    ],
)
def test_a_broken_array_is_told_at_its_line(
    tmp_path: Path, text: str, code: str, line: int
) -> None:
    assert codes(tmp_path / "data.json", text)[0][:2] == (code, line)


@pytest.mark.parametrize(
    "text", ['[{"user": "u", "assistant": "a"},]', '[\n{"user": "u", "assistant": "a"},\n]\n']
)
def test_a_comma_before_the_closing_bracket_is_no_row(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    result = read([str(path)])
    assert (result.rows, len(result.conversations), result.findings) == (1, 1, [])


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ('user,assistant\nu,"a\nb"\nu\n', "column_count", 4),
        ("user,assistant\nu,a,b\n", "column_count", 2),
        ("user,user\nu,a\n", "invalid_header", 1),
        ("user,\nu,a\n", "invalid_header", 2),
        ('user,assistant\nu,a\nu,"never closed\nu,a\n', "invalid_csv", 3),
        ('user,assistant\n"a"b,c\n', "invalid_csv", 2),
        ("user,assistant\nu,\n", "empty_assistant", 2),
        ("text,intent\nu,a\n", "unknown_format", 2),
    ],
)
def test_a_broken_table_is_told_at_its_line(
    tmp_path: Path, text: str, code: str, line: int
) -> None:
    assert codes(tmp_path / "data.csv", text)[0][:2] == (code, line)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), min_size=1)] * 2).filter(
            lambda pair: pair[0].strip() != "" and pair[1].strip() != ""
        ),
        min_size=1,
    ),
    st.sampled_from([(".csv", ","), (".csv", ";"), (".tsv", "\t")]),
)
def test_tables_give_back_what_the_csv_module_wrote(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], kind: tuple[str, str]
) -> None:
    import csv

    suffix, delimiter = kind
    path = tmp_path_factory.mktemp("tables") / f"data{suffix}"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([("user", "assistant"), *pairs])
    result = read([str(path)])
    assert not result.errors()
    assert [tuple(m.content for m in c.messages) for c in result.conversations] == pairs


def test_a_table_row_keeps_the_line_it_starts_on(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('user,assistant\n"two\nlines",a\nu,b\n')
    assert [c.line for c in read([str(path)]).conversations] == [2, 4]


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "data.parquet"
    rows = [{"messages": [USER, {"role": "assistant", "content": str(k)}]} for k in range(3)]
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    assert [c.line for c in read([str(path)]).conversations] == [1, 2, 3]
    path.write_bytes(path.read_bytes()[:-20])
    assert [f.code for f in read([str(path)]).errors()] == ["unreadable_file"]


def test_nulls_with_which_arrow_pads_tool_schemas_are_taken_out(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    tools = [{"name": name, "properties": {name: {"type": "string"}}} for name in ("a", "b")]
    calls = [{"function": {"name": name, "arguments": {name: 1}}} for name in ("a", "b")]
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    path = tmp_path / "tools.parquet"
    parquet.write_table(arrow.Table.from_pylist([{"messages": messages, "tools": tools}]), path)
    assert parquet.read_table(path).to_pylist()[0]["tools"][0]["properties"]["b"] is None
    [conversation] = read([str(path)]).conversations
    assert list(conversation.tools) == tools
    assert conversation.messages[1].extra["tool_calls"] == calls
    assert conversation.messages[0].extra == {}


def refused(*sources: str) -> str:
    with pytest.raises(BiddableError) as error:
        read(list(sources))
    assert error.value.finding.fix
    return error.value.finding.code


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n \n")
    header = tmp_path / "header.csv"
    header.write_text("user,assistant\n")
    (tmp_path / "folder").mkdir()
    assert refused(str(tmp_path / "none.jsonl")) == "missing_file"
    assert {refused(str(p)) for p in (empty, blank, header, tmp_path / "folder")} == {"empty_file"}


@pytest.mark.parametrize(
    "head",
    [
        *(b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x28\xb5\x2f\xfd", b"BZh91", b"\xfd7zXZ\x00"),
        *(b"%PDF-1.7", b"version https://git-lfs.github.com/spec/v1", b"<!DOCTYPE html><html>"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(head + b"rest")
    assert refused(str(path)) == "unreadable_file"


def test_json_in_a_file_of_a_table_is_said(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"{json.dumps(GOOD)}\n" * 3)
    assert "has to end in .jsonl" in read([str(path)]).errors()[0].fix


def test_a_gzip_file_cut_short_is_told_after_its_good_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"user": str(k), "assistant": "a"}) + "\n" for k in range(9999))
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode())[:-3000])
    result = read([str(path)])
    assert [f.code for f in result.errors()] == ["unreadable_file"]
    assert result.conversations


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO(json.dumps(GOOD).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    assert [(c.file, c.line) for c in read(["-"]).conversations] == [("-", 1)]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BiddableError, match=r"biddable\[hub\]"):
        read(["hf:some/name"])
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 and more")
    with pytest.raises(BiddableError, match=r"biddable\[parquet\]"):
        read([str(path)])


def test_hub_rows_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Datasets:
        @staticmethod
        def load_dataset(name: str, config: str | None, split: str) -> list[dict[str, str]]:
            if name == "none":
                raise FileNotFoundError("no such data set")
            return [{"question": f"{name} {config} {split}", "answer": "a"}]

    monkeypatch.setitem(sys.modules, "datasets", Datasets)  # type: ignore[arg-type]
    texts = [
        read([f"hf:{name}"]).conversations[0].messages[0].content
        for name in ("me/data", "me/data@main", "me/data@main:test", "me/data:test")
    ]
    assert texts == [
        "me/data None train",
        "me/data main train",
        "me/data main test",
        "me/data None test",
    ]
    assert refused("hf:none") == "unreadable_file"


def test_reading_stops_after_a_thousand_faults_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("[" + "[]," * 5000 + "[]]")
    findings = read([str(path)]).errors()
    assert [f.code for f in findings] == ["data_type"] * 1000 + ["too_many_errors"]
    short = capped(findings)
    assert [f.code for f in short] == ["data_type"] * 21 + ["too_many_errors"]
    assert short[20].message.startswith("980 more")
    assert capped(short) == short


def test_rows_of_an_array_on_one_line_have_places_of_their_own(tmp_path: Path) -> None:
    rows = [{"user": f"question {k}", "assistant": f"answer {k}"} for k in range(30)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert [c.line for c in read([str(path)]).conversations] == list(range(1, 31))
