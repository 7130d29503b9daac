"""From the examples of one optimizer step to prefix groups and flat micro-batches. Pure functions.

Letters: T tokens of a flat micro-batch, R trained rows, P prefix tokens.

Worked example, with a budget of 8 tokens (trained tokens in capitals):

    a  s s s u A A        P = 3, the group of a and b: it ends before the first trained token
    b  s s s u u B        of either and leaves each at least one token of its own
    c  x y C              no prefix shared with another row

    prefix pass    [s s s]                                positions 0 1 2
    micro-batch 1  [u A | u u | x y]                      positions 3 4 | 3 4 | 0 1
                   rows 0 1 3 5 predict A A B C

With a budget of 9 or more the prefix is joined to the one micro-batch, in front of it.

The last trained token of an example is predicted, never fed: nothing that follows it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

# A shorter prefix saves less than a pass of its own costs.
SHORTEST_PREFIX = 16


class Trainable(Protocol):
    """What the plan needs of an example: ids, and how much predicting each of them counts."""

    @property
    def input_ids(self) -> Sequence[int]: ...

    @property
    def weights(self) -> Sequence[float]: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of one example that a micro-batch feeds.

    Args:
        example: its index in the step.
        start: the position of its first token; the length of its group's prefix, or 0.
        stop: one past the last token fed, in the example's own positions.
        group: index of its prefix group, -1 for none.
    """

    example: int
    start: int
    stop: int
    group: int = -1

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One optimizer step: what is fed, in which passes.

    Args:
        prefixes: the token ids of each prefix group.
        micro_batches: segments of each pass; those of one group stand together.
        joined: the one micro-batch has room for the prefixes too, which it feeds first.
        padded_tokens: what a run that pads these rows to the longest would feed.
        even: the plans of all ranks have the same passes, each of which reaches every parameter.
    """

    prefixes: tuple[tuple[int, ...], ...]
    micro_batches: tuple[tuple[Segment, ...], ...]
    joined: bool
    padded_tokens: int
    even: bool = False

    @property
    def tokens(self) -> int:
        """Tokens fed in all passes."""
        suffixes = sum(len(s) for batch in self.micro_batches for s in batch)
        return suffixes + sum(len(p) for p in self.prefixes)


def plan_step(examples: Sequence[Trainable], batch_tokens: int, *, share: bool = True) -> StepPlan:
    """Groups the examples by common prefix and cuts them into micro-batches.

    Args:
        examples: those of one optimizer step, each with at least one trained token.
        batch_tokens: the most tokens that a micro-batch feeds; a longer example has one alone.
        share: whether prefixes are fed once for all; without, rows stand in order of length.
    """
    groups = _prefix_groups(examples) if share else []
    lengths = [length for length, _ in groups]
    home = {i: g for g, (_, members) in enumerate(groups) for i in members}
    segments = [
        Segment(i, lengths[home[i]] if i in home else 0, last_trained(e), home.get(i, -1))
        for i, e in enumerate(examples)
    ]
    # Without sharing, rows of one length stand together, so that padding wastes little.
    segments.sort(key=lambda s: (s.group == -1, s.group, 0 if share else len(s), s.example))
    batches = _balanced(segments, batch_tokens)
    prefixes = tuple(tuple(examples[members[0]].input_ids[:length]) for length, members in groups)
    longest = max((len(e.input_ids) for e in examples), default=0)
    tokens = sum(lengths) + sum(map(len, segments))
    joined = len(batches) == 1 and tokens <= batch_tokens
    return StepPlan(prefixes, tuple(batches), joined, longest * len(examples))


def even_plan(plan: StepPlan, passes: int, *, apart: bool) -> StepPlan:
    """The plan filled with empty micro-batches up to `passes`, so that all ranks make as many.

    Args:
        passes: the most micro-batches that any rank's plan has.
        apart: whether any rank feeds prefixes in a pass of their own; then this one does too, if
            need be a prefix of one token that nothing continues.
    """
    filled = plan.micro_batches + ((),) * (passes - len(plan.micro_batches))
    if not apart:
        return replace(plan, micro_batches=filled, even=True)
    prefixes = plan.prefixes or ((0,),)
    return replace(plan, prefixes=prefixes, micro_batches=filled, joined=False, even=True)


def trained_count(example: Trainable) -> int:
    """Trained tokens of an example."""
    return sum(w > 0 for w in example.weights)


def first_trained(example: Trainable) -> int:
    """The position of the first token that counts; the very first token is never predicted."""
    return next(i for i in range(1, len(example.weights)) if example.weights[i] > 0)


def last_trained(example: Trainable) -> int:
    """The position of the last token that counts."""
    weights = example.weights
    return next(i for i in range(len(weights) - 1, -1, -1) if weights[i] > 0)


def _balanced(segments: Sequence[Segment], batch_tokens: int) -> list[tuple[Segment, ...]]:
    """As few micro-batches as the budget allows, and the largest as small as that count allows.

    A small remainder would cost a pass of its own; even passes cost least and need least memory.
    """
    fewest = len(fill_batches(segments, batch_tokens))
    low, high = min(1, fewest), batch_tokens
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if len(fill_batches(segments, middle)) <= fewest else (middle + 1, high)
        )
    return fill_batches(segments, high)


def fill_batches(segments: Sequence[Segment], most: int) -> list[tuple[Segment, ...]]:
    """Fills micro-batches in order, each up to `most` tokens or with one longer segment."""
    batches: list[tuple[Segment, ...]] = []
    batch: list[Segment] = []
    tokens = 0
    for segment in segments:
        if batch and tokens + len(segment) > most:
            batches.append(tuple(batch))
            batch, tokens = [], 0
        batch.append(segment)
        tokens += len(segment)
    return [*batches, tuple(batch)] if batch else batches


def _prefix_groups(examples: Sequence[Trainable]) -> list[tuple[int, list[int]]]:
    """(length, members) of each group that saves more than its pass costs, by first member.

    In sorted order the longest common prefixes are those of neighbors, so one sweep finds the
    cuts: a neighbor that shares too little starts a new group.
    """
    # The row that predicts the first trained token must be the example's own.
    heads = [tuple(e.input_ids[: max(first_trained(e) - 1, 0)]) for e in examples]
    order = sorted(range(len(examples)), key=lambda i: (heads[i], i))
    groups: list[tuple[int, list[int]]] = []
    for run in _runs(order, heads):
        length = min(len(heads[i]) for i in run)
        length = min([length, *(common_length(heads[run[0]], heads[i]) for i in run[1:])])
        groups.append((length, sorted(run)))
    return sorted(groups, key=lambda group: group[1][0])


def _runs(order: list[int], heads: list[tuple[int, ...]]) -> list[list[int]]:
    """Cuts the sorted order where sharing with the next row would cost more than it saves."""
    runs: list[list[int]] = []
    run: list[int] = []
    length = 0
    for i in order:
        joined = min(length, common_length(heads[run[-1]], heads[i])) if run else len(heads[i])
        # One more row may shorten the prefix of all; it joins while the tokens saved grow.
        if run and (joined < SHORTEST_PREFIX or joined * len(run) < length * (len(run) - 1)):
            runs.append(run)
            run, joined = [], len(heads[i])
        run.append(i)
        length = joined
    runs.append(run)
    return [run for run in runs if len(run) > 1]


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix of two sequences of one type.

    Halves are compared whole, which for tuples takes no step in Python for each token.
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low
