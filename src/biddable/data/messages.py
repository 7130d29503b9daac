"""Raw messages to the records of conversation.py, with the checks that every format shares.

The finding codes follow OpenAI's fine-tuning cookbook where it has a name for the fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from biddable.data.conversation import Message
from biddable.data.findings import BiddableError
from biddable.data.rows import kind, parsed, shown, suggestion

WRITTEN_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bard", "bot", "model", "function_call"),
    "tool": ("tool", "function", "observation"),
}
ROLES = {name: role for role, names in WRITTEN_ROLES.items() for name in names}
ALIASES = {"from": "role", "value": "content"}
EXTRA_KEYS = ("weight", "name", "tool_calls", "tool_call_id", "reasoning_content")
KNOWN_KEYS = frozenset(("role", "content", *ALIASES, *EXTRA_KEYS))
# The deepest tool call in the wild has about ten levels; a template walks them by recursion.
MOST_DEPTH = 50


def to_messages(raw: Sequence[object], first: int = 0) -> list[Message]:
    """Checks and converts raw messages: dicts with `role` and `content`, or `from` and `value`.

    Args:
        raw: in order.
        first: the turn of the first one, 1 if a system prompt will stand before them.

    Raises:
        BiddableError: with the code, the turn and the fix of the first fault.
    """
    messages = []
    for turn, item in enumerate(raw, start=first):
        try:
            messages.append(_message(item))
        except BiddableError as error:
            raise BiddableError.of(replace(error.finding, turn=turn)) from None
    if not messages:
        raise BiddableError(
            "The list of messages is empty.",
            fix="Give at least a user and an assistant message.",
            code="missing_messages_list",
        )
    if not any(message.role == "assistant" for message in messages):
        raise BiddableError(
            "The row has no assistant message, so there is nothing to learn.",
            fix="Add the answer, or remove the row.",
            code="example_missing_assistant_message",
        )
    return messages


def _message(item: object) -> Message:
    if not isinstance(item, dict):
        raise BiddableError(
            f"The message is {kind(item)}, not an object.",
            fix='Write it as {"role": ..., "content": ...}.',
            code="data_type",
        )
    fields: dict[str, Any] = {str(ALIASES.get(k, k)): v for k, v in item.items() if v is not None}
    role = _role(fields.get("role"))
    if fields["role"] == "function_call":
        fields = {**fields, "content": "", "tool_calls": _function_call(fields.get("content"))}
    calls = _tool_calls(fields.get("tool_calls"))
    content = _content(fields.get("content"), role, bool(calls))
    weight = _weight(fields.get("weight"), role)
    if role == "assistant" and not content.strip() and not calls and weight != 0:
        raise BiddableError(
            "The assistant message is empty.",
            fix="Write the answer, remove the row, or give the message weight 0.",
            code="empty_assistant",
        )
    if len(fields) == 2 and not calls:
        return Message(role, content, weight)
    read = ("role", "content", "weight", "tool_calls")
    extra = {k: v for k, v in fields.items() if k not in read}
    if calls:
        extra["tool_calls"] = calls
    check_value(extra)
    return Message(role, content, weight, extra)


def _role(written: object) -> str:
    if written is None:
        raise BiddableError(
            "The message has no role.",
            fix='Give each message a "role": system, user, assistant or tool.',
            code="message_missing_key",
        )
    role = ROLES.get(written) if isinstance(written, str) else None
    if role is not None:
        return role
    likely = str(written)[:40].strip().lower()
    raise BiddableError(
        f"The role {shown(written)} is not known.",
        fix=suggestion(likely, ROLES, "Use system, user, assistant or tool."),
        code="unrecognized_role",
    )


def _content(value: object, role: str, calls: bool) -> str:
    if isinstance(value, list):
        value = "".join(map(_part, value))
    if value is None and calls:
        return ""
    if value is None:
        raise BiddableError(
            f"The {role} message has no content.",
            fix="Write its text, or remove the row.",
            code="empty_assistant" if role == "assistant" else "missing_content",
        )
    return checked_text(value, "The content")


def _part(part: object) -> str:
    """The text of one part of a content list; a picture or a sound cannot be learnt from."""
    if isinstance(part, str):
        return part
    what = kind(part)
    if isinstance(part, dict):
        text, given = part.get("text"), part.get("type", "text")
        if given == "text" and isinstance(text, str):
            return text
        what = shown(part["type"]) if part.get("type") else what
    raise BiddableError(
        f"A part of the content is {what}, not text.",
        fix="Only text can be trained on; remove the part or the row.",
        code="content_not_text",
    )


def _weight(value: object, role: str) -> float | None:
    number = None if value is None else weight_of(value)
    if role == "assistant" or not number:
        return number if role == "assistant" else None
    raise BiddableError(
        f"A {role} message has weight {number:g}.",
        fix="Weights belong on assistant messages; remove it.",
        code="weight_invalid",
    )


def weight_of(value: object, turn: int | None = None) -> float:
    """A finite number of 0 or more as a float, also from the text of a table's cell; all else is
    refused."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or number < 0:
        raise BiddableError(
            f"The weight {shown(value)} is not a number of 0 or more.",
            fix="Use 0 for context, 1 for an ordinary answer. Negative weights are not supported.",
            code="weight_invalid",
            turn=turn,
        )
    return number


