"""The rows that the loop feeds: examples, or with --top-layers the numbers of kept states."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from biddable.encoding.encode import Example
from biddable.engine.kept_states import KeptStates, bottom_of, keep_states, numbered, top_of
from biddable.engine.memory import free_bytes
from biddable.models.adapters import decoder_layers
from biddable.settings import FitSettings
from biddable.storage import need_space
from biddable.terminal import line
from biddable.training.schedule import rows_of_step, total_steps
from biddable.training.weights import Replicas

# Share of free memory that kept states may take; more stands in a mapped file.
_MOST_IN_MEMORY = 0.25


@dataclass(frozen=True, slots=True)
class FedRows:
    """The rows of a run as the loop feeds them.

    Args:
        longest: index of the longest training row.
        judged: more rows that base and tuned are judged on.
    """

    train: Sequence[Example]
    held_out: Sequence[Example]
    longest: int
    judged: Sequence[Example] = ()


def keep_rows(
    weights: Replicas, count: int, rows: FedRows, settings: FitSettings, folder: Path, out: Console
) -> FedRows:
    """Runs the frozen layers over all rows that the run feeds; its passes are then those of the top
    `count` layers alone.

    Args:
        folder: where the mapped file stands, where the states do not fit into memory.

    Returns:
        The rows in numbers; those of training that no step feeds are empty.

    Raises:
        BiddableError: `no_space`.
    """
    model = weights.full_model
    wanted = {i: rows.train[i] for i in _fed_indices(rows, settings)}
    others = [*rows.held_out, *rows.judged]
    examples, tokens = numbered({**wanted, **{-1 - i: row for i, row in enumerate(others)}})
    shape = (len(tokens), int(model.config.get_text_config().hidden_size))
    size = shape[0] * shape[1] * model.dtype.itemsize
    mapped = size > _MOST_IN_MEMORY * free_bytes(torch.device("cpu"))
    place = f"in a file in {folder}" if mapped else "in memory"
    below = len(decoder_layers(model)) - count
    text = f"what {below} frozen layers give at {shape[0]:,} tokens, {_size(size)} {place}"
    line(out, "keeping", text)
    states = (
        _mapped(shape, model.dtype, folder) if mapped else torch.zeros(shape, dtype=model.dtype)
    )
    kept = KeptStates(tokens, states)
    # Equal rows have equal numbers, and the last number of a row tells it from all others.
    distinct = {row.input_ids[-1]: row for row in examples.values()}
    keep_states(bottom_of(model, count, kept), list(distinct.values()))
    weights.model = top_of(model, count, kept)
    unused = Example([], [])
    behind = [examples[-1 - i] for i in range(len(others))]
    return FedRows(
        [examples.get(i, unused) for i in range(len(rows.train))],
        behind[: len(rows.held_out)],
        rows.longest,
        behind[len(rows.held_out) :],
    )


def _fed_indices(rows: FedRows, settings: FitSettings) -> Sequence[int]:
    """Which training rows any step of the run feeds, the same for a run that is resumed.

    Included are the longest row, by which memory is measured, and the rows of one more step, by
    which a run resumed at its end estimates its time.
    """
    count, steps = len(rows.train), total_steps(len(rows.train), settings)
    if steps * settings.batch_size >= count:
        return range(count)
    batch = (settings.batch_size, settings.seed)
    fed = {i for step in range(1, steps + 2) for i in rows_of_step(step, count, *batch)}
    return sorted(fed | {rows.longest})


def _mapped(shape: tuple[int, int], dtype: torch.dtype, folder: Path) -> Tensor:
    """A tensor in a file without a name, which is gone with the process."""
    size = shape[0] * shape[1] * dtype.itemsize
    need_space(folder, size)
    with tempfile.TemporaryFile(dir=folder) as file:
        array = np.memmap(file, np.uint8, "r+", shape=(size,))
    return torch.from_numpy(array).view(dtype).view(shape)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
