"""The top layers alone, fed with kept outputs of the frozen layers below them.

Letters: S kept states, T tokens of a flat micro-batch, D model width.

What a frozen layer gives at a token follows from the tokens up to there, and never changes. So each
distinct beginning of a row has a number, the frozen layers are run once for each, and a row becomes
the numbers of its beginnings:

    rows      s s u A      s s v B
    numbers   0 1 2 3      0 1 4 5

To the engine they are token ids. It finds and feeds what rows share as ever, the input embedding
gives the state of a number, and the frozen layers are left out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from biddable.encoding.encode import Example
from biddable.engine.layout import Layout, Prefix
from biddable.engine.plan import StepPlan, Trainable, common_length, plan_step
from biddable.engine.step import feed, feed_prefixes, flatten
from biddable.models.adapters import decoder_layers

# Tokens of a pass through the frozen layers, which keeps nothing for a backward.
PASS_TOKENS = 2048


Change = Callable[[Tensor], Tensor]


class KeptStates:
    """What enters the top layers at each distinct beginning of the rows.

    Args:
        tokens: (S,) the last token of each beginning.
        states: (S, D) room for the states, in memory or in a mapped file.
    """

    def __init__(self, tokens: Sequence[int], states: Tensor) -> None:
        self.tokens, self.states = torch.tensor(tokens), states
        self._numbers = self._fed = torch.empty(0)

    def fed(self, numbers: Tensor) -> Tensor:
        """(1, T, D) states of the numbers (1, T), which `entering` gives again."""
        self._fed = self.states[numbers.to(self.states.device)].to(numbers.device)
        return self._fed

    def entering(self, _: Tensor) -> Tensor:
        """The states that were fed last, whatever the model did to them since."""
        return self._fed

    def embedded(self, numbers: Tensor, embedding: nn.Module) -> Tensor:
        """(1, T, D) embeddings of the last tokens of the numbers (1, T)."""
        self._numbers = numbers
        embeddings: Tensor = embedding(self.tokens[numbers.cpu()].to(numbers.device))
        return embeddings

    def keep(self, states: Tensor) -> Tensor:
        """Stores the states (1, T, D) of the numbers that were embedded last."""
        where = self._numbers[0].to(self.states.device)
        self.states[where] = states[0].to(self.states.device, self.states.dtype)
        return states


class Replaced(nn.Module):
    """A module in place of a layer or of the input embedding; it has no parameters.

    Args:
        module: the one it stands for, whose plain attributes models read.
        change: what it makes of its input.
        in_tuple: whether the module gives its output as the first of a tuple.

    Attributes:
        last_tokens: of an input embedding, the token behind each number.
    """

    last_tokens: Tensor

    def __init__(self, module: nn.Module, change: Change, *, in_tuple: bool = False) -> None:
        super().__init__()
        for name, value in vars(module).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.change, self.in_tuple = change, in_tuple

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor]:
        changed = self.change(states)
        return (changed,) if self.in_tuple else changed


def top_of(model: Any, count: int, kept: KeptStates) -> Any:
    """A model whose layers below the top `count` are left out: it is fed with numbers.

    It shares all parameters and buffers with `model`.
    """
    changes = dict.fromkeys(decoder_layers(model)[:-count], kept.entering)
    return _copied(model, changes, Replaced(model.get_input_embeddings(), kept.fed), kept)


def bottom_of(model: Any, count: int, kept: KeptStates) -> Any:
    """A model without the top `count` layers: fed with numbers, it stores their states."""
    first, *others = decoder_layers(model)[-count:]
    changes = {first: kept.keep} | dict.fromkeys(others, lambda states: states)
    embedding = model.get_input_embeddings()
    start = Replaced(embedding, lambda numbers: kept.embedded(numbers, embedding))
    return _copied(model, changes, start, kept)


def _copied(
    model: Any, changes: Mapping[nn.Module, Change], start: Replaced, kept: KeptStates
) -> Any:
    """A copy of the module tree that shares the tensors.

    Args:
        changes: what layers that are left out make of their input.
        start: the input embedding.
    """
    start.last_tokens, in_tuple = kept.tokens, _gives_tuples(model)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    layers = {id(m): Replaced(m, change, in_tuple=in_tuple) for m, change in changes.items()}
    return deepcopy(model, {**shared, **layers, id(model.get_input_embeddings()): start})


@torch.no_grad()
def _gives_tuples(model: Any) -> bool:
    """Whether a layer gives its states in a tuple, as a pass of one token shows."""
    outputs: list[Any] = []
    layer = decoder_layers(model)[0]
    hook = layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        zero = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        feed(model, zero, zero, Layout([1], [-1]))
    finally:
        hook.remove()
    return isinstance(outputs[0], tuple)


def numbered(examples: Mapping[int, Example]) -> tuple[dict[int, Example], list[int]]:
    """Each example with the numbers of its beginnings as ids, and the last token of each number.

    In sorted order what a row shares with any row before it, it shares with its neighbor.
    """
    order = sorted(examples, key=lambda i: array("q", examples[i].input_ids))
    tokens = array("q")
    rows: dict[int, Example] = {}
    ids: tuple[int, ...] = ()
    numbers = array("q")
    for i in order:
        before, ids = ids, tuple(examples[i].input_ids)
        shared = common_length(before, ids)
        fresh = range(len(tokens), len(tokens) + len(ids) - shared)
        numbers = numbers[:shared] + array("q", fresh)
        tokens.extend(list(ids[shared:]))
        rows[i] = replace(examples[i], input_ids=numbers)
    return rows, list(tokens)


@torch.no_grad()
def keep_states(bottom: Any, rows: Sequence[Trainable]) -> None:
    """Runs the frozen layers over numbered rows; what all of a group share is fed once."""
    plan = plan_step(rows, PASS_TOKENS)
    held: dict[int, Prefix] = {}
    for segments in plan.micro_batches:
        groups = sorted({s.group for s in segments} - {-1})
        missing = [g for g in groups if g not in held]
        only = StepPlan(tuple(plan.prefixes[g] for g in missing), (), joined=False, padded_tokens=0)
        fresh, _ = feed_prefixes(bottom, only)
        held = {g: p for g, p in held.items() if g in groups} | dict(
            zip(missing, fresh, strict=True)
        )
        flat = flatten(rows, segments, bottom.device)
        place = {-1: -1} | {g: n for n, g in enumerate(groups)}
        layout = Layout(
            [len(s) for s in segments],
            [place[s.group] for s in segments],
            [held[g] for g in groups],
        )
        feed(bottom, flat.input_ids, flat.position_ids, layout)
