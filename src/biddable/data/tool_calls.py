"""Tool calls and tool schemas in the forms that data has them, brought to OpenAI's present one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biddable.data.rows import Fields, check_value, is_nothing, kind, parsed
from biddable.errors import BiddableError


def take_calls(fields: Fields) -> list[Fields]:
    """Takes the calls out of a message: `tool_calls`, or the older `function_call`."""
    calls, old = fields.pop("tool_calls", None), fields.pop("function_call", None)
    calls = parsed(calls) if isinstance(calls, str) else calls
    if is_nothing(calls):
        return [] if is_nothing(old) else written_calls(old)
    if not is_nothing(old):
        what = "The message has both tool_calls and function_call."
        raise _invalid(what, "Keep tool_calls; function_call is its older form.")
    if isinstance(calls, list) and all(isinstance(call, dict) for call in calls):
        return [tool_call(call) for call in calls]
    fix = 'Write it as [{"type": "function", "function": {"name": ..., "arguments": ...}}].'
    raise _invalid(f"tool_calls is {kind(calls)}, not a list of objects.", fix)


def written_calls(value: object) -> list[Fields]:
    """The calls of a turn that is nothing else (roles function_call and tool_call): an object, a
    list of them, or the JSON text of one."""
    call = parsed(value) if isinstance(value, str) else value
    calls: list[Any] = call if isinstance(call, list) else [call]
    if calls and all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        return [tool_call(c) for c in calls]
    fix = 'Write its value as {"name": ..., "arguments": {...}}.'
    raise _invalid("The function call is not JSON with a name and arguments.", fix)


def tool_call(call: Fields) -> Fields:
    """A call with its arguments as an object, as chat templates and servers handle them."""
    if isinstance(call.get("name"), str) and "function" not in call:
        call = {"type": "function", "function": call}
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        fix = 'Give it "function": {"name": ..., "arguments": ...}.'
        raise _invalid("A tool call names no function.", fix)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = parsed(arguments or "{}")
    if not isinstance(arguments, dict):
        what = f"The arguments of {function['name'][:40]!r} are not a JSON object."
        raise _invalid(what, 'Write them as {"name": value, ...}, or as the JSON text of that.')
    return {**call, "function": {**function, "arguments": arguments}}


def _invalid(what: str, fix: str) -> BiddableError:
    return BiddableError("tool_calls_invalid", what, fix)


def take_tools(fields: Fields) -> Sequence[Fields]:
    """Takes the tool schemas out of a row: `tools`, or `functions` as they were called before."""
    tools: list[Fields] = []
    for key in ("tools", "functions"):
        tools += _schemas(key, fields.pop(key, None))
    check_value(tools)
    return tuple(tools)


def _schemas(key: str, value: object) -> list[Fields]:
    """The schemas of a list, or the only one; also where they or it are JSON text."""
    value = parsed(value) if isinstance(value, str) else value
    if is_nothing(value):
        return []
    if isinstance(value, dict) and (value.get("name") or value.get("function")):
        value = [value]
    tools: list[Any] = [_schema(tool) for tool in value] if isinstance(value, list) else [None]
    if all(isinstance(tool, dict) for tool in tools):
        return tools
    what = f"{key!r} is {kind(value)}, not a list of objects."
    fix = 'Write it as [{"type": "function", "function": {...}}].'
    raise BiddableError("tools_invalid", what, fix)


def _schema(tool: Any) -> Any:
    """A schema within `{"type": "function", "function": ...}`, where it stands bare or as text.

    Anthropic writes the parameters as `input_schema`.
    """
    tool = parsed(tool) if isinstance(tool, str) else tool
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        return tool
    bare = {"parameters" if k == "input_schema" else k: v for k, v in tool.items() if k != "type"}
    if tool.get("type", "function") not in ("function", "custom") or "parameters" not in bare:
        return tool
    return {"type": "function", "function": bare}
