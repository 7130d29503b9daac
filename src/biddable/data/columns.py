"""`--map`: conversations from columns of any name, constant texts and {column} placeholders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biddable.data.formats import Drafts, Format, message_list
from biddable.data.rows import Fields, is_nothing, parsed, plain_text
from biddable.errors import BiddableError, suggestion

TEXTS = ("system", "user", "assistant")
JSON = "json:"
FIELDS = ("system", "user", "assistant", "group", "weight", "messages", "tools")
QUOTES = "\"'"
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
# A placeholder that is never closed.
HALF = re.compile(r"\{(\w+)(?![\w:])")
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
    """
    mapping: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = PART.match(text, at)
        if not match or match.group(1) in mapping:
            fix = 'Write it as user=COLUMN,assistant=json:COLUMN,COLUMN,system="constant text".'
            raise _invalid(f"--map cannot be read at {text[at : at + 30]!r}.", fix)
        mapping[match.group(1)] = match.group(2).strip()
        at = match.end()
    check_map(mapping)
    return mapping


def check_map(mapping: Mapping[str, str]) -> None:
    """Refuses a mapping with an unknown field, or with neither messages nor assistant."""
    for field, source in mapping.items():
        if field not in FIELDS:
            fix = suggestion(field, FIELDS, f"Use {', '.join(FIELDS)}.")
            raise _invalid(f"--map knows no field {field!r}.", fix)
        if source == JSON:
            fix = f"Name those of the object: {field}=json:COLUMN,COLUMN, or * for all others."
            raise _invalid(f"--map {field}=json: names no column.", fix)
        if source.startswith(JSON) and field not in TEXTS:
            fix = f"json: fits {', '.join(TEXTS)}; give {field} a column."
            raise _invalid(f"--map {field}=json: is no text.", fix)
    if "messages" not in mapping and "assistant" not in mapping:
        fix = "Add assistant=COLUMN (and user=COLUMN), or messages=COLUMN."
        raise _invalid("--map names no column for the assistant.", fix)


def _invalid(what: str, fix: str) -> BiddableError:
    return BiddableError("invalid_map", what, fix)


@dataclass(frozen=True, slots=True)
class MappedField:
    """How one field of the map is made, in rows with certain columns.

    Args:
        columns: whose cells it holds.
        form: `column` for the value itself, `object` for JSON of the cells, or `template`.
        template: the text with placeholders.
        json: a template of JSON, which no cell may break.
    """

    columns: Sequence[str]
    form: str
    template: str = ""
    json: bool = False

    def value(self, row: Fields) -> Any:
        """The field's value in a row."""
        if self.form == "column":
            value = row[self.columns[0]]
            # A label column often holds numbers; NaN is an empty cell.
            return plain_text(value, "") or None if isinstance(value, int | float) else value
        if self.form == "object":
            return _object({name: row[name] for name in self.columns})
        texts = {name: plain_text(row[name], name) for name in self.columns}
        text = _filled(self.template, texts)
        if self.json:
            escaped = {k: json.dumps(v, ensure_ascii=False)[1:-1] for k, v in texts.items()}
            _check_json(text, _filled(self.template, escaped))
        return text


def mapped_fields(mapping: Mapping[str, str], columns: Sequence[str]) -> dict[str, MappedField]:
    """How to make each field in rows with these columns; a column that is not there is refused."""
    fields = {name: _field(source, columns) for name, source in mapping.items()}
    named = {column for field in fields.values() for column in field.columns}
    rest = [name for name in columns if name and name not in named]
    for name, source in mapping.items():
        if source == f"{JSON}*" and "*" not in columns:
            fields[name] = MappedField(rest, "object")
    return fields


