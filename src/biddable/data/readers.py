"""Files to conversations: the entry of the data room for all other rooms.

`read` never raises for a bad row: it records a Finding with file, line and turn, and continues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from biddable.data.charset import check_encoding
from biddable.data.columns import (
    MAPPED,
    MappedField,
    check_map,
    empty_columns,
    mapped_fields,
    missing_column,
)
from biddable.data.content_parts import Notes
from biddable.data.conversation import Conversation
from biddable.data.fields import group_of, take_origin, take_system, with_system
from biddable.data.files import expanded, file_rows
from biddable.data.formats import FLAT, Drafts, Format, detect
from biddable.data.messages import take_weight, to_messages, written_role
from biddable.data.notes import RESERVED, KeyNotes, inside_of
from biddable.data.parquet import hub_rows
from biddable.data.rows import Fields, Row, is_nothing, kind, number_of
from biddable.data.tool_calls import take_tools
from biddable.data.trees import flat_paths
from biddable.errors import BiddableError, Finding

# A file with more faults than this is a file of another kind; the rest would only repeat them.
MOST_ERRORS = 1000


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
    reader = _Reader(mapping, system, group_by)
    result = reader.result
    for name in expanded(sources, result.findings):
        hub = name.startswith("hf:")
        try:
            rows = (
                hub_rows(name) if hub else file_rows(name, result.hashes, result.findings, encoding)
            )
            reader.take_source(name, rows)
        except BiddableError as error:
            raise BiddableError.of(replace(error.finding, file=name)) from error
    reader.conclude()
    return result


class _Shape(NamedTuple):
    """What rows with certain keys are.

    Args:
        form: their format.
        names: the plain form of keys in other letter case, unless it is that of several.
        mapped: how the fields of --map are made.
        rest: the keys that --map does not use.
    """

    form: Format
    names: Mapping[str, str]
    mapped: Mapping[str, MappedField]
    rest: Sequence[str]


class _Reader:
    """The rows of one call of `read` on their way to conversations and findings."""

    def __init__(
        self, mapping: Mapping[str, str] | None, system: str | None, group_by: str | None
    ) -> None:
        self.result = ReadResult()
        self._mapping, self._system, self._group_by = mapping, system, group_by
        self._formats: Counter[str] = Counter()
        self._shapes: dict[tuple[str, ...], _Shape | BiddableError] = {}
        self._notes = KeyNotes()
        # Of the source at hand; `_flat` holds its rows of one message each.
        self._file, self._errors = "", 0
        self._flat: list[Row] = []

    def take_source(self, name: str, rows: Iterator[Row]) -> None:
        """Takes all rows of a source; those of one message each are put together at its end."""
        self._file, self._errors, self._flat = name, 0, []
        before = self.result.rows
        for row in rows:
            self.result.rows += 1
            self._take(row)
            if self._errors >= MOST_ERRORS:
                what = f"Reading stopped here after {MOST_ERRORS:,} faults."
                fix = "Is this the right file? Correct the first ones, then check again."
                self._add(Finding("too_many_errors", "error", what, fix, "", row.line))
                break
        if self.result.rows == before:
            fix = "Give a file with one JSON object a line."
            raise BiddableError("empty_file", "The file holds no rows.", fix)
        self._take_trees(self._flat)

    def conclude(self) -> None:
        """The format in words, and the findings about keys."""
        result = self.result
        names = [f"{name} ({number_of(n, 'row')})" for name, n in self._formats.most_common()]
        result.format = ", ".join(names if len(names) > 1 else self._formats)
        result.findings += self._notes.findings(result.conversations)
        if len(names) > 1:
            what = f"The rows have several formats: {', '.join(names)}."
            fix = "Check that all of them were taken for what they are."
            result.findings.append(Finding("mixed_formats", "warning", what, fix))

    def _add(self, finding: Finding) -> None:
        self.result.findings.append(replace(finding, file=self._file))
        self._errors += finding.severity == "error"

    def _take_trees(self, rows: Sequence[Row]) -> None:
        left_out = len(rows)
        for row, paths in flat_paths(rows):
            if paths is not None:
                left_out -= sum(map(len, paths))
                self._take(row, paths)
                continue
            left_out -= 1
            parent = row.value["parent_id"][:40]
            what = f"The message answers {parent!r}, which is not in the data; it is left out."
            fix = "Keep whole trees in one file."
            self._add(Finding("missing_parent", "warning", what, fix, "", row.line))
        if left_out:
            messages = number_of(len(rows), "message")
            what = f"Left out: {left_out:,} of {messages} of trees, which are not on a best path."
            self._add(Finding("not_on_best_path", "note", what, ""))

    def _take(self, row: Row, tree: Drafts | None = None) -> None:
        """Takes one row; a fault in it becomes a Finding at its place.

        Args:
            tree: the messages, where the row is the first one of a tree.
        """
        try:
            shape, fields = self._fields(row)
            form, origin = shape.form, take_origin(fields)
            # The documented form of a row names its system prompt itself: nothing to announce.
            own = "system" if form.name.startswith("system/") else ""
            reserved = {key: fields[key] for key in RESERVED if key in fields and key != own}
            flat = form is FLAT and tree is None
            plain_row = Row(row.line, dict(fields)) if flat else row
            drafts = form.build(fields) if tree is None else tree
            conversations = self._conversations(row, fields, form, drafts)
            if origin:
                # `mine` wrote the row: nothing in it was read for its name alone.
                reserved = {}
                conversations = [replace(c, origin=origin) for c in conversations]
        except BiddableError as error:
            self._add(replace(error.finding, line=row.line))
            return
        self._formats[form.name] += tree is None
        if flat:
            self._flat.append(plain_row)
        elif not drafts:
            what = "The tree holds no answer that people kept; it is left out."
            self._add(Finding("no_answer", "note", what, "", "", row.line))
        if tree is None:
            rest = {key: row.value[key] for key in shape.rest if key != self._group_by}
            announced = {} if shape.mapped else reserved
            written = {plain: key for key, plain in shape.names.items()}
            unread = {written.get(key, key): value for key, value in fields.items()}
            self._notes.add_row({**unread, **rest}, announced, self._file, row.line)
        for conversation in conversations:
            if any(m.weight != 0 for m in conversation.messages if m.role == "assistant"):
                self.result.conversations.append(conversation)
            else:
                self._notes.add("untrained", "", self._file, row.line)

    def _fields(self, row: Row) -> tuple[_Shape, Fields]:
        """What a row is, and its fields by their plain names."""
        value = row.value
        if isinstance(value, BiddableError):
            raise value
        if isinstance(value, list) and value and all(map(written_role, value)):
            value = {"messages": value}
        if not isinstance(value, dict):
            what = f"The row is {kind(value)}, not an object."
            fix = 'Write each row as an object, as in {"user": "...", "assistant": "..."}.'
            raise BiddableError("data_type", what, fix)
        if self._group_by is not None and self._group_by not in value:
            raise missing_column(self._group_by, value)
        keys = tuple(value)
        if keys not in self._shapes:
            self._shapes[keys] = self._shape(keys)
        shape = self._shapes[keys]
        if isinstance(shape, BiddableError):
            raise inside_of(shape, value)
        if not shape.mapped:
            return shape, {shape.names.get(key, key): cell for key, cell in value.items()}
        fields = {name: field.value(value) for name, field in shape.mapped.items()}
        for name in empty_columns(shape.mapped, value):
            self._notes.add("empty", name, self._file, row.line)
        return shape, fields

    def _shape(self, keys: Sequence[str]) -> _Shape | BiddableError:
        """What rows with these keys are, or the error to raise for them."""
        low = [key.strip().casefold() for key in keys]
        names = {k: name for k, name in zip(keys, low, strict=True) if low.count(name) == 1}
        try:
            if self._mapping is None:
                plain = {names.get(key, key): key for key in keys}
                return _Shape(detect(plain), names, {}, ())
            mapped = mapped_fields(self._mapping, keys)
        except BiddableError as error:
            return error
        used = {column for field in mapped.values() for column in field.columns}
        return _Shape(MAPPED, {}, mapped, [key for key in keys if key not in used])

    def _conversations(
        self, row: Row, fields: Fields, form: Format, drafts: Drafts
    ) -> list[Conversation]:
        """The conversations of a row, with what any row may carry: system prompt, weight, group
        and tool schemas, which are taken out of its fields."""
        group = fields.pop("group", None)
        if self._group_by is not None:
            group = row.value[self._group_by]
            fields.pop(self._group_by, None)
        if form.group and is_nothing(group):
            group = fields.pop(form.group, None)
        system, weight, tools = (
            take_system(fields),
            take_weight(fields, "assistant"),
            take_tools(fields),
        )
        conversations = []
        for draft in drafts:
            notes: Notes = []
            messages = to_messages(draft, notes, int(bool(system)), weight)
            for about, key in notes:
                number = key if about == "number" else None
                self._notes.add(about, "" if number else key, self._file, row.line, number)
            messages = with_system(system, messages, self._system)
            conversations.append(
                Conversation(messages, self._file, row.line, group_of(group), tools)
            )
        return conversations
