"""The few-shot baseline (base with examples in its prompt), and tuned outside its template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from biddable.data.conversation import Conversation, Message
from biddable.errors import BiddableError
from biddable.template.frames import FRAMES
from biddable.template.template import Template

# The plain frame's names of the roles, and others that no training text had.
RENAMED = (("'System: '", "'Rules: '"), ("'User: '", "'Client: '"), ("'Assistant: '", "'Clerk: '"))


@dataclass(frozen=True, slots=True)
class Probe:
    """One way to ask a tuned model that it was not trained for.

    Args:
        name: `no_system` or `renamed_roles`.
        conversations: what to ask.
        template: what to render them with.
    """

    name: str
    conversations: Sequence[Conversation]
    template: Template


def probes(conversations: Sequence[Conversation], template: Template) -> list[Probe]:
    """Without the system message, and in a plain frame with other names for the roles.

    How far the figures fall tells how much of what was learned hangs on the template.
    """
    bare = [
        replace(c, messages=[m for m in c.messages if m.role != "system"]) for c in conversations
    ]
    text = FRAMES["plain"]
    for old, new in RENAMED:
        text = text.replace(old, new)
    renamed = Probe("renamed_roles", conversations, replace(template, text=text, built_in=True))
    has_system = any(
        len(b.messages) < len(c.messages) for b, c in zip(bare, conversations, strict=True)
    )
    return [*([Probe("no_system", bare, template)] if has_system else []), renamed]


def with_shots(
    conversations: Sequence[Conversation], train: Sequence[Conversation], count: int
) -> list[Conversation]:
    """Each conversation with the turns of `count` training conversations before its own.

    The same examples for all, so that they are a prefix fed once. Empty for a count of 0.
    """
    if count == 0:
        return []
    if len(train) < count:
        what = f"--few-shot {count} needs as many training rows, {len(train)} are known"
        raise BiddableError("few_shot", what, "give --train FILE, or a run folder as TUNED")
    # Spread over the file: rows that stand together are often about one thing.
    picked = [train[i * len(train) // count] for i in range(count)]
    shots = [m for c in picked for m in without_system(c.messages)]
    return [replace(c, messages=_after_system(c.messages, shots)) for c in conversations]


def _after_system(messages: Sequence[Message], shots: Sequence[Message]) -> list[Message]:
    systems = [m for m in messages if m.role == "system"]
    return [*systems, *shots, *without_system(messages)]


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages but those of the role system."""
    return [m for m in messages if m.role != "system"]
