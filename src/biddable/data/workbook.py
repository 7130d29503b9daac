"""Rows of Excel workbooks, through openpyxl."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any
from xml.parsers import expat

from biddable.data.rows import Row, number_of
from biddable.data.tables import named_rows
from biddable.errors import BiddableError, Finding, extra_module, first_line

# Texts that cells share are held in memory; a tag of their XML is as little as four bytes.
MOST_TAGS = 6_000_000
# Excel's own limit of rows, and a limit of the empty cells before one that stands far to the right.
MOST_ROWS, MOST_CELLS = 1 << 20, 50_000_000
MOST_NAMED = 3
# What other files in ZIP archives hold, by the name of a part.
OTHERS = {
    "xl/workbook.bin": ("a binary Excel workbook (.xlsb)", "Save it as .xlsx or CSV."),
    "word/document.xml": ("a Word document", "Save its rows as CSV or JSON lines."),
    "content.xml": ("an OpenDocument file (.ods)", "Save it as .xlsx or CSV."),
    "Index/Document.iwa": ("a Numbers document", "Export it as CSV."),
}


@dataclass(slots=True)
class _Oddities:
    """Numbers of hidden rows, merged ranges, and places of formulas that have no result."""

    hidden: list[int] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def workbook_rows(stream: io.BufferedIOBase, name: str, findings: list[Finding]) -> Iterator[Row]:
    """The records of the first visible sheet with content, by the names in its first row.

    Cells become the text that a CSV file would hold: 1.0 is `1`, dates are in ISO form, formulas
    are what Excel last calculated. Merged cells below each other all hold the value.

    Args:
        findings: gets what the user should know of other sheets, hidden rows and merged cells.

    Raises:
        BiddableError: another ZIP archive, a workbook that is damaged or too large, no extra.
    """
    openpyxl = extra_module("openpyxl", "excel")
    number = 0
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(stream) as archive:
            # About styles and menus that it does not read.
            warnings.simplefilter("ignore")
            _check_archive(archive)
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True, keep_links=False)
            sheet, others = _sheet(book)
            if sheet is None:
                return
            with archive.open(sheet._worksheet_path) as part:
                odd = _oddities(part)
            findings += _odd_findings(sheet.title, others, odd, name)
            for row in named_rows(_records(sheet, odd.merged, openpyxl.utils)):
                number = row.line
                yield row
    except BiddableError:
        raise
    except Exception as error:  # Damaged parts make openpyxl raise errors of any type.
        what = f"The workbook is damaged: {first_line(error)}"
        fix = "Open it in Excel and save it again, or save it as CSV."
        damaged = BiddableError("unreadable_file", what, fix)
        if not number:
            raise damaged from error
        yield Row(number, damaged)


def _check_archive(archive: zipfile.ZipFile) -> None:
    parts = archive.namelist()
    if "xl/workbook.xml" not in parts:
        unpack = ("a ZIP archive", "Unpack it.")
        what, fix = next((OTHERS[part] for part in OTHERS if part in parts), unpack)
        raise BiddableError("unreadable_file", f"The file is {what}.", fix)
    tags = 0
    for part in (part for part in parts if part.endswith((".xml", ".rels"))):
        with archive.open(part) as stream:
            while data := stream.read(1 << 20):
                tags += data.count(b"<")
                if tags > MOST_TAGS:
                    raise _too_large()


def _too_large() -> BiddableError:
    fix = "Save it as CSV, which is read row by row."
    return BiddableError("file_too_large", "The workbook is too large.", fix)


def _sheet(book: Any) -> tuple[Any, list[str]]:
    """The first visible sheet with content, and the names of others that have some."""
    filled = []
    for sheet in book.worksheets:
        # The size that the sheet claims to have would be filled up with empty cells.
        sheet.reset_dimensions()
        if any(value is not None for row in sheet.values for value in row):
            filled.append(sheet)
    visible = [sheet for sheet in filled if sheet.sheet_state == "visible"] or filled
    first = visible[0] if visible else None
    return first, [sheet.title for sheet in filled if sheet is not first]


def _oddities(part: Any) -> _Oddities:
    odd, row, cell, pending, in_value = _Oddities(), 0, "", False, False

    def start(tag: str, values: dict[str, str]) -> None:
        nonlocal row, cell, pending, in_value
        name = tag.rpartition(":")[2]
        in_value = name == "v"
        if name == "row":
            row = int(values.get("r", row + 1))
            if values.get("hidden") in ("1", "true"):
                odd.hidden.append(row)
        elif name == "c":
            cell, pending = values.get("r", ""), False
        elif name == "f":
            pending = True
        elif name == "mergeCell":
            odd.merged.append(values.get("ref", ""))

    def text(data: str) -> None:
        nonlocal pending
        pending = pending and not (in_value and data)

    def end(tag: str) -> None:
        if pending and tag.rpartition(":")[2] == "c":
            odd.unknown.append(cell)

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    parser.ParseFile(part)
    return odd


def _odd_findings(
    title: str, others: Sequence[str], odd: _Oddities, name: str
) -> Iterator[Finding]:
    """How what was read may differ from a look at the screen."""
    if others:
        what = f"Only the sheet {title!r} was read, not {_listed(list(map(repr, others)))}."
        fix = "Save the others as files of their own, if their rows are meant too."
        yield Finding("files_left_out", "warning", what, fix, name)
    if odd.hidden:
        rows = number_of(len(odd.hidden), "hidden row was", "hidden rows were")
        what = f"{rows} read too: {_listed(odd.hidden)}."
        fix = "Delete them, or clear the filter to see them."
        yield Finding("hidden_rows", "warning", what, fix, name, odd.hidden[0])
    if odd.merged:
        what = f"Cells are merged: {_listed(odd.merged)}; each row of them got the value."
        fix = "Unmerge them, if it belongs to the first row alone."
        yield Finding("merged_cells", "warning", what, fix, name)
    if odd.unknown:
        formulas = number_of(len(odd.unknown), "formula has", "formulas have")
        what = f"{formulas} no result: {_listed(odd.unknown)}."
        yield Finding("no_result", "warning", what, "Open the file in Excel and save it.", name)


def _records(sheet: Any, merged: Sequence[str], tools: Any) -> Iterator[tuple[int, list[str]]]:
    starts: dict[int, list[tuple[int, int]]] = {}
    for cells in merged:
        left, top, _, bottom = tools.range_boundaries(cells)
        starts.setdefault(top, []).append((left - 1, bottom))
    # By column: the last row of a merged cell that has begun, and its value.
    below: dict[int, tuple[int, Any]] = {}
    count = width = 0
    for number, values in enumerate(sheet.values, 1):
        count += len(values)
        width = width or len(values)
        if number > MOST_ROWS or count > MOST_CELLS:
            raise _too_large()
        row = list(values)
        for column, (bottom, value) in list(below.items()):
            if number > bottom:
                del below[column]
            else:
                row += [None] * (column + 1 - len(row))
                row[column] = value
        for column, bottom in starts.get(number, ()):
            below[column] = bottom, row[column] if column < len(row) else None
        # Empty cells at the end of a row are not stored.
        row += [None] * (width - len(row))
        yield number, [_text(value, tools.escape.unescape) for value in row]


def _text(value: Any, unescape: Any) -> str:
    if isinstance(value, str):
        # Excel writes a carriage return as _x000D_.
        return str(unescape(value))
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _listed(names: Sequence[object]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(map(str, names[:MOST_NAMED])) + (f" and {more:,} more" if more > 0 else "")
