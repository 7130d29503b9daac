"""`--map`: conversations from columns of any name, constant texts and {column} placeholders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from biddable.data.drafts import Drafts, Fields, message_list
from biddable.data.findings import BiddableError
from biddable.data.formats import Format
from biddable.data.plain_text import plain_text
from biddable.data.rows import suggestion

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
            raise BiddableError(
                f"--map knows no field {field!r}.",
                fix=suggestion(field, FIELDS, f"Use {', '.join(FIELDS)}."),
                code="invalid_map",
            )
    if "messages" not in mapping and "assistant" not in mapping:
        raise BiddableError(
            "--map names no column for the assistant.",
            fix="Add assistant=COLUMN (and user=COLUMN), or messages=COLUMN.",
            code="invalid_map",
        )


def mapped_fields(row: Fields, mapping: Mapping[str, str]) -> Fields:
    """The fields of one row by their mapped names; a column that is not there is refused."""
    return {field: _value(row, source) for field, source in mapping.items()}


def unmapped(row: Fields, mapping: Mapping[str, str]) -> Fields:
    """The columns of a row that no field is made of."""
    named = set(mapping.values())
    named |= {name for source in mapping.values() for name in PLACEHOLDER.findall(source)}
    return {key: value for key, value in row.items() if key not in named and key not in FIELDS}


def _drafts(fields: Fields) -> Drafts:
    if "messages" in fields:
        return message_list("messages", fields)
    roles = [role for role in ("user", "assistant") if role in fields]
    return [[{"role": role, "content": fields.pop(role)} for role in roles]]


# The row's fields by their mapped names; `system`, `group` and the like stay with the row.
MAPPED = Format("columns named by --map", frozenset(), frozenset(FIELDS), _drafts)


def _value(row: Fields, source: str) -> Any:
    if source in row:
        return _text(row[source])
    quoted = len(source) > 1 and source[0] == source[-1] and source[0] in "\"'"
    if not quoted and not PLACEHOLDER.search(source):
        raise missing_column(source, row)

    def fill(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] not in row:
            raise missing_column(match[1], row)
        return plain_text(row[match[1]], match[1])

    if quoted:
        source = re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), source[1:-1])
    return PLACEHOLDER.sub(fill, source)


def _text(value: Any) -> Any:
    """A number as its text: a label column often holds numbers; NaN is none."""
    return plain_text(value, "") or None if isinstance(value, int | float) else value


def missing_column(name: str, columns: Iterable[str]) -> BiddableError:
    """The error for a column that the data does not have."""
    names = [str(column) for column in columns]
    return BiddableError(
        f"There is no column {name!r}; the columns are {', '.join(names[:12]) or 'none'}.",
        fix=suggestion(name, names, "Name one of them; put a text in quotes."),
        code="missing_column",
    )
