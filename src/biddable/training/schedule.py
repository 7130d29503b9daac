"""Learning rate and order of rows, as pure functions of the step: what makes resume exact."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from biddable.options import what_learns
from biddable.settings import FitSettings, Settings

# The width of the base that the default rates were measured on.
MEASURED_WIDTH = 576
# How the best rate falls with the width of a Llama, by a published fit: for all weights it is
# 5e-5 * (2000 / width) ** 0.781, for an adapter ten times that, or fifteen times in short runs
# (LoRA Without Regret, Thinking Machines Lab, 2025). At the width above that is 1.3e-4 and 2.0e-3.
EXPONENT = 0.781


def peak_rate(settings: Settings, width: int) -> float:
    """The peak learning rate that is given, or follows from what learns and the base's width.

    No base narrower than the measured one was tried, so it gets no more. Two digits are kept.

    >>> [peak_rate(Settings(lora=16), width) for width in (64, 576, 2048, 4096)]
    [0.002, 0.002, 0.00074, 0.00043]
    """
    _, rate = what_learns({"lora": settings.lora, "top_layers": settings.top_layers})
    scaled = rate * min(1.0, MEASURED_WIDTH / width) ** EXPONENT
    return settings.lr or float(f"{scaled:.2g}")


def total_steps(rows: int, settings: FitSettings) -> int:
    """Optimizer steps of a run: as set, or those that feed every row `epochs` times."""
    return settings.steps or max(1, math.ceil(rows * settings.epochs / settings.batch_size))


def evaluation_interval(rows: int, held_out: int, settings: FitSettings) -> int:
    """Steps between evaluations: about twice an epoch, at most 20 in a run. They divide the steps
    as evenly as whole numbers do; what remains is the last interval.

    Once an epoch where twice would take more than a tenth of the training time: a forward costs a
    third of a step's share for a row.

    Args:
        held_out: rows that an evaluation feeds.
    """
    total = total_steps(rows, settings)
    epoch = math.ceil(rows / settings.batch_size)
    half = math.ceil(epoch / 2)
    often = held_out / 3 <= half * settings.batch_size / 10
    evaluations = round(total / (half if often else epoch))
    return math.ceil(total / min(20, max(1, evaluations)))


def learning_rate(step: int, total: int, peak: float, warmup: float, floor: float = 0.1) -> float:
    """The learning rate of a step, counted from 1: linear warm-up, then cosine decay to a share.

    >>> [round(learning_rate(s, 10, 1.0, 0.2), 2) for s in (1, 2, 3, 10)]
    [0.5, 1.0, 0.97, 0.1]
    """
    rising = max(1, round(total * warmup))
    if step <= rising:
        return peak * step / rising
    progress = (step - rising) / max(1, total - rising)
    return peak * (floor + (1 - floor) / 2 * (1 + math.cos(math.pi * progress)))


def rows_of_step(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """The indices of the rows of a step, counted from 1.

    The rows come as an endless sequence of epochs, each in an order of its own; a step takes the
    next `batch_size` of them, so that one step may hold the end of an epoch and the start of the
    next, and no row is left out.
    """
    first = (step - 1) * batch_size
    places = range(first, first + batch_size)
    return [int(_epoch_order(p // rows, rows, seed)[p % rows]) for p in places]


@lru_cache(maxsize=4)
def _epoch_order(epoch: int, rows: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)
