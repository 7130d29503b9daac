"""`--map`: what is written is what stands in the conversation."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data import columns
from biddable.data.columns import parse_map
from biddable.data.readers import read
from biddable.errors import BiddableError


def mapped_fields(row: dict[str, object], mapping: dict[str, str]) -> dict[str, object]:
    fields = columns.mapped_fields(mapping, list(row))
    return {name: field.value(row) for name, field in fields.items()}


def empty_columns(row: dict[str, object], mapping: dict[str, str]) -> list[str]:
    return columns.empty_columns(columns.mapped_fields(mapping, list(row)), row)


NAME = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@settings(deadline=None)
@given(NAME, NAME, st.text(st.characters(exclude_characters='\\"{}', exclude_categories=["Cs"])))
def test_a_placeholder_that_is_not_closed_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"q": "a", "a": "b"}\n')
    [error] = read([str(path)], mapping=parse_map('user="Q: {q",assistant=a')).errors()
    assert (error.code, "'{q'" in error.message) == ("invalid_map", True)
    result = read([str(path)], mapping=parse_map('user="Q: {q} {{x",assistant=a'))
    assert result.conversations[0].messages[0].content == "Q: a {x"


def test_columns_and_constants_come_back_as_written(user: str, assistant: str, text: str) -> None:
    mapping = parse_map(f'user={user},assistant={assistant},system="{text}"')
    row = {user: "u", assistant: "a"}
    if user != assistant and '"' + text + '"' not in row:
        assert mapped_fields(row, mapping) == {"user": "u", "assistant": "a", "system": text}


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_gives_a_mapping_or_an_error(text: str) -> None:
    with contextlib.suppress(BiddableError):
        mapping = parse_map(text)
        assert "assistant" in mapping or "messages" in mapping


def test_placeholders_are_filled_and_values_are_not_read_again() -> None:
    mapping = parse_map(r'user="Is {a} in {b}?\nSay {{yes}}.",assistant=c')
    fields = mapped_fields({"a": "{b}", "b": 7, "c": 0.5}, mapping)
    assert fields == {"user": "Is {b} in 7?\nSay {yes}.", "assistant": "0.5"}


def test_a_table_is_read_with_map(tmp_path: Path) -> None:
    path = tmp_path / "intents.csv"
    path.write_text("text,intent,shop\nwhere is it,order,a\nbye,end,b\n")
    mapping = parse_map(
        "user=text,assistant=intent,system='Name the intent, in one word.',group=shop"
    )
    result = read([str(path)], mapping=mapping)
    assert [[m.content for m in c.messages] for c in result.conversations] == [
        ["Name the intent, in one word.", "where is it", "order"],
        ["Name the intent, in one word.", "bye", "end"],
    ]
    assert [c.group for c in result.conversations] == ["a", "b"]


def test_a_column_of_messages_can_be_named(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "x", "completion": "y", "chat": json.dumps(messages)}))
    result = read([str(path)], mapping={"messages": "chat"})
    assert [m.content for m in result.conversations[0].messages] == ["u", "a"]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("user=text", "no column for the assistant"),
        ("user=text,asistant=intent", "no field 'asistant'"),
        ("user", "cannot be read"),
        ("user=a,user=b,assistant=c", "cannot be read"),
        ("", "no column"),
    ],
)
def test_a_wrong_map_is_explained(text: str, seen: str) -> None:
    with pytest.raises(BiddableError, match=seen):
        parse_map(text)


@pytest.mark.parametrize("source", ["txt", '"{txt}"', "see {txt}"])
def test_a_missing_column_is_told_with_the_nearest_name(tmp_path: Path, source: str) -> None:
    path = tmp_path / "intents.csv"
    path.write_text("text,intent\nu,a\n")
    [finding] = read([str(path)], mapping={"user": source, "assistant": "intent"}).errors()
    assert finding.code == "missing_column"
    assert "Did you mean 'text'?" in finding.fix


CELL = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(st.characters(exclude_characters="\\"), max_size=8), CELL, min_size=1)
)
def test_an_object_of_cells_reads_back_as_the_cells(row: dict[str, object]) -> None:
    names = [name for name in row if '"' not in name and name]
    quoted = ",".join(f'"{name}"' for name in names) or "none"
    mapping = parse_map(f"user=mail,assistant=json:{quoted}")
    row = {**row, "mail": "m"}
    blank = {name for name in names if row[name] is None or str(row[name]).strip() == ""}
    if not names or blank == set(names):
        with pytest.raises(BiddableError):
            mapped_fields(row, mapping)
        return
    text = mapped_fields(row, mapping)["assistant"]
    expected = {name: None if name in blank else row[name] for name in names}
    assert json.loads(text) == expected
    assert list(json.loads(text)) == names
    assert set(empty_columns(row, mapping)) == {name for name in blank if row[name] is not None}


def test_an_object_of_all_other_columns_leaves_out_what_is_mapped() -> None:
    mapping = parse_map('user="{a}: {b}",assistant=json:*,group=c')
    row = {"": "7", "a": "1", "b": "2", "c": "3", "d": "4", "e": 5}
    assert mapped_fields(row, mapping)["assistant"] == '{"d": "4", "e": 5}'


@pytest.mark.parametrize("cell", ['say "no"', "two\nlines", "C:\\new", 'x", "more": "y'])
def test_a_template_of_json_that_a_cell_breaks_is_refused(cell: str) -> None:
    mapping = parse_map("""user=mail,assistant='{{"reply": "{reply}", "n": {n}}}'""")
    whole = mapped_fields({"mail": "m", "reply": "yes", "n": 1}, mapping)["assistant"]
    assert json.loads(whole) == {"reply": "yes", "n": 1}
    with pytest.raises(BiddableError, match="the JSON of --map") as caught:
        mapped_fields({"mail": "m", "reply": cell, "n": 1}, mapping)
    assert "json:" in caught.value.finding.fix
    assert empty_columns({"mail": "m", "reply": "", "n": 1}, mapping) == ["reply"]
    plain = parse_map('user=mail,assistant="[{reply}]"')
    assert mapped_fields({"mail": "m", "reply": cell}, plain)["assistant"] == f"[{cell}]"


def test_empty_cells_of_an_object_are_told_once_and_unknown_columns_with_the_nearest(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text('Mail,Queue,Reply\nm1,,"say ""no"""\nm2,,r2\nm3,q3,\nm4,,\n')
    result = read([str(path)], mapping=parse_map("user=Mail,assistant=json:Queue,Reply"))
    assert json.loads(result.conversations[0].messages[1].content) == {
        "Queue": None,
        "Reply": 'say "no"',
    }
    assert [(f.code, f.line, f.severity) for f in result.findings] == [
        ("empty_cell", 5, "error"),
        ("empty_cell", 2, "warning"),
        ("empty_cell", 4, "warning"),
    ]
    assert [f.count for f in result.findings] == [1, 2, 1]
    assert "'Queue'" in result.findings[1].message
    result = read([str(path)], mapping=parse_map("user=Mail,assistant=json:Queu,Reply"))
    assert "'Queue'" in result.errors()[0].fix


def test_columns_with_a_meaning_that_the_map_does_not_name_are_named_as_unused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("q,a,loss,system,weight,functions\nu,b,0.31,s,7,f\n")
    result = read([str(path)], mapping=parse_map("user=q,assistant=a"))
    assert [m.weight for m in result.conversations[0].messages] == [None, None]
    unused = " ".join(f.message for f in result.findings)
    assert all(repr(name) in unused for name in ("loss", "system", "weight", "functions"))
    with pytest.raises(BiddableError, match="no column ''"):
        mapped_fields({"q": "u", "a": "b"}, parse_map('user="{} {q}",assistant=a'))


@pytest.mark.parametrize(
    "text", ["assistant=json:", "assistant=a,weight=json:b", "messages=json:a"]
)
def test_an_object_needs_columns_and_a_field_of_text(text: str) -> None:
    with pytest.raises(BiddableError, match="json:"):
        parse_map(text)
