"""What a row of any format may carry beside its messages: system prompt, weight and group.

Each is taken out of the row, so that what is left of it at the end is what nothing has read.
"""

from __future__ import annotations

import json
from typing import Any

from biddable.data.content_parts import text_of
from biddable.data.conversation import Conversation, Message
from biddable.data.rows import Fields, checked_text, is_nothing
from biddable.errors import BiddableError

# The last two are Gemini's, an object with parts; keys come here in lower case.
SYSTEM_KEYS = (
    "system", "system_prompt", "system_message", "system_instruction", "systeminstruction",
)  # fmt: skip


def take_system(fields: Fields) -> str:
    """Takes the row's system prompt, a text or text parts, out of it; empty where it has none."""
    prompts = [value for key in SYSTEM_KEYS if (value := fields.pop(key, None)) not in (None, "")]
    prompts = [
        text_of(v, "system", False, []) if isinstance(v, list) else v for v in map(_parts, prompts)
    ]
    texts = {checked_text(value, "'system'") for value in prompts}
    if len(texts) > 1:
        raise _two_prompts("two system prompts")
    return next(iter(texts), "")


def _parts(value: Any) -> Any:
    """The parts of Gemini's system instruction; any other value as it is."""
    is_content = isinstance(value, dict) and {"parts"} <= value.keys() <= {"role", "parts"}
    return value["parts"] if is_content else value


def with_system(own: str, messages: list[Message], default: str | None) -> list[Message]:
    """The messages behind the row's own system prompt, or the run's where there is none."""
    has_one = messages[0].role == "system"
    if not own:
        return [Message("system", default), *messages] if default and not has_one else messages
    if has_one:
        raise _two_prompts("a system prompt of its own and a system message")
    return [Message("system", own), *messages]


def _two_prompts(what: str) -> BiddableError:
    return BiddableError("two_system_prompts", f"The row has {what}.", "Keep one of the two.")


def group_of(value: object) -> str | None:
    """A group as text: 7 of a JSON file and "7" of a table are one."""
    if is_nothing(value):
        return None
    return value if isinstance(value, str) else json.dumps(value, default=str)


def take_origin(fields: Fields) -> dict[str, Any]:
    """Takes the source that `mine` wrote out of a row; empty for other rows.

    A `source` with a path and two lines is known by its form, and its row's `kind` and `license`
    with it.
    """
    source = fields.get("source")
    if not isinstance(source, dict) or not isinstance(source.get("path"), str):
        return {}
    lines = source.get("lines")
    if not isinstance(lines, list) or [type(line) for line in lines] != [int, int]:
        return {}
    return {key: fields.pop(key) for key in ("source", "kind", "license") if key in fields}


def origin_place(conversation: Conversation) -> tuple[str, str]:
    """Where a mined row stands, `docs/a.md:3-9`, and its address; empty texts for other rows."""
    source = conversation.origin.get("source", {})
    if not source:
        return "", ""
    first, last = source["lines"]
    url = source.get("url")
    return f"{source['path']}:{first}-{last}", url if isinstance(url, str) else ""
