"""Rows of Parquet files and of data sets on the hub: both need a package of an extra."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import Any

from biddable.data.findings import BiddableError
from biddable.data.rows import Row

BATCH_ROWS = 1000


def parquet_rows(stream: io.BufferedIOBase) -> Iterator[Row]:
    """The records of a Parquet file, numbered from 1.

    Raises:
        BiddableError: the extra is not installed.
    """
    parquet = _extra("pyarrow.parquet", "parquet")
    arrow = _extra("pyarrow", "parquet")
    number = 0
    try:
        batches = parquet.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS)
        values = (value for batch in batches for value in batch.to_pylist())
        for number, value in enumerate(values, start=1):
            yield Row(number, without_padding(value, keep=True))
    except (arrow.ArrowException, OSError) as error:
        what = f"Reading broke off: {_first_line(error)}"
        fix = "The file is damaged or cut short; fetch or write it again."
        yield Row(number, BiddableError(what, fix=fix, code="unreadable_file"))


def hub_rows(name: str) -> Iterator[Row]:
    """The rows of `hf:NAME[@CONFIG][:SPLIT]`, numbered from 1; the split is `train` unless told.

    Raises:
        BiddableError: the extra is not installed, or the data set cannot be loaded.
    """
    datasets = _extra("datasets", "hub")
    repository, _, split = name.removeprefix("hf:").partition(":")
    repository, _, config = repository.partition("@")
    try:
        loaded = datasets.load_dataset(repository, config or None, split=split or "train")
    except Exception as error:  # Whatever the package raises is about this name or the network.
        raise BiddableError(
            f"The data set cannot be loaded: {_first_line(error)}",
            fix="Check the name, configuration and split (hf:NAME@CONFIG:SPLIT) and the network.",
            code="unreadable_file",
        ) from error
    for number, value in enumerate(loaded, start=1):
        yield Row(number, without_padding(value, keep=True))


def without_padding(value: Any, keep: bool = False) -> Any:
    """A value of an Arrow table without the nulls that the table put into its objects.

    A column has one type, so each object gets the keys of all others, with null. In tool schemas
    and arguments these would be rendered: the model would learn parameters that a tool never had.

    Args:
        keep: leave the nulls of the outermost object, which are the row's own.
    """
    if isinstance(value, dict):
        parts = value.items()
        return {key: without_padding(part) for key, part in parts if keep or part is not None}
    return [without_padding(part) for part in value] if isinstance(value, list) else value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise BiddableError(
            f"Reading this needs the package {module.partition('.')[0]}.",
            fix=f'Install it: pip install "biddable[{extra}]".',
            code="missing_extra",
        ) from None
