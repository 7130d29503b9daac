"""Rows that join midway and leave: each answer is the one that its prompt gets alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from biddable.generation.batch import Batch, Held, hold
from biddable.generation.generate import generate
from tiny import CONFIGS, VOCABULARY
from tiny import tiny as new_tiny

tiny = cache(new_tiny)
PREFIX = [(7 * i) % 50 + 3 for i in range(21)]
TOKENS = st.integers(3, VOCABULARY - 1)


@st.composite
def visits(draw: st.DrawFn) -> list[tuple[int, list[int], int]]:
    """(the step at which it comes, its prompt, how many tokens it wants) of each row."""
    prompts = st.lists(TOKENS, min_size=1, max_size=6)
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 6), prompts, st.integers(1, 7), st.booleans()),
            min_size=1,
            max_size=7,
        )
    )
    return [(at, [*PREFIX, *p] if shared else p, most) for at, p, most, shared in rows]


def greedy(batch: Batch) -> list[int]:
    return batch.logits.argmax(-1).tolist()


def answers(
    model: Any, rows: list[tuple[int, list[int], int]], held: Held | None = None
) -> list[list[int]]:
    """The tokens of each row, all in one batch that rows join at their step and leave when full."""
    batch = Batch(model, held)
    written: list[list[int]] = [[] for _ in rows]
    step = 0
    while batch or any(at >= step for at, _, _ in rows):
        coming = [i for i, (at, _, _) in enumerate(rows) if at == step]
        if coming:
            batch.join([rows[i][1] for i in coming], coming)
        if batch:
            tokens = greedy(batch)
            for name, token in zip(batch.names, tokens, strict=True):
                if name is not None:
                    written[name].append(token)
            batch.leave({i for i, ids in enumerate(written) if len(ids) == rows[i][2]})
            if batch:
                batch.step(tokens)
        step += 1
    return written


def alone(model: Any, rows: list[tuple[int, list[int], int]]) -> list[list[int]]:
    return [
        list(generate(model, [p], stop_ids=(), max_new_tokens=most)[0].ids) for _, p, most in rows
    ]


# Without shrinking: each try decodes, which takes seconds on a busy machine.
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(rows=visits(), holds=st.booleans())
def test_a_row_that_joins_midway_gets_the_answer_that_it_gets_alone(
    kind: str, rows: list[tuple[int, list[int], int]], holds: bool
) -> None:
    model = tiny(kind, ours=True)
    held = hold(model, PREFIX) if holds else None
    assert answers(model, rows, held) == alone(model, rows)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_rows_join_and_leave_in_every_architecture(kind: str) -> None:
    model = tiny(kind, ours=True)
    rows = [(0, [*PREFIX, 5], 6), (0, [9, 8], 3), (2, [*PREFIX, 6, 7], 4), (4, [40] * 30, 3)]
    assert answers(model, rows, hold(model, PREFIX)) == alone(model, rows)


def test_the_cache_grows_and_rows_with_one_beginning_are_one_run_of_rows() -> None:
    model = tiny("llama", ours=True)
    held = hold(model, PREFIX)
    rows = [(at, [*PREFIX, 5 + at], 70 - at) for at in range(4)]
    assert answers(model, rows, held) == alone(model, rows)
    batch = Batch(model, held)
    for at in range(3):
        batch.join([[*PREFIX, 5 + at]], [at])
        batch.step(greedy(batch))
    rows_of = batch._rows
    assert rows_of is not None
    assert rows_of.runs == [(0, 3, 0)]
    assert rows_of.prefixes == [held.prefix]
    assert rows_of.prefixes[0] is held.prefix


def test_a_row_that_has_left_a_large_batch_may_stay_past_the_end_of_the_context() -> None:
    model = tiny("gpt2", ours=True)
    rows = [(0, [3] * 125, 3), *[(0, [4 + i], 20) for i in range(14)]]
    assert answers(model, rows) == alone(model, rows)


def test_a_batch_whose_rows_have_all_left_begins_anew() -> None:
    model = tiny("llama", ours=True)
    batch = Batch(model)
    batch.join([[3, 4]], [0])
    batch.leave([0])
    assert not batch
    batch.join([[5, 6]], [1])
    assert batch.names == [1]
    with torch.no_grad():
        alone = model.lm_head(batch.logits.new_zeros(1, model.config.hidden_size))
    assert batch.logits.shape == alone.shape
