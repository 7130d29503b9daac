"""Opens files and cuts them into rows, each with the line that it starts on.

Nothing here knows what a row means. A row that cannot be read becomes a Finding in its place, and
the reader goes on with the next one wherever the format lets it.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from biddable.data.findings import BiddableError, Finding
from biddable.data.parquet import parquet_rows
from biddable.data.rows import Row
from biddable.data.tables import table_rows
from biddable.data.values import array_rows, is_one_value, line_rows

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
# An array has to be held in memory as a whole, lines do not.
MOST_ARRAY_BYTES = 200_000_000
MOST_BLANK = 1 << 16


class Opened(NamedTuple):
    """A source: its bytes as stored (to hash) and unpacked, and its suffix without .gz."""

    name: str
    stored: io.BufferedIOBase
    stream: io.BufferedIOBase
    suffix: str


def expanded(sources: Sequence[str], findings: list[Finding]) -> Iterator[str]:
    """Folders as their data files; a folder with a `train` file gives only that."""
    if not sources:
        raise BiddableError("No data was given.", fix="Name a file.", code="missing_file")
    for source in sources:
        if source == "-" or source.startswith("hf:") or not Path(source).is_dir():
            yield source
            continue
        names = sorted(str(p) for p in Path(source).iterdir() if _is_data(p))
        training = [name for name in names if Path(name).name.lower().startswith("train")]
        if not names:
            raise BiddableError(
                "The folder holds no data file.",
                fix=f"Put files there that end in {', '.join(SUFFIXES)}.",
                code="empty_file",
                file=source,
            )
        if training and len(training) < len(names):
            left = ", ".join(Path(name).name for name in names if name not in training)
            findings.append(
                Finding(
                    "files_left_out",
                    "note",
                    f"Only the train files of the folder were read, not {left}.",
                    "Name the files to read others; --eval FILE gives held-out rows.",
                    source,
                )
            )
        yield from training or names


def _is_data(path: Path) -> bool:
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


@contextmanager
def open_source(name: str) -> Iterator[Opened]:
    """Opens a file, or standard input for `-`; what gzip packed is unpacked on the way.

    Raises:
        BiddableError: no such file, no permission, empty, or a kind of file that holds no rows.
    """
    with ExitStack() as stack:
        stored: io.BufferedIOBase
        try:
            if name == "-":
                stored = io.BytesIO(sys.stdin.buffer.read())
            else:
                stored = stack.enter_context(Path(name).open("rb"))
        except FileNotFoundError:
            raise BiddableError(
                "There is no such file.",
                fix=f"Check the path; it is looked up from {Path.cwd()}.",
                code="missing_file",
                file=name,
            ) from None
        except (OSError, ValueError) as error:
            raise _unreadable(error, name) from None
        yield _opened(name, stored)


def _opened(name: str, stored: io.BufferedIOBase) -> Opened:
    try:
        stored = stored if stored.seekable() else io.BytesIO(stored.read())
        head = stored.read(4096)
        stored.seek(0)
    except OSError as error:
        raise _unreadable(error, name) from None
    if not head:
        raise BiddableError(
            "Standard input is empty." if name == "-" else "The file is empty.",
            fix="Give a file with one JSON object a line.",
            code="empty_file",
            file=name,
        )
    lower = name.lower()
    if head.startswith(b"\x1f\x8b"):
        suffix = Path(lower.removesuffix(".gz")).suffix
        return Opened(name, stored, gzip.GzipFile(fileobj=stored), suffix)
    _refuse_strangers(head, name)
    return Opened(name, stored, stored, Path(lower).suffix)


def _unreadable(error: Exception, name: str) -> BiddableError:
    return BiddableError(
        f"The file cannot be read: {getattr(error, 'strerror', None) or error}.",
        fix="Check that it is a file and that you may read it.",
        code="unreadable_file",
        file=name,
    )


def _refuse_strangers(head: bytes, name: str) -> None:
    """Names the usual files that hold no rows in UTF-8 text."""
    kinds = {
        b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "Unpack it, or save it as CSV."),
        b"\xff\xfe": ("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
        b"\xfe\xff": ("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
        b"\x28\xb5\x2f\xfd": ("packed with zstd", "Unpack it, or pack it with gzip."),
        b"BZh": ("packed with bzip2", "Unpack it, or pack it with gzip."),
        b"\xfd7zXZ": ("packed with xz", "Unpack it, or pack it with gzip."),
    }
    for magic, (what, fix) in kinds.items():
        if head.startswith(magic):
            raise BiddableError(f"The file is {what}.", fix=fix, code="unreadable_file", file=name)


def rows_of(opened: Opened) -> Iterator[Row | Finding]:
    """The rows of a source in order, a Finding in place of each that cannot be read.

    JSON lines, a JSON array and pretty-printed JSON are told apart by their beginning, Parquet by
    its first bytes, CSV and TSV by the suffix.
    """
    try:
        yield from _rows(opened)
    except (EOFError, zlib.error, OSError) as error:
        yield Finding(
            "unreadable_file",
            "error",
            f"Reading broke off: {error}.",
            "The file is damaged or cut short; fetch or write it again.",
            opened.name,
        )


def _rows(opened: Opened) -> Iterator[Row | Finding]:
    stream = opened.stream
    head = _peek(stream, MOST_BLANK)
    if len(head) == MOST_BLANK and not head.strip():
        what, fix = f"The file begins with {MOST_BLANK:,} blank bytes.", "Write the file again."
        yield Finding("unreadable_file", "error", what, fix, opened.name)
        return
    if head.startswith(b"PAR1"):
        yield from parquet_rows(stream, opened.name)
    elif opened.suffix in (".csv", ".tsv"):
        yield from table_rows(stream, opened.name, opened.suffix)
    elif is_one_value(head):
        text = _whole_text(stream, opened.name)
        yield from array_rows(text, opened.name) if isinstance(text, str) else iter([text])
    else:
        yield from line_rows(stream, opened.name)


def _peek(stream: io.BufferedIOBase, size: int) -> bytes:
    head = stream.read(size)
    stream.seek(0)
    return head


def _whole_text(stream: io.BufferedIOBase, name: str) -> str | Finding:
    data = stream.read(MOST_ARRAY_BYTES + 1)
    if len(data) > MOST_ARRAY_BYTES:
        return Finding(
            "file_too_large",
            "error",
            f"A JSON array is read as a whole, and this one is over {MOST_ARRAY_BYTES:,} bytes.",
            "Write one JSON object a line (JSONL); such a file may have any size.",
            name,
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Finding(
            "invalid_utf8",
            "error",
            f"Byte {data[error.start]:#04x} is not UTF-8.",
            "Save the file as UTF-8.",
            name,
            line,
        )
