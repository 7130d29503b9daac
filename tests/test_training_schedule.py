"""Order, learning rate and the foreseen time are pure functions of step and settings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from biddable.settings import Settings
from biddable.training.estimate import top_layers_note
from biddable.training.schedule import learning_rate, rows_of_step, total_steps


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_every_epoch_holds_every_row_once(rows: int, batch: int, seed: int) -> None:
    steps = total_steps(rows, Settings(batch_size=batch, epochs=3.0))
    order = [i for s in range(1, steps + 1) for i in rows_of_step(s, rows, batch, seed)]
    for epoch in range(3):
        assert sorted(order[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    assert max(Counter(order).values()) <= 3 + -(-batch // rows)


def test_the_order_changes_with_epoch_and_seed() -> None:
    assert rows_of_step(1, 50, 50, 0) != rows_of_step(2, 50, 50, 0)
    assert rows_of_step(1, 50, 50, 0) != rows_of_step(1, 50, 50, 1)


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_learning_rate_rises_to_its_peak_and_stays_positive(total: int, warmup: float) -> None:
    rates = [learning_rate(s, total, 1.0, warmup) for s in range(1, total + 1)]
    assert max(rates) <= 1.0 + 1e-12
    assert min(rates) > 0
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_the_rate_is_that_of_hand_computed_steps() -> None:
    assert learning_rate(1, 10, 2e-4, 0.2) == 1e-4
    assert learning_rate(2, 10, 2e-4, 0.2) == 2e-4
    assert abs(learning_rate(10, 10, 2e-4, 0.2) - 2e-5) < 1e-12


def test_the_faster_way_is_named_for_long_runs_of_all_layers_on_a_processor_alone() -> None:
    settings = Settings(device="cpu")
    assert "--top-layers 16 would take about 6 minutes" in top_layers_note(600, 60, settings, 30)
    assert not top_layers_note(100, 60, settings, 30), "a short run"
    assert not top_layers_note(600, 60, settings, 12), "a base of few layers"
    for other in ({"device": "cuda"}, {"lora": 8}, {"top_layers": 4}):
        assert not top_layers_note(600, 60, replace(settings, **other), 30)
