"""The forms in which a message can be handed to a chat template, since templates differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from biddable.data.rows import parsed
from biddable.encoding.spans import THINKING, Chat


def argument_forms(chat: Chat) -> list[Chat]:
    """The messages with tool call arguments as objects and, where there are any, as JSON text."""
    if not any(message.get("tool_calls") for message in chat):
        return [chat]
    return [[with_arguments(change, m) for m in chat] for change in (as_object, as_text)]


def answer_forms(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The ways to hand an answer to a template, the likeliest first."""
    forms = [form for chat in argument_forms([message]) for form in chat]
    thinking = THINKING.fullmatch(str(message.get("content")))
    if thinking and "reasoning_content" not in message:
        split = {"reasoning_content": thinking[1].strip("\n"), "content": thinking[2].lstrip()}
        forms += [{**form, **split} for form in forms]
    return forms


def with_arguments(change: Callable[[Any], Any], value: Any) -> Any:
    """A message, or a call within it, with the arguments of its tool calls changed."""
    if isinstance(value, (list, tuple)):
        return [with_arguments(change, call) for call in value]
    if not isinstance(value, Mapping):
        return value
    changed = {
        k: with_arguments(change, value[k]) for k in ("tool_calls", "function") if k in value
    }
    if "arguments" in value and "role" not in value:
        changed["arguments"] = change(value["arguments"])
    return {**value, **changed}


def as_object(arguments: Any) -> Any:
    return parsed(arguments) if isinstance(arguments, str) else arguments


def as_text(arguments: Any) -> Any:
    is_object = isinstance(arguments, Mapping)
    return json.dumps(arguments, ensure_ascii=False) if is_object else arguments
