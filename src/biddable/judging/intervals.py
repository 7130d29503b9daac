"""What rows can show: intervals, exact tests of paired differences, and corrections for several.

Rows of one cluster (a group, near duplicates) do not count as independent anywhere here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Clusters = NDArray[np.int64]
# Column sums (..., k) of a sample of rows to its figure (...).
Statistic = Callable[[Floats], Floats]

# The level of tests; intervals leave out as much.
ALPHA = 0.05
RESAMPLES = 2000
PERMUTATIONS = 4999
# Resamples at a time, so that many held-out rows do not fill the memory.
CHUNK = 250
_Z = float(stats.norm.ppf(1 - ALPHA / 2))


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The score interval of a rate (Wilson 1927); both may be fractions, for dependent rows."""
    rate = successes / n
    center = rate + _Z**2 / (2 * n)
    half = _Z * sqrt(max(rate * (1 - rate), 0.0) / n + _Z**2 / (4 * n * n))
    scale = 1 + _Z**2 / n
    low, high = (center - half) / scale, (center + half) / scale
    # Without rounding, none right begins at 0 and all right ends at 1.
    return (0.0 if rate <= 0 else low), (1.0 if rate >= 1 else high)


def cluster_array(ids: Sequence[int | None] | None, rows: int) -> Clusters:
    """(rows,) the cluster of each of the first rows, from 0; a row without an id stands alone."""
    first = [None] * rows if ids is None else ids[:rows]
    keys = [("row", i) if c is None else ("cluster", c) for i, c in enumerate(first)]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)


def cluster_sums(values: Floats, clusters: Clusters) -> Floats:
    """(clusters, ...) the rows of each cluster added up."""
    sums = np.zeros((int(clusters.max(initial=-1)) + 1, *values.shape[1:]))
    np.add.at(sums, clusters, values)
    return sums


def paired_rates(
    before: NDArray[np.bool_], after: NDArray[np.bool_], clusters: Clusters | None = None
) -> tuple[float, float]:
    """The interval of rate(after) - rate(before) on the same rows.

    Newcombe's hybrid of two score intervals with their correlation (Statistics in Medicine 17
    (1998) 2635, method 10). Unlike a bootstrap it stays honest where all rows agree. Clustered rows
    count as n^2 / sum of squared cluster sizes, the number of rows that know as much when the rows
    of a cluster say the same (Kish 1965); Miller 2024 (arXiv 2411.00640) says why it matters.
    """
    n = len(before)
    sizes = np.bincount(clusters) if clusters is not None else np.ones(n)
    effective = n * n / float((sizes**2).sum())
    both, gained, lost, neither = (
        float(rows.sum()) * effective / n
        for rows in (after & before, after & ~before, before & ~after, ~(after | before))
    )
    new, old = both + gained, both + lost
    phi = _correlation(both, gained, lost, neither)
    (low_new, high_new), (low_old, high_old) = wilson(new, effective), wilson(old, effective)
    rate_new, rate_old = new / effective, old / effective
    down = _distance(rate_new - low_new, high_old - rate_old, phi)
    up = _distance(high_new - rate_new, rate_old - low_old, phi)
    return rate_new - rate_old - down, rate_new - rate_old + up


def paired_bootstrap(
    base: Floats, tuned: Floats, statistic: Statistic, clusters: Clusters
) -> tuple[float, float] | None:
    """The percentile interval of statistic(tuned) - statistic(base) (Efron 1979).

    Whole clusters are drawn. None for fewer than two, or where the difference is no number.

    Args:
        base, tuned: (n, k) columns whose sums the statistic is of.
    """
    sums = np.concatenate([cluster_sums(base, clusters), cluster_sums(tuned, clusters)], axis=1)
    count, width = len(sums), base.shape[1]

    def difference(total: Floats) -> Floats:
        return statistic(total[..., width:]) - statistic(total[..., :width])

    if count < 2 or not np.isfinite(difference(sums.sum(0))).all():
        return None
    # In an order of their own, so that the order of the rows changes nothing.
    sums = sums[np.lexsort(sums.T)]
    random = np.random.default_rng(0)
    samples = [
        difference(random.multinomial(count, np.full(count, 1 / count), CHUNK) @ sums)
        for _ in range(RESAMPLES // CHUNK)
    ]
    # A sample without any denominator says nothing.
    low, high = np.nanquantile(np.concatenate(samples), [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def sign_flip(differences: Floats, clusters: Clusters) -> float:
    """The two-sided p-value of paired differences: each cluster's sum might as well be negative.

    For rates of rows that stand alone this is the exact test of McNemar (1947); whole numbers are
    counted exactly, others over random signs.
    """
    sums = np.abs(cluster_sums(differences, clusters))
    total = abs(float(differences.sum()))
    sums = np.sort(sums[sums > 0])
    if not len(sums) or not np.isfinite(sums).all():
        return 1.0
    if (sums == np.round(sums)).all():
        ways = np.ones(1)
        for size in sums.astype(int):
            step = np.zeros(2 * size + 1)
            step[[0, -1]] = 0.5
            ways = np.convolve(ways, step)
        distances = np.abs(np.arange(len(ways)) - len(ways) // 2)
        return min(1.0, float(ways[distances >= total - 1e-9].sum()))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (PERMUTATIONS, len(sums)))
    extreme = (np.abs(signs @ sums) >= total - 1e-9).sum()
    return float(1 + extreme) / (PERMUTATIONS + 1)


def relation(answers: Clusters, wanted: Clusters, clusters: Clusters) -> float:
    """The p-value of as many matches, were the answers dealt to the rows by chance.

    A constant answer, or one drawn without a look at the prompt, matches as often in any order.
    One row of each cluster takes part.

    Args:
        answers, wanted: (n,) numbers of the answers; -1 never matches.
    """
    _, first = np.unique(clusters, return_index=True)
    pairs = np.stack([answers[first], wanted[first]])
    answers, wanted = pairs[:, np.lexsort(pairs)]
    random = np.random.default_rng(0)
    orders = random.permuted(np.tile(np.arange(len(answers)), (PERMUTATIONS, 1)), axis=1)
    known = answers >= 0
    hits = ((answers == wanted) & known).sum()
    chance = ((answers == wanted[orders]) & known).sum(-1)
    return float(1 + (chance >= hits).sum()) / (PERMUTATIONS + 1)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for being several (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, least = [1.0] * len(values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = least
    return corrected


def smallest_difference(n: int) -> float:
    """The smallest difference of a rate that this many independent rows could show for certain.

    Where one model is right on k rows more and on none less, McNemar's exact p-value is 2 / 2^k;
    the smallest k below 5 % is 6. Above 1: these rows can show nothing.
    """
    return fewest_gained(ALPHA) / n if n else float("inf")


def fewest_gained(alpha: float) -> int:
    """Rows that have to be gained, with none lost, for McNemar's exact p-value below alpha."""
    return next(k for k in range(1, 64) if 0.5 ** (k - 1) < alpha)


def _correlation(both: float, gained: float, lost: float, neither: float) -> float:
    """Phi of the two-by-two table, corrected towards 0 as in Newcombe's method 10."""
    sides = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    cross = both * neither - gained * lost
    if cross > 0:
        cross = max(cross - (both + gained + lost + neither) / 2, 0.0)
    return cross / sqrt(sides) if sides else 0.0


def _distance(a: float, b: float, phi: float) -> float:
    return sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))
