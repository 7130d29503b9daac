"""Rows of JSON text: one object a line, or one array (or pretty-printed objects) for the file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from biddable.data.findings import Finding
from biddable.data.rows import Row

# No conversation for a small model has a row of this size (4 million tokens), and a parser fed
# with a longer one can need a gigabyte.
MOST_ROW_BYTES = 1 << 24
# An array's element is parsed from a window of the text, so that one monstrous element cannot
# take all memory; the window grows only for elements that need it.
WINDOWS = (1 << 13, 1 << 17, 1 << 21, MOST_ROW_BYTES)
BLANK = re.compile(r"[ \t\r\n]*")


def line_rows(stream: io.BufferedIOBase, file: str) -> Iterator[Row | Finding]:
    """One JSON value a line; blank lines are skipped, a bad line is a Finding."""
    decoder = _decoder()
    line = 0
    while True:
        data = stream.readline(MOST_ROW_BYTES + 1)
        if not data:
            return
        line += 1
        if data == b"\n":
            continue
        if len(data) > MOST_ROW_BYTES and not data.endswith(b"\n"):
            _skip_line(stream)
            yield _too_large(file, line)
            continue
        row = _line_row(data, decoder, file, line)
        if row is not None:
            yield row


def _line_row(data: bytes, decoder: json.JSONDecoder, file: str, line: int) -> Row | Finding | None:
    try:
        text = data.decode("utf-8-sig" if line == 1 else "utf-8").strip()
        return Row(file, line, decoder.decode(text)) if text else None
    except UnicodeDecodeError as error:
        return Finding(
            "invalid_utf8",
            "error",
            f"Byte {data[error.start]:#04x} at column {error.start + 1} is not UTF-8.",
            "Save the file as UTF-8.",
            file,
            line,
        )
    except (ValueError, RecursionError) as error:
        return _invalid(error, file, line)


def _skip_line(stream: io.BufferedIOBase) -> None:
    while True:
        data = stream.readline(MOST_ROW_BYTES)
        if not data or data.endswith(b"\n"):
            return


def is_one_value(head: bytes) -> bool:
    """Whether text that begins like this is an array or pretty-printed JSON, not JSON lines."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return True
    first, newline, rest = text.partition(b"\n")
    # A pretty-printed object opens on a line that ends before its first key does.
    return bool(newline) and first.strip() == b"{" and not rest.lstrip().startswith(b"{")


def array_rows(text: str, file: str) -> Iterator[Row | Finding]:
    """The elements of JSON arrays and the objects between them, each with its line.

    A syntax error is a Finding and the end of the file: where the next element begins cannot be
    known after it.
    """
    decoder = _decoder()
    at, line, depth, expect_value = 0, 1, 0, False
    while True:
        start = _blank_end(text, at)
        line += text.count("\n", at, start)
        at = start
        if at == len(text):
            if depth:
                yield _broken_off(file, line)
            return
        mark = text[at]
        if mark in "[]," and not (mark == "[" and depth):
            problem = _step_problem(mark, depth, expect_value)
            if problem:
                yield _invalid(ValueError(problem), file, line)
                return
            depth += {"[": 1, "]": -1, ",": 0}[mark]
            expect_value = mark == ","
            at += 1
            continue
        value, end = _element(text, at, decoder)
        if end < 0:
            yield _too_large(file, line) if value is None else _invalid(value, file, line)
            return
        yield Row(file, line, value)
        line += text.count("\n", at, end)
        at, expect_value = end, False


def _step_problem(mark: str, depth: int, expect_value: bool) -> str:
    if mark == "[":
        return ""
    if not depth:
        return f"{mark!r} stands outside of an array"
    return f"a value should stand before {mark!r}" if expect_value else ""


def _element(text: str, at: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    """The JSON value at a place and its end; (exception, -1) or, if too large, (None, -1)."""
    left = len(text) - at
    for size in WINDOWS:
        window = text[at : at + size]
        try:
            value, end = decoder.raw_decode(window)
            if end < size:
                return value, at + end
        except (ValueError, RecursionError) as error:
            if size >= left:
                return error, -1
    return None, -1


def _blank_end(text: str, at: int) -> int:
    blank = BLANK.match(text, at)
    return blank.end() if blank else at


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict, refusing a key that comes twice: the earlier text would silently be lost."""
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return made


def _invalid(error: Exception, file: str, line: int) -> Finding:
    if isinstance(error, RecursionError):
        what, fix = "it is nested too deeply", "Flatten it; a conversation needs three levels."
    elif isinstance(error, json.JSONDecodeError):
        what = f"{error.msg} at column {error.colno}"
        fix = _json_fix(error)
    else:
        what, fix = str(error), "Correct the row, or remove it."
    return Finding("invalid_json", "error", f"The row is not valid JSON: {what}.", fix, file, line)


def _json_fix(error: json.JSONDecodeError) -> str:
    near = error.doc[max(0, error.pos - 12) : error.pos + 12]
    if error.doc[:1] == "{" and "'" in error.doc[1:3]:
        return "Use double quotes; write the rows with a JSON library, not with str()."
    return f"Look near {near!r}; write the rows with a JSON library."


def _too_large(file: str, line: int) -> Finding:
    return Finding(
        "row_too_large",
        "error",
        f"The row is over {MOST_ROW_BYTES:,} bytes.",
        "Cut it into conversations; is a line break missing between rows?",
        file,
        line,
    )


def _broken_off(file: str, line: int) -> Finding:
    return Finding(
        "invalid_json",
        "error",
        "The file ends within a JSON array.",
        "It was cut short; write it again.",
        file,
        line,
    )
