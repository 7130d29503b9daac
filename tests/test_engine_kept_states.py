"""Training the top layers on kept states is training them with the frozen layers run each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from biddable.encoding.encode import Example
from biddable.engine.kept_states import KeptStates, bottom_of, keep_states, numbered, top_of
from biddable.engine.plan import last_trained, plan_step
from biddable.engine.step import backward_step, example_losses
from biddable.engine.top_layers import freeze_below
from biddable.errors import BiddableError
from biddable.models.adapters import decoder_layers
from test_engine_laws import rows_of
from tiny import CONFIGS, tiny

KINDS = sorted(CONFIGS)


def examples_of(seed: int) -> list[Example]:
    return [Example(row.input_ids, row.weights) for row in rows_of(seed)]


def kept(model: Any, count: int, examples: list[Example]) -> tuple[Any, list[Example]]:
    """The top layers alone, and the examples in numbers."""
    rows, tokens = numbered(dict(enumerate(examples)))
    width = model.config.get_text_config().hidden_size
    states = KeptStates(tokens, torch.zeros(len(tokens), width, dtype=model.dtype))
    keep_states(bottom_of(model, count, states), list(rows.values()))
    return top_of(model, count, states), [rows[i] for i in range(len(examples))]


def gradients(model: Any) -> dict[str, Tensor]:
    """Those of a model, which is left without any."""
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_frozen_layers_run_each_time(kind: str, count: int) -> None:
    model, examples = tiny(kind, ours=True, dtype=torch.float32), examples_of(count)
    freeze_below(model, count, kind)
    model.double()
    loss, weight, means = backward_step(model, examples, plan_step(examples, 10_000))
    expected = gradients(model)
    top, rows = kept(model, count, examples)
    for share in (True, False):
        for budget in (10_000, 40, 8):
            result = backward_step(top, rows, plan_step(rows, budget, share=share))
            assert result[:2] == pytest.approx((loss, weight), rel=1e-6)
            assert result[2] == pytest.approx(means, rel=1e-6)
            grads = gradients(model)
            assert grads.keys() == expected.keys()
            for name, grad in grads.items():
                difference = (grad - expected[name]).abs().max() / expected[name].abs().max()
                assert difference < 1e-6, (name, share, budget)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(1, 2))
def test_any_rows_have_the_losses_of_the_whole_model(seed: int, budget: int, count: int) -> None:
    model, examples = tiny("gpt2", ours=True), examples_of(seed)
    top, rows = kept(model, count, examples)
    whole = example_losses(model, examples, plan_step(examples, 10_000))
    alone = example_losses(top, rows, plan_step(rows, budget))
    for (losses, weights), (own, own_weights) in zip(whole, alone, strict=True):
        assert torch.equal(weights, own_weights)
        torch.testing.assert_close(own, losses, rtol=1e-9, atol=1e-9)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=9))
def test_a_number_stands_for_one_beginning(rows: list[list[int]]) -> None:
    examples = {i: Example(ids, [1.0] * len(ids)) for i, ids in enumerate(rows)}
    numbers, tokens = numbered(examples)
    beginnings: dict[int, tuple[int, ...]] = {}
    for i, ids in enumerate(rows):
        for place, number in enumerate(numbers[i].input_ids):
            beginning = tuple(ids[: place + 1])
            assert tokens[number] == ids[place]
            assert beginnings.setdefault(number, beginning) == beginning
    assert len(set(beginnings.values())) == len(beginnings) == len(tokens)


def test_what_rows_share_is_fed_once_to_the_frozen_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biddable.engine.kept_states.PASS_TOKENS", 30)
    model, examples = tiny("llama", ours=True), examples_of(4)
    fed: list[int] = []
    below = decoder_layers(model)[0]
    below.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].shape[1]))
    kept(model, 1, examples)
    plan = plan_step(examples, 30)
    assert len(plan.prefixes) >= 2
    assert len(plan.micro_batches) > 2
    # Beside a token for each of the two copies of the model.
    assert sum(fed) == plan.tokens + 2 < sum(map(last_trained, examples))


def test_only_the_top_layers_and_the_norm_above_them_are_trained() -> None:
    for kind, norm in (("llama", "model.norm.weight"), ("gpt2", "transformer.ln_f.weight")):
        model = tiny(kind, ours=True, dtype=torch.float32)
        freeze_below(model, 1, kind)
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert norm in trained
        assert all(".2." in name or ".norm." in name or ".ln_f." in name for name in trained)


def test_as_many_layers_as_there_are_is_refused() -> None:
    model = tiny("llama", ours=True, dtype=torch.float32)
    for count in (3, 4):
        with pytest.raises(BiddableError, match="none of the 3 layers"):
            freeze_below(model, count, "tiny")


def test_a_layer_that_needs_more_than_its_input_is_refused() -> None:
    model = tiny("llama", ours=True, dtype=torch.float32)
    first, last = model.model.layers[0], model.model.layers[2]
    seen: list[Tensor] = []
    first.register_forward_hook(lambda _, __, output: seen.append(output))
    last.register_forward_hook(lambda _, __, output: output + seen[-1][:, : output.shape[1]])
    with pytest.raises(BiddableError, match="the base tiny"):
        freeze_below(model, 1, "tiny")
