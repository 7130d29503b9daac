"""`--map`: conversations from columns of any name, constant texts and {column} placeholders."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from biddable.data.findings import BiddableError
from biddable.data.formats import Drafts, Fields, Format, message_list

FIELDS = ("system", "user", "assistant", "group", "weight", "messages", "tools")
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
PART = re.compile(r"""\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,]*)\s*(?:,|\Z)""")


def parse_map(text: str) -> dict[str, str]:
    r"""Reads `user=text,assistant=intent,system="Name the intent."` to a mapping.

    A quoted value is a text of its own, with {column} placeholders and `\n` for a line break; a
    plain one is the name of a column.

    Raises:
        BiddableError: the text has another form, or a field is named twice.
    """
    mapping: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = PART.match(text, at)
        if not match or match.group(1) in mapping:
            raise BiddableError(
                f"--map cannot be read at {text[at : at + 30]!r}.",
                fix='Write it as user=COLUMN,assistant=COLUMN,system="constant text".',
                code="invalid_map",
            )
        mapping[match.group(1)] = match.group(2).strip()
        at = match.end()
    check_map(mapping)
    return mapping


def check_map(mapping: Mapping[str, str]) -> None:
    """Refuses a mapping with an unknown field, or with neither messages nor assistant."""
    for field in mapping:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, 1)
            raise BiddableError(
                f"--map knows no field {field!r}.",
                fix=f"Did you mean {near[0]!r}?" if near else f"Use {', '.join(FIELDS)}.",
                code="invalid_map",
            )
    if "messages" not in mapping and "assistant" not in mapping:
        raise BiddableError(
            "--map names no column for the assistant.",
            fix="Add assistant=COLUMN (and user=COLUMN), or messages=COLUMN.",
            code="invalid_map",
        )


def mapped_fields(row: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """The fields of one row by their mapped names; a column that is not there is refused."""
    return {field: _value(row, source) for field, source in mapping.items()}


def _drafts(fields: Fields) -> Drafts:
    if "messages" in fields:
        return message_list("messages", fields)
    return [[{"role": r, "content": fields[r]} for r in ("user", "assistant") if r in fields]]


# The row's fields by their mapped names; `system`, `group` and the like stay with the row.
MAPPED = Format("columns named by --map", frozenset(), frozenset(FIELDS), _drafts)


def _value(row: Mapping[str, Any], source: str) -> Any:
    if source in row:
        return _text(row[source])
    quoted = len(source) > 1 and source[0] == source[-1] and source[0] in "\"'"
    if quoted:
        body = re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), source[1:-1])
        return _filled(row, body)
    if PLACEHOLDER.search(source):
        return _filled(row, source)
    raise missing_column(source, row)


def _filled(row: Mapping[str, Any], text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] not in row:
            raise missing_column(match[1], row)
        return str(_text(row[match[1]]) if row[match[1]] is not None else "")

    return PLACEHOLDER.sub(fill, text)


def _text(value: Any) -> Any:
    """A number as its text: a label column often holds numbers."""
    return json.dumps(value) if isinstance(value, int | float) else value


def missing_column(name: str, columns: Iterable[str]) -> BiddableError:
    """The error for a column that the data does not have."""
    names = [str(column) for column in columns]
    near = difflib.get_close_matches(name, names, 1)
    return BiddableError(
        f"There is no column {name!r}; the columns are {', '.join(names[:12]) or 'none'}.",
        fix=f"Did you mean {near[0]!r}?" if near else "Name one of them; put a text in quotes.",
        code="missing_column",
    )