def _function_call(value: object) -> list[Any]:
    """The tool calls of a ShareGPT `function_call` turn, whose value is JSON text."""
    call = parsed(value) if isinstance(value, str) else None
    calls = call if isinstance(call, list) else [call]
    if all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        return [{"type": "function", "function": c} for c in calls]
    raise BiddableError(
        "The function call is not JSON with a name and arguments.",
        fix='Write its value as {"name": ..., "arguments": {...}}.',
        code="tool_calls_invalid",
    )


def _tool_calls(value: object) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects, as chat templates and servers handle them."""
    if isinstance(value, str):
        value = parsed(value)
    if value is None or value == []:
        return []
    if isinstance(value, list) and all(isinstance(call, dict) for call in value):
        return [_tool_call(call) for call in value]
    raise BiddableError(
        f"tool_calls is {kind(value)}, not a list of objects.",
        fix='Write it as [{"type": "function", "function": {"name": ..., "arguments": ...}}].',
        code="tool_calls_invalid",
    )


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BiddableError(
            "A tool call names no function.",
            fix='Give it "function": {"name": ..., "arguments": ...}.',
            code="tool_calls_invalid",
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = parsed(arguments or "{}")
    if not isinstance(arguments, dict):
        raise BiddableError(
            f"The arguments of {function['name'][:40]!r} are not a JSON object.",
            fix='Write them as {"name": value, ...}, or as the JSON text of that.',
            code="tool_calls_invalid",
        )
    return {**call, "function": {**function, "arguments": arguments}}


def checked_text(value: object, what: str = "The text") -> str:
    """A value that is a text which a tokenizer can encode; all else is refused."""
    if not isinstance(value, str):
        raise BiddableError(
            f"{what} is {kind(value)}, not text.",
            fix="Put it in quotes, as a JSON string.",
            code="content_not_text",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BiddableError(
            f"The text holds half of a surrogate pair at character {error.start + 1}.",
            fix="An emoji was cut in two or the file is not UTF-8; correct the text.",
            code="invalid_text",
        ) from None
    return value


def check_value(value: object) -> None:
    """Refuses a nested JSON value with a text that is none, or too deep; without recursion."""
    todo: list[tuple[object, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > MOST_DEPTH:
            raise BiddableError(
                f"A field of the message is nested over {MOST_DEPTH} levels deep.",
                fix="Flatten it, or remove the row.",
                code="invalid_json",
            )
        if isinstance(item, str):
            checked_text(item)
        elif isinstance(item, dict):
            todo += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            todo += [(part, depth + 1) for part in item]
