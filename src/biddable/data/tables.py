"""Rows of CSV and TSV files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator

from biddable.data.findings import Finding
from biddable.data.rows import Row

# The csv module's own limit of a field; a lone quote shows itself by running into it.
MOST_FIELD = 131_072
# A line of nothing but delimiters takes twenty times its size in memory.
MOST_LINE = 1 << 22


def table_rows(stream: io.BufferedIOBase, file: str, suffix: str) -> Iterator[Row | Finding]:
    """A dict of cells by column for each record; a record of the wrong width is a Finding.

    The delimiter of a `.csv` is the one of comma, semicolon and tab that its header holds most.
    Quoting is read strictly: a quote that is never closed is an error, not a giant cell.
    """
    first = stream.readline(MOST_FIELD)
    stream.seek(0)
    delimiter = "\t" if suffix == ".tsv" else _delimiter(first)
    reader = csv.reader(_text_lines(stream), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 0
    try:
        for cells in reader:
            start, line = line + 1, reader.line_num
            if not any(cells):
                continue
            if header:
                yield _row(header, cells, file, start)
                continue
            header = [cell.strip() for cell in cells]
            problem = _header_problem(header)
            if problem:
                yield _finding("invalid_header", problem, "Name each column once.", file, start)
                return
    except csv.Error as error:
        fix = "Put cells with quotes or line breaks in quotes and double the quotes inside."
        yield _finding("invalid_csv", f"Not a table row: {error}.", fix, file, line + 1)


def _text_lines(stream: io.BufferedIOBase) -> Iterator[str]:
    # A broken byte must not end the file: it is carried along as a lone surrogate, and the check
    # of contents names the row that holds it.
    encoding = "utf-8-sig"
    while data := stream.readline(MOST_LINE + 1):
        if len(data) > MOST_LINE:
            raise csv.Error(f"a line is over {MOST_LINE:,} bytes")
        yield data.decode(encoding, "surrogateescape")
        encoding = "utf-8"


def _delimiter(header: bytes) -> str:
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


def _header_problem(header: list[str]) -> str:
    if "" in header:
        return f"Column {header.index('') + 1} has no name."
    name, times = Counter(header).most_common(1)[0]
    return f"The column {name[:40]!r} stands {times} times in the header." if times > 1 else ""


def _row(header: list[str], cells: list[str], file: str, line: int) -> Row | Finding:
    if len(cells) == len(header):
        if any(_broken(cell) for cell in cells):
            return _finding(
                "invalid_utf8", "The row is not UTF-8.", "Save the file as UTF-8.", file, line
            )
        return Row(file, line, dict(zip(header, cells, strict=True)))
    return _finding(
        "column_count",
        f"The row has {len(cells)} cells, the header {len(header)}.",
        "Put a cell that holds the delimiter in double quotes.",
        file,
        line,
    )


def _broken(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return True
    return False


def _finding(code: str, message: str, fix: str, file: str, line: int) -> Finding:
    return Finding(code, "error", message, fix, file, line)
