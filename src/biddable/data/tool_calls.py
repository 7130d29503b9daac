"""Tool calls of assistant messages, in the forms that OpenAI and ShareGPT rows give them."""

from __future__ import annotations

import json
from typing import Any

from biddable.data.findings import BiddableError
from biddable.data.rows import kind, parsed


def called(fields: dict[str, Any], turn: int) -> dict[str, Any]:
    """A ShareGPT `function_call` turn, whose value is JSON text, as a message with tool calls."""
    try:
        call = json.loads(fields.get("content", ""))
    except (ValueError, TypeError, RecursionError):
        call = None
    calls = call if isinstance(call, list) else [call]
    if not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        raise BiddableError(
            "The function call is not JSON with a name and arguments.",
            fix='Write its value as {"name": ..., "arguments": {...}}.',
            code="tool_calls_invalid",
            turn=turn,
        )
    wrapped = [{"type": "function", "function": c} for c in calls]
    return {**fields, "content": "", "tool_calls": wrapped}


def tool_calls(value: object, turn: int) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects, as chat templates and servers handle them."""
    if isinstance(value, str):
        value = parsed(value)
    if value is None or value == []:
        return []
    if isinstance(value, list) and all(isinstance(call, dict) for call in value):
        return [_tool_call(call, turn) for call in value]
    raise BiddableError(
        f"tool_calls is {kind(value)}, not a list of objects.",
        fix='Write it as [{"type": "function", "function": {"name": ..., "arguments": ...}}].',
        code="tool_calls_invalid",
        turn=turn,
    )


def _tool_call(call: dict[str, Any], turn: int) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BiddableError(
            "A tool call names no function.",
            fix='Give it "function": {"name": ..., "arguments": ...}.',
            code="tool_calls_invalid",
            turn=turn,
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = parsed(arguments or "{}")
    if not isinstance(arguments, dict):
        raise BiddableError(
            f"The arguments of {function['name'][:40]!r} are not a JSON object.",
            fix='Write them as {"name": value, ...}, or as the JSON text of that.',
            code="tool_calls_invalid",
            turn=turn,
        )
    return {**call, "function": {**function, "arguments": arguments}}
