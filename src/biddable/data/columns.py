"""`--map`: conversations from columns of any name, constant texts and {column} placeholders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from math import isnan
from typing import Any

from biddable.data.formats import Drafts, Format, message_list
from biddable.data.rows import Fields, parsed, plain_text, suggestion
from biddable.errors import BiddableError

TEXTS = ("system", "user", "assistant")
JSON = "json:"
FIELDS = ("system", "user", "assistant", "group", "weight", "messages", "tools")
QUOTES = "\"'"
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_QUOTED = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
_NAME = rf"\s*(?:{_QUOTED}|[^,]*?)\s*"
# The names of an object's columns end where the next field begins.
_OBJECT = rf"json:{_NAME}(?:,(?!\s*\w+\s*=){_NAME})*"
PART = re.compile(rf"\s*(\w+)\s*=\s*({_OBJECT}|{_QUOTED}|[^,]*)\s*(?:,|\Z)")
NAME = re.compile(rf"({_QUOTED})|([^,\s](?:[^,]*[^,\s])?)")


def parse_map(text: str) -> dict[str, str]:
    r"""Reads `user=text,assistant=json:queue,reply,system="Sort it."` to a mapping.

    A plain value is the name of a column. A quoted one is a text of its own, with {column}
    placeholders and `\n` for a line break. `json:` before names of columns, or before `*` for all
    that no other field names, is the JSON object of their cells.

    Raises:
        BiddableError: the text has another form, or a field is named twice.
    """
    mapping: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = PART.match(text, at)
        if not match or match.group(1) in mapping:
            raise BiddableError(
                "invalid_map",
                f"--map cannot be read at {text[at : at + 30]!r}.",
                'Write it as user=COLUMN,assistant=json:COLUMN,COLUMN,system="constant text".',
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
                "invalid_map",
                f"--map knows no field {field!r}.",
                suggestion(field, FIELDS, f"Use {', '.join(FIELDS)}."),
            )
        if mapping[field] == JSON:
            raise BiddableError(
                "invalid_map",
                f"--map {field}=json: names no column.",
                f"Name those of the object: {field}=json:COLUMN,COLUMN, or * for all others.",
            )
        if mapping[field].startswith(JSON) and field not in TEXTS:
            raise BiddableError(
                "invalid_map",
                f"--map {field}=json: is no text.",
                f"json: fits {', '.join(TEXTS)}; give {field} a column.",
            )
    if "messages" not in mapping and "assistant" not in mapping:
        raise BiddableError(
            "invalid_map",
            "--map names no column for the assistant.",
            "Add assistant=COLUMN (and user=COLUMN), or messages=COLUMN.",
        )


def mapped_fields(row: Fields, mapping: Mapping[str, str]) -> Fields:
    """The fields of one row by their mapped names; a column that is not there is refused."""
    return {field: _value(row, source, mapping) for field, source in mapping.items()}


def empty_columns(row: Fields, mapping: Mapping[str, str]) -> list[str]:
    """The columns that are empty in this row and whose cells stand in JSON."""
    columns = [
        column
        for source in mapping.values()
        if source not in row
        for column in (
            _object_columns(row, source, mapping)
            if source.startswith(JSON)
            else _placeholders(source) * _is_json(_filled(_template(source), {}))
        )
    ]
    # A null of JSON or Parquet is meant; an empty cell of a table may have been forgotten.
    return [name for name in columns if row[name] is not None and _is_empty(row[name])]


def unmapped(row: Fields, mapping: Mapping[str, str]) -> Fields:
    """The columns of a row that no field is made of."""
    named = set(mapping.values())
    named |= {name for source in mapping.values() for name in PLACEHOLDER.findall(source)}
    for source in mapping.values():
        if source.startswith(JSON) and source not in row:
            named.update(_object_columns(row, source, mapping))
    return {key: value for key, value in row.items() if key not in named and key not in FIELDS}


def _drafts(fields: Fields) -> Drafts:
    if "messages" in fields:
        return message_list("messages", fields)
    roles = [role for role in ("user", "assistant") if role in fields]
    return [[{"role": role, "content": fields.pop(role)} for role in roles]]


# The row's fields by their mapped names; `system`, `group` and the like stay with the row.
MAPPED = Format("columns named by --map", frozenset(), frozenset(FIELDS), _drafts)


def _value(row: Fields, source: str, mapping: Mapping[str, str]) -> Any:
    if source in row:
        return _text(row[source])
    if source.startswith(JSON):
        return _object(row, source, mapping)
    template = _template(source)
    if template is source and not PLACEHOLDER.search(source):
        raise missing_column(source, row)
    text = _filled(template, row)
    if _is_json(_filled(template, {})):
        _check_json(text, _filled(template, row, escape=True))
    return text


def _template(source: str) -> str:
    quoted = len(source) > 1 and source[0] == source[-1] and source[0] in QUOTES
    return _unquoted(source) if quoted else source


def _unquoted(source: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), source[1:-1])


def _filled(template: str, row: Fields, escape: bool = False) -> str:
    """The template with the row's cells, or 0 for all of them where the row is empty."""

    def fill(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if not row:
            return "0"
        if match[1] not in row:
            raise missing_column(match[1], row)
        text = plain_text(row[match[1]], match[1])
        return json.dumps(text, ensure_ascii=False)[1:-1] if escape else text

    return PLACEHOLDER.sub(fill, template)


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[") and '"' in text and parsed(text) is not text


def _check_json(text: str, escaped: str) -> None:
    """Refuses what a template of JSON became by a cell with quotes, line breaks or backslashes."""
    broken = parsed(text) is text
    if broken or (parsed(escaped) is not escaped and parsed(escaped) != parsed(text)):
        raise BiddableError(
            "invalid_map",
            f"The cells of this row {'break' if broken else 'change'} the JSON of --map.",
            "Let the JSON be built, with all that it needs escaped: --map assistant=json:A,B.",
        )


def _object(row: Fields, source: str, mapping: Mapping[str, str]) -> str:
    columns = _object_columns(row, source, mapping)
    cells = {name: None if _is_empty(row[name]) else row[name] for name in columns}
    if all(cell is None for cell in cells.values()):
        raise BiddableError(
            "empty_cell",
            f"All cells for the JSON object are empty: {', '.join(columns[:12])}.",
            "Fill them, or remove the row.",
        )
    return json.dumps(cells, ensure_ascii=False, default=_plain)


def _object_columns(row: Fields, source: str, mapping: Mapping[str, str]) -> list[str]:
    names = [_unquoted(m[1]) if m[1] else m[2] for m in NAME.finditer(source, len(JSON))]
    if names == ["*"] and "*" not in row:
        taken = {name for other in mapping.values() for name in (other, *_placeholders(other))}
        names = [name for name in row if name and name not in taken]
    for name in names:
        if name not in row:
            raise missing_column(name, row)
    return names


def _placeholders(source: str) -> list[str]:
    return [name for name in PLACEHOLDER.findall(source) if name]


def _is_empty(cell: object) -> bool:
    """Nothing, blanks, or the number that pandas has for nothing."""
    return (
        cell is None
        or (isinstance(cell, float) and isnan(cell))
        or (isinstance(cell, str) and not cell.strip())
    )


def _text(value: Any) -> Any:
    """A number as its text: a label column often holds numbers; NaN is none."""
    return plain_text(value, "") or None if isinstance(value, int | float) else value


def _plain(value: object) -> str:
    """Dates and decimal numbers of Parquet as their text."""
    if isinstance(value, bytes):
        raise BiddableError("data_type", "A cell holds bytes, which JSON has no form for.", "")
    return str(value)


def missing_column(name: str, columns: Iterable[str]) -> BiddableError:
    """The error for a column that the data does not have."""
    names = [str(column) for column in columns]
    return BiddableError(
        "missing_column",
        f"There is no column {name!r}; the columns are {', '.join(names[:12]) or 'none'}.",
        suggestion(name, names, "Name one of them; put a text in quotes."),
    )
