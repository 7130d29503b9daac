"""`check --fix`: a repaired copy of the data in messages form; the input is never touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from biddable.data.conversation import Conversation, Message
from biddable.data.leftovers import has_no_value, with_plain_line_ends
from biddable.data.rows import Fields
from biddable.data.wording import digest
from biddable.storage import write_new

COUNTS = (
    "written",
    "duplicates_removed",
    "rows_without_value_removed",
    "trailing_messages_removed",
    "line_ends_changed",
)


def write_fixed(conversations: Iterable[Conversation], path: str) -> dict[str, int]:
    """Writes the rows that could be read, repaired, as OpenAI messages; says what was changed.

    Repairs: rows that repeat an earlier one or say `nan` are left out, and so is what follows the
    last answer of a row, since it is never learned; line ends become plain. No row with errors is
    in `conversations`. The file appears under its name only when it is complete.

    Returns:
        Counts by name; `written` is that of rows.
    """
    counts = Counter(dict.fromkeys(COUNTS, 0))
    rows = _repaired(conversations, counts)
    write_new(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return dict(counts)


def _repaired(conversations: Iterable[Conversation], counts: Counter[str]) -> Iterator[Fields]:
    """The rows to write, which `read` reads back as the same conversations."""
    seen: set[tuple[bytes, str]] = set()
    for original in conversations:
        conversation = with_plain_line_ends(original)
        messages = conversation.messages
        end = max(k for k, m in enumerate(messages, 1) if m.role == "assistant")
        # Rows that differ in what is trained or in their tools do not repeat each other.
        weights = [message.weight for message in messages[:end]]
        key = digest(messages[:end]), repr((weights, conversation.tools))
        if has_no_value(original) or key in seen:
            counts["duplicates_removed" if key in seen else "rows_without_value_removed"] += 1
            continue
        seen.add(key)
        counts["written"] += 1
        counts["trailing_messages_removed"] += len(messages) - end
        counts["line_ends_changed"] += messages[:end] != original.messages[:end]
        yield as_row(replace(conversation, messages=messages[:end]))


def as_row(conversation: Conversation) -> Fields:
    """A conversation as a row of OpenAI messages, which `read` reads back as it is."""
    row: Fields = {"messages": [_message(message) for message in conversation.messages]}
    if conversation.tools:
        row["tools"] = list(conversation.tools)
    if conversation.group is not None:
        row["group"] = conversation.group
    return row | conversation.origin


def _message(message: Message) -> Fields:
    row = message.as_dict()
    if message.weight is not None:
        row["weight"] = message.weight
    if "tool_calls" in row:
        row["tool_calls"] = [_call(call) for call in row["tool_calls"]]
    return row


def _call(call: Fields) -> Fields:
    """A tool call with its arguments as JSON text, as OpenAI's format has them."""
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