def _field(source: str, columns: Sequence[str]) -> MappedField:
    if source in columns:
        return MappedField([source], "column")
    if source == f"{JSON}*" and "*" not in columns:
        return MappedField([], "object")
    quoted = len(source) > 1 and source[0] == source[-1] and source[0] in QUOTES
    template = _unquoted(source) if quoted else source
    names = [m[1] for m in PLACEHOLDER.finditer(template) if m[0] not in ("{{", "}}")]
    if source.startswith(JSON):
        names = [_unquoted(m[1]) if m[1] else m[2] for m in NAME.finditer(source, len(JSON))]
    elif not quoted and not PLACEHOLDER.search(source):
        names = [source]
    for name in names:
        if name not in columns:
            raise missing_column(name, columns)
    if source.startswith(JSON):
        return MappedField(names, "object")
    zeros = _filled(template, dict.fromkeys(names, "0"))
    half = HALF.search(PLACEHOLDER.sub("", template))
    if half and half[1] in columns:
        what = f"--map has a placeholder without its end: {half[0]!r}."
        raise _invalid(what, "Close it: {COLUMN}; {{ is a brace that is text.")
    is_json = zeros.lstrip()[:1] in ("{", "[") and '"' in zeros and parsed(zeros) is not zeros
    return MappedField(names, "template", template, is_json)


def empty_columns(fields: Mapping[str, MappedField], row: Fields) -> list[str]:
    """The columns that are empty in this row and whose cells stand in JSON.

    A null of JSON or Parquet is meant; an empty cell of a table may have been forgotten.
    """
    columns = [c for f in fields.values() if f.json or f.form == "object" for c in f.columns]
    return [name for name in columns if row[name] is not None and _is_empty(row[name])]


def _drafts(fields: Fields) -> Drafts:
    if "messages" in fields:
        return message_list("messages", fields)
    roles = [role for role in ("user", "assistant") if role in fields]
    return [[{"role": role, "content": fields.pop(role)} for role in roles]]


# The row's fields by their mapped names; `system`, `group` and the like stay with the row.
MAPPED = Format("columns named by --map", frozenset(), frozenset(FIELDS), _drafts)


def _unquoted(source: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), source[1:-1])


def _filled(template: str, texts: Mapping[str, str]) -> str:
    def text(match: re.Match[str]) -> str:
        return match[0][0] if match[0] in ("{{", "}}") else texts[match[1]]

    return PLACEHOLDER.sub(text, template)


def _check_json(text: str, escaped: str) -> None:
    """Refuses a row whose cells (quotes, line breaks, backslashes) break or change the JSON."""
    broken = parsed(text) is text
    if broken or (parsed(escaped) is not escaped and parsed(escaped) != parsed(text)):
        what = f"The cells of this row {'break' if broken else 'change'} the JSON of --map."
        fix = "Let the JSON be built, with all that it needs escaped: --map assistant=json:A,B."
        raise _invalid(what, fix)


def _object(cells: Fields) -> str:
    cells = {name: None if _is_empty(cell) else cell for name, cell in cells.items()}
    if all(cell is None for cell in cells.values()):
        what = f"All cells for the JSON object are empty: {', '.join(list(cells)[:12])}."
        raise BiddableError("empty_cell", what, "Fill them, or remove the row.")
    return json.dumps(cells, ensure_ascii=False, default=_plain)


def _is_empty(cell: object) -> bool:
    """Nothing, blanks, or the number that pandas has for nothing."""
    return cell not in ([], {}) and is_nothing(cell)


def _plain(value: object) -> str:
    """Dates and decimal numbers of Parquet as their text."""
    if isinstance(value, bytes):
        what = "A cell holds bytes, which JSON has no form for."
        raise BiddableError("data_type", what, "Leave the column out.")
    return str(value)


def missing_column(name: str, columns: Iterable[str]) -> BiddableError:
    """The error for a column that the data does not have."""
    names = [str(column) for column in columns]
    what = f"There is no column {name!r}; the columns are {', '.join(names[:12]) or 'none'}."
    fix = suggestion(name, names, "Name one of them; put a text in quotes.")
    return BiddableError("missing_column", what, fix)
