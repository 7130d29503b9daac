"""Losses without gradient: of each example, and the masked mean over all, as in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from biddable.engine.plan import Trainable
from biddable.engine.step import example_losses, plan_for
from biddable.training.ranks import all_sum
from biddable.training.weights import WeightStore

# Rows planned together, so that a prefix they share is fed once for all of them.
ROWS = 64


def token_losses(
    model: Any, examples: Sequence[Trainable], batch_tokens: int
) -> list[tuple[Tensor, Tensor]]:
    """(losses, weights), each (R,), of the trained tokens of each example, in order."""
    losses = []
    for start in range(0, len(examples), ROWS):
        batch = examples[start : start + ROWS]
        losses += example_losses(model, batch, plan_for(model, batch, batch_tokens))
    return losses


def held_out_loss(model: Any, examples: Sequence[Trainable], batch_tokens: int) -> float:
    """sum(w * CE) / sum(w) over the trained tokens of all examples."""
    total, weight = _sums(token_losses(model, examples, batch_tokens))
    return total / weight


def mean_loss(weights: WeightStore, examples: Sequence[Trainable], batch_tokens: int) -> float:
    """The same, each rank measuring its share of the examples; all of them call it.

    Raises:
        BiddableError: `rank_lost`.
    """
    ranks, losses = weights.ranks, []
    size = ROWS * ranks.count
    for start in range(0, len(examples), size):
        share = examples[start + ranks.index : start + size : ranks.count]
        plan = weights.match_passes(plan_for(weights.model, share, batch_tokens))
        losses += example_losses(weights.model, share, plan, weights.run)
    total, weight = all_sum(ranks, *_sums(losses))
    return total / weight


def _sums(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    total = sum(float((losses.double() * weights).sum()) for losses, weights in pairs)
    return total, sum(float(weights.sum()) for _, weights in pairs)
