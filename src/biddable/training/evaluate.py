"""Held-out loss: the masked mean over all held-out examples, as in training, without gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from biddable.engine.plan import Trainable, plan_step
from biddable.engine.step import example_losses

# Rows planned together, so that a prefix they share is fed once for all of them.
ROWS = 64


def held_out_loss(model: Any, examples: Sequence[Trainable], batch_tokens: int) -> float:
    """sum(w * CE) / sum(w) over the trained tokens of all examples."""
    loss = weight = 0.0
    for start in range(0, len(examples), ROWS):
        some = examples[start : start + ROWS]
        for losses, weights in example_losses(model, some, plan_step(some, batch_tokens)):
            loss += float((losses * weights).sum())
            weight += float(weights.sum())
    return loss / weight
