"""Intervals: cases worked out by hand or published, and how they cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biddable.judging.intervals import paired_bootstrap, paired_rates, wilson

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
    found = paired_bootstrap(lambda rows: values[rows].mean(-1), 200)
    assert found is not None
    half = 1.96 * values.std() / 200**0.5
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_too_few_rows_or_no_number_give_no_interval() -> None:
    assert paired_bootstrap(lambda rows: rows.mean(-1), 1) is None
    assert paired_bootstrap(lambda rows: rows.mean(-1) * np.inf, 5) is None
