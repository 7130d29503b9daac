"""95 % intervals: of one rate, of the difference of two paired rates, of any paired difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000

# Row numbers (..., n) to the statistic of each sample of rows (...).
Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The score interval of a rate (Wilson 1927)."""
    found = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def paired_rates(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """The interval of rate(after) - rate(before) on the same rows.

    Newcombe's hybrid of two score intervals with their correlation (Statistics in Medicine 17
    (1998) 2635, method 10). Unlike a bootstrap it stays honest where all rows agree.
    """
    n = len(before)
    pairs = list(zip(after, before, strict=True))
    both, gained, lost, neither = (
        sum(pair == kind for pair in pairs)
        for kind in ((True, True), (True, False), (False, True), (False, False))
    )
    new, old = both + gained, both + lost
    phi = _correlation(both, gained, lost, neither)
    (low_new, high_new), (low_old, high_old) = wilson(new, n), wilson(old, n)
    down = _distance(new / n - low_new, high_old - old / n, phi)
    up = _distance(high_new - new / n, old / n - low_old, phi)
    return (new - old) / n - down, (new - old) / n + up


def paired_bootstrap(difference: Statistic, n: int) -> tuple[float, float] | None:
    """The percentile interval of a difference over resampled rows (Efron 1979).

    None for fewer than two rows, or where the difference itself is no number.

    Args:
        difference: of the two models on the same sample of rows.
        n: how many rows there are.
    """
    if n < 2 or not np.isfinite(difference(np.arange(n))).all():
        return None
    samples = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    tail = (1 - LEVEL) / 2
    # A sample without any denominator says nothing.
    low, high = np.nanquantile(difference(samples), [tail, 1 - tail])
    return float(low), float(high)


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Phi of the two-by-two table, corrected towards 0 as in Newcombe's method 10."""
    sides = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    cross = float(both * neither - gained * lost)
    if cross > 0:
        cross = max(cross - (both + gained + lost + neither) / 2, 0.0)
    return cross / sqrt(sides) if sides else 0.0


def _distance(a: float, b: float, phi: float) -> float:
    return sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))


def smallest_difference(n: int) -> float:
    """The smallest difference of a rate that this many independent rows could show for certain.

    Where one model is right on k rows more and on none less, the exact test of McNemar (1947) gives
    2 / 2^k; the smallest k below 5 % is 6. Above 1: these rows can show nothing.
    """
    return 6 / n if n else float("inf")
