"""What a file is, by its name and its beginning, and the reader that it gets."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from biddable.data.charset import MARKS, not_utf8
from biddable.data.files import SUFFIXES, file_rows
from biddable.errors import BiddableError, Finding
from biddable.mining.grammars import GRAMMARS, other_code_pairs
from biddable.mining.mail import Mail, mbox_messages, read_mail
from biddable.mining.manuals import help_pairs, is_man_page, man_pairs
from biddable.mining.outline import document_pairs
from biddable.mining.pair import Mined
from biddable.mining.pdf import pdf_pairs
from biddable.mining.pieces import html_pieces, markdown_pieces, rst_pieces, with_definitions
from biddable.mining.python_code import python_pairs
from biddable.mining.tickets import ticket_pairs
from biddable.mining.walk import MAILDIR, Source

# Larger texts are data; tables and mail may be larger.
MOST_BYTES, MOST_TABLE = 4 << 20, 1 << 30
MARKDOWN = (".md", ".markdown", ".mdx", ".qmd", ".rmd")
HTML = (".html", ".htm", ".xhtml")
PLAIN = (".rst", ".txt", ".text", ".help")
# Files without a suffix that are documents.
BARE = ("readme", "faq", "install", "news", "usage", "changes", "help", "contributing")
MAN = tuple(f".{section}" for section in "12345678")
READ = (*MARKDOWN, *HTML, *PLAIN, *GRAMMARS, *MAN, ".py", ".pyi")


def group_name(text: str) -> str:
    """A name for a thread that holds no address."""
    return f"thread-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"


def file_pairs(
    source: Source, mails: list[Mail], staff: Sequence[str], encoding: str, given: bool
) -> Mined:
    """The pairs of a file; mail goes to `mails`, for its threads may go through many files.

    Args:
        staff: as for `thread_pair`.
        encoding: of texts that are not UTF-8.
        given: whether the user named the file itself, which is then read whatever its name is.

    Raises:
        BiddableError: the file is too large, binary, not in its encoding, or needs an extra.
        OSError: it cannot be read.
    """
    suffix = Path(source.path.name.lower().removesuffix(".gz")).suffix
    if suffix in SUFFIXES:
        yield from _tickets(source, staff, encoding)
        return
    with _opened(source.path) as stream:
        head = stream.read(5)
        stream.seek(0)
        single = source.path.parent.name in MAILDIR or suffix == ".eml"
        if head == b"From " or single:
            yield from _mail(stream, source.shown, single, mails)
            return
        bare = not suffix and source.path.name.lower() in BARE
        if not (given or bare or suffix in READ or suffix == ".pdf"):
            yield Finding("other_file", "note", suffix or "no suffix", "", source.shown)
            return
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        what = f"The file is over {MOST_BYTES:,} bytes."
        raise BiddableError("file_too_large", what, "Cut it, if it is a text.")
    if data.startswith(b"%PDF-"):
        yield from pdf_pairs(data)
    else:
        yield from text_pairs(decoded(data, encoding), suffix)


def text_pairs(text: str, suffix: str) -> Mined:
    """The pairs of a text, by the suffix of its file."""
    if suffix in MARKDOWN:
        return document_pairs(list(with_definitions(list(markdown_pieces(text)), False)))
    if suffix in HTML or text[:200].lstrip().lower().startswith(("<!doctype html", "<html")):
        return _page_pairs(text)
    if suffix in (".py", ".pyi"):
        return python_pairs(text)
    if suffix in GRAMMARS:
        return other_code_pairs(text, suffix)
    return man_pairs(text) if is_man_page(text) else _plain_pairs(text, suffix)


def _page_pairs(text: str) -> Mined:
    if "{%" in text or "{{" in text:
        yield Finding("html_template", "note", "The page is a template that others fill.", "")
        return
    yield from document_pairs(html_pieces(text))


def _plain_pairs(text: str, suffix: str) -> Mined:
    options = list(help_pairs(text))
    if options:
        yield from options
        return
    yield from document_pairs(list(with_definitions(list(rst_pieces(text)), suffix == ".rst")))


def decoded(data: bytes, encoding: str) -> str:
    """The text of a file: as marked, UTF-8, or the encoding that was given for others.

    Raises:
        BiddableError: `binary_file` or `invalid_utf8`.
    """
    marked = next((name for mark, name in MARKS if data.startswith(mark)), "")
    if b"\0" in data[:8000] and marked in ("", "utf-8"):
        raise BiddableError("binary_file", "The file is no text.")
    try:
        text = data.decode(marked if marked and marked != "utf-8" else "utf-8-sig")
    except UnicodeDecodeError as error:
        if not encoding or marked:
            raise not_utf8(data, error.start) from None
        text = data.decode(encoding, "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _opened(path: Path) -> IO[bytes]:
    """The file, unpacked where gzip packed it."""
    if not path.is_file():
        raise BiddableError("no_file", "It is no file but a link or a device.")
    if path.name.lower().endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _mail(stream: IO[bytes], shown: str, single: bool, mails: list[Mail]) -> Mined:
    parts = iter([(1, stream.read(MOST_BYTES))]) if single else mbox_messages(iter(stream))
    for first, data in parts:
        mail = read_mail(data, shown, first)
        if isinstance(mail, Finding):
            yield mail
        else:
            mails.append(mail)


def _tickets(source: Source, staff: Sequence[str], encoding: str) -> Mined:
    with source.path.open("rb") as stream:
        head = stream.read(4)
        stream.seek(0)
        total = sum(1 for _ in stream)
    if head.startswith((b"\x1f\x8b", b"PK", b"PAR1", b"ARRO")):
        total = 0
    findings: list[Finding] = []
    rows = file_rows(str(source.path), {}, findings, encoding)

    def group(number: str) -> str:
        return group_name(f"{source.shown} {number}")

    yield from ticket_pairs(rows, total, source.shown, staff, group)
    yield from findings
