"""PDF as text: what stands under the bookmarks, else questions and answers of the text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from biddable.errors import BiddableError, Finding
from biddable.mining.outline import document_pairs
from biddable.mining.pair import Mined, Pair
from biddable.mining.pieces import Piece

MOST_PAGES = 1000


def pdf_pairs(data: bytes) -> Mined:
    """The pairs of a PDF; their lines are the numbers of its pages.

    Raises:
        BiddableError: `missing_extra`, pypdf is not installed.
    """
    try:
        pypdf = import_module("pypdf")
    except ImportError:
        what = "PDF files are read by pypdf, which is not installed."
        raise BiddableError("missing_extra", what, "pip install 'biddable[mine]'") from None
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        pieces = list(_pieces(reader, _bookmarks(reader, reader.outline, 1)))
    except Exception as error:
        # Damaged files make the library fail in ways that it does not name.
        what = f"The PDF cannot be read: {type(error).__name__}."
        yield Finding("unreadable_pdf", "warning", what, "Save it again as PDF.")
        return
    if not any(piece.text.strip() for piece in pieces):
        what, fix = "The PDF holds no text, only pictures.", "Recognize its text (OCR) first."
        yield Finding("pdf_without_text", "note", what, fix)
    for pair in document_pairs(pieces):
        yield replace(pair, kind="pdf") if isinstance(pair, Pair) else pair


def _bookmarks(reader: Any, outline: Any, level: int) -> dict[int, dict[str, int]]:
    """The levels of the bookmarks, by page and title without blanks."""
    marks: dict[int, dict[str, int]] = {}
    for item in outline:
        deeper = isinstance(item, list)
        inside = _bookmarks(reader, item, level + 1) if deeper else {}
        if not deeper and (page := reader.get_destination_page_number(item)) is not None:
            inside = {page: {"".join(str(item.title).split()): level}}
        for page, titles in inside.items():
            marks.setdefault(page, {}).update(titles)
    return marks


def _pieces(reader: Any, marks: dict[int, dict[str, int]]) -> Iterator[Piece]:
    for number, page in enumerate(reader.pages[:MOST_PAGES]):
        titles = marks.get(number, {})
        for line in page.extract_text().split("\n"):
            level = titles.get("".join(line.split()), 0)
            yield Piece("heading" if level else "text", line.strip(), number + 1, level)
