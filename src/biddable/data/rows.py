"""What all readers share: the record of a row, what its JSON values say, and words for messages."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from biddable.errors import BiddableError

Fields = dict[str, Any]
# Real tool calls have about ten levels; a template walks them by recursion.
MOST_DEPTH = 50
KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


class Row(NamedTuple):
    """One row as stored.

    Args:
        line: the 1-based line that it starts on; the record's number in Parquet and `hf:`.
        value: a dict for a good row (of a table: cells by column), any JSON value otherwise, a
            BiddableError where the row cannot be read.
    """

    line: int
    value: Any


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one with a key twice, of which a text would be lost, is refused."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return value


def parsed(text: str) -> Any:
    """The value of a JSON text, or the text itself where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    return KINDS.get(type(value), f"a {type(value).__name__}")


def shown(value: object) -> str:
    """A value short enough for a message."""
    return shortened(repr(value) if isinstance(value, str | int | float) else kind(value))


def shortened(text: str) -> str:
    """A text of at most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def number_of(count: int, one: str, several: str = "") -> str:
    """`1 row`, `1,234 rows`; `several` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def is_nothing(value: object) -> bool:
    """Whether a value says nothing: null, NaN, blank text, an empty list or object."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ([], {}) or (isinstance(value, float) and math.isnan(value))


def plain_text(value: object, key: str) -> str:
    """The text of a value that becomes part of a prompt.

    A number is its own text; texts of a list are joined by line breaks, as passages that were
    retrieved are; `{"text": ...}` is its text. Any other object is refused: `data_type`.
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
    fix = f'Write it as text, or name the parts of the prompt: --map user="...{{{key}}}".'
    raise BiddableError("data_type", f"{key!r} holds {kind(value)}, not text.", fix)


def checked_text(value: object, what: str = "The text") -> str:
    """A value that is a text which a tokenizer can encode; all else is refused."""
    if not isinstance(value, str):
        fix = "Put it in quotes, as a JSON string."
        raise BiddableError("content_not_text", f"{what} is {kind(value)}, not text.", fix)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"The text holds half of a surrogate pair at character {error.start + 1}."
        fix = "An emoji was cut in two or the file is not UTF-8; correct the text."
        raise BiddableError("invalid_text", what, fix) from None
    return value


def check_value(value: object) -> None:
    """Refuses a JSON value that is nested too deep, or holds a text that cannot be encoded."""
    todo: list[tuple[object, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > MOST_DEPTH:
            what = f"A field of the message is nested over {MOST_DEPTH} levels deep."
            raise BiddableError("invalid_json", what, "Flatten it, or remove the row.")
        if isinstance(item, str):
            checked_text(item)
        elif isinstance(item, dict):
            todo += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            todo += [(part, depth + 1) for part in item]
