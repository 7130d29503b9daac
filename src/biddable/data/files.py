"""Opens files and cuts them into rows, each with the line that it starts on.

Nothing here knows what a row means. A row that cannot be read is an error in its place, and the
reader goes on with the next one wherever the format lets it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from biddable.data.findings import BiddableError, Finding, refuse_no_text
from biddable.data.parquet import parquet_rows
from biddable.data.rows import Row
from biddable.data.tables import table_rows
from biddable.data.values import array_rows, is_one_value, line_rows

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
MOST_BLANK = 1 << 16
PACKED = b"\x1f\x8b"
# The usual files that hold no rows in UTF-8 text, by their first bytes.
STRANGERS = {
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "Unpack it, or save it as CSV."),
    b"\xff\xfe": ("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
    b"\xfe\xff": ("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "Unpack it, or pack it with gzip."),
    b"BZh": ("packed with bzip2", "Unpack it, or pack it with gzip."),
    b"\xfd7zXZ": ("packed with xz", "Unpack it, or pack it with gzip."),
}


def expanded(sources: Sequence[str], findings: list[Finding]) -> Iterator[str]:
    """Folders as their data files; a folder with a `train` file gives only that."""
    if not sources:
        raise BiddableError("No data was given.", fix="Name a file.", code="missing_file")
    for source in sources:
        if source == "-" or source.startswith("hf:") or not Path(source).is_dir():
            yield source
            continue
        paths = sorted(p for p in Path(source).iterdir() if _is_data(p))
        training = [path for path in paths if path.name.lower().startswith("train")]
        left = [path.name for path in paths if path not in training]
        if not paths:
            raise BiddableError(
                "The folder holds no data file.",
                fix=f"Put files there that end in {', '.join(SUFFIXES)}.",
                code="empty_file",
                file=source,
            )
        for path in training or paths:
            refuse_no_text(path.name, f"A file name in {source}")
        if training and left:
            what = f"Only the train files of the folder were read, not {', '.join(left)}."
            fix = "Name the files to read others; --eval FILE gives held-out rows."
            findings.append(Finding("files_left_out", "note", what, fix, source))
        yield from map(str, training or paths)


def refuse_missing(sources: Sequence[str]) -> None:
    """Refuses files that are not there, before anything slow is loaded.

    Raises:
        BiddableError: `missing_file`.
    """
    for name in sources:
        if name != "-" and not name.startswith("hf:") and not Path(name).exists():
            raise _missing(name)


def _missing(name: str) -> BiddableError:
    return BiddableError(
        "There is no such file.",
        fix=f"Check the path; it is looked up from {Path.cwd()}.",
        code="missing_file",
        file=name,
    )


def _is_data(path: Path) -> bool:
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def file_rows(name: str, hashes: dict[str, str]) -> Iterator[Row]:
    """The rows of a file, or of standard input for `-`, in order; what gzip packed is unpacked.

    JSON lines, a JSON array and pretty-printed JSON are told apart by their beginning, Parquet by
    its first bytes, CSV and TSV by the suffix.

    Args:
        name: as it was given.
        hashes: gets the sha256 of the file as stored, under this name.

    Raises:
        BiddableError: no such file, no permission, empty, or a kind of file that holds no rows.
    """
    with open_source(name, hashes) as stored:
        head = _head(stored, 4096)
        if not head:
            raise BiddableError(
                "Standard input is empty." if name == "-" else "The file is empty.",
                fix="Give a file with one JSON object a line.",
                code="empty_file",
            )
        for magic, (what, fix) in STRANGERS.items():
            if head.startswith(magic):
                raise BiddableError(f"The file is {what}.", fix=fix, code="unreadable_file")
        packed = head.startswith(PACKED)
        stream = gzip.GzipFile(fileobj=stored) if packed else stored
        lower = name.lower()
        try:
            yield from _rows(stream, Path(lower.removesuffix(".gz") if packed else lower).suffix)
        except (EOFError, zlib.error, OSError) as error:
            fix = "The file is damaged or cut short; fetch or write it again."
            what = f"Reading broke off: {error}."
            yield Row(0, BiddableError(what, fix=fix, code="unreadable_file"))


@contextmanager
def open_source(name: str, hashes: dict[str, str]) -> Iterator[io.BufferedIOBase]:
    """Opens a file, or standard input for `-`, and notes its sha256 under its name.

    Raises:
        BiddableError: there is no such file, or it cannot be read.
    """
    with ExitStack() as stack:
        stored: io.BufferedIOBase
        try:
            if name == "-":
                stored = io.BytesIO(sys.stdin.buffer.read())
            else:
                stored = stack.enter_context(Path(name).open("rb"))
            stored = stored if stored.seekable() else io.BytesIO(stored.read())
            hashes[name] = hashlib.file_digest(stored, "sha256").hexdigest()
            stored.seek(0)
        except FileNotFoundError:
            raise _missing(name) from None
        except (OSError, ValueError) as error:
            raise BiddableError(
                f"The file cannot be read: {getattr(error, 'strerror', None) or error}.",
                fix="Check that it is a file and that you may read it.",
                code="unreadable_file",
                file=name,
            ) from None
        yield stored


def _rows(stream: io.BufferedIOBase, suffix: str) -> Iterator[Row]:
    head = _head(stream, MOST_BLANK)
    if len(head) == MOST_BLANK and not head.strip():
        what, fix = f"The file begins with {MOST_BLANK:,} blank bytes.", "Write the file again."
        return iter([Row(0, BiddableError(what, fix=fix, code="unreadable_file"))])
    if head.startswith(b"PAR1"):
        return parquet_rows(stream)
    if suffix in (".csv", ".tsv"):
        return table_rows(stream, suffix)
    return array_rows(stream) if is_one_value(head) else line_rows(stream)


def _head(stream: io.BufferedIOBase, size: int) -> bytes:
    head = stream.read(size)
    stream.seek(0)
    return head
