"""Rows in memory: kept as a file under the cache folder, so that all data goes one way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from biddable.data.conversation import Conversation
from biddable.data.fix import as_row
from biddable.errors import BiddableError
from biddable.models.base import cache_folder
from biddable.storage import alone, write_whole


def with_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a file in place of rows in memory; equal rows have the same file.

    Raises:
        BiddableError: `option`, a row cannot be written as JSON; or the cache cannot be written.
    """
    return {
        name: _file_of(value) if name in ("data", "eval", "train") else value
        for name, value in options.items()
    }


def _file_of(value: Any) -> Any:
    """A file with the rows, or the names of files as they are."""
    if isinstance(value, str | PathLike) or not isinstance(value, Iterable):
        return value
    rows = list(value)
    if not any(isinstance(row, Mapping | Conversation) for row in rows):
        return rows
    text = "".join(_line(number, row) + "\n" for number, row in enumerate(rows))
    path = cache_folder("rows") / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.parent):
            if not path.is_file():
                write_whole(path, text)
    except OSError as error:
        what = f"the rows cannot be kept in {path.parent}: {error.strerror}"
        fix = "set XDG_CACHE_HOME to a folder that can be written"
        raise BiddableError("cache_not_writable", what, fix) from error
    return str(path)


def _line(number: int, row: Any) -> str:
    try:
        if isinstance(row, Conversation):
            return json.dumps(as_row(row))
        return json.dumps(dict(row))
    except (TypeError, ValueError) as error:
        what = f"row {number} of the data cannot be written as JSON: {error}"
        fix = "give file names, dicts of JSON values, or biddable.Conversation objects"
        raise BiddableError("option", what, fix) from error
