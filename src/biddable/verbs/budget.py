"""Before step 1: tokens of a micro-batch, and the memory that the run will need at its peak."""

from __future__ import annotations

import torch
from rich.console import Console

from biddable.engine.memory import choose_batch_tokens, free_bytes, needs_of, peak_of
from biddable.engine.memory import refuse_too_much as refuse
from biddable.engine.plan import plan_step
from biddable.engine.precision import Weights
from biddable.training.schedule import rows_of_step, total_steps
from biddable.training.settings import Settings
from biddable.verbs.prepared import Prepared
from biddable.verbs.show import line

# Planning thousands of steps ahead would take longer than it tells.
MOST_PLANNED = 100


def tokens_per_pass(
    settings: Settings,
    weights: Weights,
    prepared: Prepared,
    device: torch.device,
    out: Console,
) -> int:
    """Tokens per micro-batch, as told or chosen; the predicted peak is shown.

    Raises:
        BiddableError: `out_of_memory`, the peak is more than what is free.
    """
    examples = prepared.train.examples
    needs = needs_of(weights.model, weights.masters, weights.pieces)
    budget = settings.batch_tokens or choose_batch_tokens(needs, device)
    size = settings.batch_size
    steps = total_steps(len(examples), size, settings.epochs, settings.steps)
    ahead = [
        [examples[i] for i in rows_of_step(step, len(examples), size, settings.seed)]
        for step in range(1, min(steps, MOST_PLANNED) + 1)
    ]
    ahead.append([examples[prepared.longest]])
    trained = [sum(sum(w > 0 for w in e.weights) for e in rows) for rows in ahead]
    peak = peak_of(needs, [plan_step(rows, budget) for rows in ahead], trained)
    free = free_bytes(device) + needs.resident
    line(out, "memory", f"{peak / 2**30:.1f} GiB at the peak, {free / 2**30:.1f} GiB free")
    refuse(needs, peak, budget, device)
    return budget
