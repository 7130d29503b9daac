"""The sampler: greedy is argmax, the nucleus holds its mass, frequencies are the probabilities."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biddable.generation.sampler import make_sampler

SHARES = torch.tensor([0.5, 0.05, 0.3, 0.15])
LOGITS = SHARES.log()[None, :]
FLOATS = st.floats(-20, 20, width=32)


@given(st.lists(FLOATS, min_size=2, max_size=9, unique=True), st.integers(0, 99))
def test_temperature_zero_takes_the_most_likely(logits: list[float], seed: int) -> None:
    best = max(range(len(logits)), key=logits.__getitem__)
    assert make_sampler(0.0, 0.3, seed)(torch.tensor([logits]), [0]) == [best]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.49, {0}), (0.5, {0}), (0.51, {0, 2}), (0.81, {0, 2, 3}), (1.0, {0, 1, 2, 3})],
)
def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(top_p: float, kept: set[int]) -> None:
    sample = make_sampler(1.0, top_p, 0)
    assert {sample(LOGITS.double(), [0])[0] for _ in range(300)} == kept


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies_follow_the_tempered_probabilities(temperature: float) -> None:
    sample = make_sampler(temperature, 1.0, 1)
    counts = Counter(sample(LOGITS, [0])[0] for _ in range(4000))
    expected = SHARES ** (1 / temperature)
    expected = expected / expected.sum()
    for token, share in enumerate(expected.tolist()):
        # Five standard errors.
        assert abs(counts[token] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_a_row_draws_from_a_stream_of_its_own() -> None:
    flat = torch.zeros(2, 50)
    alone, beside = make_sampler(1.0, 1.0, 7), make_sampler(1.0, 1.0, 7)
    first = [alone(flat[:1], [4])[0] for _ in range(5)]
    assert [beside(flat, [9, 4])[1] for _ in range(5)] == first


@pytest.mark.parametrize(("temperature", "top_p"), [(-0.1, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_values_out_of_range_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(ValueError, match="temperature must be"):
        make_sampler(temperature, top_p)


@pytest.mark.parametrize("temperature", [1e-30, 1e-308, 5e-324])
def test_a_temperature_near_zero_takes_the_most_likely(temperature: float) -> None:
    logits = torch.tensor([[3.0, -2.0, 9.0, 8.0]])
    draws = {make_sampler(temperature, 1.0, seed)(logits, [0])[0] for seed in range(8)}
    assert draws == {2}


def test_every_seed_that_the_options_allow_draws_and_draws_again() -> None:
    logits = torch.zeros(1, 50)
    for seed in (0, 1, 2**63 - 1, 2**40, -(2**63)):
        first, second = (make_sampler(1.0, 1.0, seed) for _ in range(2))
        rows = [0]
        assert [first(logits, rows) for _ in range(5)] == [second(logits, rows) for _ in range(5)]
