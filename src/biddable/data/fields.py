"""What a row of any format may carry beside its messages: system, weight, tools and group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from biddable.data.conversation import Message
from biddable.data.findings import BiddableError
from biddable.data.messages import check_value, checked_text, weight_of
from biddable.data.rows import kind, parsed

Fields = Mapping[str, Any]


def with_system(fields: Fields, messages: list[Message], default: str | None) -> list[Message]:
    """The messages behind the row's own system prompt, or the run's where there is none."""
    has_one = messages[0].role == "system"
    own = fields.get("system")
    if own in (None, ""):
        return [Message("system", default), *messages] if default and not has_one else messages
    own = checked_text(own, "'system'")
    if has_one:
        raise BiddableError(
            "The row has a system prompt of its own and a system message.",
            fix="Keep one of the two.",
            code="two_system_prompts",
        )
    return [Message("system", own), *messages]


def weighted(fields: Fields, messages: list[Message]) -> list[Message]:
    """The messages with the row's weight on each answer that has none of its own."""
    if fields.get("weight") in (None, ""):
        return messages
    weight = weight_of(fields["weight"])
    return [
        replace(m, weight=weight) if m.role == "assistant" and m.weight is None else m
        for m in messages
    ]


def tools_of(fields: Fields) -> Sequence[dict[str, Any]]:
    """The row's tool schemas, also where they are stored as JSON text."""
    value = fields.get("tools")
    value = parsed(value) if isinstance(value, str) and value else value
    if value in (None, "", []):
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BiddableError(
            f"'tools' is {kind(value)}, not a list of objects.",
            fix='Write it as [{"type": "function", "function": {...}}].',
            code="tools_invalid",
        )
    check_value(value)
    return tuple(value)


def group_of(*values: object) -> str | None:
    """The first value that is one, as text: 7 of a JSON file and "7" of a table are one group."""
    own = next((value for value in values if value not in (None, "")), None)
    return own if own is None or isinstance(own, str) else json.dumps(own, default=str)
