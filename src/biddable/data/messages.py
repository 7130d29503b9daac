"""Raw messages to the records of conversation.py, with the checks that every format shares.

The finding codes follow OpenAI's fine-tuning cookbook where it has a name for the fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from biddable.data.content_parts import Notes, answer_parts, text_of, without_results
from biddable.data.conversation import Message
from biddable.data.rows import Fields, check_value, is_nothing, kind, shown
from biddable.data.tool_calls import take_calls, written_calls
from biddable.errors import BiddableError, suggestion

WRITTEN_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bard", "bot", "chatbot", "model", "ai"),
    "tool": ("tool", "function", "observation", "tool_response", "tool_result", "ipython"),
}
# Turns that are nothing but a call: of ShareGPT and LLaMA-Factory, and of ms-swift.
CALL_ROLES = ("function_call", "tool_call")
ROLES = dict.fromkeys(CALL_ROLES, "assistant") | {
    name: role for role, names in WRITTEN_ROLES.items() for name in names
}
ALIASES = {"from": "role", "value": "content", "parts": "content"}
# Whether a turn or a row is trained: of ms-swift, and of axolotl in its documentation.
FLAGS = ("loss", "train")
FLAG_VALUES = {"true": True, "false": False, "1": True, "0": False}
# Keys by which yet other tools say it, each with a meaning of its own: never guessed.
OTHER_FLAGS = re.compile(
    r"(?:(?:do|sample|example|row)_)?(?:loss|train|mask|ignore|weight)\w*", re.IGNORECASE
)
# The sum of larger ones would be no number in fp32.
MOST_WEIGHT = 1_000_000
READ_KEYS = ("role", "content", *ALIASES, "weight", *FLAGS)
# Fields that templates print; any other is passed to the template with a warning.
EXTRA_KEYS = ("name", "tool_call_id", "reasoning_content", "thinking", "reasoning")


def to_messages(
    raw: Sequence[object], notes: Notes, first: int = 0, row_weight: float | None = None
) -> list[Message]:
    """Checks and converts raw messages: dicts with `role` and `content`, or `from` and `value`.

    Args:
        raw: in order.
        notes: gets each key with a value that only a template might print, and each number that was
            read as text.
        first: the turn of the first one, 1 if a system prompt will stand before them.
        row_weight: of the answers that have no weight or flag of their own.

    Raises:
        BiddableError: with the code, the turn and the fix of the first fault.
    """
    messages: list[Message] = []
    for turn, item in enumerate(raw, start=first):
        try:
            for fields in _turns(item, notes):
                more_calls = _role_name(fields) == "tool_call"
                message = _message(fields, notes, row_weight)
                if more_calls and messages and _goes_on(messages[-1], message):
                    message = _joined(messages.pop(), message)
                messages.append(message)
        except BiddableError as error:
            raise BiddableError.of(replace(error.finding, turn=turn)) from None
    if not messages:
        fix = "Give at least a user and an assistant message."
        raise BiddableError("missing_messages_list", "The list of messages is empty.", fix)
    if not any(message.role == "assistant" for message in messages):
        what = "The row has no assistant message, so there is nothing to learn."
        fix = "Add the answer, or remove the row."
        raise BiddableError("example_missing_assistant_message", what, fix)
    return messages


def written_role(item: object) -> str:
    """The role that a raw message names, in small letters; an empty text where it names none."""
    return _role_name(_renamed(item)) if isinstance(item, dict) else ""


def _role_name(fields: Fields) -> str:
    role = fields.get("role")
    return role.strip().casefold() if isinstance(role, str) else ""


def _turns(item: object, notes: Notes) -> Sequence[Fields]:
    if not isinstance(item, dict):
        fix = 'Write it as {"role": ..., "content": ...}.'
        raise BiddableError("data_type", f"The message is {kind(item)}, not an object.", fix)
    fields = _renamed(item)
    return without_results(fields, notes) if ROLES.get(_role_name(fields)) == "user" else [fields]


def _goes_on(before: Message, message: Message) -> bool:
    """Whether a turn of ms-swift's role tool_call belongs to the answer before it: several calls
    at once, or a call behind a text."""
    same = before.role == "assistant" and before.weight == message.weight
    return same and message.extra.keys() == {"tool_calls"}


def _joined(before: Message, message: Message) -> Message:
    calls = [*before.extra.get("tool_calls", []), *message.extra["tool_calls"]]
    return replace(before, extra={**before.extra, "tool_calls": calls})


def _message(fields: Fields, notes: Notes, row_weight: float | None) -> Message:
    name = _role_name(fields)
    role = _role(fields.pop("role", None))
    value = fields.pop("content", None)
    calls: list[Fields] = []
    if name in CALL_ROLES:
        calls, value = written_calls(value), ""
    elif role == "assistant" and isinstance(value, list):
        value, calls = answer_parts(value, fields, notes)
    calls += take_calls(fields)
    if value is None and role == "assistant":
        # What OpenAI writes instead of a content where the model declines.
        value = fields.pop("refusal", None)
    content = text_of(value, role, bool(calls), notes)
    weight = take_weight(fields, role, row_weight)
    for key in fields:
        if OTHER_FLAGS.fullmatch(key) and not is_nothing(fields[key]):
            raise _weight_invalid(f"The message has {shown(key)}, which may say what is trained.")
    if role == "assistant" and not content.strip() and not calls and weight != 0:
        fix = "Write the answer, remove the row, or give the message weight 0."
        raise BiddableError("empty_assistant", "The assistant message is empty.", fix)
    unread = (k for k, v in fields.items() if k not in EXTRA_KEYS and not is_nothing(v))
    notes += (("message", key) for key in unread)
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
        what = f"The message has two values for its {name}."
        raise BiddableError("data_type", what, f"Keep one of {name!r} and {key!r}.")
    return fields


def _role(written: object) -> str:
    if written is None:
        fix = 'Give each message a "role": system, user, assistant or tool.'
        raise BiddableError("message_missing_key", "The message has no role.", fix)
    name = written.strip().casefold() if isinstance(written, str) else ""
    if name in ROLES:
        return ROLES[name]
    fix = suggestion(name, ROLES, "Use system, user, assistant or tool.")
    raise BiddableError("unrecognized_role", f"The role {shown(written)} is not known.", fix)


def take_weight(fields: Fields, role: str, row_weight: float | None = None) -> float | None:
    """Takes weight and flags out of a message, or of a row; `"loss": false` is weight 0.

    Args:
        fields: of the message or the row.
        role: whose text it is; only answers are trained.
        row_weight: the weight of a message without one.

    Raises:
        BiddableError: `weight_invalid`, a weight or flag is malformed, they contradict each other,
            or another role's text is to be trained.
    """
    number = fields.pop("weight", None)
    weight = None if number in (None, "") else weight_of(number)
    flags: dict[str, bool | None] = {}
    for key in FLAGS:
        flag = fields.pop(key, None)
        if is_nothing(flag):
            continue
        fraction = isinstance(flag, float) and flag not in (0, 1)
        word = "" if fraction else str(flag).strip().casefold().removesuffix(".0")
        if word not in FLAG_VALUES:
            raise _weight_invalid(f"{key!r} is {shown(flag)}, not true or false.")
        flags[key] = FLAG_VALUES[word]
    if role != "assistant" and (weight or True in flags.values()):
        raise _weight_invalid(f"A {role} message has weight {weight or 1:g}.")
    says = {*flags.values(), *([bool(weight)] if weight is not None else [])}
    if len(says) > 1:
        raise _weight_invalid(f"Weight {number!r} and {flags} contradict each other.")
    if role != "assistant":
        return None
    if weight is not None or not flags:
        return row_weight if weight is None else weight
    return (row_weight or None) if True in says else 0.0


def _weight_invalid(what: str) -> BiddableError:
    fix = 'Only whole answers are trained or not: give them "weight": 0 or 1, or rename the key.'
    return BiddableError("weight_invalid", what, fix)


def weight_of(value: object, turn: int | None = None) -> float:
    """A number from 0 to MOST_WEIGHT as a float, also from the text of a table's cell; all else is
    refused."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= MOST_WEIGHT:
        what = f"The weight {shown(value)} is not a number from 0 to {MOST_WEIGHT:,}."
        fix = "Use 0 for context, 1 for an ordinary answer. Negative weights are not supported."
        raise BiddableError("weight_invalid", what, fix, turn=turn)
    return number
