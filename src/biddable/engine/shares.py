"""Which rows of a step each rank takes: equal cost, prefix groups kept together. Pure functions.

Worked example, two ranks, a prefix of 100 tokens that rows a b c d share, and rows e f of 60:

    a b c d   suffixes of 10: 140 tokens together, but 120 on each of two ranks
    e f       60 tokens each
    rank 0 takes a b c d (140), rank 1 takes e f (120)
"""

from __future__ import annotations

from collections.abc import Sequence

from biddable.engine.plan import Segment, Trainable, plan_step


def share_rows(examples: Sequence[Trainable], ranks: int) -> list[list[int]]:
    """The indices of the rows that each rank takes, in the order of the rows.

    A rank may get none, where there are fewer rows than ranks. The cost of a row is the tokens that
    are fed for it; a prefix costs each rank that has a row of its group.
    """
    if ranks == 1:
        return [list(range(len(examples)))]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    # The largest first, each to the least loaded rank: at most 4/3 of the best (Graham 1969).
    for cost, rows in sorted(_units(examples, ranks), reverse=True):
        least = loads.index(min(loads))
        shares[least] += rows
        loads[least] += cost
    return [sorted(rows) for rows in shares]


def _units(examples: Sequence[Trainable], ranks: int) -> list[tuple[int, list[int]]]:
    """(tokens fed, rows) of what one rank takes whole: a row, a prefix group, or a part of one.

    A group is cut only where it alone is more than one and a half fair shares of a rank.
    """
    plan = plan_step(examples, batch_tokens=1)
    groups: dict[int, list[Segment]] = {}
    for segment in (s for batch in plan.micro_batches for s in batch):
        # Rows of no group stand alone, under keys that no group has.
        key = segment.group if segment.group >= 0 else -1 - segment.example
        groups.setdefault(key, []).append(segment)
    fair = plan.tokens / ranks
    units = []
    for key, segments in groups.items():
        prefix = len(plan.prefixes[key]) if key >= 0 else 0
        parts = max(1, round((prefix + sum(map(len, segments))) / fair))
        segments.sort(key=lambda s: (-len(s), s.example))
        for part in (segments[n::parts] for n in range(min(parts, len(segments)))):
            units.append((prefix + sum(map(len, part)), [s.example for s in part]))
    return units
