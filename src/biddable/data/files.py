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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from biddable.data.charset import as_utf8
from biddable.data.json_rows import json_rows
from biddable.data.parquet import arrow_rows, broken_file, parquet_rows
from biddable.data.rows import Row
from biddable.data.tables import table_rows
from biddable.data.workbook import workbook_rows
from biddable.errors import BiddableError, Finding, nearest, refuse_no_text

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
MOST_BLANK = 1 << 16
PACKED = b"\x1f\x8b"
# The first bytes of files of records, and of archives that may be workbooks.
BINARY = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff", b"PK\x03\x04")
# The usual files that hold no rows, by their first bytes, gzip taken off.
STRANGERS = {
    b"\xd0\xcf\x11\xe0": (
        "an Excel workbook of the old form (.xls), or one with a password",
        "Save it as .xlsx without a password, or as CSV.",
    ),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "Unpack it, or pack it with gzip."),
    PACKED: ("packed with gzip twice", "Unpack it once."),
    b"BZh": ("packed with bzip2", "Unpack it, or pack it with gzip."),
    b"\xfd7zXZ": ("packed with xz", "Unpack it, or pack it with gzip."),
    b"%PDF-": ("a PDF file", "Make rows of it: biddable mine."),
    b"version https://git-lfs": ("a pointer of Git LFS", "Fetch the file itself: git lfs pull."),
    b"<!doctype html": ("a web page", "Was it behind a log-in? Fetch the file itself."),
    b"<html": ("a web page", "Was it behind a log-in? Fetch the file itself."),
}


def expanded(sources: Sequence[str], findings: list[Finding]) -> Iterator[str]:
    """Folders as their data files; a folder with a `train` file gives only that."""
    if not sources:
        raise BiddableError("missing_file", "No data was given.", "Name a file.")
    for source in sources:
        folder = Path(source)
        if source == "-" or source.startswith("hf:") or not folder.is_dir():
            yield source
        elif (folder / "dataset_dict.json").is_file():
            yield from expanded([_train_split(folder, findings)], findings)
        else:
            yield from _folder_files(folder, source, findings)


def _folder_files(folder: Path, source: str, findings: list[Finding]) -> Iterator[str]:
    paths = sorted(p for p in folder.iterdir() if _is_data(p))
    if (folder / "state.json").is_file():
        # A folder that `save_to_disk` wrote; its JSON files only describe it.
        paths = [path for path in paths if path.suffix == ".arrow"]
    if not paths:
        what, fix = "The folder holds no data file.", f"Put files there: {', '.join(SUFFIXES)}."
        raise BiddableError("empty_file", what, fix, file=source)
    training = [path for path in paths if path.name.lower().startswith("train")]
    left_out = [path.name for path in paths if path not in training]
    for path in training or paths:
        refuse_no_text(path.name, f"A file name in {source}")
    if training and left_out:
        what = f"Only the train files of the folder were read, not {', '.join(left_out)}."
        fix = "Name the files to read others; --eval FILE gives held-out rows."
        findings.append(Finding("files_left_out", "note", what, fix, source))
    yield from map(str, training or paths)


def _train_split(folder: Path, findings: list[Finding]) -> str:
    """The split `train` of a folder with several that `save_to_disk` wrote."""
    splits = sorted(p.parent.name for p in folder.glob("*/state.json"))
    others = [str(folder / name) for name in splits if name != "train"]
    if "train" not in splits:
        what = "The folder holds saved data sets, none of which is named train."
        fix = f"Name the one to read: {', '.join(others[:12]) or 'it holds none'}."
        raise BiddableError("empty_file", what, fix, file=str(folder))
    if others:
        what = f"Only the split train of the folder was read, not {', '.join(others)}."
        fix = f"Held-out rows are given with --eval {others[0]}."
        findings.append(Finding("files_left_out", "note", what, fix, str(folder)))
    return str(folder / "train")


def _is_data(path: Path) -> bool:
    name = path.name.lower()
    # These are lock files, and files that systems create beside others.
    beside = name.startswith((".", "~$")) or name.endswith("mined.json")
    return not beside and path.is_file() and name.removesuffix(".gz").endswith(SUFFIXES)


