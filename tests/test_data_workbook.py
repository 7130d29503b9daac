"""Excel workbooks: the same rows as the CSV file of their first sheet, and all else said."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from biddable.data.readers import ReadResult, read
from biddable.errors import BiddableError

openpyxl = pytest.importorskip("openpyxl")

ROWS: list[list[Any]] = [["question", "answer"], *([f"q{k}", f"a{k}"] for k in range(4))]


def book_of(rows: list[list[Any]], path: Path) -> Any:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return book


def answers(result: ReadResult) -> list[str]:
    return [c.messages[-1].content for c in result.conversations]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (7, "7"),
        (2.5, "2.5"),
        (True, "TRUE"),
        (date(2026, 11, 25), "2026-11-25"),
        (datetime(2026, 11, 25, 14, 30), "2026-11-25 14:30:00"),
        ("two\nlines; 'quoted', \"twice\" €", "two\nlines; 'quoted', \"twice\" €"),
        ("a_x000D_\nb", "a\r\nb"),
    ],
)
def test_a_cell_becomes_the_text_that_a_csv_file_would_hold(
    tmp_path: Path, value: Any, text: str
) -> None:
    path = tmp_path / "data.xlsx"
    book_of([*ROWS, ["q", value]], path)
    result = read([str(path)])
    assert answers(result)[-1] == text
    assert [c.line for c in result.conversations] == [2, 3, 4, 5, 6]
    assert not result.findings


def test_sheets_hidden_rows_merged_cells_and_formulas_are_said(tmp_path: Path) -> None:
    path = tmp_path / "data.xlsx"
    book = book_of([*ROWS, ["q5", "=1+1"], ["q6", None]], path)
    book.create_sheet("notes").append(["by hand"])
    book.create_sheet("empty")
    book.active.row_dimensions[3].hidden = True
    book.active["B7"] = None
    book.active.merge_cells("B5:B7")
    book.active["A9"], book.active["B9"] = "q9", "=1+1"
    book.save(path)
    result = read([str(path)])
    warnings = {f.code: f.message for f in result.findings if f.severity == "warning"}
    assert set(warnings) == {"files_left_out", "hidden_rows", "merged_cells", "no_result"}
    assert "'notes'" in warnings["files_left_out"]
    assert "empty" not in warnings["files_left_out"]
    assert "1 hidden row was read too: 3" in warnings["hidden_rows"]
    assert "B5:B7" in warnings["merged_cells"]
    assert "B9" in warnings["no_result"]
    assert answers(result) == ["a0", "a1", "a2", "a3", "a3", "a3"]
    assert [(f.code, f.line) for f in result.errors()] == [("empty_assistant", 9)]


def test_a_formula_gives_the_value_that_was_last_calculated(tmp_path: Path) -> None:
    path, other = tmp_path / "data.xlsx", tmp_path / "calculated.xlsx"
    book_of([*ROWS, ["q", "=1+1"]], path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for part in old.namelist():
            data = old.read(part).replace(b"<v></v>", b"<v>2</v>").replace(b"<v />", b"<v>2</v>")
            new.writestr(part, data)
    assert answers(read([str(other)]))[-1] == "2"


def test_what_excel_leaves_around_a_table_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "data.xlsx"
    book = book_of([], path)
    for row, (question, answer) in enumerate(ROWS, 3):
        book.active.cell(row, 2, question)
        book.active.cell(row, 3, answer)
    book.active.cell(1_048_576, 16_384).number_format = "0.00"
    book.save(path)
    result = read([str(path)])
    assert answers(result) == [row[1] for row in ROWS[1:]]
    assert not result.findings


def test_empty_cells_at_the_end_of_a_row_are_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "data.xlsx"
    rows = [[*row, "when" if k == 0 else None, None] for k, row in enumerate(ROWS)]
    book_of([[], *rows, ["q", None]], path)
    result = read([str(path)])
    assert answers(result) == [row[1] for row in ROWS[1:]]
    assert [f.code for f in result.findings] == ["empty_assistant"]


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ("content.xml", "OpenDocument"),
        ("xl/workbook.bin", ".xlsb"),
        ("word/document.xml", "Word"),
        ("data.jsonl", "ZIP"),
    ],
)
def test_other_archives_are_refused_by_name(tmp_path: Path, part: str, word: str) -> None:
    path = tmp_path / "data.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(part, "x")
    with pytest.raises(BiddableError, match=word):
        read([str(path)])


def test_the_old_form_and_damaged_workbooks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.xlsx"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"rest")
    with pytest.raises(BiddableError, match=r"\.xls"):
        read([str(path)])
    book_of(ROWS, path)
    whole = path.read_bytes()
    for cut in range(4, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(BiddableError) as caught:
            read([str(path)])
        assert caught.value.finding.fix
    for at in range(30, len(whole), 61):
        path.write_bytes(whole[:at] + b"\xff\0" + whole[at + 2 :])
        with suppress(BiddableError):
            read([str(path)])


def test_a_workbook_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path, bomb = tmp_path / "data.xlsx", tmp_path / "bomb.xlsx"
    book_of(ROWS, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            data = old.read(part)
            if part.endswith("sheet1.xml"):
                data = data.replace(b"</row>", b"<c/>" * 7_000_000 + b"</row>", 1)
            new.writestr(part, data)
    with pytest.raises(BiddableError, match="too large"):
        read([str(bomb)])
