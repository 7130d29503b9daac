"""Text of any encoding as UTF-8: named by the user, by a byte order mark, or by plain UTF-16."""

from __future__ import annotations

import codecs
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from biddable.errors import BiddableError, Finding, suggestion

# The longer marks first: that of UTF-32-LE begins with that of UTF-16-LE.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
USUAL = ("utf-8", "utf-16", "cp1252", "latin-1", "cp1251", "gb18030", "shift_jis", "mac_roman")
CHUNK = 1 << 20


def check_encoding(name: str) -> None:
    """Refuses a name of no text encoding that Python knows."""
    try:
        "".encode(name)
        b"".decode(name)
    except (LookupError, ValueError):
        fix = suggestion(name, USUAL, f"Name one such as {', '.join(USUAL)}.")
        what = f"--encoding {name!r} is no known text encoding."
        raise BiddableError("option", what, fix) from None


@contextmanager
def as_utf8(
    stream: io.BufferedIOBase, named: str, name: str, findings: list[Finding]
) -> Iterator[io.BufferedIOBase]:
    """The stream in UTF-8; text of another encoding is copied to a temporary file.

    Without a name, another encoding than UTF-8 is assumed only where it is certain: by a byte order
    mark, or for UTF-16 of which at least a fifth of the characters are ASCII.
    """
    head = stream.read(4096)
    stream.seek(0)
    marked = next((encoding for mark, encoding in MARKS if head.startswith(mark)), "")
    wanted = codecs.lookup(named).name if named else ""
    if wanted and marked and not wanted.startswith(marked):
        what = f"The file begins with the byte order mark of {marked}, not of {named}."
        raise BiddableError("invalid_encoding", what, "Leave --encoding out.", file=name)
    encoding = wanted or marked or _plain_utf16(head) or "utf-8"
    if not (wanted or marked) and encoding != "utf-8":
        what = f"The file has no byte order mark; it was read as {encoding}."
        fix = f"--encoding {encoding} says so without a note."
        findings.append(Finding("encoding_guessed", "note", what, fix, name))
    if encoding in ("utf-8", "utf-8-sig"):
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        if _copy(stream, copy, marked or encoding, name) and wanted and not marked:
            what = f"The file is valid UTF-8, but --encoding has it read as {named}."
            fix = "Leave --encoding out, unless the texts shown are right."
            findings.append(Finding("mojibake", "warning", what, fix, name))
        copy.seek(0)
        yield copy


def _plain_utf16(head: bytes) -> str:
    """UTF-16 by the zero bytes of its ASCII characters; no UTF-8 text holds any."""
    zeros = head[::2].count(0), head[1::2].count(0)
    least = len(head) // 10
    if min(zeros) > max(zeros) // 20 or max(zeros) <= least:
        return ""
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"


def _copy(stream: io.BufferedIOBase, target: IO[bytes], encoding: str, name: str) -> bool:
    """Copies the text as UTF-8; returns whether it already was UTF-8, and not only ASCII."""
    decoder = codecs.getincrementaldecoder(encoding)()
    plain = codecs.getincrementaldecoder("utf-8")()
    lines, is_utf8, is_ascii = 1, True, True
    data = b"-"
    while data:
        data = stream.read(CHUNK)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = lines + error.object.count(b"\n", 0, error.start)
            what = f"Byte {error.object[error.start]:#04x} is not {encoding}."
            fix = "Name the encoding that the file was saved in with --encoding."
            raise BiddableError("invalid_encoding", what, fix, file=name, line=line) from None
        lines += text.count("\n")
        target.write(text.encode("utf-8", "surrogatepass"))
        is_ascii = is_ascii and data.isascii()
        try:
            is_utf8 = is_utf8 and plain.decode(data, final=not data) is not None
        except UnicodeDecodeError:
            is_utf8 = False
    return is_utf8 and not is_ascii


def not_utf8(data: bytes, start: int) -> BiddableError:
    """The error for a line that is not UTF-8 from a byte on, with what it might be instead."""
    column = start - data.rfind(b"\n", 0, start)
    guess = "utf-16" if b"\0" in data else "cp1252"
    near = data[max(0, start - 15) : start + 15].decode("cp1252", "replace").strip()
    reads = "" if guess == "utf-16" else f", with which it reads {near!r}"
    what = f"Byte {data[start]:#04x} at column {column} is not UTF-8."
    fix = f"Save the file as UTF-8, or name its encoding: --encoding {guess}{reads}."
    return BiddableError("invalid_utf8", what, fix)
