"""Rows of tables: CSV and TSV files, and what they share with workbooks."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from biddable.data.charset import not_utf8
from biddable.data.rows import Row, shortened
from biddable.errors import BiddableError

# The csv module's own limit of a field; a lone quote shows itself by running into it.
MOST_FIELD = 131_072
# A line of nothing but delimiters takes twenty times its size in memory.
MOST_LINE = 1 << 22
# So many records tell which delimiter gives each of them as many cells as the header.
SAMPLE = 20
# Excel's own first line, which names the delimiter.
NAMED = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)
LINE_END = re.compile(rb'(?:[^"\r\n]|"[^"]*")*+(\r\n?|\n)')


def table_rows(stream: io.BufferedIOBase, suffix: str) -> Iterator[Row]:
    """A dict of cells by column for each record.

    The delimiter is the one that a first line `sep=;` names, a tab for `.tsv`, else the one of
    comma, semicolon, tab and bar that cuts the first records into as many cells as the header.
    Quoting is read strictly: a quote that is never closed is an error, not a giant cell.
    """
    head = stream.read(MOST_FIELD // 2)
    stream.seek(0)
    lines = _text_lines(stream, _newline(head))
    line = 0
    first = head.decode("utf-8-sig", "surrogateescape").splitlines()[:1]
    if named := NAMED.fullmatch(first[0] if first else ""):
        next(lines)
        line = 1
    delimiter = named[1] if named else _delimiter(head, suffix)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    skipped = line

    def records() -> Iterator[tuple[int, list[str]]]:
        nonlocal line
        for cells in reader:
            start, line = line + 1, reader.line_num + skipped
            yield start, cells

    try:
        yield from named_rows(records())
    except csv.Error as error:
        fix = "Put cells with quotes or line breaks in quotes and double the quotes inside."
        what = f"Not a table row: {str(error).partition(' - ')[0]}."
        yield Row(line + 1, BiddableError("invalid_csv", what, fix))


def named_rows(records: Iterable[tuple[int, Sequence[str]]]) -> Iterator[Row]:
    """The records behind the first as dicts by the names in the first; empty ones are skipped.

    A first column without a name is the index that pandas writes: its cells stand under the empty
    name. Other columns without a name have to be empty.
    """
    header: list[str] = []
    for start, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if header:
            yield Row(start, _by_column(header, cells))
            continue
        header = [cell.strip() for cell in cells]
        if problem := _header_problem(header):
            yield Row(start, problem)
            return


def _newline(head: bytes) -> str:
    """What ends the first line, outside of quotes: old programs on a Mac write CR alone."""
    end = LINE_END.match(head)
    return "\r" if end and end[1] == b"\r" else "\n"


def _delimiter(head: bytes, suffix: str) -> str:
    text = head.decode("utf-8-sig", "surrogateescape")
    if suffix == ".tsv" and "\t" in text:
        return "\t"
    return max(",;\t|", key=lambda mark: _fitness(text, mark))


def _fitness(text: str, mark: str) -> tuple[int, int]:
    """How many of the first records have as many cells as the header, and how many those are."""
    try:
        reader = csv.reader(io.StringIO(text, newline=None), delimiter=mark)
        counts = [len(cells) for cells in islice(reader, SAMPLE) if any(cells)]
    except csv.Error:
        return 0, 0
    if not counts or counts[0] < 2:
        return 0, 0
    return counts.count(counts[0]), counts[0]


def _text_lines(stream: Any, newline: str) -> Iterator[str]:
    # A broken byte must not end the file: it is carried along as a lone surrogate, and the check
    # of the cells names the row that holds it.
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline=newline)
    try:
        while line := text.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise csv.Error(f"a line is over {MOST_LINE:,} characters")
            yield line
    finally:
        text.detach()


def _header_problem(header: list[str]) -> BiddableError | None:
    if problem := _byte_problem(header):
        return problem
    counts = Counter(name for name in header if name)
    twice = [f"{shortened(name)!r} ({n} times)" for name, n in counts.items() if n > 1]
    if not twice:
        return None
    what = f"Columns of the header have the same name: {', '.join(twice[:12])}."
    return BiddableError("invalid_header", what, "Name each column once.")


def _by_column(header: list[str], cells: Sequence[str]) -> dict[str, str] | BiddableError:
    names = header + [""] * (len(cells) - len(header))
    if len(cells) < len(header) and any(header[len(cells) :]):
        what = f"The row has {len(cells)} cells, the header {len(header)}."
        return BiddableError("column_count", what, "Write all cells, also empty ones.")
    if problem := _byte_problem(cells):
        return problem
    row: dict[str, str] = {}
    for place, (name, cell) in enumerate(zip(names, cells, strict=False)):
        if name or (not place and cell.strip()):
            row[name] = cell
        elif cell.strip() and place >= len(header):
            return BiddableError(
                "column_count",
                f"The row has {len(cells)} cells, the header {len(header)}.",
                "Put a cell that holds the delimiter in double quotes."
                if header[1:]
                else "Is it the header? Then remove what stands above it.",
            )
        elif cell.strip():
            what = f"Column {place + 1} has no name, but holds {shortened(cell)!r}."
            fix = "Name the column in the first row, or empty it."
            return BiddableError("invalid_header", what, fix)
    return row


def _byte_problem(cells: Sequence[str]) -> BiddableError | None:
    try:
        "".join(cells).encode()
        return None
    except UnicodeEncodeError:
        data = " ".join(cells).encode("utf-8", "surrogateescape")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not_utf8(data, error.start)
    return None
