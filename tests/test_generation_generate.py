"""Batched decoding: equal to transformers, blind to neighbours, one pass over what is shared."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from biddable.errors import BiddableError
from biddable.generation.generate import Answer, generate
from tiny import CONFIGS, VOCABULARY
from tiny import tiny as new_tiny

STOP = {2, 5, 9}
# Making a model takes longer than asking it; none of these tests changes one.
tiny = cache(new_tiny)
tiny32 = partial(tiny, "llama", dtype=torch.float32)
TOKENS = st.integers(3, VOCABULARY - 1)
PREFIX = [(7 * i) % 50 + 3 for i in range(21)]


def reference(model: Any, prompt: list[int], stop_ids: set[int], limit: int) -> Answer:
    """Greedy decoding by feeding the whole text to transformers again for each token."""
    ids = list(prompt)
    for _ in range(limit):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in stop_ids:
            return Answer(tuple(ids[len(prompt) : -1]), True)
    return Answer(tuple(ids[len(prompt) :]), False)


PROMPTS = [
    [3, 4, 5],
    [*PREFIX, 11, 12],
    [*PREFIX, 13],
    [40] * 20 + [3],
    [*PREFIX, 14, 15, 16, 17, 18, 19],
    [40] * 20 + [4, 5, 6],
    [*PREFIX, 13],
    [8],
]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_greedy_answers_are_those_of_the_model_fed_afresh_for_each_token(kind: str) -> None:
    model, plain = tiny(kind, ours=True), tiny(kind, ours=False)
    with torch.no_grad():
        expected = [reference(plain, p, STOP, 6) for p in PROMPTS]
    answers = generate(model, PROMPTS, stop_ids=STOP, max_new_tokens=6)
    assert answers == expected
    assert answers[2] == answers[6]


def test_greedy_answers_are_those_of_transformers_generate() -> None:
    model, plain = (
        tiny("llama", ours=True, dtype=torch.float32),
        tiny("llama", ours=False, dtype=torch.float32),
    )
    answers = generate(model, PROMPTS, stop_ids=STOP, max_new_tokens=30)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([prompt])
        given = plain.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=30, eos_token_id=sorted(STOP), pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert [*answer.ids, *given[len(answer.ids) :]] == given
        assert answer.stopped == (given[-1] in STOP)
        assert len(given) == len(answer.ids) + answer.stopped


# Without shrinking: each try decodes, which takes seconds on a busy machine.
@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    prompts=st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=6),
    shared=st.lists(st.booleans(), min_size=6, max_size=6),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_no_answer_depends_on_the_prompts_beside_it(
    prompts: list[list[int]], shared: list[bool], temperature: float
) -> None:
    model = tiny("qwen2", ours=True)
    prompts = [[*PREFIX, *p] if s else p for p, s in zip(prompts, shared, strict=False)]
    settings = {"stop_ids": STOP, "max_new_tokens": 5}
    together = generate(model, prompts, **settings)
    assert together == [generate(model, [p], **settings)[0] for p in prompts]
    seeded = generate(model, prompts, temperature=temperature, seed=3, **settings)
    assert seeded == generate(model, prompts, temperature=temperature, seed=3, **settings)
    assert seeded[0] == generate(model, prompts[:1], temperature=temperature, seed=3, **settings)[0]


def test_more_prompts_than_a_batch_holds_come_back_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("llama", ours=True)
    whole = generate(model, PROMPTS, stop_ids=STOP, max_new_tokens=5)
    monkeypatch.setattr("biddable.generation.generate.BATCH_ROWS", 3)
    assert generate(model, PROMPTS, stop_ids=STOP, max_new_tokens=5) == whole


def test_the_cache_grows_past_its_first_size() -> None:
    model, plain = tiny("llama", ours=True), tiny("llama", ours=False)
    with torch.no_grad():
        expected = reference(plain, [3, 4], set(), 72)
    assert generate(model, [[3, 4]], stop_ids=(), max_new_tokens=72) == [expected]


def test_rows_go_on_unharmed_when_the_longest_leaves() -> None:
    model, plain = tiny("llama", ours=True), tiny("llama", ours=False)
    longest = max(range(len(PROMPTS)), key=lambda i: len(PROMPTS[i]))
    for place in range(3):
        # The longest of its own part ends here, and the caches of the others are cut.
        stop = {generate(model, PROMPTS, stop_ids=(), max_new_tokens=6)[longest].ids[place]}
        with torch.no_grad():
            expected = [reference(plain, p, stop, 6) for p in PROMPTS]
        assert generate(model, PROMPTS, stop_ids=stop, max_new_tokens=6) == expected


def test_an_answer_ends_where_the_context_is_full() -> None:
    model = tiny("llama", ours=True)
    answers = generate(model, [[3] * 120, [4] * 100], stop_ids=(), max_new_tokens=20)
    assert [len(a.ids) for a in answers] == [8, 20]
    assert [a.finish for a in answers] == ["length", "length"]


def test_a_prompt_longer_than_the_context_says_by_how_much() -> None:
    model = tiny("llama", ours=True)
    with pytest.raises(BiddableError, match="context of 128: 3 too many"):
        generate(model, [[3] * 130], stop_ids=(), max_new_tokens=1)


def test_no_prompts_and_no_tokens_give_empty_answers() -> None:
    model = tiny("llama", ours=True)
    assert generate(model, [], stop_ids=(), max_new_tokens=3) == []
    assert generate(model, [[3]], stop_ids=(), max_new_tokens=0) == [Answer((), False)]
