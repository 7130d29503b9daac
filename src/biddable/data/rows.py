"""The record that every kind of file is cut into, and words for its JSON values."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row as stored: a JSON value, or the cells of a table by column name.

    Args:
        file: the source's name as it was given.
        line: the 1-based line that the row starts on; the record's number in Parquet and `hf:`.
        value: a dict for a good row, any JSON value otherwise.
    """

    file: str
    line: int
    value: Any


def parsed(text: str) -> Any:
    """The value of JSON text, or the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    words = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return words.get(type(value), f"a {type(value).__name__}")


def shown(value: object) -> str:
    """A value short enough for a message."""
    text = repr(value) if isinstance(value, str | int | float) else kind(value)
    return text if len(text) <= 60 else text[:57] + "..."
