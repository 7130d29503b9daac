"""The records that every reader makes and the template room renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as in the OpenAI messages format.

    Args:
        role: `system`, `user`, `assistant`, `tool` or another role that the template knows.
        content: its text.
        weight: how much its tokens count in the loss if the message is to be trained; None means
            that the run's `--loss-on` decides, 0 keeps an assistant message as context.
        extra: other fields that templates read (`tool_calls`, `tool_call_id`, `name`,
            `reasoning_content`), JSON values.
    """

    role: str
    content: str
    weight: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The message as a chat template receives it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A list of messages with its source and, where rows belong together, its group.

    Args:
        messages: in order.
        file, line: where it came from; line is 1-based, 0 when unknown.
        group: rows of one group stay on one side of the held-out split.
        tools: tool schemas that the template prints, JSON values.
        origin: the keys `source`, `kind` and `license` of a row that `mine` wrote.
    """

    messages: Sequence[Message]
    file: str = ""
    line: int = 0
    group: str | None = None
    tools: Sequence[dict[str, Any]] = ()
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "tools", tuple(self.tools))
