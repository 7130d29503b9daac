"""The repaired copy: reads back as the same, and touches nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.conversation import Conversation, Message
from biddable.data.fix import write_fixed
from biddable.data.leftovers import with_plain_line_ends
from biddable.data.readers import read
from biddable.errors import BiddableError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ANSWER = TEXT.filter(lambda text: text.strip() != "")
ARGUMENTS = st.dictionaries(
    TEXT, st.one_of(st.integers(), TEXT, st.booleans(), st.none()), max_size=3
)
CALLS = st.builds(
    lambda name, arguments: [
        {"type": "function", "function": {"name": name, "arguments": arguments}}
    ],
    TEXT,
    ARGUMENTS,
)
MESSAGES = st.lists(
    st.one_of(
        st.builds(Message, st.sampled_from(["system", "user", "tool"]), TEXT),
        st.builds(Message, st.just("assistant"), ANSWER, st.one_of(st.none(), st.floats(0, 10))),
        st.builds(lambda c: Message("assistant", "", None, {"tool_calls": c}), CALLS),
    ),
    max_size=6,
)
CONVERSATIONS = st.builds(
    lambda before, answer, group, tools: Conversation(
        [*before, answer], group=group, tools=[{"name": name} for name in tools]
    ),
    MESSAGES,
    st.builds(Message, st.just("assistant"), ANSWER),
    st.one_of(st.none(), ANSWER),
    st.lists(TEXT, max_size=2),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(CONVERSATIONS, min_size=1, max_size=5, unique_by=lambda c: repr(c.messages)))
def test_what_is_written_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, conversations: list[Conversation]
) -> None:
    path = tmp_path_factory.mktemp("fixed") / "fixed.jsonl"
    counts = write_fixed(conversations, str(path))
    result = read([str(path)])
    assert not result.errors()
    assert len(result.conversations) == counts["written"]
    if not counts["duplicates_removed"] and not counts["rows_without_value_removed"]:
        conversations = list(map(with_plain_line_ends, conversations))
        pairs = zip(result.conversations, conversations, strict=True)
        for again, given_one in pairs:
            assert again.messages == given_one.messages
            assert (again.group, again.tools) == (given_one.group, tuple(given_one.tools))


def test_bad_rows_duplicates_and_trailing_turns_are_left_out(tmp_path: Path) -> None:
    source = tmp_path / "data.jsonl"
    good = {"user": "u", "assistant": "a"}
    rows = [good, {"user": "u"}, good]
    messages = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": messages}]))
    before = source.read_bytes()
    target = tmp_path / "fixed.jsonl"
    counts = write_fixed(read([str(source)]).conversations, str(target))
    counts = {name: count for name, count in counts.items() if count}
    assert counts == {"written": 2, "duplicates_removed": 1, "trailing_messages_removed": 1}
    assert source.read_bytes() == before
    result = read([str(target)])
    assert result.format == "OpenAI messages"
    assert not result.findings
    assert [len(c.messages) for c in result.conversations] == [2, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "fixed.jsonl"]


def test_no_file_is_ever_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "there.jsonl"
    target.write_text("mine")
    with pytest.raises(BiddableError, match="exists"):
        write_fixed([], str(target))
    assert target.read_text() == "mine"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BiddableError, match="cannot be written"):
        write_fixed([], str(tmp_path / "none" / "out.jsonl"))


def test_rows_that_differ_in_weights_or_tools_only_are_no_repeats(tmp_path: Path) -> None:
    said = [Message("user", "u"), Message("assistant", "a")]
    rows = [
        Conversation(said),
        Conversation([said[0], Message("assistant", "a", 0.5)]),
        Conversation(said, tools=({"name": "n"},)),
    ]
    path = tmp_path / "fixed.jsonl"
    assert write_fixed([*rows, *rows], str(path))["written"] == 3
    again = read([str(path)]).conversations
    assert [(c.messages, c.tools) for c in again] == [(c.messages, c.tools) for c in rows]
