"""What a step will need is measured, not guessed, and too much is refused before it starts."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch
from torch.profiler import profile

from biddable.engine import attention, memory
from biddable.engine.layout import Layout
from biddable.engine.memory import (
    Needs,
    choose_batch_tokens,
    needs_of,
    peak_of,
    prefix_copies,
    refuse_too_much,
)
from biddable.engine.plan import plan_step
from biddable.engine.step import feed
from biddable.errors import BiddableError
from biddable.models.adapters import add_adapter
from biddable.models.support import UNLIMITED
from tiny import CONFIGS, Row, tiny

CPU = torch.device("cpu")
NEEDS = Needs(
    resident=10**9, moments=2 * 10**8, gradients=10**8, token=10**6, vocabulary=1000, width=100,
    chunk=25_000, holes=1.2,
)  # fmt: skip


def live_bytes(model: Any, tokens: int) -> int:
    """What a forward leaves allocated for its backward, by the allocator's own account."""
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with profile(profile_memory=True) as seen:
        out = feed(model, ids, torch.arange(tokens)[None], Layout([tokens], [-1]))
    del out
    return sum(event.self_cpu_memory_usage for event in seen.key_averages())


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_per_token_are_those_that_the_allocator_sees(family: str) -> None:
    model = tiny(family, ours=True, dtype=torch.float32)
    live_bytes(model, 64)
    slope = (live_bytes(model, 128) - live_bytes(model, 64)) / 64
    assert needs_of(model, [], 0).token == pytest.approx(slope, rel=0.1)


def test_to_measure_a_model_keeps_none_of_it() -> None:
    model = tiny("llama", ours=True, dtype=torch.float32)
    weights = [weakref.ref(parameter) for parameter in model.parameters()]
    needs_of(model, list(model.parameters()), 0)
    del model
    gc.collect()
    assert [weight for weight in weights if weight() is not None] == []


def test_every_architecture_can_be_measured() -> None:
    for family in CONFIGS:
        assert needs_of(tiny(family, ours=True, dtype=torch.float32), [], 0).token > 0


def test_the_peak_grows_with_what_is_alive_together() -> None:
    alone = NEEDS.peak(1000, 100, several=False)
    assert NEEDS.peak(2000, 100, several=False) > alone
    assert NEEDS.peak(1000, 200, several=False) > alone
    assert NEEDS.peak(1000, 100, several=True) >= alone + NEEDS.gradients


def test_keys_and_values_that_segments_copy_of_their_prefix_count() -> None:
    """On CUDA each segment keeps those of its prefix beside its own."""
    model = tiny("llama", ours=True, dtype=torch.float32)
    # Three layers, two heads of eight numbers, keys and values, in fp32.
    assert prefix_copies(model)[0] == 3 * 2 * 8 * 2 * 4
    needs = replace(NEEDS, pair=10**4)
    assert needs.peak(100, 10, several=False, copied=500) > NEEDS.peak(100, 10, several=False)
    rows = [Row([*range(40), i, 1, 2], [0.0] * 41 + [1.0, 1.0]) for i in range(4)]
    plan = plan_step(rows, 10_000)
    tokens = plan.tokens
    assert sum(map(len, plan.prefixes)) == 40
    assert peak_of(needs, [plan], [8]) == needs.peak(tokens, 8, several=False, copied=4 * 40)
    # A window as long as the longest row hides nothing from it.
    longest = max(s.stop for s in plan.micro_batches[0])
    wide, narrow = (replace(needs, uncopied=longest - less) for less in (0, 1))
    assert peak_of(wide, [plan], [8]) == needs.peak(tokens, 8, several=False)
    assert peak_of(narrow, [plan], [8]) == peak_of(needs, [plan], [8])