def file_rows(
    name: str, hashes: dict[str, str], findings: list[Finding], encoding: str = ""
) -> Iterator[Row]:
    """The rows of a file, or of standard input for `-`, in order; what gzip packed is unpacked.

    JSON lines, a JSON array and pretty-printed JSON are recognized by their beginning, Parquet,
    Arrow and workbooks by their first bytes, CSV and TSV by the suffix.

    Args:
        name: as it was given.
        hashes: gets the sha256 of the file as stored, under this name.
        findings: gets the findings about the whole file.
        encoding: of text; if empty, UTF-8, or what a byte order mark says.

    Raises:
        BiddableError: no such file, no permission, empty, or a kind of file that holds no rows.
    """
    with open_source(name, hashes) as stored:
        head = _head(stored, 8)
        if not head:
            what = "Standard input is empty." if name == "-" else "The file is empty."
            fix = "Give a file with one JSON object a line."
            raise BiddableError("empty_file", what, fix)
        packed = head.startswith(PACKED)
        stream = gzip.GzipFile(fileobj=stored) if packed else stored
        lower = name.lower()
        suffix = Path(lower.removesuffix(".gz") if packed else lower).suffix
        try:
            inner = _head(stream, 32)
            for magic, (what, fix) in STRANGERS.items():
                if magic in (inner[: len(magic)], inner[: len(magic)].lower()):
                    raise BiddableError("unreadable_file", f"The file is {what}.", fix)
            if inner.startswith(BINARY):
                yield from _records(stream, name, findings, encoding)
                return
            with as_utf8(stream, encoding, name, findings) as text:
                yield from _text_rows(text, suffix)
        except (EOFError, zlib.error, OSError) as error:
            yield Row(0, broken_file(error))


def _records(
    stream: io.BufferedIOBase, name: str, findings: list[Finding], encoding: str
) -> Iterator[Row]:
    if encoding:
        what = "--encoding was not used for this file, which says itself how its text is stored."
        findings.append(Finding("encoding_not_used", "note", what, "", name))
    head = _head(stream, 8)
    if head.startswith(b"PK"):
        return workbook_rows(stream, name, findings)
    return parquet_rows(stream) if head.startswith(b"PAR1") else arrow_rows(stream)


def _text_rows(stream: io.BufferedIOBase, suffix: str) -> Iterator[Row]:
    head = _head(stream, MOST_BLANK)
    if len(head) == MOST_BLANK and not head.strip():
        what, fix = f"The file begins with {MOST_BLANK:,} blank bytes.", "Write the file again."
        return iter([Row(0, BiddableError("unreadable_file", what, fix))])
    return table_rows(stream, suffix) if suffix in (".csv", ".tsv") else json_rows(stream, head)


def _head(stream: io.BufferedIOBase, size: int) -> bytes:
    head = stream.read(size)
    stream.seek(0)
    return head


@contextmanager
def open_source(name: str, hashes: dict[str, str]) -> Iterator[io.BufferedIOBase]:
    """Opens a file, or standard input for `-`, and notes its sha256 under its name."""
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
            raise missing_file(name) from None
        except (OSError, ValueError) as error:
            what = f"The file cannot be read: {getattr(error, 'strerror', None) or error}."
            fix = "Check that it is a file and that you may read it."
            raise BiddableError("unreadable_file", what, fix, file=name) from None
        yield stored


def refuse_missing(names: Iterable[str]) -> None:
    """Raises an error for the first of these files and folders that is not there."""
    for name in filter(None, names):
        if name != "-" and not name.startswith("hf:") and not Path(name).exists():
            raise missing_file(name)


def missing_file(name: str) -> BiddableError:
    """The error for a file that is not there, with the one of its folder that was likely meant."""
    path = Path(name)
    try:
        near = nearest(path.name, [p.name for p in path.parent.iterdir()])
    except OSError:
        near = ""
    fix = f"Check the path; it is looked up from {Path.cwd()}."
    fix = f"Did you mean {path.with_name(near)}?" if near else fix
    return BiddableError("missing_file", "There is no such file.", fix, file=name)


def text_or_file(option: str) -> str | None:
    """TEXT, or the content of FILE for @FILE."""
    if not option.startswith("@"):
        return option or None
    try:
        return Path(option[1:]).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the system prompt {option[1:]} cannot be read: {error}"
        fix = "give --system TEXT, or --system @FILE with a text file in UTF-8"
        raise BiddableError("option", what, fix) from error
