"""The forms in which a message can be handed to a chat template, since templates differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from biddable.dialogue.spans import THINKING, Chat


def argument_forms(chat: Chat) -> list[Chat]:
    """The messages with tool call arguments as objects and, where there are any, as JSON text."""
    if not any(message.get("tool_calls") for message in chat):
        return [chat]
    return [[with_arguments_as(kind, m) for m in chat] for kind in ("object", "text")]


def answer_forms(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The ways to hand an answer to a template, the likeliest first."""
    forms = [form for chat in argument_forms([message]) for form in chat]
    content = message.get("content")
    thinking = THINKING.fullmatch(str(content))
    if thinking and "reasoning_content" not in message:
        split = {"reasoning_content": thinking[1].strip("\n"), "content": thinking[2].lstrip()}
        forms += [{**form, **split} for form in forms]
    return forms


def with_arguments_as(kind: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, (list, tuple)):
        return message
    return {**message, "tool_calls": [call_as(kind, call) for call in calls]}


def call_as(kind: str, call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": call_as(kind, call["function"])}
    arguments = call.get("arguments")
    if kind == "text" and isinstance(arguments, Mapping):
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if kind == "object" and isinstance(arguments, str):
        try:
            return {**call, "arguments": json.loads(arguments)}
        except ValueError:
            return call
    return call
