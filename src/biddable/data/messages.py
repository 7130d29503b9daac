"""Raw messages to the records of conversation.py, with the checks that every format shares.

The finding codes follow OpenAI's fine-tuning cookbook where it has a name for the fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from biddable.data.conversation import Message
from biddable.data.plain_text import check_value, checked_text, is_nothing
from biddable.data.rows import kind, shown, suggestion
from biddable.data.tool_calls import take_calls, written_calls
from biddable.errors import BiddableError

WRITTEN_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bard", "bot", "chatbot", "model", "ai"),
    "tool": ("tool", "function", "observation", "tool_response", "tool_result", "ipython"),
}
# Turns that are nothing but a call: of ShareGPT and LLaMA-Factory, and of ms-swift.
CALL_ROLES = ("function_call", "tool_call")
ROLES = {name: role for role, names in WRITTEN_ROLES.items() for name in names}
ROLES.update(dict.fromkeys(CALL_ROLES, "assistant"))
ALIASES = {"from": "role", "value": "content"}
# Whether a turn is trained: of ms-swift, and of axolotl in its documentation.
FLAGS = ("loss", "train")
# Keys by which yet other tools say it, each with a meaning of its own: never guessed.
OTHER_FLAGS = re.compile(r"(?:do_)?(?:loss|train|mask|ignore|weight)\w*", re.IGNORECASE)
READ_KEYS = ("role", "content", *ALIASES, "weight", *FLAGS)
# What templates print under these names; anything else is handed on with a warning.
EXTRA_KEYS = ("name", "tool_call_id", "reasoning_content", "thinking", "reasoning")
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

Fields = dict[str, Any]


def to_messages(raw: Sequence[object], unread: list[str], first: int = 0) -> list[Message]:
    """Checks and converts raw messages: dicts with `role` and `content`, or `from` and `value`.

    Args:
        raw: in order.
        unread: gets the name of each key with a value that only a template might print.
        first: the turn of the first one, 1 if a system prompt will stand before them.

    Raises:
        BiddableError: with the code, the turn and the fix of the first fault.
    """
    messages: list[Message] = []
    for turn, item in enumerate(raw, start=first):
        try:
            message = _message(item, unread)
        except BiddableError as error:
            raise BiddableError.of(replace(error.finding, turn=turn)) from None
        if messages and _goes_on(item, messages[-1], message):
            calls = [*messages[-1].extra.get("tool_calls", []), *message.extra["tool_calls"]]
            messages[-1] = replace(messages[-1], extra={**messages[-1].extra, "tool_calls": calls})
        else:
            messages.append(message)
    if not messages:
        raise BiddableError(
            "missing_messages_list",
            "The list of messages is empty.",
            "Give at least a user and an assistant message.",
        )
    if not any(message.role == "assistant" for message in messages):
        raise BiddableError(
            "example_missing_assistant_message",
            "The row has no assistant message, so there is nothing to learn.",
            "Add the answer, or remove the row.",
        )
    return messages


def written_role(item: object) -> str:
    """The role that a raw message names, in small letters; an empty text where it names none."""
    role = _renamed(item).get("role") if isinstance(item, dict) else None
    return role.strip().casefold() if isinstance(role, str) else ""


def _goes_on(item: object, before: Message, message: Message) -> bool:
    """Whether a turn of ms-swift's role tool_call belongs to the answer before it: several calls
    at once, or a call behind a text."""
    same = before.role == "assistant" and before.weight == message.weight
    return written_role(item) == "tool_call" and same and message.extra.keys() == {"tool_calls"}


def _message(item: object, unread: list[str]) -> Message:
    if not isinstance(item, dict):
        raise BiddableError(
            "data_type",
            f"The message is {kind(item)}, not an object.",
            'Write it as {"role": ..., "content": ...}.',
        )
    fields = _renamed(item)
    role = _role(fields.pop("role", None))
    value = fields.pop("content", None)
    if written_role(item) in CALL_ROLES:
        calls, value = [*written_calls(value), *take_calls(fields)], ""
    else:
        calls = take_calls(fields)
    if value is None and role == "assistant":
        # What OpenAI writes instead of a content where the model declines.
        value = fields.pop("refusal", None)
    content = _content(value, role, bool(calls), unread)
    weight = _trained(fields, _weight(fields.pop("weight", None), role), role)
    if role == "assistant" and not content.strip() and not calls and weight != 0:
        raise BiddableError(
            "empty_assistant",
            "The assistant message is empty.",
            "Write the answer, remove the row, or give the message weight 0.",
        )
    unread += (k for k, v in fields.items() if k not in EXTRA_KEYS and not is_nothing(v))
    extra = {**fields, "tool_calls": calls} if calls else fields
    check_value(extra)
    return Message(role, content, weight, extra)


def _renamed(item: Fields) -> Fields:
    """The fields of a message under their usual names, without those that are null."""
    fields: Fields = {}
    for key, value in item.items():
        folded = str(key).strip().casefold()
        name = ALIASES.get(folded, folded) if folded in READ_KEYS else key
        if value is None or fields.setdefault(name, value) in (value,):
            continue
        raise BiddableError(
            "data_type",
            f"The message has two values for its {name}.",
            f"Keep one of {name!r} and {key!r}.",
        )
    return fields


def _role(written: object) -> str:
    if written is None:
        raise BiddableError(
            "message_missing_key",
            "The message has no role.",
            'Give each message a "role": system, user, assistant or tool.',
        )
    name = written.strip().casefold() if isinstance(written, str) else ""
    if name in ROLES:
        return ROLES[name]
    raise BiddableError(
        "unrecognized_role",
        f"The role {shown(written)} is not known.",
        suggestion(name, ROLES, "Use system, user, assistant or tool."),
    )


def _content(value: object, role: str, calls: bool, unread: list[str]) -> str:
    if isinstance(value, list):
        value = "".join(_part(part, unread) for part in value)
    if value is None and calls:
        return ""
    if value is None:
        raise BiddableError(
            "empty_assistant" if role == "assistant" else "missing_content",
            f"The {role} message has no content.",
            "Write its text, or remove the row.",
        )
    return checked_text(value, "The content")


def _part(part: object, unread: list[str]) -> str:
    """The text of one part of a content list; a picture or a sound cannot be learned from."""
    if isinstance(part, str):
        return part
    what = kind(part)
    if isinstance(part, dict):
        key = TEXT_PARTS.get(str(part.get("type", "text")), "")
        if isinstance(part.get(key), str):
            others = (k for k, v in part.items() if k not in ("type", key) and not is_nothing(v))
            unread += (f"content.{other}" for other in others)
            return str(part[key])
        what = shown(part["type"]) if part.get("type") and not key else what
    raise BiddableError(
        "content_not_text",
        f"A part of the content is {what}, not text.",
        "Only text can be trained on; remove the part or the row.",
    )


def _weight(value: object, role: str) -> float | None:
    number = None if value is None else weight_of(value)
    if role == "assistant" or not number:
        return number if role == "assistant" else None
    raise BiddableError(
        "weight_invalid",
        f"A {role} message has weight {number:g}.",
        "Weights belong on assistant messages; remove it.",
    )


def _trained(fields: Fields, weight: float | None, role: str) -> float | None:
    """The weight of a message after its flags: `"loss": false` is weight 0.

    Raises:
        BiddableError: `weight_invalid`, a flag is none, contradicts the weight, or wants what is
            not possible: only a part of a turn, or another role's text.
    """
    what = ""
    for key in FLAGS:
        flag = fields.pop(key, None)
        if is_nothing(flag):
            continue
        word = flag.strip().casefold() if isinstance(flag, str) else flag
        trained = word == "true" if word in ("true", "false") else word
        if trained not in (True, False):
            what = f"{key!r} is {shown(flag)}, not true or false."
        elif trained and role != "assistant":
            what = f"A {role} message has {key!r} true."
        elif weight is not None and bool(weight) != trained:
            what = f"The message has weight {weight:g} and {key!r} {shown(flag)}."
        elif not trained and role == "assistant":
            weight = 0.0
    for key, value in fields.items():
        if OTHER_FLAGS.fullmatch(key) and not is_nothing(value):
            what = f"The message has {shown(key)}, which may say what of it is trained."
    if not what:
        return weight
    raise BiddableError(
        "weight_invalid",
        what,
        'Only whole answers are trained or not; give those that are not "weight": 0.',
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
            "weight_invalid",
            f"The weight {shown(value)} is not a number of 0 or more.",
            "Use 0 for context, 1 for an ordinary answer. Negative weights are not supported.",
            turn=turn,
        )
    return number
