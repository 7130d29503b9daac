"""Tool schemas and names of speakers that a chat template does not print.

Contents, calls and thinking are proven turn by turn (`spans`). Schemas and names are passed to the
template too, and many templates leave them out. Each of their texts gets a mark that
nothing else holds; a mark that does not come out shows that the model never sees that text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from biddable.data.conversation import Conversation
from biddable.data.rows import number_of, shown
from biddable.encoding.chats import Rules, argument_forms
from biddable.encoding.spans import free_marks
from biddable.errors import Finding
from biddable.template.rendering import attempt
from biddable.template.template import render_dicts

# Words of JSON Schema, which templates put in their own, and lists that repeat names.
UNMARKED = ("type", "$schema", "required", "role")
MOST_TEXTS = 2000


def unprinted(rules: Rules, conversations: Sequence[Conversation]) -> Iterator[Finding]:
    """One finding for the schemas, one for the names of users and one for those of tools."""
    counts: Counter[str] = Counter()
    firsts: dict[str, tuple[Conversation, str]] = {}
    known: dict[str, str] = {}
    for conversation in conversations:
        for kind, text in _lost(rules, conversation, known):
            counts[kind] += 1
            firsts.setdefault(kind, (conversation, text))
    for kind, (first, text) in firsts.items():
        rows = number_of(counts[kind], "row")
        what = (
            f"The chat template does not print {kind}, such as {shown(text)}: the model never sees"
            f" them ({rows})."
        )
        code = "tools_not_printed" if kind == "tool schemas" else "name_not_printed"
        fix = "Use a template that prints them (--template), write them into a message, or remove"
        severity: Literal["note", "warning"] = "note" if kind == "names of tools" else "warning"
        yield Finding(code, severity, what, f"{fix} them.", first.file, first.line)


def _lost(
    rules: Rules, conversation: Conversation, known: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """What of a conversation is not printed: of what kind, and its first text."""
    chat = [message.as_dict() for message in conversation.messages]
    tools = list(conversation.tools)
    if tools:
        # Whether schemas are printed depends on them and on how a conversation begins.
        key = json.dumps([chat[0]["role"], tools])
        if key not in known:
            known[key] = next(iter(_unmarked(rules, chat, tools, tools)), "")
        if known[key]:
            yield "tool schemas", known[key]
    for kind in ("names of speakers", "names of tools"):
        of_tools = kind == "names of tools"
        named = [m for m in chat if m.get("name") and (m["role"] == "tool") == of_tools]
        if named and (texts := _unmarked(rules, chat, tools, [{"name": m["name"]} for m in named])):
            yield kind, texts[0]


def _unmarked(
    rules: Rules, chat: list[dict[str, Any]], tools: list[Any], holders: list[Any]
) -> list[str]:
    """The texts of some holders, the schemas or the names of messages, that do not come out."""
    plain = _rendered(rules, chat, tools)
    if plain is None:
        return []
    texts: list[str] = []
    names = iter(free_marks(plain, MOST_TEXTS))
    marked = [_marked(holder, "", names, texts) for holder in holders]
    if holders is tools:
        text = _rendered(rules, chat, marked)
    else:
        new = {h["name"]: m["name"] for h, m in zip(holders, marked, strict=True)}
        text = _rendered(rules, [_renamed(message, new) for message in chat], tools)
    if text is None:
        # The template looks at the texts; then finding them in the plain render has to do.
        return [t for t in texts if t not in plain and json.dumps(t)[1:-1] not in plain]
    marks = free_marks(plain, MOST_TEXTS)
    pairs = zip(texts, marks, strict=False)
    return [t for t, m in pairs if m not in text and json.dumps(m)[1:-1] not in text]


def _renamed(message: Mapping[str, Any], new: Mapping[str, str]) -> Mapping[str, Any]:
    return {**message, "name": new[message["name"]]} if message.get("name") in new else message


def _rendered(rules: Rules, chat: Sequence[Mapping[str, Any]], tools: list[Any]) -> str | None:
    for form in argument_forms(chat):
        text = attempt(partial(render_dicts, rules.template, form, False, tools))
        if isinstance(text, str):
            return text
    return None


def _marked(value: Any, key: str, marks: Iterator[str], texts: list[str]) -> Any:
    """A copy with a mark behind each text and each parameter's name; these go into `texts`."""

    def mark(text: str) -> str:
        sign = next(marks, "")
        if sign:
            texts.append(text)
        return text + sign

    if isinstance(value, str):
        return value if key in UNMARKED or not value.strip() else mark(value)
    if isinstance(value, list | tuple):
        return [_marked(item, key, marks, texts) for item in value]
    if not isinstance(value, Mapping):
        return value
    named = key == "properties"
    return {
        mark(str(k)) if named else k: _marked(v, "" if named else str(k), marks, texts)
        for k, v in value.items()
    }
