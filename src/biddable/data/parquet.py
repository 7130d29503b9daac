"""Rows of Parquet and Arrow files and of data sets on the hub: all need a package of an extra."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from biddable.data.rows import Row
from biddable.errors import BiddableError, extra_module, first_line

BATCH_ROWS = 1000


def parquet_rows(stream: io.BufferedIOBase) -> Iterator[Row]:
    """The records of a Parquet file, numbered from 1; `missing_extra` without pyarrow."""
    parquet = extra_module("pyarrow.parquet", "parquet")
    return _batch_rows(lambda: parquet.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS))


def arrow_rows(stream: io.BufferedIOBase) -> Iterator[Row]:
    """The records of an Arrow file or stream, as `save_to_disk` writes them, numbered from 1."""
    ipc = extra_module("pyarrow.ipc", "parquet")

    def batches() -> Iterator[Any]:
        head = stream.read(6)
        stream.seek(0)
        if head != b"ARROW1":
            yield from ipc.open_stream(stream)
            return
        file = ipc.open_file(stream)
        yield from map(file.get_batch, range(file.num_record_batches))

    return _batch_rows(batches)


def _batch_rows(batches: Callable[[], Iterator[Any]]) -> Iterator[Row]:
    arrow = extra_module("pyarrow", "parquet")
    number = 0
    try:
        pieces = (b.slice(k, BATCH_ROWS) for b in batches() for k in range(0, len(b), BATCH_ROWS))
        values = (value for piece in pieces for value in piece.to_pylist())
        for number, value in enumerate(values, start=1):
            yield Row(number, _without_padding(value, keep=True))
    except (arrow.ArrowException, OSError) as error:
        yield Row(number, broken_file(error))


def hub_rows(name: str) -> Iterator[Row]:
    """The rows of `hf:NAME[@CONFIG][:SPLIT]`, numbered from 1; the split is `train` by default.

    Raises:
        BiddableError: the extra is not installed, or the data set cannot be loaded.
    """
    datasets = extra_module("datasets", "hub")
    repository, _, split = name.removeprefix("hf:").partition(":")
    repository, _, config = repository.partition("@")
    try:
        loaded = datasets.load_dataset(repository, config or None, split=split or "train")
    except Exception as error:  # Whatever the package raises is about this name or the network.
        what = f"The data set cannot be loaded: {first_line(error)}"
        fix = "Check the name, configuration and split (hf:NAME@CONFIG:SPLIT) and the network."
        raise BiddableError("unreadable_file", what, fix) from error
    for number, value in enumerate(loaded, start=1):
        yield Row(number, _without_padding(value, keep=True))


def _without_padding(value: Any, keep: bool = False) -> Any:
    """A value of an Arrow table without the nulls that the table put into its objects.

    A column has one type, so each object gets the keys of all others, with null. In tool schemas
    and arguments these would be rendered: the model would learn parameters that a tool never had.
    The outermost object `keep`s its nulls, which are the row's own.
    """
    if isinstance(value, dict):
        parts = value.items()
        return {key: _without_padding(part) for key, part in parts if keep or part is not None}
    return [_without_padding(part) for part in value] if isinstance(value, list) else value


def broken_file(error: Exception) -> BiddableError:
    """The error for a file of which the rest cannot be read."""
    what = f"Reading broke off: {first_line(error)}"
    fix = "The file is damaged or cut short; fetch or write it again."
    return BiddableError("unreadable_file", what, fix)
