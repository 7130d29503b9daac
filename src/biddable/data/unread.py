"""What of the rows nothing reads, and which columns are read for their name alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from biddable.data.fields import SYSTEM_KEYS
from biddable.data.plain_text import is_nothing
from biddable.data.rows import shown
from biddable.errors import Finding, Severity

RESERVED = ("weight", "group", *SYSTEM_KEYS)
# What the answer may well depend on, although no format reads it.
# Columns on which an answer is likely to depend.
OF_THE_PROMPT = re.compile(
    r"(?:choice|option|alternative)s?(?:[ _-]?[a-h1-8])?|[a-h]"
    r"|contexts|passages|documents|instructions|images?|audios?|videos?",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Noted:
    """A key or column.

    Args:
        file, line: where it came first.
        rows: how often it came.
        values: the distinct values of a reserved column; of weights the least and the most.
    """

    file: str
    line: int
    rows: int = 0
    values: set[Any] = field(default_factory=set)


@dataclass(slots=True)
class Unread:
    """What is collected over all rows: keys of rows and of messages, reserved columns, and columns
    whose empty cells --map put into JSON."""

    rows: dict[str, Noted] = field(default_factory=dict)
    messages: dict[str, Noted] = field(default_factory=dict)
    reserved: dict[str, Noted] = field(default_factory=dict)
    empty: dict[str, Noted] = field(default_factory=dict)

    def note_rest(self, rest: Mapping[str, Any], file: str, line: int) -> None:
        """Notes what is left of a row when everything that is read was taken out."""
        for key, value in rest.items():
            if not is_nothing(value):
                noted_at(self.rows, key, file, line)

    def note_reserved(self, row: Mapping[str, Any], file: str, line: int) -> None:
        """Notes the reserved columns of a row that was read."""
        for key in RESERVED:
            value = row.get(key)
            if value is None or is_nothing(value):
                continue
            noted = noted_at(self.reserved, key, file, line)
            noted.values.add(float(value) if key == "weight" else shown(value))
            if key == "weight":
                noted.values = {min(noted.values), max(noted.values)}

    def findings(self) -> Iterator[Finding]:
        """One for each key."""
        for key, noted in self.rows.items():
            matters = OF_THE_PROMPT.fullmatch(key.strip()) is not None
            what = f"The key {key[:40]!r} of {noted.rows:,} rows was not used."
            fix = f'If the answer depends on it, say so: --map user="... {{{key[:40]}}}".'
            severity: Severity = "warning" if matters else "note"
            fix = fix if matters else ""
            yield Finding(
                "unused_columns", severity, what, fix, noted.file, noted.line, count=noted.rows
            )
        for key, noted in self.reserved.items():
            fix = "Rename the column if it means something else."
            what = use_of(key, noted)
            yield Finding(
                "reserved_column", "note", what, fix, noted.file, noted.line, count=noted.rows
            )
        for key, noted in self.empty.items():
            what = f"{noted.rows:,} empty cells of {key[:40]!r} are null in the JSON of --map."
            fix = "Fill it, if something is missing."
            yield Finding(
                "empty_cell", "warning", what, fix, noted.file, noted.line, count=noted.rows
            )
        for key, noted in self.messages.items():
            what = (
                f"The key {key[:40]!r} of {noted.rows:,} messages is handed to the template only."
            )
            if "." in key:
                what = f"The key {key[:40]!r} of {noted.rows:,} parts of messages was not used."
            fix = "Is it a typing error? Else remove it."
            code = "message_unrecognized_key"
            yield Finding(code, "warning", what, fix, noted.file, noted.line, count=noted.rows)


def noted_at(noted: dict[str, Noted], key: str, file: str, line: int) -> Noted:
    one = noted.setdefault(key, Noted(file, line))
    one.rows += 1
    return one


def use_of(key: str, noted: Noted) -> str:
    """What a reserved column was used for, in one line."""
    if key == "weight":
        least, most = min(noted.values), max(noted.values)
        return f"Weights {least:g} to {most:g} from the column 'weight' of {noted.rows:,} rows."
    what = "Groups" if key == "group" else "System prompts"
    distinct = len(noted.values)
    return f"{what} from the column {key!r} of {noted.rows:,} rows, {distinct:,} different."
