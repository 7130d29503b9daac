"""Files to conversations: what the data room does for everybody else.

`read` never raises for a bad row: it gives a Finding with file, line and turn, and goes on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from biddable.data.columns import check_map, mapped_drafts, mapped_fields, missing_column
from biddable.data.conversation import Conversation
from biddable.data.fields import group_name, tools_of, weighted, with_system
from biddable.data.files import expanded, open_source, rows_of
from biddable.data.findings import BiddableError, Finding, Severity
from biddable.data.formats import COMMON, Draft, Fields, detect
from biddable.data.parquet import hub_rows
from biddable.data.rows import Row, kind
from biddable.data.trees import FLAT_KEYS, FLAT_NAME, TREE, flat_drafts
from biddable.data.turns import KNOWN_KEYS, to_messages

# A file with more faults than this is a file of another kind; the rest would only repeat them.
MOST_ERRORS = 1000
MOST_SAME = 20


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
        skipped: rows that gave no conversation though nothing is wrong with them, by reason.
    """

    conversations: list[Conversation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    format: str = ""
    rows: int = 0
    hashes: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def errors(self) -> list[Finding]:
        """The findings that must stop a run."""
        return [finding for finding in self.findings if finding.severity == "error"]


@dataclass(slots=True)
class _Reading:
    """What one call of `read` collects and was asked for."""

    result: ReadResult
    mapping: Mapping[str, str] | None
    system: str | None
    group_by: str | None
    formats: Counter[str] = field(default_factory=Counter)
    shapes: dict[tuple[str, ...], Any] = field(default_factory=dict)
    odd: dict[tuple[str, str], tuple[int, Row]] = field(default_factory=dict)
    flat: list[Row] = field(default_factory=list)
    repeated: Counter[tuple[str, str, Severity, str]] = field(default_factory=Counter)
    errors: int = 0


def read(
    sources: Sequence[str],
    *,
    mapping: Mapping[str, str] | None = None,
    system: str | None = None,
    group_by: str | None = None,
) -> ReadResult:
    """Reads conversations from files, folders, standard input (`-`) and the hub (`hf:NAME`).

    Args:
        sources: in the order in which their rows are to stand.
        mapping: columns by field, see `columns.parse_map`; None detects the format by the keys.
        system: a system prompt for the rows that have none.
        group_by: the column whose value is the conversation's group.

    Raises:
        BiddableError: a source is missing, empty or no data file, or a package of an extra is.
    """
    if mapping is not None:
        check_map(mapping)
    reading = _Reading(ReadResult(), mapping, system, group_by)
    for name in expanded(sources, reading.result.findings):
        _read_source(reading, name)
    _conclude(reading)
    return reading.result


def _read_source(reading: _Reading, name: str) -> None:
    before = reading.result.rows
    reading.errors = 0
    if name.startswith("hf:"):
        _take_all(reading, hub_rows(name))
    else:
        with open_source(name) as opened:
            reading.result.hashes[name] = hashlib.file_digest(opened.stored, "sha256").hexdigest()
            opened.stored.seek(0)
            _take_all(reading, rows_of(opened))
    if reading.result.rows == before:
        raise BiddableError(
            "The file holds no rows.",
            fix="Give a file with one JSON object a line.",
            code="empty_file",
            file=name,
        )


def _take_all(reading: _Reading, rows: Iterator[Row | Finding]) -> None:
    for row in rows:
        reading.result.rows += 1
        if isinstance(row, Finding):
            _fault(reading, row)
        else:
            _guarded(reading, row, None)
        if reading.errors >= MOST_ERRORS:
            reading.result.findings.append(
                Finding(
                    "too_many_errors",
                    "error",
                    f"Reading stopped here after {MOST_ERRORS:,} faults.",
                    "Is this the right file? Mend the first ones, then check again.",
                    row.file,
                    row.line,
                )
            )
            break
    flat, reading.flat = reading.flat, []
    for found in flat_drafts(flat):
        if isinstance(found, Finding):
            _fault(reading, found)
        else:
            _guarded(reading, found[0], found[1])


def _fault(reading: _Reading, finding: Finding) -> None:
    """Lists a finding; of one that is the same word for word only the first ones, then a count."""
    same = finding.file, finding.code, finding.severity, finding.message
    reading.repeated[same] += 1
    if reading.repeated[same] <= MOST_SAME:
        reading.result.findings.append(finding)
    reading.errors += finding.severity == "error"


def _guarded(reading: _Reading, row: Row, drafts: list[Draft] | None) -> None:
    """Takes one row; whatever is wrong with it becomes a Finding at its place."""
    try:
        fields = _fields(reading, row)
        if drafts is None:
            drafts = _drafts(reading, row, fields)
        made = [_conversation(reading, row, fields, draft) for draft in drafts or ()]
    except BiddableError as error:
        _fault(reading, replace(error.finding, file=row.file, line=row.line))
        return
    reading.result.conversations += made
    if drafts is not None and not drafts:
        reason = "no answer on the best path"
        reading.result.skipped[reason] = reading.result.skipped.get(reason, 0) + 1


def _fields(reading: _Reading, row: Row) -> Fields:
    if not isinstance(row.value, dict):
        raise BiddableError(
            f"The row is {kind(row.value)}, not an object.",
            fix='Write each row as an object, as in {"user": "...", "assistant": "..."}.',
            code="data_type",
        )
    if reading.group_by is not None and reading.group_by not in row.value:
        raise missing_column(reading.group_by, row.value)
    if reading.mapping is not None:
        return mapped_fields(row.value, reading.mapping)
    return row.value


def _drafts(reading: _Reading, row: Row, fields: Fields) -> list[Draft] | None:
    """The raw conversations of a row; None for a message of a tree, which has to wait."""
    if reading.mapping is not None:
        reading.formats["columns named by --map"] += 1
        return mapped_drafts(fields)
    keys = tuple(fields)
    if keys not in reading.shapes:
        reading.shapes[keys] = _shape(fields)
    form, names, unused = reading.shapes[keys]
    if isinstance(form, BiddableError):
        raise form
    if names:
        fields.update({names[key]: fields[key] for key in names})
    if form is None:
        reading.formats[FLAT_NAME] += 1
        reading.flat.append(row)
        return None
    reading.formats[form.name] += 1
    for key in unused:
        if key != reading.group_by:
            _odd(reading, "unused_columns", key, row)
    drafts: list[Draft] = form.build(fields)
    return drafts


def _shape(fields: Fields) -> tuple[Any, dict[str, str], frozenset[str]]:
    """What rows with these keys are: a format (None: messages of trees) or the error to raise,
    the plain form of keys in other letter case, and the keys that are not read."""
    names = {key: key.strip().casefold() for key in fields}
    names = {key: low for key, low in names.items() if low != key and low not in fields}
    keys = frozenset(names.get(key, key) for key in fields)
    if keys >= FLAT_KEYS:
        return None, names, frozenset()
    try:
        tree = keys >= TREE.needs and isinstance(fields.get("prompt"), dict)
        form = TREE if tree else detect(keys)
    except BiddableError as error:
        return error, names, frozenset()
    return form, names, keys - form.needs - form.uses - COMMON


def _odd(reading: _Reading, code: str, key: str, row: Row) -> None:
    count, first = reading.odd.get((code, key), (0, row))
    reading.odd[code, key] = count + 1, first


def _conversation(reading: _Reading, row: Row, fields: Fields, draft: Draft) -> Conversation:
    before = int(fields.get("system") not in (None, ""))
    messages = to_messages(draft.messages, before)
    for item in draft.messages:
        for key in () if item.keys() <= KNOWN_KEYS else item.keys() - KNOWN_KEYS:
            if item[key] is not None:
                _odd(reading, "message_unrecognized_key", key, row)
    messages = with_system(fields, messages, reading.system)
    messages = weighted(fields, messages)
    own = row.value[reading.group_by] if reading.group_by is not None else fields.get("group")
    group = draft.group if own in (None, "") else group_name(own)
    return Conversation(messages, row.file, row.line, group, tools_of(fields))


def _conclude(reading: _Reading) -> None:
    """The format in words, repeated faults by number, a note for each key that was not read."""
    for (file, code, severity, message), count in reading.repeated.items():
        if count > MOST_SAME:
            more = f"{count - MOST_SAME:,} more with the same fault: {message}"
            reading.result.findings.append(Finding(code, severity, more, "As above.", file))
    names = [f"{name} ({count:,} rows)" for name, count in reading.formats.most_common()]
    reading.result.format = ", ".join(names if len(names) > 1 else reading.formats)
    for (code, key), (count, row) in reading.odd.items():
        kept = code == "message_unrecognized_key"
        reading.result.findings.append(
            Finding(
                code,
                "warning" if kept else "note",
                f"The key {key[:40]!r} of {count:,} {'messages' if kept else 'rows'} "
                f"{'is handed to the template only' if kept else 'was not used'}.",
                "Is it a typing error? Else remove it." if kept else "",
                row.file,
                row.line,
            )
        )
    if len(names) > 1:
        reading.result.findings.append(
            Finding(
                "mixed_formats",
                "warning",
                f"The rows have several formats: {', '.join(names)}.",
                "Check that all of them were taken for what they are.",
            )
        )
