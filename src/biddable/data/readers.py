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
from biddable.data.fields import group_of, take_system, with_system
from biddable.data.files import expanded, file_rows
from biddable.data.formats import FLAT, Drafts, Format, detect
from biddable.data.messages import to_messages, trained, written_role
from biddable.data.notes import RESERVED, KeyNotes
from biddable.data.parquet import hub_rows
from biddable.data.parts import Notes
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


class _Reader:
    """The rows of one call of `read` on their way to conversations and findings."""

    def __init__(
        self, mapping: Mapping[str, str] | None, system: str | None, group_by: str | None
    ) -> None:
        self.result = ReadResult()
        self._mapping, self._system, self._group_by = mapping, system, group_by
        self._formats: Counter[str] = Counter()
        self._shapes: dict[tuple[str, ...], tuple[Format | BiddableError, dict[str, str]]] = {}
        self._notes = KeyNotes()
        # Of the source at hand.
        self._file, self._errors = "", 0

    def take_source(self, name: str, rows: Iterator[Row]) -> None:
        """Takes all rows of a source; those of one message each are put together at its end."""
        self._file, self._errors = name, 0
        before, flat = self.result.rows, []
        for row in rows:
            self.result.rows += 1
            if self._take(row) is FLAT:
                flat.append(row)
            if self._errors >= MOST_ERRORS:
                what = f"Reading stopped here after {MOST_ERRORS:,} faults."
                fix = "Is this the right file? Correct the first ones, then check again."
                self._add(Finding("too_many_errors", "error", what, fix, "", row.line))
                break
        if self.result.rows == before:
            fix = "Give a file with one JSON object a line."
            raise BiddableError("empty_file", "The file holds no rows.", fix)
        self._take_trees(flat)

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
            of_all = f"{left_out:,} of {number_of(len(rows), 'message')} of trees"
            what = f"{of_all} left out, because not on a best path."
            self._add(Finding("not_on_best_path", "note", what, ""))

    def _take(self, row: Row, tree: Drafts | None = None) -> Format | None:
        """Takes one row; whatever is wrong with it becomes a Finding at its place.

        Args:
            tree: the messages, where the row is the first one of a tree.

        Returns:
            What the row was taken for; None where something is wrong.
        """
        try:
            fields = self._fields(row.value)
            form = self._format(row, fields) if tree is None else FLAT
            # The documented form of a row names its system prompt itself: nothing to announce.
            own = "system" if form.name.startswith("system/") else ""
            reserved = {key: fields[key] for key in RESERVED if key in fields and key != own}
            drafts = form.build(fields) if tree is None else tree
            conversations = self._conversations(row, fields, form, drafts)
        except BiddableError as error:
            self._add(replace(error.finding, line=row.line))
            return None
        if tree is None:
            reserved = reserved if self._mapping is None else {}
            self._notes.add_row(fields, reserved, self._file, row.line)
        if not drafts and (tree is not None or form is not FLAT):
            what = "The tree holds no answer that people kept; it is left out."
            self._add(Finding("no_answer", "note", what, "", "", row.line))
        for conversation in conversations:
            if any(m.weight != 0 for m in conversation.messages if m.role == "assistant"):
                self.result.conversations.append(conversation)
            else:
                self._notes.add("untrained", "", self._file, row.line)
        return form

    def _fields(self, value: Any) -> Fields:
        """The row as an object, a copy; with --map by the names of its fields."""
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
        if self._mapping is not None:
            return {**unmapped(value, self._mapping), **mapped_fields(value, self._mapping)}
        return dict(value)

    def _format(self, row: Row, fields: Fields) -> Format:
        """What a row is; its keys get their plain form."""
        keys = tuple(fields)
        if keys not in self._shapes:
            self._shapes[keys] = self._shape(keys)
        form, names = self._shapes[keys]
        if isinstance(form, BiddableError):
            raise form
        for key, low in names.items():
            fields[low] = fields.pop(key)
        for name in empty_columns(row.value, self._mapping or {}):
            self._notes.add("empty", name, self._file, row.line)
        self._formats[form.name] += 1
        return form

    def _shape(self, keys: Sequence[str]) -> tuple[Format | BiddableError, dict[str, str]]:
        """What rows with these keys are: a format or the error to raise, and the plain form of
        keys in other letter case, unless it is that of several."""
        if self._mapping is not None:
            return MAPPED, {}
        low = [key.strip().casefold() for key in keys]
        names = {k: name for k, name in zip(keys, low, strict=True) if low.count(name) == 1}
        names = {key: name for key, name in names.items() if key != name}
        try:
            return detect(frozenset(names.get(key, key) for key in keys)), names
        except BiddableError as error:
            return error, names

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
            trained(fields, "assistant"),
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