@pytest.mark.parametrize(("kind", "longest"), [("llama", UNLIMITED), ("mistral", 7), ("gemma2", 0)])
def test_which_rows_have_their_prefix_copied_on_cuda(
    kind: str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(kind, ours=True)
    assert prefix_copies(model)[1] == 0  # The masked way of a CPU copies always.
    monkeypatch.setattr(attention, "fits_varlen", lambda _: True)
    monkeypatch.setattr(attention, "varlen_attention", lambda qkv, *_: qkv[0])
    assert prefix_copies(model)[1] == longest


def test_the_largest_step_counts() -> None:
    class Row:
        def __init__(self, length: int) -> None:
            self.input_ids, self.weights = list(range(length)), [0.0] * (length - 1) + [1.0]

    plans = [plan_step([Row(n)], 10**6) for n in (50, 900, 100)]
    assert peak_of(NEEDS, plans, [1, 1, 1]) == NEEDS.peak(899, 1, several=False)


def test_a_prefix_fed_apart_stays_while_the_gradients_come() -> None:
    class Row:
        def __init__(self, last: int) -> None:
            self.input_ids = [*range(200), last, last, 7]
            self.weights = [0.0] * 202 + [1.0]

    (plan,) = [plan_step([Row(300), Row(301)], 150)]
    shared = sum(map(len, plan.prefixes))
    assert shared >= 190
    assert not plan.joined
    assert len(plan.micro_batches) == 1
    longest = sum(map(len, plan.micro_batches[0]))
    peak = peak_of(NEEDS, [plan], [2])
    assert peak == NEEDS.peak(shared + longest, 2, several=False, kept=shared)
    assert peak >= NEEDS.resident + NEEDS.moments + NEEDS.gradients + shared * NEEDS.token
    # One micro-batch: while its activations grow there are no gradients yet.
    assert peak < NEEDS.peak(shared + longest, 2, several=True)


def test_less_free_memory_means_shorter_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for gib in (64, 2, 1):
        monkeypatch.setattr(memory, "free_bytes", lambda _, gib=gib: gib * 2**30)
        chosen.append(choose_batch_tokens(NEEDS, CPU))
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] == 2**31 // NEEDS.token
    assert chosen[-1] < chosen[0]


def test_beside_frozen_weights_passes_are_shorter_and_more_is_foreseen_for_each_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 64 * 2**30)
    frozen = replace(NEEDS, frozen_head=True)
    assert choose_batch_tokens(frozen, CPU) == 3 * 2**28 // NEEDS.token
    model = tiny("llama", ours=True, dtype=torch.float32)
    full = needs_of(model, list(model.parameters()), 0)
    small = needs_of(add_adapter(model, 2, 0), [], 0)
    # 4.5 GB were taken of 4.0 foreseen with the factor of training all weights.
    assert small.holes / full.holes == pytest.approx(1.6 / 1.2)


def test_what_the_heap_holds_beyond_is_foreseen_for_each_token() -> None:
    def per_token(needs: Needs) -> int:
        return needs.peak(9000, 9, several=True) - needs.peak(8000, 9, several=True)

    wider = replace(NEEDS, holes=1.6)
    assert per_token(wider) / per_token(NEEDS) == pytest.approx(1.6 / 1.2, abs=1e-3)


def test_too_much_is_refused_with_a_budget_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**9)
    peak = NEEDS.peak(2000, 100, several=False)
    with pytest.raises(BiddableError, match="GiB") as refused:
        refuse_too_much(NEEDS, peak, 2000, CPU)
    fits = int(str(refused.value.finding.fix).split("--batch-tokens ")[1].split()[0])
    refuse_too_much(NEEDS, NEEDS.peak(fits, 100, several=False), fits, CPU)
    with pytest.raises(BiddableError):
        refuse_too_much(NEEDS, NEEDS.peak(fits + 100, 100, several=False), fits + 100, CPU)


def test_free_memory_is_never_more_than_the_machine_has() -> None:
    assert 0 < memory.free_bytes(CPU) <= psutil.virtual_memory().total
