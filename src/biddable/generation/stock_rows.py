"""Decoding of a model that cannot be fed flat: transformers' own cache, rows of equal length.

Rows whose prompts are equally long need no padding, so they share a cache; whatever the model keeps
of earlier tokens (keys, convolutions, states) is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True)
class StockRows:
    """Rows in groups of equal length: (rows, the cache) of each, in the order of the places."""

    model: Any
    groups: list[tuple[int, Any]] = field(default_factory=list)

    def join(self, prompts: Sequence[Sequence[int]]) -> tuple[list[int], Tensor]:
        """Feeds prompts: (the prompt of each new row, (N, V) logits of its next token)."""
        lengths = sorted({len(prompt) for prompt in prompts})
        order: list[int] = []
        parts: list[Tensor] = []
        for length in lengths:
            group = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
            parts.append(self._feed([list(prompts[i]) for i in group], None))
            order += group
        return order, torch.cat(parts)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """(N, V) logits after one more token of each row."""
        before, self.groups = self.groups, []
        parts: list[Tensor] = []
        start = 0
        for count, cache in before:
            rows = [[token] for token in tokens[start : start + count]]
            parts.append(self._feed(rows, cache))
            start += count
        return torch.cat(parts)

    def keep(self, places: Sequence[int]) -> list[int]:
        """Lets groups go of which no row stays; returns the places that are left."""
        left: list[int] = []
        groups = []
        start = 0
        for count, cache in self.groups:
            own = range(start, start + count)
            if any(place in own for place in places):
                groups.append((count, cache))
                left += own
            start += count
        self.groups = groups
        return left

    def _feed(self, rows: list[list[int]], cache: Any) -> Tensor:
        ids = torch.tensor(rows, device=self.model.device)
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        self.groups.append((len(rows), out.past_key_values))
        logits: Tensor = out.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
