"""What a reference's losses tell of the greedy answer is what decoding would have written."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.encoding.encode import Example
from biddable.generation.batch import Batch
from biddable.generation.generate import Answer, generate
from biddable.generation.sure_start import sure_start
from biddable.judging.judge import Question, reference_places
from biddable.training.evaluate import token_losses
from tiny import CONFIGS, VOCABULARY, tiny

STOP, LIMIT = {2, 5, 9}, 8
TOKENS = st.integers(3, VOCABULARY - 1)
TEXTS = st.lists(TOKENS, min_size=1, max_size=6)


def decided() -> Any:
    return sure_of_itself("llama")


@cache
def sure_of_itself(kind: str) -> Any:
    """A model that is sure of most of its tokens."""
    model = deepcopy(tiny(kind, ours=True, dtype=torch.float32))
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


def answers_of(
    model: Any, rows: list[tuple[Question, Example]], limit: int = LIMIT
) -> list[Answer]:
    questions, examples = [q for q, _ in rows], [example for _, example in rows]
    places = reference_places(questions, examples, [e.input_ids for e in examples])
    return generate(
        model, [q.prompt for q in questions], stop_ids=STOP, max_new_tokens=limit,
        references=[None if i is None else examples[i] for i in places],
    )  # fmt: skip


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
    answers = answers_of(decided(), rows)
    assert answers == [greedy(list(q.prompt)) for q, _ in rows]
    examples = [example for _, example in rows]
    for answer, (losses, _) in zip(answers, token_losses(decided(), examples, 64), strict=True):
        assert answer.losses == pytest.approx(losses.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_every_architecture_goes_on_behind_a_known_beginning(kind: str) -> None:
    model = sure_of_itself(kind)
    prompts = [[3 + i, 4, 7, *[9 + i] * (i % 3)] for i in range(6)]
    whole = [generate(model, [p], stop_ids=STOP, max_new_tokens=LIMIT)[0] for p in prompts]
    # Two of the greedy answer's tokens, and one that is not.
    rows = [
        row(i, p, [*answer.ids[:2], 11 + i])
        for i, (p, answer) in enumerate(zip(prompts, whole, strict=True))
    ]
    assert answers_of(model, rows) == whole
    examples = [example for _, example in rows]
    for answer, (losses, _) in zip(
        answers_of(model, rows), token_losses(model, examples, 64), strict=True
    ):
        assert answer.losses == pytest.approx(losses.tolist(), abs=1e-4)


def test_the_answer_that_a_model_is_sure_of_is_known_but_for_its_last_token() -> None:
    greedy_answers = {(3 + i, 4, 7): greedy([3 + i, 4, 7]) for i in range(12)}
    answers = {p: answer.ids for p, answer in greedy_answers.items() if len(answer.ids) > 1}
    batch = Batch(decided())
    rows = [row(i, list(p), list(ids))[1] for i, (p, ids) in enumerate(answers.items())]
    known = batch.join(list(answers), range(len(rows)), rows)
    ends = [what.start == ids[:-1] for what, ids in zip(known, answers.values(), strict=True)]
    assert sum(ends) >= len(answers) / 2 >= 3


@pytest.mark.parametrize("limit", [0, 1, 3, LIMIT])
@pytest.mark.parametrize("prompt", [[3, 4, 7], [11, 12], [40, 3]])
def test_any_reference_leads_to_the_answer(prompt: list[int], limit: int) -> None:
    whole = greedy(prompt, limit)
    # Also one that goes on behind the stop token, or behind the limit.
    longer = generate(decided(), [prompt], stop_ids=(), max_new_tokens=LIMIT + 2)[0].ids
    for count in range(1, len(longer) + 1):
        (answer,) = answers_of(decided(), [row(0, prompt, list(longer[:count]))], limit)
        assert answer == whole


def test_a_prompt_whose_row_begins_otherwise_is_decoded_whole() -> None:
    question, example = row(0, [3, 4, 7], [5, 6])
    for other in (replace(question, prompt=(3, 4, 8)), replace(question, line=7)):
        assert reference_places([other], [example], [example.input_ids]) == [None]
        assert answers_of(decided(), [(other, example)]) == [greedy(list(other.prompt))]
    # The answer is in place, but does not count, and a later one does.
    later = Example([3, 4, 7, 5, 8, 6], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0], "rows.jsonl", 0)
    assert reference_places([question], [later, example], [later.input_ids, example.input_ids]) == [
        1
    ]
    nothing = Example([3, 4, 7, 5], [0.0, 1.0, 1.0, 0.0], "rows.jsonl", 0)
    assert reference_places([question], [nothing], [nothing.input_ids]) == [None]


def test_a_reference_is_of_no_use_for_an_answer_that_is_drawn() -> None:
    _, example = row(0, [3], [4])
    with pytest.raises(RuntimeError, match="drawn"):
        generate(
            decided(), [[3]], stop_ids=STOP, max_new_tokens=3, temperature=1.0, references=[example]
        )


def test_a_row_that_begins_otherwise_or_counts_nothing_says_nothing() -> None:
    assert sure_start([4], [5, 6], [0, 1], [0.0]) == ()
    assert sure_start([5], [5, 6], [0, 0], []) == ()
    # The losses of an earlier answer come first.
    assert sure_start([5, 6, 7], [5, 6, 7, 8, 9], [0, 1, 0, 1, 1], [9.0, 0.1, 0.1]) == (8, 9)
    assert sure_start([5], [5, 6, 7], [0, 1, 1], [0.7, 0.1]) == ()
