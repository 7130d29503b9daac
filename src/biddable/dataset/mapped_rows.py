"""Rows on disk: conversations and examples as flat arrays that are mapped, not loaded.

    ids.npy            the tokens of all examples, one after another; 16 bits each where that holds
    runs.npy, counts.npy  their weights as (weight, how many in a row)
    examples.npy       (N + 1, 5) where each begins in ids and in runs; its file, line, turn
    conversations.jsonl, lines.npy  one a line, and where each line begins

A process holds of them what the kernel keeps in memory for it and can take back at any time.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from biddable.data.conversation import Conversation
from biddable.dataset.workers import as_json, from_json, from_runs, runs_of
from biddable.encoding.encode import Example

T = TypeVar("T", covariant=True)


class MappedRows(Sequence[T]):
    """Rows in order, each built when it is used.

    Args:
        build: the row of an index.
        rows: the indices, in order.
    """

    def __init__(self, build: Callable[[int], T], rows: range) -> None:
        self._build, self._rows = build, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> MappedRows[T]: ...
    def __getitem__(self, index: int | slice) -> T | MappedRows[T]:
        if isinstance(index, slice):
            return MappedRows(self._build, self._rows[index])
        return self._build(self._rows[index])


def write_examples(examples: Sequence[Example], folder: Path) -> None:
    """Writes the arrays of examples; nothing is flushed."""
    tokens = sum(len(e.input_ids) for e in examples)
    largest = max((max(e.input_ids, default=0) for e in examples), default=0)
    kind = np.uint16 if largest < 2**16 else np.int32
    ids = np.lib.format.open_memmap(folder / "ids.npy", "w+", kind, (tokens,))
    files: dict[str, int] = {}
    weights, counts, heads = array("d"), array("i"), array("q")
    start = 0
    for e in examples:
        heads.extend((start, len(counts), files.setdefault(e.file, len(files)), e.line, e.turn))
        ids[start : start + len(e.input_ids)] = e.input_ids
        start += len(e.input_ids)
        for weight, count in runs_of(e.weights):
            weights.append(weight)
            counts.append(count)
    heads.extend((start, len(counts), 0, 0, 0))
    ids.flush()
    np.save(folder / "runs.npy", np.frombuffer(weights))
    np.save(folder / "counts.npy", np.frombuffer(counts, np.int32))
    np.save(folder / "examples.npy", np.frombuffer(heads, np.int64).reshape(-1, 5))
    (folder / "files.json").write_text(json.dumps(list(files)), encoding="utf-8")


def mapped_examples(folder: Path) -> MappedRows[Example]:
    """What `write_examples` wrote, mapped."""
    names: list[str] = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    ids, runs, counts, heads = (
        _mapped(folder / f"{name}.npy") for name in ("ids", "runs", "counts", "examples")
    )

    def build(index: int) -> Example:
        (start, run, file, line, turn), (end, last, *_) = heads[index : index + 2].tolist()
        weights = zip(runs[run:last].tolist(), counts[run:last].tolist(), strict=True)
        input_ids = array("i", ids[start:end].astype(np.int32).tobytes())
        return Example(input_ids, from_runs(list(weights)), names[file], line, turn)

    return MappedRows(build, range(len(heads) - 1))


def write_conversations(conversations: Iterable[Conversation], folder: Path) -> None:
    """Writes conversations as lines of JSON; nothing is flushed."""
    starts = array("q", [0])
    with (folder / "conversations.jsonl").open("wb") as file:
        for conversation in conversations:
            file.write(json.dumps(as_json(conversation)).encode() + b"\n")
            starts.append(file.tell())
    np.save(folder / "lines.npy", np.frombuffer(starts, np.int64))


def mapped_conversations(folder: Path) -> MappedRows[Conversation]:
    """What `write_conversations` wrote, mapped."""
    starts = _mapped(folder / "lines.npy")
    with (folder / "conversations.jsonl").open("rb") as file:
        text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        # A row here and there is read; its neighbors need not be.
        text.madvise(mmap.MADV_RANDOM)

    def build(index: int) -> Conversation:
        return from_json(json.loads(text[starts[index] : starts[index + 1]]))

    return MappedRows(build, range(len(starts) - 1))


def _mapped(path: Path) -> NDArray[Any]:
    # As a plain array: a memmap takes microseconds longer for every slice.
    return np.asarray(np.load(path, mmap_mode="r"))
