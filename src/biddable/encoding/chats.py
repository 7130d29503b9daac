"""How messages are passed to a template, and where their texts stand in its render."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biddable.data.rows import parsed
from biddable.encoding.spans import (
    PLACES,
    THINKING,
    Chat,
    Leaf,
    Located,
    free_marks,
    leaves,
    locate,
    nested_too_deep,
    with_marks,
)
from biddable.encoding.tokens import Codec, Piece
from biddable.template.rendering import Renders
from biddable.template.template import Template, request_of


@dataclass(frozen=True, slots=True)
class Rules:
    """What turns are made with: a template, a codec, and the template's ends of turn.

    Args:
        ends: texts of the control tokens that end an answer.
        closing: the text that ends one in a template without such a token.
    """

    template: Template
    codec: Codec
    ends: tuple[str, ...] = ()
    closing: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the turns of one conversation are made with: rules, tool schemas and stored renders."""

    rules: Rules
    tools: Sequence[Mapping[str, Any]]
    renders: Renders


def scene_of(rules: Rules, tools: Sequence[Mapping[str, Any]] = ()) -> Scene:
    """A scene in which nothing is rendered yet."""
    return Scene(rules, tools, Renders(rules.template.text))


def has_calls(chat: Chat) -> bool:
    return any(message.get("tool_calls") for message in chat)


def located(scene: Scene, chat: Chat, *, prompt: bool, since: int = -1) -> Located:
    """Renders messages and finds their texts, those of message `since` and after it."""
    with_tools, wanted = marked_texts(scene, chat, since)
    plain = request(scene, prompt, with_tools)
    return locate(
        lambda form: scene.renders.text(request(scene, prompt, form)), with_tools, wanted, plain
    )


def requests_to_locate(scene: Scene, chat: Chat, *, prompt: bool, since: int = -1) -> list[str]:
    """What `located` renders where the first marks show every text."""
    with_tools, wanted = marked_texts(scene, chat, since)
    plain = request(scene, prompt, with_tools)
    marked = with_marks(with_tools, wanted, free_marks(plain, len(wanted)), PLACES[0])
    return [plain, request(scene, prompt, marked)]


def marked_texts(scene: Scene, chat: Chat, since: int) -> tuple[Chat, list[Leaf]]:
    """The messages with the tool schemas behind them, and the texts that are to be found."""
    with_tools = [*chat, {"tools": scene.tools}]
    texts = leaves(with_tools, scene.rules.codec.pattern)
    return with_tools, [leaf for leaf in texts if leaf.message >= since]


def request(scene: Scene, prompt: bool, with_tools: Chat) -> str:
    return request_of(scene.rules.template, with_tools[:-1], prompt, with_tools[-1]["tools"])


def argument_forms(chat: Chat) -> list[Chat]:
    """The messages with tool call arguments as objects and, where there are any, as JSON text."""
    if not has_calls(chat):
        return [chat]
    return [[with_call_arguments(change, m) for m in chat] for change in (as_object, as_text)]


def answer_forms(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The forms in which an answer can be passed to a template, the likeliest first."""
    forms = [form for chat in argument_forms([message]) for form in chat]
    thinking = THINKING.fullmatch(str(message.get("content")))
    if thinking and "reasoning_content" not in message:
        split = {"reasoning_content": thinking[1].strip("\n"), "content": thinking[2].lstrip()}
        forms += [{**form, **split} for form in forms]
    return forms


def with_call_arguments(change: Callable[[Any], Any], value: Any) -> Any:
    """A message, or a call within it, with the arguments of its tool calls changed."""
    if isinstance(value, (list, tuple)):
        return [with_call_arguments(change, call) for call in value]
    if not isinstance(value, Mapping):
        return value
    parts = ("tool_calls", "function")
    changed = {k: with_call_arguments(change, value[k]) for k in parts if k in value}
    if "arguments" in value and "role" not in value:
        changed["arguments"] = change(value["arguments"])
    return {**value, **changed}


def as_object(arguments: Any) -> Any:
    return parsed(arguments) if isinstance(arguments, str) else arguments


def as_text(arguments: Any) -> Any:
    try:
        is_object = isinstance(arguments, Mapping)
        return json.dumps(arguments, ensure_ascii=False) if is_object else arguments
    except RecursionError:
        raise nested_too_deep() from None


def piece_of(codec: Codec, text: Located) -> Piece:
    """A text with the control tokens that stand outside the messages' texts."""
    owned: list[tuple[int, int]] = []
    at = 0
    for start, end in [*((span.start, span.end) for span in text.spans), (len(text.text),) * 2]:
        if start > at:
            owned += [m.span() for m in codec.pattern.finditer(text.text, at, start)]
        at = max(at, end)
    return Piece(text.text, tuple(owned))
