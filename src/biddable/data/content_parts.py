"""The content of a message: a text, or a list of parts in the forms of OpenAI and Anthropic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from biddable.data.rows import Fields, checked_text, is_nothing, kind, shown
from biddable.data.tool_calls import tool_call
from biddable.errors import BiddableError

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
# An answer in Anthropic's form; templates write thinking, text and calls in this order.
THINKING, TEXT, CALL = range(3)
ORDER = {"thinking": THINKING, "tool_use": CALL}

# Remarks on a message: a kind ("message", "part", "number") and a key or a value.
Notes = list[tuple[str, str]]


def text_of(value: object, role: str, calls: bool, notes: Notes) -> str:
    """The text of a content; a number or a truth value is its JSON text, which is noted.

    Args:
        value: as it stands in the message.
        role: whose it is.
        calls: the message has tool calls, so it need not have a text.
        notes: gets what of the parts is not read.
    """
    if isinstance(value, list):
        value = "".join(_part(part, notes) for part in value)
    if isinstance(value, int | float) and not is_nothing(value):
        notes.append(("number", json.dumps(value)))
        return json.dumps(value)
    if isinstance(value, str) or not (value is None or is_nothing(value)):
        return checked_text(value, "The content")
    if calls:
        return ""
    code = "empty_assistant" if role == "assistant" else "missing_content"
    what = f"The {role} message has no content."
    raise BiddableError(code, what, "Write its text, or remove the row.")


def _part(part: object, notes: Notes) -> str:
    """The text of one part of a content; a picture or a sound cannot be learned from."""
    if isinstance(part, str):
        return part
    what = kind(part)
    if isinstance(part, dict):
        key = TEXT_PARTS.get(str(part.get("type", "text")), "")
        if isinstance(part.get(key), str):
            _note_rest(part, ("type", key), notes)
            return str(part[key])
        what = shown(part["type"]) if part.get("type") and not key else what
    fix = "Only text can be trained on; remove the part or the row."
    raise BiddableError("content_not_text", f"A part of the content is {what}, not text.", fix)


def answer_parts(parts: list[Any], fields: Fields, notes: Notes) -> tuple[Any, list[Fields]]:
    """Text parts and calls of an answer; Anthropic's thinking becomes the `reasoning_content`.

    Raises:
        BiddableError: `content_not_text`, the parts stand in an order that no message can keep.
    """
    order = [ORDER.get(_type(part), TEXT) for part in parts]
    thinking, texts, calls = (
        [part for part, place in zip(parts, order, strict=True) if place == wanted]
        for wanted in (THINKING, TEXT, CALL)
    )
    if order != sorted(order) or (thinking and "reasoning_content" in fields):
        what = "The parts of the content are not thinking, then text, then tool_use."
        fix = "Divide them into messages in that order, or remove the row."
        raise BiddableError("content_not_text", what, fix)
    for part in thinking:
        _note_rest(part, ("type", "thinking"), notes)
    if thinking:
        said = [text_of(part.get("thinking"), "assistant", True, notes) for part in thinking]
        fields["reasoning_content"] = "\n".join(said)
    return texts or None, [_call(part, notes) for part in calls]


def _call(part: Fields, notes: Notes) -> Fields:
    _note_rest(part, ("type", "id", "name", "input"), notes)
    function = {"name": part.get("name"), "arguments": part.get("input") or {}}
    own = {"id": part["id"]} if part.get("id") else {}
    return tool_call({**own, "type": "function", "function": function})


def without_results(message: Fields, notes: Notes) -> Sequence[Fields]:
    """A user's message with the results of tools, in Anthropic's form, as messages of their own."""
    content = message.get("content")
    if not isinstance(content, list) or "tool_result" not in map(_type, content):
        return [message]
    pieces: list[Fields] = []
    for part in content:
        if _type(part) == "tool_result":
            _note_rest(part, ("type", "tool_use_id", "content"), notes)
            call = {"tool_call_id": part["tool_use_id"]} if part.get("tool_use_id") else {}
            pieces.append({"role": "tool", "content": part.get("content") or "", **call})
        elif pieces and pieces[-1]["role"] == "user":
            pieces[-1]["content"].append(part)
        else:
            pieces.append({"role": "user", "content": [part]})
    return [*pieces[:-1], {**message, **pieces[-1]}]


def _type(part: object) -> str:
    return str(part.get("type")) if isinstance(part, dict) else ""


def _note_rest(part: Fields, read: tuple[str, ...], notes: Notes) -> None:
    unread = (key for key, value in part.items() if key not in read and not is_nothing(value))
    notes += (("part", f"content.{key}") for key in unread)
