"""Rows of one model that are decoded together: they may join between two steps, and leave.

Where a prompt's row is known, its answer included, that is fed in place of the prompt: one pass
gives the losses on the reference answer, the beginning of the greedy answer as far as these tell it
(sure_start.py), and the keys and values behind which it is decoded on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from biddable.encoding.encode import Example
from biddable.engine.beside import is_flat
from biddable.engine.embedding import tokens_of
from biddable.engine.layout import Layout, Prefix
from biddable.engine.loss import head_logits, row_losses
from biddable.engine.plan import (
    Segment,
    Trainable,
    fill_batches,
    last_trained,
    plan_step,
    trained_count,
)
from biddable.engine.row_attention import Rows, start_rows
from biddable.engine.step import example_losses, feed, feed_prefixes, flatten, plan_for
from biddable.generation.stock_rows import StockRows
from biddable.generation.sure_start import sure_start
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


@dataclass(frozen=True, slots=True)
class Known:
    """What the pass over a prompt's row tells.

    Args:
        start: how the greedy answer begins; never the last token of the row's.
        losses: CE of each trained token of the row.
    """

    start: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A prompt, and the row that it begins, if one is given."""

    prompt: Sequence[int]
    row: Trainable | None = None

    def example(self) -> Trainable:
        """What is fed: the row, or the prompt as if the token after it were to be predicted."""
        count = len(self.prompt)
        return self.row or Example([*self.prompt, 0], [0.0] * count + [1.0])

    def known(self, losses: Sequence[float]) -> Known:
        """What the losses on the row tell. Its last token is predicted, never fed."""
        if self.row is None:
            return Known()
        ids, weights = self.row.input_ids, self.row.weights
        start = sure_start(self.prompt, ids, weights, losses)
        return Known(start[: last_trained(self.row) - len(self.prompt)], tuple(losses))


@dataclass(frozen=True, slots=True)
class Fed:
    """Prompts that were fed.

    Args:
        rows: what they attend to from now on.
        order: the prompt of each row.
        logits: (N, V) of the next token of each row.
        known: of the answer of each row.
    """

    rows: Rows
    order: Sequence[int]
    logits: Tensor
    known: Sequence[Known]


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

    @torch.no_grad()
    def join(
        self,
        prompts: Sequence[Sequence[int]],
        names: Sequence[int],
        references: Sequence[Trainable | None] = (),
    ) -> list[Known]:
        """Feeds prompts, each shorter than the context, and takes them in as rows.

        Args:
            references: for each prompt the row that it begins, or None; not with a held beginning.

        Returns:
            What is known of each prompt's answer, behind which the row goes on.
        """
        if not self:
            self._rows, self.names = None, []
            self._stock = None if is_flat(self._model) else StockRows(self._model)
        rows = references or [None] * len(prompts)
        wanted = [Wanted(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        if self._stock:
            known = _known_beside(self._model, wanted)
            starts = [[*w.prompt, *k.start] for w, k in zip(wanted, known, strict=True)]
            order, logits = self._stock.join(starts)
            self._append(logits, [names[i] for i in order])
            return known
        known = [Known()] * len(prompts)
        held = [i for i, prompt in enumerate(prompts) if self._continues_held(prompt)]
        others = [i for i in range(len(prompts)) if i not in held]
        for part, behind in ((held, self._held), (others, None)):
            if part:
                fed = _prefill(self._model, [wanted[i] for i in part], behind)
                self._add(fed.rows, fed.logits, [names[part[i]] for i in fed.order])
                for i, what in zip(fed.order, fed.known, strict=True):
                    known[part[i]] = what
        return known

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
        flat = flatten((), (), model.device, [ids])
        feed(model, flat.input_ids, flat.position_ids, Layout([len(ids)], [-1], (), [prefix]))
    return Held(tuple(ids), prefix)


def _prefill(model: Any, wanted: Sequence[Wanted], held: Held | None) -> Fed:
    """Feeds prompts or their rows.

    Args:
        held: what all prompts begin with, and no row is given; None looks for what some share.
    """
    if held is not None:
        own = [Segment(i, len(held.ids), len(w.prompt), 0) for i, w in enumerate(wanted)]
        batches, prefixes = fill_batches(own, BATCH_TOKENS), [held.prefix]
    else:
        plan = plan_step([w.example() for w in wanted], BATCH_TOKENS)
        batches, (prefixes, _) = list(plan.micro_batches), feed_prefixes(model, plan)
    fed = [_feed_segments(model, wanted, segments, prefixes) for segments in batches]
    kept, logits, known = (list(part) for part in zip(*fed, strict=True))
    order = [s for segments in batches for s in segments]
    rows = start_rows([*chain(*kept)], [s.group for s in order], prefixes)
    return Fed(rows, [s.example for s in order], torch.cat(logits), [*chain(*known)])


def _feed_segments(
    model: Any, wanted: Sequence[Wanted], segments: Sequence[Segment], prefixes: Sequence[Prefix]
) -> tuple[list[Prefix], Tensor, list[Known]]:
    """One pass: of each segment the keys and values, the (V,) logits of the first token that is
    not known, and what is known."""
    kept = [Prefix(len(s)) for s in segments]
    layout = Layout([len(s) for s in segments], [s.group for s in segments], prefixes, kept)
    flat = flatten([w.example() for w in wanted], segments, model.device)
    hidden, head = feed(model, flat.input_ids, flat.position_ids, layout)
    here = [wanted[s.example] for s in segments]
    known = [Known()] * len(here)
    if any(w.row for w in here):
        targets = tokens_of(model.get_input_embeddings(), flat.targets)
        losses = row_losses(hidden[flat.rows], head, targets).cpu()
        parts = torch.split(losses, [trained_count(w.example()) for w in here])
        known = [w.known(part.tolist()) for w, part in zip(here, parts, strict=True)]
    pairs = zip(here, known, segments, strict=True)
    lengths = [len(w.prompt) + len(k.start) - s.start for w, k, s in pairs]
    firsts = torch.tensor([0, *map(len, segments)]).cumsum(0)[:-1]
    last = (firsts + torch.tensor(lengths) - 1).to(model.device)
    cut = [prefix.cut(length) for prefix, length in zip(kept, lengths, strict=True)]
    return cut, head_logits(hidden[last], head), known


def _known_beside(model: Any, wanted: Sequence[Wanted]) -> list[Known]:
    """The same of rows that are not fed flat: their keys and values are not kept."""
    places = [i for i, w in enumerate(wanted) if w.row]
    examples = [wanted[i].example() for i in places]
    known = [Known()] * len(wanted)
    losses = example_losses(model, examples, plan_for(model, examples, BATCH_TOKENS))
    for i, (part, _) in zip(places, losses, strict=True):
        known[i] = wanted[i].known(part.tolist())
    return known


def _next(model: Any, rows: Rows, tokens: Sequence[int]) -> Tensor:
    """(N, V) logits after one more token of each row."""
    ids = torch.tensor([tokens], device=model.device)
    # A row that has left but stands there still may be past the last position of the model.
    positions = rows.positions().clamp(max=context_of(model.config) - 1)
    hidden, head = feed(model, ids, positions[None, :], rows)
    rows.step()
    return head_logits(hidden, head)
