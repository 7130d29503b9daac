"""`check --fix`: a repaired copy of the data in messages form; the input is never touched."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from biddable.data.conversation import Conversation, Message
from biddable.data.findings import BiddableError
from biddable.data.wording import digest


def write_fixed(conversations: Iterable[Conversation], path: str) -> dict[str, int]:
    """Writes the rows that could be read, repaired, as OpenAI messages; says what was changed.

    Repairs: rows that repeat an earlier one are left out, and so is what follows the last answer
    of a row, since it is never learnt. Rows with errors are not among `conversations` to begin
    with. The file appears under its name only when it is complete.

    Returns:
        Counts: `written`, `duplicates_removed`, `trailing_messages_removed`.

    Raises:
        BiddableError: the file exists, which it does where it is a source, or cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise BiddableError(
            "The file exists already.",
            fix="Give --fix the name of a new file; nothing is ever overwritten.",
            code="output_exists",
            file=path,
        )
    counts = Counter(written=0, duplicates_removed=0, trailing_messages_removed=0)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("x", encoding="utf-8", newline="\n") as stream:
            for row in _repaired(conversations, counts):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(target)
    except OSError as error:
        raise BiddableError(
            f"The file cannot be written: {error.strerror}.",
            fix="Check that the folder exists and that you may write there.",
            code="unwritable_file",
            file=path,
        ) from None
    return dict(counts)


def _repaired(
    conversations: Iterable[Conversation], counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The rows to write, which `read` reads back as the same conversations."""
    seen: set[bytes] = set()
    for conversation in conversations:
        messages = conversation.messages
        end = max(k for k, m in enumerate(messages, 1) if m.role == "assistant")
        counts["trailing_messages_removed"] += len(messages) - end
        key = digest(messages[:end])
        counts["duplicates_removed" if key in seen else "written"] += 1
        if key in seen:
            continue
        seen.add(key)
        yield as_row(replace(conversation, messages=messages[:end]))


def as_row(conversation: Conversation) -> dict[str, Any]:
    """A conversation as a row of OpenAI messages, which `read` reads back as it is."""
    row: dict[str, Any] = {"messages": [_message(message) for message in conversation.messages]}
    if conversation.tools:
        row["tools"] = list(conversation.tools)
    if conversation.group is not None:
        row["group"] = conversation.group
    return row


def _message(message: Message) -> dict[str, Any]:
    made = message.as_dict()
    if message.weight is not None:
        made["weight"] = message.weight
    if "tool_calls" in made:
        made["tool_calls"] = [_call(call) for call in made["tool_calls"]]
    return made


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as JSON text, as OpenAI's format has them."""
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
