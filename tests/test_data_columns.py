"""`--map`: what is written is what stands in the conversation."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.columns import mapped_fields, parse_map
from biddable.data.findings import BiddableError
from biddable.data.readers import read

NAME = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@settings(deadline=None)
@given(NAME, NAME, st.text(st.characters(exclude_characters='\\"{}', exclude_categories=["Cs"])))
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
