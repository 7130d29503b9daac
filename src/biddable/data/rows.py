"""The record that every kind of file is cut into, and words for its JSON values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row as stored.

    Args:
        line: the 1-based line that it starts on; the record's number in Parquet and `hf:`.
        value: a dict for a good row (of a table: cells by column), any JSON value otherwise, a
            BiddableError where the row cannot be read.
    """

    line: int
    value: Any


KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def parsed(text: str) -> Any:
    """The value of JSON text, or the text itself where it is none."""
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


def suggestion(written: str, known: Iterable[str], otherwise: str) -> str:
    """The fix for a name that is not known: the one that was likely meant, or what else to do."""
    near = difflib.get_close_matches(written, list(known), 1)
    return f"Did you mean {near[0]!r}?" if near else otherwise


def shortened(text: str) -> str:
    """A text of at most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."
