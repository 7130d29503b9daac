"""Files to conversations: what the data room does for everybody else.

`read` never raises for a bad row: it gives a Finding with file, line and turn, and goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from biddable.data.charset import check_encoding
from biddable.data.columns import (
    MAPPED,
    check_map,
    empty_columns,
    mapped_fields,
    missing_column,
    unmapped,
)
from biddable.data.conversation import Conversation
from biddable.data.drafts import Drafts, Fields
from biddable.data.fields import group_of, take_system, take_weight, weighted, with_system
from biddable.data.files import expanded, file_rows
from biddable.data.formats import FLAT, Format, detect
from biddable.data.messages import to_messages, written_role
from biddable.data.parquet import hub_rows
from biddable.data.plain_text import is_nothing
from biddable.data.rows import Row, kind
from biddable.data.tool_calls import take_tools
from biddable.data.trees import flat_paths
from biddable.data.unread import RESERVED, Unread, noted_at
from biddable.errors import BiddableError, Finding

# A file with more faults than this is a file of another kind; the rest would only repeat them.
MOST_ERRORS = 1000
MOST_NAMED = 12


@dataclass(slots=True)
class ReadResult:
    """What was read.

    Args:
        conversations: the good rows, in the order of sources and lines.
        findings: one for each bad row and note, in the same order; errors mean that rows are
            missing from `conversations`.
        format: what the rows were taken for, in words.
        rows: rows seen, good and bad, without blank lines.
        hashes: sha256 of each source as stored, by name.
    """

    conversations: list[Conversation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    format: str = ""
    rows: int = 0
    hashes: dict[str, str] = field(default_factory=dict)

    def errors(self) -> list[Finding]:
        """The findings that must stop a run."""
        return [finding for finding in self.findings if finding.severity == "error"]


@dataclass(slots=True)
class _Reading:
    """What one call of `read` was asked for and collects; `file` and `errors` are of one source."""

    result: ReadResult
    mapping: Mapping[str, str] | None
    system: str | None
    group_by: str | None
    formats: Counter[str] = field(default_factory=Counter)
    shapes: dict[tuple[str, ...], Any] = field(default_factory=dict)
    unread: Unread = field(default_factory=Unread)
    file: str = ""
    errors: int = 0


def read(
    sources: Sequence[str],
    *,
    mapping: Mapping[str, str] | None = None,
    system: str | None = None,
    group_by: str | None = None,
    encoding: str = "",
) -> ReadResult:
    """Reads conversations from files, folders, standard input (`-`) and the hub (`hf:NAME`).

    Args:
        sources: in the order in which their rows are to stand.
        mapping: columns by field, see `columns.parse_map`; None detects the format by the keys.
        system: a system prompt for the rows that have none.
        group_by: the column whose value is the conversation's group.
        encoding: of text files; if empty, UTF-8, or what a byte order mark says.

    Raises:
        BiddableError: a source is missing, empty or no data file, or a package of an extra is.
    """
    if mapping is not None:
        check_map(mapping)
    if encoding:
        check_encoding(encoding)
    reading = _Reading(ReadResult(), mapping, system, group_by)
    hashes, findings = reading.result.hashes, reading.result.findings
    for name in expanded(sources, findings):
        reading.file, reading.errors = name, 0
        hub = name.startswith("hf:")
        try:
            rows = hub_rows(name) if hub else file_rows(name, hashes, findings, encoding)
            _take_all(reading, rows)
        except BiddableError as error:
            raise BiddableError.of(replace(error.finding, file=name)) from error
    _conclude(reading)
    return reading.result


def _take_all(reading: _Reading, rows: Iterator[Row]) -> None:
    before = reading.result.rows
    flat: list[Row] = []
    for row in rows:
        reading.result.rows += 1
        if _take(reading, row) is FLAT:
            flat.append(row)
        if reading.errors >= MOST_ERRORS:
            what = f"Reading stopped here after {MOST_ERRORS:,} faults."
            fix = "Is this the right file? Mend the first ones, then check again."
            _fault(reading, Finding("too_many_errors", "error", what, fix, "", row.line))
            break
    if reading.result.rows == before:
        raise BiddableError(
            "empty_file", "The file holds no rows.", "Give a file with one JSON object a line."
        )
    left_out = len(flat)
    for row, path in flat_paths(flat):
        if path is not None:
            left_out -= sum(map(len, path))
            _take(reading, row, path)
            continue
        left_out -= 1
        what = f"The message answers {row.value['parent_id'][:40]!r}, which is not in the data;"
        fix = "Keep whole trees in one file."
        _fault(
            reading,
            Finding("missing_parent", "warning", f"{what} it is left out.", fix, "", row.line),
        )
    if left_out:
        what = f"{left_out:,} of {len(flat):,} messages of trees are not on a best path; left out."
        _fault(reading, Finding("not_on_best_path", "note", what, ""))


def _fault(reading: _Reading, finding: Finding) -> None:
    reading.result.findings.append(replace(finding, file=reading.file))
    reading.errors += finding.severity == "error"


def _take(reading: _Reading, row: Row, path: Drafts | None = None) -> Format | None:
    """Takes one row; whatever is wrong with it becomes a Finding at its place.

    Args:
        path: the messages, where the row is the first one of a tree.

    Returns:
        What the row was taken for; None where something is wrong.
    """
    try:
        fields = _fields(reading, row.value)
        form = _format(reading, row, fields) if path is None else FLAT
        # The documented form of a row names its system prompt itself: nothing to announce.
        own = "system" if form.name.startswith("system/") else ""
        read_by_name = {key: fields[key] for key in RESERVED if key in fields and key != own}
        drafts = form.build(fields)
        rest = _common(reading, row, fields, form)
        made = [_conversation(reading, row, draft, *rest) for draft in path or drafts]
    except BiddableError as error:
        _fault(reading, replace(error.finding, line=row.line))
        return None
    if path is None:
        reading.unread.note_rest(fields, reading.file, row.line)
        if reading.mapping is None:
            reading.unread.note_reserved(read_by_name, reading.file, row.line)
    reading.result.conversations += made
    if not made and (path is not None or form is not FLAT):
        what = "The tree holds no answer that people kept; it is left out."
        _fault(reading, Finding("no_answer", "note", what, "", "", row.line))
    return form


def _fields(reading: _Reading, value: Any) -> Fields:
    if isinstance(value, BiddableError):
        raise value
    if isinstance(value, list) and value and all(map(written_role, value)):
        value = {"messages": value}
    if not isinstance(value, dict):
        raise BiddableError(
            "data_type",
            f"The row is {kind(value)}, not an object.",
            'Write each row as an object, as in {"user": "...", "assistant": "..."}.',
        )
    if reading.group_by is not None and reading.group_by not in value:
        raise missing_column(reading.group_by, value)
    if reading.mapping is not None:
        return {**unmapped(value, reading.mapping), **mapped_fields(value, reading.mapping)}
    return dict(value)


def _format(reading: _Reading, row: Row, fields: Fields) -> Format:
    """What a row is; its keys get their plain form."""
    keys = tuple(fields)
    if keys not in reading.shapes:
        reading.shapes[keys] = _shape(reading, keys)
    form, names = reading.shapes[keys]
    if not isinstance(form, Format):
        raise form
    for key, low in names.items():
        fields[low] = fields.pop(key)
    for name in empty_columns(row.value, reading.mapping or {}):
        noted_at(reading.unread.empty, name, reading.file, row.line)
    reading.formats[form.name] += 1
    return form


def _shape(reading: _Reading, given: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """What rows with these keys are: a format or the error to raise, and the plain form of keys in
    other letter case, unless it is that of several."""
    if reading.mapping is not None:
        return MAPPED, {}
    low = [key.strip().casefold() for key in given]
    names = {k: name for k, name in zip(given, low, strict=True) if low.count(name) == 1}
    names = {key: name for key, name in names.items() if key != name}
    try:
        return detect(frozenset(names.get(key, key) for key in given)), names
    except BiddableError as error:
        return error, names


def _common(reading: _Reading, row: Row, fields: Fields, form: Format) -> tuple[Any, ...]:
    """Takes what any row may carry out of it: system prompt, weight, group and tool schemas."""
    group = fields.pop("group", None)
    if reading.group_by is not None:
        group = row.value[reading.group_by]
        fields.pop(reading.group_by, None)
    if form.group and is_nothing(group):
        group = fields.pop(form.group, None)
    return (take_system(fields), take_weight(fields), group_of(group), take_tools(fields))


def _conversation(
    reading: _Reading,
    row: Row,
    draft: Sequence[Any],
    system: str,
    weight: float | None,
    group: str | None,
    tools: Sequence[Fields],
) -> Conversation:
    unread: list[str] = []
    messages = to_messages(draft, unread, first=int(bool(system)))
    for key in unread:
        noted_at(reading.unread.messages, key, reading.file, row.line)
    messages = weighted(weight, with_system(system, messages, reading.system))
    return Conversation(messages, reading.file, row.line, group, tools)


def _conclude(reading: _Reading) -> None:
    """The format in words, and a finding for the keys that were not read as the user may think."""
    findings = reading.result.findings
    names = [f"{name} ({count:,} rows)" for name, count in reading.formats.most_common()]
    reading.result.format = ", ".join(names if len(names) > 1 else reading.formats)
    findings += reading.unread.findings()
    if len(names) > 1:
        what = f"The rows have several formats: {', '.join(names)}."
        fix = "Check that all of them were taken for what they are."
        findings.append(Finding("mixed_formats", "warning", what, fix))


def _named(keys: Mapping[str, tuple[int, str, int]], what: str) -> str:
    """Keys with the number of their rows or messages."""
    texts = []
    for key, (count, _, _) in sorted(keys.items(), key=lambda item: -item[1][0]):
        name = repr(key[:40]) if key else "the column without a name"
        texts.append(f"{name} ({count:,} {what}{'s' * (count > 1)})")
    more = [f"and {len(texts) - MOST_NAMED:,} more"] if len(texts) > MOST_NAMED else []
    return ", ".join(texts[:MOST_NAMED] + more)
