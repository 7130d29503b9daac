"""Ranks: processes, started by torchrun, that share the rows of each step.

Each forms the gradient of its own rows. The sums are added over all ranks and divided once by the
trained tokens of all, so the update is that of one process; each rank makes it for its part of
every parameter, and holds AdamW's moments of that part alone. Collectives go through
torch.distributed, gloo on CPUs and NCCL on CUDA; what is not a tensor travels as JSON. Each raises
`rank_lost` where another rank has stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from biddable.errors import BiddableError

T = TypeVar("T")
# The first rank judges the base while the others wait. A rank that dies does not wait for this:
# torchrun ends the others.
LONGEST_WAIT = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all: its index from 0, and how many there are."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, logs and judges."""
        return self.index == 0


ALONE = Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun started, by its environment; without it, this process alone.

    Raises:
        BiddableError: `rank_lost`, they did not find one another.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    with rank_errors():
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


def all_sum(ranks: Ranks, *values: float) -> list[float]:
    """Each value summed over the ranks, in fp64."""
    return _all_reduce(ranks, torch.tensor(values, dtype=torch.float64), dist.ReduceOp.SUM)


def all_max(ranks: Ranks, *values: int) -> list[int]:
    """Of each value the highest that any rank gave."""
    return _all_reduce(ranks, torch.tensor(values, dtype=torch.int64), dist.ReduceOp.MAX)


def _all_reduce(ranks: Ranks, values: torch.Tensor, operation: Any) -> list[Any]:
    if ranks.count > 1:
        with rank_errors():
            dist.all_reduce(values, op=operation)
    return values.tolist()


def broadcast_from_first(ranks: Ranks, value: Callable[[], Any]) -> Any:
    """Sends `value()` of the first rank, as JSON, to all; the others do not call theirs."""
    if ranks.count == 1:
        return value()
    text = list(json.dumps(value()).encode()) if ranks.first else []
    with rank_errors():
        size = torch.tensor([len(text)])
        dist.broadcast(size, 0)
        sent = torch.tensor(text or [0] * int(size), dtype=torch.uint8)
        dist.broadcast(sent, 0)
    return json.loads(bytes(sent.tolist()))


def first_before_others(ranks: Ranks, work: Callable[[], T]) -> T:
    """The result of `work`; the other ranks begin when the first is done, and find its cache."""
    if not ranks.first:
        broadcast_from_first(ranks, lambda: None)
        return work()
    result = work()
    broadcast_from_first(ranks, lambda: None)
    return result


@contextmanager
def rank_errors() -> Iterator[None]:
    """Turns the backend's error, when another rank has stopped, into `rank_lost`."""
    try:
        yield
    except RuntimeError as error:
        # Gloo has no error class of its own; a pass of the model may fail for reasons of its own.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        raise BiddableError(
            "rank_lost",
            f"another process stopped or timed out: {str(error).split('. ')[0]}",
            "see what it said; `--resume auto` goes on from the last checkpoint, and torchrun "
            "--max-restarts does so by itself",
        ) from error
