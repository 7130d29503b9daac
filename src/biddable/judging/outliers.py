"""Rows whose loss stands out: where labels are wrong, and where nothing is left to learn."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 5
# The two ends, and what they often mean.
ENDS = ("highest loss: a wrong or odd answer?", "lowest loss: boilerplate?")


def outliers(losses: Sequence[float]) -> tuple[list[int], list[int]]:
    """The indices of the rows with the highest and with the lowest losses, the farthest first.

    Both are empty where there are too few rows for one to stand out.
    """
    if len(losses) < 2 * MOST:
        return [], []
    order = sorted(range(len(losses)), key=losses.__getitem__)
    return order[: -MOST - 1 : -1], order[:MOST]
