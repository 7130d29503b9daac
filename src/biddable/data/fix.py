"""`check --fix`: a repaired copy of the data in messages form; the input is never touched."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from biddable.data.conversation import Conversation, Message
from biddable.data.duplicates import digest
from biddable.data.findings import BiddableError


def write_fixed(
    conversations: Iterable[Conversation], path: str, sources: Iterable[str] = ()
) -> dict[str, int]:
    """Writes the rows that could be read, repaired, as OpenAI messages; says what was changed.

    Repairs: rows that repeat an earlier one are left out, and so is what follows the last answer
    of a row, since it is never learnt. Rows with errors are not among `conversations` to begin
    with. The file appears under its name only when it is complete.

    Args:
        conversations: as read.
        path: the file to write.
        sources: the files that were read, none of which may be the target.

    Returns:
        Counts: `written`, `duplicates_removed`, `trailing_messages_removed`.

    Raises:
        BiddableError: the file exists, is a source, or cannot be written.
    """
    target = Path(path)
    if target.exists() or any(_same(target, source) for source in sources):
        raise BiddableError(
            "The file exists already.",
            fix="Give --fix the name of a new file; nothing is ever overwritten.",
            code="output_exists",
            file=path,
        )
    counts: Counter[str] = Counter(written=0, duplicates_removed=0, trailing_messages_removed=0)
    seen: set[bytes] = set()
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("x", encoding="utf-8", newline="\n") as stream:
            for conversation in conversations:
                repaired = _without_trailing(conversation)
                counts["trailing_messages_removed"] += len(conversation.messages) - len(
                    repaired.messages
                )
                key = digest(repaired.messages)
                counts["duplicates_removed" if key in seen else "written"] += 1
                if key not in seen:
                    stream.write(json.dumps(as_row(repaired), ensure_ascii=False) + "\n")
                seen.add(key)
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


def _same(target: Path, source: str) -> bool:
    return target.exists() and Path(source).exists() and target.samefile(source)


def _without_trailing(conversation: Conversation) -> Conversation:
    answers = [k for k, m in enumerate(conversation.messages) if m.role == "assistant"]
    return replace(conversation, messages=conversation.messages[: answers[-1] + 1])


def as_row(conversation: Conversation) -> dict[str, Any]:
    """A conversation as a row of OpenAI messages, which `read` reads back as the same."""
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
