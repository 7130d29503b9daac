"""Raw messages to the records of conversation.py, with the checks that every format shares.

The finding codes follow OpenAI's fine-tuning cookbook where it has a name for the fault.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from biddable.data.conversation import Message
from biddable.data.findings import BiddableError
from biddable.data.rows import kind, shown
from biddable.data.tool_calls import called, tool_calls

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
ALIASES = {"from": "role", "value": "content"}
KNOWN_KEYS = frozenset(
    [
        "role",
        "content",
        "from",
        "value",
        "weight",
        "name",
        "tool_calls",
        "tool_call_id",
        "reasoning_content",
    ]
)
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
    if not raw:
        raise BiddableError(
            "The list of messages is empty.",
            fix="Give at least a user and an assistant message.",
            code="missing_messages_list",
        )
    messages = []
    for turn, item in enumerate(raw, start=first):
        message = _message(item, turn)
        messages.append(message)
    _check_whole(messages)
    return messages


def _message(item: object, turn: int) -> Message:
    if not isinstance(item, dict):
        raise BiddableError(
            f"The message is {kind(item)}, not an object.",
            fix='Write it as {"role": ..., "content": ...}.',
            code="data_type",
            turn=turn,
        )
    fields: dict[str, Any] = {str(ALIASES.get(k, k)): v for k, v in item.items() if v is not None}
    written = fields.get("role")
    role = _role(written, turn)
    if written == "function_call":
        fields = called(fields, turn)
    calls = tool_calls(fields.get("tool_calls"), turn)
    content = _content(fields.get("content"), role, bool(calls), turn)
    weight = _weight(fields.get("weight"), role, turn)
    if role == "assistant" and not content.strip() and not calls and weight != 0:
        raise BiddableError(
            "The assistant message is empty.",
            fix="Write the answer, remove the row, or give the message weight 0.",
            code="empty_assistant",
            turn=turn,
        )
    if len(fields) == 2:
        return Message(role, content, weight)
    extra = {k: v for k, v in fields.items() if k not in ("role", "content", "weight")}
    if calls:
        extra["tool_calls"] = calls
    else:
        extra.pop("tool_calls", None)
    check_value(extra, turn)
    return Message(role, content, weight, extra)


def _role(written: object, turn: int) -> str:
    if written is None:
        raise BiddableError(
            "The message has no role.",
            fix='Give each message a "role": system, user, assistant or tool.',
            code="message_missing_key",
            turn=turn,
        )
    role = ROLES.get(written) if isinstance(written, str) else None
    if role is not None:
        return role
    near = difflib.get_close_matches(str(written)[:40].strip().lower(), ROLES, 1)
    raise BiddableError(
        f"The role {shown(written)} is not known.",
        fix=f"Did you mean {near[0]!r}?" if near else "Use system, user, assistant or tool.",
        code="unrecognized_role",
        turn=turn,
    )


def _content(value: object, role: str, calls: bool, turn: int) -> str:
    if isinstance(value, str):
        content = value
    elif isinstance(value, list):
        content = "".join(_part(part, turn) for part in value)
    elif value is None and calls:
        return ""
    elif value is None:
        raise BiddableError(
            f"The {role} message has no content.",
            fix="Write its text, or remove the row.",
            code="empty_assistant" if role == "assistant" else "missing_content",
            turn=turn,
        )
    else:
        raise BiddableError(
            f"The content is {kind(value)}, not text.",
            fix="Put it in quotes, as a JSON string.",
            code="content_not_text",
            turn=turn,
        )
    check_text(content, turn)
    return content


def _part(part: object, turn: int) -> str:
    """The text of one part of a content list; a picture or a sound cannot be learnt from."""
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) else None
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(text, str):
        return text
    what = part.get("type") if isinstance(part, dict) else None
    raise BiddableError(
        f"A part of the content is {shown(what) if what else kind(part)}, not text.",
        fix="Only text can be trained on; remove the part or the row.",
        code="content_not_text",
        turn=turn,
    )


def _weight(value: object, role: str, turn: int) -> float | None:
    if value is None:
        return None
    number = weight_of(value, turn)
    if role == "assistant":
        return number
    if number == 0:
        return None
    raise BiddableError(
        f"A {role} message has weight {number:g}.",
        fix="Weights belong on assistant messages; remove it.",
        code="weight_invalid",
        turn=turn,
    )


def weight_of(value: object, turn: int | None = None) -> float:
    """A weight as a float: finite and not negative; text of a table cell is read as a number.

    Raises:
        BiddableError: it is anything else.
    """
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


def _check_whole(messages: Sequence[Message]) -> None:
    if not any(message.role == "assistant" for message in messages):
        raise BiddableError(
            "The row has no assistant message, so there is nothing to learn.",
            fix="Add the answer, or remove the row.",
            code="example_missing_assistant_message",
        )


def check_text(text: str, turn: int | None = None) -> None:
    """Refuses text that no tokenizer can encode.

    Raises:
        BiddableError: it holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BiddableError(
            f"The text holds half of a surrogate pair at character {error.start + 1}.",
            fix="An emoji was cut in two or the file is not UTF-8; correct the text.",
            code="invalid_text",
            turn=turn,
        ) from None


def check_value(value: object, turn: int | None = None) -> None:
    """Checks the texts in a nested JSON value, and its depth, without recursion.

    Raises:
        BiddableError: a text cannot be encoded, or the value is nested too deeply.
    """
    todo: list[tuple[object, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > MOST_DEPTH:
            raise BiddableError(
                f"A field of the message is nested over {MOST_DEPTH} levels deep.",
                fix="Flatten it, or remove the row.",
                code="invalid_json",
                turn=turn,
            )
        if isinstance(item, str):
            check_text(item, turn)
        elif isinstance(item, dict):
            todo += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            todo += [(part, depth + 1) for part in item]
