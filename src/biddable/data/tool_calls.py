"""Tool calls and tool schemas in the forms that data has them, brought to OpenAI's present one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biddable.data.plain_text import check_value, is_nothing
from biddable.data.rows import kind, parsed
from biddable.errors import BiddableError

Fields = dict[str, Any]


def take_calls(fields: Fields) -> list[Fields]:
    """Takes the calls out of a message: `tool_calls`, or the `function_call` that came before it.

    Raises:
        BiddableError: `tool_calls_invalid`.
    """
    calls, old = fields.pop("tool_calls", None), fields.pop("function_call", None)
    calls = parsed(calls) if isinstance(calls, str) else calls
    if is_nothing(calls):
        return [] if is_nothing(old) else written_calls(old)
    if not is_nothing(old):
        raise BiddableError(
            "tool_calls_invalid",
            "The message has both tool_calls and function_call.",
            "Keep tool_calls; function_call is its older form.",
        )
    if isinstance(calls, list) and all(isinstance(call, dict) for call in calls):
        return [_tool_call(call) for call in calls]
    raise BiddableError(
        "tool_calls_invalid",
        f"tool_calls is {kind(calls)}, not a list of objects.",
        'Write it as [{"type": "function", "function": {"name": ..., "arguments": ...}}].',
    )


def written_calls(value: object) -> list[Fields]:
    """The calls of a turn that is nothing else (roles function_call and tool_call): an object, a
    list of them, or the JSON text of one."""
    call = parsed(value) if isinstance(value, str) else value
    calls: list[Any] = call if isinstance(call, list) else [call]
    if calls and all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        return [_tool_call(c) for c in calls]
    raise BiddableError(
        "tool_calls_invalid",
        "The function call is not JSON with a name and arguments.",
        'Write its value as {"name": ..., "arguments": {...}}.',
    )


def _tool_call(call: Fields) -> Fields:
    """A call with its arguments as an object, as chat templates and servers handle them."""
    if isinstance(call.get("name"), str) and "function" not in call:
        call = {"type": "function", "function": call}
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BiddableError(
            "tool_calls_invalid",
            "A tool call names no function.",
            'Give it "function": {"name": ..., "arguments": ...}.',
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = parsed(arguments or "{}")
    if not isinstance(arguments, dict):
        raise BiddableError(
            "tool_calls_invalid",
            f"The arguments of {function['name'][:40]!r} are not a JSON object.",
            'Write them as {"name": value, ...}, or as the JSON text of that.',
        )
    return {**call, "function": {**function, "arguments": arguments}}


def take_tools(fields: Fields) -> Sequence[Fields]:
    """Takes the tool schemas out of a row: `tools`, or `functions` as they were called before.

    Raises:
        BiddableError: `tools_invalid`.
    """
    tools = [tool for key in ("tools", "functions") for tool in _listed(key, fields.pop(key, None))]
    check_value(tools)
    return tuple(tools)


def _listed(key: str, value: object) -> list[Fields]:
    """The schemas of a list, also where it or they are JSON text."""
    value = parsed(value) if isinstance(value, str) else value
    tools = [] if is_nothing(value) else value
    tools = [_schema(tool) for tool in tools] if isinstance(tools, list) else [tools]
    if (not tools or isinstance(value, list)) and all(isinstance(tool, dict) for tool in tools):
        return tools
    raise BiddableError(
        "tools_invalid",
        f"{key!r} is {kind(value)}, not a list of objects.",
        'Write it as [{"type": "function", "function": {...}}].',
    )


def _schema(tool: Any) -> Any:
    """A schema within `{"type": "function", "function": ...}`, where it stands bare or as text."""
    tool = parsed(tool) if isinstance(tool, str) else tool
    bare = isinstance(tool, dict) and isinstance(tool.get("name"), str) and "parameters" in tool
    if not bare or tool.get("type", "function") != "function":
        return tool
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
