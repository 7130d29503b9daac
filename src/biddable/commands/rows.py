"""Rows in memory: stored as a file in the cache folder, so that all data takes one path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from math import isnan
from os import PathLike
from typing import Any

from biddable.data.conversation import Conversation
from biddable.data.fix import as_row
from biddable.errors import BiddableError
from biddable.models.base import cache_folder
from biddable.storage import folder_lock, write_whole


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
    table = _table_rows(value)
    if table is None and (isinstance(value, str | PathLike) or not isinstance(value, Iterable)):
        return value
    rows = list(value) if table is None else table
    if table is None and not any(isinstance(row, Mapping | Conversation) for row in rows):
        return rows
    text = "".join(_line(number, row) + "\n" for number, row in enumerate(rows))
    path = cache_folder("rows") / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with folder_lock(path.parent):
            if not path.is_file():
                write_whole(path, text)
    except OSError as error:
        what = f"the rows cannot be kept in {path.parent}: {error.strerror}"
        fix = "set XDG_CACHE_HOME to a folder that can be written"
        raise BiddableError("cache_not_writable", what, fix) from error
    return str(path)


def _table_rows(value: Any) -> list[dict[str, Any]] | None:
    """The rows of a table of pandas, polars or Arrow, of which none is imported; else None."""
    # A data set of the package datasets has a `to_dict` of its own, and is a sequence of rows.
    tables = {"iterrows": "to_dict", "to_dicts": "to_dicts", "to_pylist": "to_pylist"}
    name = next((tables[mark] for mark in tables if hasattr(value, mark)), "")
    return list(getattr(value, name)(*["records"] * (name == "to_dict"))) if name else None


def _plain_value(value: Any) -> Any:
    """A cell as JSON has it: no value is null, a date its text in ISO form."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"a value of type {type(value).__name__} is no JSON")


def _line(number: int, row: Any) -> str:
    try:
        if isinstance(row, Conversation):
            return json.dumps(as_row(row))
        cells = {k: None if isinstance(v, float) and isnan(v) else v for k, v in row.items()}
        return json.dumps(cells, default=_plain_value)
    except (TypeError, ValueError, AttributeError) as error:
        what = f"row {number} of the data cannot be written as JSON: {error}"
        fix = "give file names, dicts of JSON values, or biddable.Conversation objects"
        raise BiddableError("option", what, fix) from error
