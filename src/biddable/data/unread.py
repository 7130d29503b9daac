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
        matter = {k: n for k, n in self.rows.items() if OF_THE_PROMPT.fullmatch(k.strip())}
        fix = 'If the answer depends on it, say so: --map user="... {{{}}}".'
        if matter:
            fix = fix.format(next(iter(matter))[:40])
            yield of_keys("unused_columns", "warning", matter, "rows", "not used", fix)
        if rest := {key: noted for key, noted in self.rows.items() if key not in matter}:
            yield of_keys("unused_columns", "note", rest, "rows", "not used", "")
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
        parts = {key: noted for key, noted in self.messages.items() if "." in key}
        whole = {key: noted for key, noted in self.messages.items() if "." not in key}
        code, fix = "message_unrecognized_key", "Is it a typing error? Else remove it."
        if whole:
            use = "handed to the template only"
            yield of_keys(code, "warning", whole, "messages", use, fix)
        if parts:
            yield of_keys(code, "warning", parts, "parts of messages", "not used", fix)


def of_keys(
    code: str, severity: Severity, keys: Mapping[str, Noted], of: str, use: str, fix: str
) -> Finding:
    """One finding that names every key of a kind, so that none hides behind another."""
    first, most = next(iter(keys.values())), max(noted.rows for noted in keys.values())
    names = ", ".join(repr(key[:40]) for key in keys)
    subject, verb = ("keys", "are") if len(keys) > 1 else ("key", "is")
    if use == "not used":
        verb = {"are": "were", "is": "was"}[verb]
    what = f"The {subject} {names} of {most:,} {of} {verb} {use}."
    return Finding(code, severity, what, fix, first.file, first.line, count=most)


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
