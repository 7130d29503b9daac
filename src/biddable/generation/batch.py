"""Rows of one model that are decoded together: they may join between two steps, and leave."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from biddable.encoding.encode import Example
from biddable.engine.beside import is_flat
from biddable.engine.layout import Layout, Prefix
from biddable.engine.loss import head_logits
from biddable.engine.plan import Segment, fill_batches, plan_step
from biddable.engine.row_attention import Rows, start_rows
from biddable.engine.step import feed, feed_prefixes
from biddable.generation.stock_rows import StockRows
from biddable.models.support import context_of

# Tokens of one flat pass over prompts.
BATCH_TOKENS = 2048
# Rows leave the batch when this share of it has finished: moving the caches costs a little.
LEAVE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Held:
    """The beginning of many prompts: fed once, and kept for later ones."""

    ids: tuple[int, ...]
    prefix: Prefix


class Batch:
    """Prompts that are continued together, a token of each at every step.

    Args:
        held: a beginning that prompts may share; the others are searched for one of their own.

    Attributes:
        names: by which the caller knows the row at each place; None has left.
        logits: (N, V) of the next token of each place.
    """

    def __init__(self, model: Any, held: Held | None = None) -> None:
        self.names: list[int | None] = []
        self.logits: Tensor = torch.empty(0)
        self._model, self._held = model, held
        self._rows: Rows | None = None
        self._stock = None if is_flat(model) else StockRows(model)

    def __bool__(self) -> bool:
        return any(name is not None for name in self.names)

    def join(self, prompts: Sequence[Sequence[int]], names: Sequence[int]) -> None:
        """Feeds prompts, each shorter than the context, and takes them in as rows."""
        if not self:
            self._rows, self.names = None, []
            self._stock = None if is_flat(self._model) else StockRows(self._model)
        if self._stock:
            with torch.no_grad():
                order, logits = self._stock.join(prompts)
            self._append(logits, [names[i] for i in order])
            return
        held = [i for i, prompt in enumerate(prompts) if self._continues_held(prompt)]
        others = [i for i in range(len(prompts)) if i not in held]
        with torch.no_grad():
            for part, behind in ((held, self._held), (others, None)):
                if part:
                    rows, order, logits = _prefill(self._model, [prompts[i] for i in part], behind)
                    self._add(rows, logits, [names[part[i]] for i in order])

    def leave(self, names: Collection[int]) -> None:
        """Lets rows leave; they go with the next step."""
        self.names = [None if name in names else name for name in self.names]

    def step(self, tokens: Sequence[int]) -> None:
        """Continues each row by its token; at least one row is there.

        Args:
            tokens: one a place; those of rows that have left count for nothing.
        """
        if self._stock:
            left = self._stock.keep([p for p, name in enumerate(self.names) if name is not None])
            self.names = [self.names[place] for place in left]
            with torch.no_grad():
                self.logits = self._stock.step([tokens[place] for place in left])
            return
        assert self._rows is not None
        stay = [place for place, name in enumerate(self.names) if name is not None]
        if len(self.names) - len(stay) > LEAVE_SHARE * len(self.names):
            self._rows.keep(stay)
            self.names, tokens = [self.names[i] for i in stay], [tokens[i] for i in stay]
        with torch.no_grad():
            self.logits = _next(self._model, self._rows, tokens)

    def _continues_held(self, prompt: Sequence[int]) -> bool:
        start = self._held.ids if self._held else ()
        return bool(start) and len(prompt) > len(start) and tuple(prompt[: len(start)]) == start

    def _add(self, rows: Rows, logits: Tensor, names: list[int | None]) -> None:
        if self._rows is None:
            self._rows = rows
        else:
            self._rows.join(rows)
        self._append(logits, names)

    def _append(self, logits: Tensor, names: list[int | None]) -> None:
        self.logits = torch.cat([self.logits, logits]) if self.names else logits
        self.names = self.names + names


def hold(model: Any, ids: Sequence[int]) -> Held:
    """Feeds the beginning of many prompts; nothing, where the model is not fed flat."""
    if not is_flat(model):
        return Held((), Prefix(0))
    prefix = Prefix(len(ids))
    with torch.no_grad():
        segment = Segment(0, 0, len(ids))
        feed(
            model, *_tensors([ids], [segment], model.device), Layout([len(ids)], [-1], (), [prefix])
        )
    return Held(tuple(ids), prefix)


def _prefill(
    model: Any, prompts: Sequence[Sequence[int]], held: Held | None
) -> tuple[Rows, list[int], Tensor]:
    """Feeds the prompts: (rows, the prompt of each row, (N, V) logits of the first new token).

    Args:
        held: what all of them begin with; None looks for what some of them share.
    """
    if held is not None:
        start = len(held.ids)
        segments = [Segment(i, start, len(prompt), 0) for i, prompt in enumerate(prompts)]
        return _feed_rows(model, prompts, fill_batches(segments, BATCH_TOKENS), [held.prefix])
    # As if the token after each prompt were to be predicted, and nothing else.
    examples = [Example([*p, 0], [0.0] * len(p) + [1.0]) for p in prompts]
    plan = plan_step(examples, BATCH_TOKENS)
    prefixes, _ = feed_prefixes(model, plan)
    return _feed_rows(model, prompts, plan.micro_batches, prefixes)


def _feed_rows(
    model: Any,
    prompts: Sequence[Sequence[int]],
    micro_batches: Sequence[Sequence[Segment]],
    prefixes: Sequence[Prefix],
) -> tuple[Rows, list[int], Tensor]:
    """Feeds segments behind their prefixes, as `_prefill` says."""
    own: list[Prefix] = []
    logits: list[Tensor] = []
    for segments in micro_batches:
        kept = [Prefix(len(s)) for s in segments]
        layout = Layout([len(s) for s in segments], [s.group for s in segments], prefixes, kept)
        hidden, head = feed(model, *_tensors(prompts, segments, model.device), layout)
        last = torch.tensor([len(s) for s in segments], device=model.device).cumsum(0) - 1
        logits.append(head_logits(hidden[last], head))
        own += kept
    order = [s for segments in micro_batches for s in segments]
    rows = start_rows(own, [s.group for s in order], prefixes)
    return rows, [s.example for s in order], torch.cat(logits)


def _tensors(
    prompts: Sequence[Sequence[int]], segments: Sequence[Segment], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(1, T) token ids and positions of the segments."""
    ids = [i for s in segments for i in prompts[s.example][s.start : s.stop]]
    positions = [p for s in segments for p in range(s.start, s.stop)]
    return torch.tensor([ids], device=device), torch.tensor([positions], device=device)


def _next(model: Any, rows: Rows, tokens: Sequence[int]) -> Tensor:
    """(N, V) logits after one more token of each row."""
    ids = torch.tensor([tokens], device=model.device)
    # A row that has left but stands there still may be past the last position of the model.
    positions = rows.positions().clamp(max=context_of(model.config) - 1)
    hidden, head = feed(model, ids, positions[None, :], rows)
    rows.step()
    return head_logits(hidden, head)
