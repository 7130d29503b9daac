"""What is text among the values of a row, and what is nothing."""

from __future__ import annotations

import json
import math

from biddable.data.rows import kind
from biddable.errors import BiddableError

# The deepest tool call in the wild has about ten levels; a template walks them by recursion.
MOST_DEPTH = 50


def is_nothing(value: object) -> bool:
    """Whether a value says nothing: null, NaN, blank text, an empty list or object."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ([], {}) or (isinstance(value, float) and math.isnan(value))


def plain_text(value: object, key: str) -> str:
    """The text of a value that becomes part of a prompt.

    A number is its own text; texts of a list are joined by line breaks, as passages that were
    retrieved are; `{"text": ...}` is its text.

    Raises:
        BiddableError: `data_type`, an object of another form, which nobody can put in words.
    """
    if is_nothing(value):
        return value if isinstance(value, str) else ""
    if isinstance(value, dict) and value.keys() == {"text"}:
        value = value["text"]
    if isinstance(value, list):
        return "\n".join(text for part in value if (text := plain_text(part, key)))
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return checked_text(value)
    raise BiddableError(
        "data_type",
        f"{key!r} holds {kind(value)}, not text.",
        f'Write it as text, or name the parts of the prompt: --map user="...{{{key}}}".',
    )


def checked_text(value: object, what: str = "The text") -> str:
    """A value that is a text which a tokenizer can encode; all else is refused."""
    if not isinstance(value, str):
        raise BiddableError(
            "content_not_text",
            f"{what} is {kind(value)}, not text.",
            "Put it in quotes, as a JSON string.",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BiddableError(
            "invalid_text",
            f"The text holds half of a surrogate pair at character {error.start + 1}.",
            "An emoji was cut in two or the file is not UTF-8; correct the text.",
        ) from None
    return value


def check_value(value: object) -> None:
    """Refuses a nested JSON value with a text that is none, or too deep; without recursion."""
    todo: list[tuple[object, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > MOST_DEPTH:
            raise BiddableError(
                "invalid_json",
                f"A field of the message is nested over {MOST_DEPTH} levels deep.",
                "Flatten it, or remove the row.",
            )
        if isinstance(item, str):
            checked_text(item)
        elif isinstance(item, dict):
            todo += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            todo += [(part, depth + 1) for part in item]
