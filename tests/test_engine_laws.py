"""The laws of the engine, for a dozen architectures, against transformers alone.

The reference feeds each example by itself through transformers' own eager attention and ordinary
autograd; nothing of ours takes part in it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from biddable.engine.attention import laid_out
from biddable.engine.head import forward_to_head
from biddable.engine.layout import Layout
from biddable.engine.loss import head_logits
from biddable.engine.plan import StepPlan, even_plan, plan_step
from biddable.engine.precision import load_model
from biddable.engine.step import backward_step, example_losses, feed
from biddable.models.base import Base
from biddable.training.weights import Replicas
from tiny import ALL_FP64, CONFIGS, VOCABULARY, Row, reference_step, rows_of, tiny, worst_difference

KINDS = sorted(CONFIGS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_the_gradient_of_a_step_is_that_of_its_examples_alone(
    kind: str, dtype: torch.dtype
) -> None:
    rows = rows_of(7)
    loss, weight, grads = reference_step(tiny(kind, ours=False, dtype=dtype), rows)
    bound = 1e-5 if dtype == torch.float32 else 1e-10 if kind in ALL_FP64 else 1e-6
    if kind == "gemma2" and dtype == torch.float64:
        bound = 2e-6  # the reference's softmax, in fp32, is what differs here
    model = tiny(kind, ours=True, dtype=dtype)
    for share in (True, False):
        for budget in (10_000, 40, 8):
            plan = plan_step(rows, budget, share=share)
            assert bool(plan.prefixes) == share
            model.zero_grad()
            got_loss, got_weight, _ = backward_step(model, rows, plan)
            assert got_weight == pytest.approx(weight, rel=1e-12)
            assert got_loss == pytest.approx(loss, rel=bound)
            assert worst_difference(model, grads) < bound, (share, budget)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 200), st.booleans())
def test_any_split_of_any_step_has_the_same_gradient(seed: int, budget: int, share: bool) -> None:
    rows = rows_of(seed)
    _, _, grads = reference_step(tiny("gpt2", ours=False), rows)
    model = tiny("gpt2", ours=True)
    backward_step(model, rows, plan_step(rows, budget, share=share))
    assert worst_difference(model, grads) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_does_not_see_its_neighbours(kind: str) -> None:
    model = tiny(kind, ours=True, dtype=torch.float32)
    rows = rows_of(3)
    plan = plan_step(rows, 10_000, share=False)
    before = example_losses(model, rows, plan)
    changed = list(rows)
    first = plan.micro_batches[0][0].example
    ids = [(i + 5) % VOCABULARY for i in rows[first].input_ids]
    changed[first] = Row(ids, rows[first].weights)
    after = example_losses(model, changed, plan)
    for i in range(len(rows)):
        assert torch.equal(before[i][0], after[i][0]) == (i != first)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_only_trained_labels_count(kind: str) -> None:
    model = tiny(kind, ours=True)
    row = rows_of(5)[0]
    trained = [i for i, w in enumerate(row.weights) if w > 0]
    untrained = len(row.input_ids) - 1 if trained[-1] < len(row.input_ids) - 1 else None

    def loss(ids: list[int]) -> float:
        plan = plan_step([Row(ids, row.weights)], 1000)
        return backward_step(model, [Row(ids, row.weights)], plan)[0]

    def with_other(place: int) -> list[int]:
        return [(t + 1) % VOCABULARY if i == place else t for i, t in enumerate(row.input_ids)]

    assert loss(with_other(trained[-1])) != loss(row.input_ids)
    if untrained is not None:
        assert loss(with_other(untrained)) == loss(row.input_ids)


def test_the_loss_of_a_random_model_is_near_the_logarithm_of_the_vocabulary() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from biddable.engine.attention import NAME, register

    register()
    torch.manual_seed(0)
    config = LlamaConfig(**CONFIGS["llama"])
    model = LlamaForCausalLM._from_config(config, attn_implementation=NAME).eval()
    rows = rows_of(1)
    loss, weight, _ = backward_step(model, rows, plan_step(rows, 64))
    assert loss / weight == pytest.approx(math.log(VOCABULARY), abs=0.2)


def test_losses_without_gradient_equal_those_with() -> None:
    model = tiny("qwen3", ours=True)
    rows = rows_of(2)
    plan = plan_step(rows, 50)
    pairs = example_losses(model, rows, plan)
    total = sum(float((losses * weights).sum()) for losses, weights in pairs)
    whole, _, means = backward_step(model, rows, plan)
    assert total == pytest.approx(whole, rel=1e-9)
    alone = [float((losses * weights).sum() / weights.sum()) for losses, weights in pairs]
    assert means == pytest.approx(alone, rel=1e-9)


def test_bf16_compute_is_not_surely_further_from_fp64_than_transformers_own_bf16() -> None:
    """Which of the two is nearer in one draw is chance, and falls otherwise on each processor: they
    round in another order. So the twelve differences are put to Student's test: ours would have to
    be further by more than their own spread explains once in ten thousand processors.
    """

    def distance(grads: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
        return sum(
            float((g.double() - exact[n]).norm() / exact[n].norm()) for n, g in grads.items()
        )

    further = []
    for seed in range(12):
        rows = rows_of(seed)
        _, _, exact = reference_step(tiny("llama", ours=False, seed=seed), rows)
        half = tiny("llama", ours=False, dtype=torch.bfloat16, seed=seed)
        theirs = distance(reference_step(half, rows)[2], exact)
        full = tiny("llama", ours=True, dtype=torch.float32, seed=seed)
        weights = Replicas(full, torch.bfloat16)
        backward_step(weights.model, rows, plan_step(rows, 60))
        grads = {
            n: m.grad
            for n, m in zip(weights.names, weights.pieces, strict=True)
            if m.grad is not None
        }
        further.append(distance(grads, exact) - theirs)
    standard_error = stdev(further) / math.sqrt(len(further))
    assert fmean(further) / standard_error < student.ppf(1 - 1e-4, len(further) - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_gradients_of_micro_batches_are_added_in_fp32(kind: str) -> None:
    """The bound is that of adding n numbers in fp32 one after another: n half units of the sum of
    their sizes. Adding them in bf16 errs 65,536 times as much. Each pass alone is the same pass, so
    it gives the same bits on any processor.
    """
    rows = rows_of(7)
    plan = plan_step(rows, 60, share=False)
    assert len(plan.micro_batches) > 2

    def gradients(part: StepPlan) -> dict[str, torch.Tensor]:
        weights = Replicas(tiny(kind, ours=True, dtype=torch.float32), torch.bfloat16)
        backward_step(weights.model, rows, part)
        assert all(m.grad is None or m.grad.dtype == torch.float32 for m in weights.pieces)
        return {
            n: m.grad.double()
            for n, m in zip(weights.names, weights.pieces, strict=True)
            if m.grad is not None
        }

    parts = [gradients(replace(plan, micro_batches=(batch,))) for batch in plan.micro_batches]
    for name, whole in gradients(plan).items():
        pieces = [part[name] for part in parts if name in part]
        sizes = sum(piece.abs() for piece in pieces)
        bound = len(pieces) * torch.finfo(torch.float32).eps / 2 * sizes
        assert ((whole - sum(pieces)).abs() <= bound).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_compute_is_the_model_that_is_served_in_bf16(kind: str, tmp_path: Path) -> None:
    model = tiny(kind, ours=True, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    served = load_model(Base("tiny", tmp_path), torch.device("cpu"), torch.bfloat16)
    ids = torch.randint(3, VOCABULARY, (1, 100), generator=torch.Generator().manual_seed(1))
    places = torch.arange(100)[None]
    trained = Replicas(model, torch.bfloat16).model
    with torch.no_grad():
        a, b = (feed(m, ids, places, Layout([100], [-1]))[0] for m in (trained, served))
    assert a.dtype == torch.bfloat16
    assert torch.equal(a, b)


@pytest.mark.parametrize("budget", [30, 10_000])
@pytest.mark.parametrize("apart", [False, True])
def test_idle_passes_change_no_gradient_and_feed_one_token(budget: int, apart: bool) -> None:
    rows = rows_of(3)
    plan = plan_step(rows, budget)
    assert plan.prefixes
    assert plan.joined == (budget > 30)
    passes = len(plan.micro_batches) + 2
    results = []
    for variant in (plan, even_plan(plan, passes, apart=apart or not plan.joined)):
        model = tiny("llama", ours=True)
        fed: list[int] = []
        model.model.layers[0].register_forward_pre_hook(
            lambda _, given, fed=fed: fed.append(given[0].shape[1])
        )
        loss, weight, means = backward_step(model, rows, variant)
        results.append((loss, weight, means, [p.grad for p in model.parameters()]))
    assert fed[-2:] == [1, 1]
    (*plain, grads), (*idle, others) = results
    for one, other in zip(plain, idle, strict=True):
        assert other == pytest.approx(one, rel=1e-9)
    for g, h in zip(grads, others, strict=True):
        torch.testing.assert_close(h, g, rtol=1e-6, atol=1e-9)


def test_small_updates_move_the_weights_in_bf16_compute() -> None:
    weights = Replicas(tiny("llama", ours=True, dtype=torch.float32), torch.bfloat16)
    before = [m.detach().clone() for m in weights.pieces]
    rows = rows_of(4)
    optimizer = torch.optim.AdamW(weights.pieces, lr=1e-6, weight_decay=0.0)
    for _ in range(20):
        backward_step(weights.model, rows, plan_step(rows, 60))
        optimizer.step()
        optimizer.zero_grad()
        weights.publish()
    embedding = weights.names.index("model.embed_tokens.weight")
    for i, (old, new) in enumerate(zip(before, weights.pieces, strict=True)):
        moved = (old != new).float().mean().item()
        # Rows of the embedding that no example holds have no gradient.
        assert moved > (0.3 if i == embedding else 0.95), weights.names[i]


def test_a_layout_that_is_missing_is_an_error_not_a_leak() -> None:
    model = tiny("llama", ours=True)
    with pytest.raises(RuntimeError, match="needs a layout"):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)


def test_a_mask_is_refused() -> None:
    model = tiny("llama", ours=True)
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="takes no mask"), laid_out(Layout([3], [-1])):
        model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=mask, use_cache=False)


def test_the_head_of_each_family_gives_the_logits_of_the_model() -> None:
    for kind in CONFIGS:
        plain = tiny(kind, ours=False)
        ids = torch.tensor([[5, 9, 11, 3]])
        logits = plain(input_ids=ids, use_cache=False).logits[0]
        hidden, head = forward_to_head(plain, {"input_ids": ids})
        torch.testing.assert_close(head_logits(hidden[0], head), logits)
