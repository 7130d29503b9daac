"""Rows of CSV and TSV files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator

from biddable.data.findings import BiddableError
from biddable.data.rows import Row

# The csv module's own limit of a field; a lone quote shows itself by running into it.
MOST_FIELD = 131_072
# A line of nothing but delimiters takes twenty times its size in memory.
MOST_LINE = 1 << 22


def table_rows(stream: io.BufferedIOBase, suffix: str) -> Iterator[Row]:
    """A dict of cells by column for each record.

    The delimiter of a `.csv` is the one of comma, semicolon and tab that its header holds most.
    Quoting is read strictly: a quote that is never closed is an error, not a giant cell.
    """
    first = stream.readline(MOST_FIELD)
    stream.seek(0)
    marks = "\t" if suffix == ".tsv" else ",;\t"
    delimiter = max(marks, key=lambda mark: first.count(mark.encode()))
    reader = csv.reader(_text_lines(stream), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 0
    try:
        for cells in reader:
            start, line = line + 1, reader.line_num
            if not any(cells):
                continue
            if header:
                yield Row(start, _by_column(header, cells))
                continue
            header = [cell.strip() for cell in cells]
            if problem := _header_problem(header):
                fix = "Name each column once."
                yield Row(start, BiddableError(problem, fix=fix, code="invalid_header"))
                return
    except csv.Error as error:
        fix = "Put cells with quotes or line breaks in quotes and double the quotes inside."
        what = f"Not a table row: {error}."
        yield Row(line + 1, BiddableError(what, fix=fix, code="invalid_csv"))


def _text_lines(stream: io.BufferedIOBase) -> Iterator[str]:
    # A broken byte must not end the file: it is carried along as a lone surrogate, and the check
    # of the cells names the row that holds it.
    encoding = "utf-8-sig"
    while data := stream.readline(MOST_LINE + 1):
        if len(data) > MOST_LINE:
            raise csv.Error(f"a line is over {MOST_LINE:,} bytes")
        yield data.decode(encoding, "surrogateescape")
        encoding = "utf-8"


def _header_problem(header: list[str]) -> str:
    if "" in header:
        return f"Column {header.index('') + 1} has no name."
    name, times = Counter(header).most_common(1)[0]
    return f"The column {name[:40]!r} stands {times} times in the header." if times > 1 else ""


def _by_column(header: list[str], cells: list[str]) -> dict[str, str] | BiddableError:
    if len(cells) != len(header):
        return BiddableError(
            f"The row has {len(cells)} cells, the header {len(header)}.",
            fix="Put a cell that holds the delimiter in double quotes.",
            code="column_count",
        )
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return BiddableError(
            "The row is not UTF-8.", fix="Save the file as UTF-8.", code="invalid_utf8"
        )
    return dict(zip(header, cells, strict=True))
