"""Intervals: cases worked out by hand or published, and how they cover."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from biddable.judging.intervals import (
    ALPHA,
    cluster_array,
    holm,
    paired_bootstrap,
    relation,
    sign_flip,
    smallest_difference,
    wilson,
)
from biddable.judging.intervals import paired_rates as paired_rates_of


def alone(n: int) -> Any:
    """Each row a cluster of its own."""
    return np.arange(n)


def paired_rates(before: Any, after: Any, clusters: Any = None) -> tuple[float, float]:
    return paired_rates_of(np.array(before, bool), np.array(after, bool), clusters)


def columns(values: Any) -> Any:
    """A mean as two columns of sums."""
    return np.stack([values, np.ones(len(values))], axis=1)


def quotient(sums: Any) -> Any:
    return sums[..., 0] / sums[..., 1]


PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def test_wilson_against_its_formula() -> None:
    # n = 10, p = 0.8, z = 1.96: centre (0.8 + 0.19208) / 1.38416, half width 0.22656 by hand.
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson(0, 20)
    assert low == 0.0
    assert high == pytest.approx(3.8416 / (20 + 3.8416), abs=1e-4)


def test_paired_rates_by_hand() -> None:
    # 10 rows: 6 gained, 2 right both times, 2 wrong both times, none lost.
    before = [False] * 6 + [True] * 2 + [False] * 2
    after = [True] * 6 + [True] * 2 + [False] * 2
    # phi: 2 * 2 - 6 * 0 = 4 is below n / 2, so 0. Wilson of 8 and of 2 of 10: 0.4902 to 0.9433 and
    # 0.0567 to 0.5098, so both sides are sqrt(0.3098 ** 2 + 0.3098 ** 2) and sqrt(2) * 0.1433.
    assert paired_rates(before, after) == pytest.approx((0.6 - 0.4382, 0.6 + 0.2027), abs=2e-4)


def test_rows_that_agree_narrow_the_interval() -> None:
    # 4 right both times, 4 wrong both times, 1 gained, 1 lost: phi = (16 - 1 - 10 / 2) / 25 = 0.4.
    before = [True] * 4 + [False] * 4 + [False, True]
    after = [True] * 4 + [False] * 4 + [True, False]
    # Wilson of 5 of 10 is 0.5 +- 0.2634; 0.2634 * sqrt(2 - 2 * 0.4) = 0.2885.
    assert paired_rates(before, after) == pytest.approx((-0.2885, 0.2885), abs=2e-4)


def test_agreement_of_all_rows_still_leaves_doubt() -> None:
    low, high = paired_rates([False] * 8, [True] * 8)
    assert 0.4 < low < 0.7
    assert high == pytest.approx(1.0)
    low, high = paired_rates([True] * 8, [True] * 8)
    assert low < -0.2
    assert high > 0.2


@given(PAIRS)
def test_paired_rates_hold_the_difference_and_turn_with_the_sides(
    pairs: list[tuple[bool, bool]],
) -> None:
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    difference = sum(after) / len(pairs) - sum(before) / len(pairs)
    low, high = paired_rates(before, after)
    assert low - 1e-9 <= difference <= high + 1e-9
    assert paired_rates(after, before) == pytest.approx((-high, -low))


def test_paired_rates_cover_the_truth() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        # Truth: 0.3 before, of which 0.9 stay; of the others 0.4 are gained: 0.55 after.
        before = random.random(30) < 0.3
        after = np.where(before, random.random(30) < 0.9, random.random(30) < 0.4)
        low, high = paired_rates(list(before), list(after))
        hits += low <= 0.27 + 0.28 - 0.3 <= high
    assert 0.92 <= hits / 400 <= 0.99


def test_the_bootstrap_finds_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 200)
    interval = paired_bootstrap(columns(0 * values), columns(values), quotient, alone(200))
    assert interval is not None
    half = 1.96 * values.std() / 200**0.5
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_too_few_rows_or_no_number_give_no_interval() -> None:
    for n, value in ((1, 1.0), (5, np.inf)):
        rows = columns(np.full(n, value))
        assert paired_bootstrap(columns(np.zeros(n)), rows, quotient, alone(n)) is None


def test_mcnemar_by_hand_and_by_scipy() -> None:
    # 6 gained, none lost: 2 / 64; 7 gained, 1 lost: 2 * (1 + 8) / 256.
    assert sign_flip(np.array([1.0] * 6 + [0.0] * 9), alone(15)) == pytest.approx(2 / 64)
    assert sign_flip(np.array([1.0] * 7 + [-1.0]), alone(8)) == pytest.approx(18 / 256)
    for gained, lost in ((3, 3), (9, 2), (0, 5), (20, 1)):
        values = np.array([1.0] * gained + [-1.0] * lost)
        exact = stats.binomtest(gained, gained + lost).pvalue
        assert sign_flip(values, alone(gained + lost)) == pytest.approx(exact)
    assert sign_flip(np.zeros(4), alone(4)) == 1.0


def test_rows_of_one_cluster_speak_once() -> None:
    gains = np.ones(12)
    assert sign_flip(gains, alone(12)) < 0.001
    # Three clusters of four rows: as sure as three rows.
    clusters = np.repeat([0, 1, 2], 4)
    assert sign_flip(gains, clusters) == pytest.approx(2 / 8)
    before, after = [False] * 12, [True] * 12
    assert paired_rates(before, after, clusters) == pytest.approx(
        paired_rates([False] * 3, [True] * 3)
    )
    assert paired_rates(before, after, alone(12)) == paired_rates(before, after)
    assert list(cluster_array([7, None, 7, None, 7], 4)) == [0, 1, 0, 2]


def test_copies_of_a_row_do_not_narrow_a_bootstrap() -> None:
    values = np.random.default_rng(2).normal(1.0, 1.0, 20)
    four = np.repeat(values, 4)
    one = paired_bootstrap(columns(0 * values), columns(values), quotient, alone(20))
    many = paired_bootstrap(columns(0 * four), columns(four), quotient, np.repeat(range(20), 4))
    assert one == pytest.approx(many)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.randoms())
def test_the_order_of_rows_changes_nothing(values: list[float], random: Random) -> None:
    mixed = random.sample(values, len(values))
    for statistic in (
        lambda v: sign_flip(np.array(v), alone(len(v))),
        lambda v: paired_bootstrap(
            columns(np.zeros(len(v))), columns(np.array(v)), quotient, alone(len(v))
        ),
    ):
        assert statistic(mixed) == pytest.approx(statistic(values))


def test_answers_that_fit_by_chance_have_no_relation() -> None:
    wanted = np.arange(20) % 2
    assert relation(wanted, wanted, alone(20)) < 0.001
    # A constant answer matches as often in any order.
    assert relation(np.zeros(20, int), wanted, alone(20)) == 1.0
    assert relation(np.full(20, -1), wanted, alone(20)) == 1.0
    # Twenty rows of two clusters are two rows.
    assert relation(wanted, wanted, wanted) > 0.3


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1, never below the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("n", [8, 20, 64])
def test_the_smallest_difference_is_the_first_that_is_certain(n: int) -> None:
    rows = round(smallest_difference(n) * n)
    assert sign_flip(np.array([1.0] * rows), alone(rows)) < ALPHA
    assert sign_flip(np.array([1.0] * (rows - 1)), alone(rows - 1)) >= ALPHA
    assert smallest_difference(0) == float("inf")
