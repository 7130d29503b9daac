"""What a reference's losses tell of the greedy answer is what decoding would have written."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.encoding.encode import Example
from biddable.generation.generate import Answer, generate
from biddable.generation.sure_start import sure_start
from biddable.judging.judge import Question, sure_starts
from biddable.training.evaluate import token_losses
from tiny import VOCABULARY, tiny

STOP, LIMIT = {2, 5, 9}, 8
TOKENS = st.integers(3, VOCABULARY - 1)
TEXTS = st.lists(TOKENS, min_size=1, max_size=6)


@cache
def decided() -> Any:
    """A model that is sure of most of its tokens."""
    model = deepcopy(tiny("llama", ours=True, dtype=torch.float32))
    with torch.no_grad():
        model.get_output_embeddings().weight *= 8
    return model


def greedy(prompt: list[int], limit: int = LIMIT) -> Answer:
    return generate(decided(), [prompt], stop_ids=STOP, max_new_tokens=limit)[0]


def row(line: int, prompt: list[int], reference: list[int]) -> tuple[Question, Example]:
    example = Example(
        [*prompt, *reference], [0.0] * len(prompt) + [1.0] * len(reference), "rows.jsonl", line
    )
    return Question(tuple(prompt), "", "", len(reference), "rows.jsonl", line), example


def starts_of(rows: list[tuple[Question, Example]]) -> list[tuple[int, ...]]:
    examples = [example for _, example in rows]
    losses = [each.tolist() for each, _ in token_losses(decided(), examples, 64)]
    return sure_starts([q for q, _ in rows], examples, [e.input_ids for e in examples], losses)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.integers(0, LIMIT), TEXTS), min_size=1, max_size=4))
def test_answers_are_those_that_are_decoded_whole(
    drawn: list[tuple[list[int], int, list[int]]],
) -> None:
    """References that follow the greedy answer for so many tokens, and then go their own way."""
    rows = [
        row(line, prompt, [*greedy(prompt).ids[:kept], *end])
        for line, (prompt, kept, end) in enumerate(drawn)
    ]
    prompts = [list(q.prompt) for q, _ in rows]
    answers = generate(
        decided(), prompts, stop_ids=STOP, max_new_tokens=LIMIT, starts=starts_of(rows)
    )
    assert answers == [greedy(prompt) for prompt in prompts]


def test_the_answer_that_a_model_is_sure_of_is_known_whole() -> None:
    greedy_answers = {(3 + i, 4, 7): greedy([3 + i, 4, 7]) for i in range(12)}
    answers = {prompt: answer.ids for prompt, answer in greedy_answers.items() if answer.ids}
    rows = [row(i, list(p), list(ids)) for i, (p, ids) in enumerate(answers.items())]
    known = sum(s == ids for s, ids in zip(starts_of(rows), answers.values(), strict=True))
    assert known >= len(answers) / 2 >= 3


@pytest.mark.parametrize("limit", [0, 1, 3, LIMIT])
@pytest.mark.parametrize("prompt", [[3, 4, 7], [11, 12], [40, 3]])
def test_any_beginning_of_the_answer_leads_to_the_answer(prompt: list[int], limit: int) -> None:
    whole = greedy(prompt, limit)
    # The stop token, where it is written, is part of what may be known.
    longer = generate(decided(), [prompt], stop_ids=(), max_new_tokens=limit)[0].ids
    for count in range(len(longer) + 1):
        (answer,) = generate(
            decided(), [prompt], stop_ids=STOP, max_new_tokens=limit, starts=[longer[:count]]
        )
        assert answer == whole


def test_a_row_that_begins_otherwise_or_counts_nothing_says_nothing() -> None:
    assert sure_start([4], [5, 6], [0, 1], [0.0]) == ()
    assert sure_start([5], [5, 6], [0, 0], []) == ()
    # The losses of an earlier answer come first.
    assert sure_start([5, 6, 7], [5, 6, 7, 8, 9], [0, 1, 0, 1, 1], [9.0, 0.1, 0.1]) == (8, 9)
    assert sure_start([5], [5, 6, 7], [0, 1, 1], [0.7, 0.1]) == ()
