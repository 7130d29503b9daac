"""Decoding of a model that cannot be fed flat: transformers' own cache, rows of equal length.

Rows whose prompts are equally long need no padding, so they share a cache; whatever the model keeps
of earlier tokens (keys, convolutions, states) is its own affair. Where that does not stand for them
(engine/proof.py), they are fed anew for each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from biddable.engine.beside import feed_on


@dataclass(slots=True)
class _Group:
    """Rows of equal length: their tokens so far, and what the model keeps of them."""

    rows: list[list[int]]
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class StockRows:
    """Rows in groups of equal length, in the order of the places."""

    model: Any
    groups: list[_Group] = field(default_factory=list)

    def join(self, prompts: Sequence[Sequence[int]]) -> tuple[list[int], Tensor]:
        """Feeds prompts: (the prompt of each new row, (N, V) logits of its next token)."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        equal = groupby(order, key=lambda i: len(prompts[i]))
        new = [_Group([list(prompts[i]) for i in places]) for _, places in equal]
        self.groups += new
        return order, torch.cat([self._feed(group) for group in new])

    def step(self, tokens: Sequence[int]) -> Tensor:
        """(N, V) logits after one more token of each row."""
        rows = (row for group in self.groups for row in group.rows)
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)
        return torch.cat([self._feed(group) for group in self.groups])

    def keep(self, places: Sequence[int]) -> list[int]:
        """Lets groups go of which no row stays; returns the places that are left."""
        left: list[int] = []
        groups = []
        start = 0
        for group in self.groups:
            own = range(start, start + len(group.rows))
            if any(place in own for place in places):
                groups.append(group)
                left += own
            start += len(group.rows)
        self.groups = groups
        return left

    def _feed(self, group: _Group) -> Tensor:
        logits, group.kept = feed_on(self.model, group.rows, group.kept)
        return logits
