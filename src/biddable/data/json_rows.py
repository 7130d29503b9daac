"""Rows of JSON text: one object a line, or one array (or pretty-printed objects) for the file."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from biddable.data.charset import not_utf8
from biddable.data.messages import written_role
from biddable.data.rows import Row, unique_keys
from biddable.errors import BiddableError

# No conversation for a small model has a row of this size (4 million tokens), and a parser fed
# with a longer one can need a gigabyte.
MOST_ROW_BYTES = 1 << 24
# An array has to be held in memory as a whole, lines do not.
MOST_ARRAY_BYTES = 200_000_000
# An array's element is parsed from a window of the text, so that one monstrous element cannot
# take all memory; the window grows only for elements that need it.
WINDOWS = (1 << 13, 1 << 17, 1 << 21, MOST_ROW_BYTES)
BLANK = re.compile(r"[ \t\r\n]*")
# The keys under which a message names its speaker, and a list of messages too long to be parsed.
CUT_MESSAGES = re.compile(r'\[ *\{ *"(?:role|from)" *:')


def json_rows(stream: io.BufferedIOBase, head: bytes) -> Iterator[Row]:
    """The rows of JSON lines, of JSON arrays, or of pretty-printed objects.

    Args:
        stream: UTF-8.
        head: its beginning, by which the form is recognized.
    """
    return _array_rows(stream) if _is_one_value(head) else _line_rows(stream)


def _line_rows(stream: io.BufferedIOBase) -> Iterator[Row]:
    for line in itertools.count(1):
        data = stream.readline(MOST_ROW_BYTES + 1)
        if not data:
            return
        if data == b"\n":
            continue
        if len(data) > MOST_ROW_BYTES and not data.endswith(b"\n"):
            while data and not data.endswith(b"\n"):
                data = stream.readline(MOST_ROW_BYTES)
            yield Row(line, _too_large())
            continue
        try:
            text = data.decode("utf-8-sig" if line == 1 else "utf-8").strip()
            if text:
                # The comma of an array whose brackets were cut off says nothing.
                value = DECODER.decode(text.removesuffix(","))
                yield from (Row(line, row) for row in (value if _holds_rows(value) else [value]))
        except (ValueError, RecursionError) as error:
            yield Row(line, _invalid(error))


def _holds_rows(value: object) -> bool:
    """Whether a line's value is an array of rows, which messages are not."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and not written_role(item) for item in value)
    )


def _is_one_value(head: bytes) -> bool:
    """Whether text that begins like this is an array or pretty-printed JSON, not JSON lines.

    It is where the first value goes on behind its line. An array on one line holds all rows, unless
    it is a list of messages or another array begins the next line: then each line is read alone.
    """
    text = head.decode("utf-8-sig", "replace").lstrip()
    first, _, rest = text.partition("\n")
    try:
        value, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        # A pretty-printed object opens on a line that ends before its first key does.
        pretty = first.strip() == "{" and not rest.lstrip().startswith("{")
        return pretty or (text.startswith("[") and not CUT_MESSAGES.match(text))
    if "\n" in text[:end] or not isinstance(value, list):
        return "\n" in text[:end]
    is_messages = bool(value) and all(map(written_role, value))
    return not is_messages and not rest.lstrip().startswith("[")


def _array_rows(stream: io.BufferedIOBase) -> Iterator[Row]:
    """The elements of JSON arrays and the objects between them, each with its line.

    Where all stand on one line, they are numbered instead: each has a place of its own, by which
    rows are split. A syntax error ends the file: where the next element begins is unknown.
    """
    data = stream.read(MOST_ARRAY_BYTES + 1)
    if len(data) > MOST_ARRAY_BYTES:
        what = f"A JSON array is read as a whole, and this one is over {MOST_ARRAY_BYTES:,} bytes."
        fix = "Write one JSON object a line (JSONL); such a file may have any size."
        yield Row(0, BiddableError("file_too_large", what, fix))
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Row(data.count(b"\n", 0, error.start) + 1, _invalid(error))
        return
    del data
    numbered = "\n" not in text.strip()
    for number, row in enumerate(_elements(text), 1):
        good = numbered and not isinstance(row.value, BiddableError)
        yield Row(number, row.value) if good else row


def _elements(text: str) -> Iterator[Row]:
    start, end, line = 0, 0, 1
    inside, comma = False, False
    while (at := _next(text, end)) < len(text):
        line += text.count("\n", start, at)
        start, mark = at, text[at]
        if mark not in "[]," or (mark == "[" and inside):
            value, end = _element(text, at)
            yield Row(line, value)
            if end < 0:
                return
            comma = False
            continue
        # A comma before the closing bracket is no row, and says nothing.
        if mark != "[" and (not inside or (mark == "," and comma)):
            place = "behind another" if inside else "outside of an array"
            yield Row(line, _invalid(ValueError(f"{mark!r} stands {place}")))
            return
        inside, comma, end = mark != "]", mark == ",", at + 1
    if inside:
        line += text.count("\n", start)
        what, fix = "The file ends within a JSON array.", "It was cut short; write it again."
        yield Row(line, BiddableError("invalid_json", what, fix))


def _next(text: str, at: int) -> int:
    """Where the next character stands that is not blank, or the end of the text."""
    blank = BLANK.match(text, at)
    return blank.end() if blank else at


def _element(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at a place and its end; an error and -1 where it cannot be read."""
    for size in WINDOWS:
        try:
            value, end = DECODER.raw_decode(text[at : at + size])
            if end < size:
                return value, at + end
        except (ValueError, RecursionError) as error:
            if at + size >= len(text):
                return _invalid(error), -1
    return _too_large(), -1


COMMA = "Remove the comma"
DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def _invalid(error: Exception) -> BiddableError:
    """What is wrong with a text that cannot be decoded or parsed."""
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(error.object, error.start)
    what, fix = str(error), "Correct the row, or remove it."
    if isinstance(error, RecursionError):
        what, fix = "it is nested too deeply", "Flatten it; a conversation needs three levels."
    elif isinstance(error, json.JSONDecodeError):
        what = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        near = error.doc[max(0, error.pos - 12) : error.pos + 12]
        fix = f"Look near {near!r}; write the rows with a JSON library."
        if not error.pos:
            fix = f"It begins with {near!r}. A table has to end in .csv, else each line is JSON."
        elif error.doc[:1] == "{" and "'" in error.doc[1:3]:
            fix = "Use double quotes; write the rows with a JSON library, not with str()."
        elif error.msg == "Extra data":
            what, fix = _extra_data(error.doc[error.pos :].strip(), error.colno)
        elif error.doc[: error.pos + 1].rstrip("}] \t\r\n").endswith(","):
            what = f"a comma stands before a closing bracket at column {error.colno}"
            fix = f"{COMMA}."
    return BiddableError("invalid_json", f"The row is not valid JSON: {what}.", fix)


def _extra_data(rest: str, column: int) -> tuple[str, str]:
    """What stands behind the first value of a line, and what to do about it."""
    if rest == ",":
        return "it ends with a comma", f"{COMMA}; in JSON lines nothing stands between the rows."
    if rest[:1] in ("{", "["):
        fix = "Write each row on a line of its own: jq -c . FILE > NEW.jsonl."
        return f"a second value begins at column {column}", fix
    return f"more text stands behind the value at column {column}", f"Remove {rest[:20]!r}."


def _too_large() -> BiddableError:
    fix = "Cut it into conversations; is a line break missing between rows?"
    return BiddableError("row_too_large", f"The row is over {MOST_ROW_BYTES:,} bytes.", fix)
