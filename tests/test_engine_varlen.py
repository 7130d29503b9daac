"""The CUDA path: what it hands to the kernel, and on a GPU the kernel itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from biddable.engine import attention
from biddable.engine.masked import Scores, masked_attention
from biddable.engine.plan import plan_step
from biddable.engine.step import backward_step
from biddable.engine.varlen import (
    Cuts,
    Ends,
    Kernel,
    Stretch,
    cuts_of,
    fits_varlen,
    varlen_attention,
)
from tiny import reference_step, rows_of, tiny, worst_difference

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# Two segments of the first prefix, one without, one of the second, and the first again.
SPANS = [(0, 4, 0), (4, 5, 0), (5, 9, -1), (9, 12, 1), (12, 14, 0)]


def scores_of(
    q: Tensor, k: Tensor, ends: Ends, n: int, causal: bool, scale: float, left: int
) -> tuple[slice, slice, Tensor]:
    """Rows and keys of one sequence, and its scores (heads, rows, keys), by the book."""
    rows = slice(int(ends.queries[n]), int(ends.queries[n + 1]))
    seen = slice(int(ends.keys[n]), int(ends.keys[n + 1]))
    keys = k[seen].repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = torch.einsum("qhe,khe->hqk", q[rows], keys) * scale
    number, count = scores.shape[1:]
    back = torch.arange(number)[:, None] + count - number - torch.arange(count)
    hidden = ((back < 0) & causal) | ((back > left) & (left >= 0))
    return rows, seen, scores.masked_fill(hidden, -torch.inf)


def slow_forward(
    q: Tensor, k: Tensor, v: Tensor, ends: Ends, *, causal: bool, scale: float, left: int
) -> tuple[Tensor, ...]:
    """FlashAttention's contract: sequences apart, causal from the end of both, each key/value head
    for a group of query heads."""
    assert {ends.queries.dtype, ends.keys.dtype} == {torch.int32}
    sizes = [int((t[1:] - t[:-1]).max()) for t in (ends.queries, ends.keys)]
    assert [ends.most_queries, ends.most_keys] == sizes
    out, lse = torch.empty_like(q), q.new_empty(q.shape[1], len(q))
    for n in range(len(ends.queries) - 1):
        rows, seen, scores = scores_of(q, k, ends, n, causal, scale, left)
        values = v[seen].repeat_interleave(q.shape[1] // v.shape[1], 1)
        lse[:, rows] = scores.logsumexp(-1)
        out[rows] = torch.einsum("hqk,khe->qhe", scores.softmax(-1), values)
    return out, lse, q.new_empty(0), q.new_empty(0)


def slow_backward(
    grad: Tensor, saved: tuple[Tensor, ...], ends: Ends, *, causal: bool, scale: float, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Its backward, which forms probabilities out of the log-sum-exp that it is given."""
    q, k, v, out, lse, *_ = saved
    assert lse.is_contiguous()
    groups = q.shape[1] // k.shape[1]
    dq, dk, dv = (torch.zeros_like(t) for t in (q, k, v))
    for n in range(len(ends.queries) - 1):
        rows, seen, scores = scores_of(q, k, ends, n, causal, scale, left)
        keys, values = (t[seen].repeat_interleave(groups, 1) for t in (k, v))
        shares = (scores - lse[:, rows, None]).exp()
        slope = torch.einsum("qhe,khe->hqk", grad[rows], values)
        ds = shares * (slope - (grad[rows] * out[rows]).sum(-1).T[..., None]) * scale
        dq[rows] = torch.einsum("hqk,khe->qhe", ds, keys)
        for target, parts, heads in ((dk, ds, q), (dv, shares, grad)):
            whole = torch.einsum("hqk,qhe->khe", parts, heads[rows])
            target[seen] = whole.unflatten(1, (-1, groups)).sum(2)
    return dq, dk, dv


SLOW = Kernel(slow_forward, slow_backward)


def case(device: str, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and two prefixes' keys and values, as leaves."""
    torch.manual_seed(0)
    width = 16
    shapes = [(1, 4, 14, width), (1, 2, 14, width), (1, 2, 14, width)]
    shapes += [(1, 2, 5, width)] * 2 + [(1, 2, 3, width)] * 2
    return [torch.randn(s, dtype=dtype, device=device).requires_grad_() for s in shapes]


def through_kernel(leaves: list[Tensor], window: int | None, kernel: Any = None) -> Tensor:
    pairs = [(leaves[3], leaves[4]), (leaves[5], leaves[6])]
    cuts = cuts_of(SPANS, [5, 3], leaves[0].device, copied=window is not None)
    q, k, v = leaves[:3]
    return varlen_attention((q, k, v), pairs, cuts, 0.25, window, kernel)


def plainly(leaves: list[Tensor], window: int | None) -> Tensor:
    parts = []
    for start, stop, g in SPANS:
        pair = (leaves[3 + 2 * g], leaves[4 + 2 * g]) if g >= 0 else None
        q = leaves[0][:, :, start:stop]
        k, v = Stretch(start, stop, pair).seen(leaves[1], leaves[2])
        parts.append(masked_attention(q, k, v, Scores(0.25, window)))
    return torch.cat(parts, 2)


@pytest.mark.parametrize("window", [None, 3])
def test_segments_reach_the_kernel_as_the_plain_way_has_them(window: int | None) -> None:
    leaves = case("cpu", torch.float64)
    wanted = plainly(leaves, window)
    grads = torch.autograd.grad(wanted.square().sum(), leaves)
    got = through_kernel(leaves, window, SLOW)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    for a, b in zip(torch.autograd.grad(got.square().sum(), leaves), grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_keys_are_copied_for_a_window_behind_a_prefix_alone() -> None:
    spans, device = [(0, 2, -1), (2, 5, -1)], torch.device("cpu")
    assert cuts_of(spans, [], device, copied=True).rows is None
    assert cuts_of(SPANS, [5, 3], device).rows is None
    assert cuts_of(SPANS, [5, 3], device, copied=True).rows is not None
    assert cuts_of(spans, [], device).ends.queries.tolist() == [0, 2, 5]


def test_segments_of_one_prefix_are_one_run() -> None:
    runs = cuts_of(SPANS, [5, 3], torch.device("cpu")).runs
    assert [(run.start, run.stop, run.prefix) for run in runs] == [
        (0, 5, 0),
        (9, 12, 1),
        (12, 14, 0),
    ]


def test_the_gradient_of_a_copied_prefix_is_added_in_fp32() -> None:
    """Of 300 equal bf16 addends a sum in bf16 stops at 256: on CUDA; a CPU adds wider anyway."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    like: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
    count, ones = 300, torch.ones(1, 1, 300, 8, **like)
    pair = tuple(torch.ones(1, 1, 1, 8, **like).requires_grad_() for _ in range(2))
    cuts = cuts_of([(i, i + 1, 0) for i in range(count)], [1], device, copied=True)

    def forward(q: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        return q.clone(), q, q, q

    def backward(grad: Tensor, saved: tuple[Tensor, ...], *_: Any, **__: Any) -> Any:
        return grad, torch.ones_like(saved[1]), torch.ones_like(saved[2])

    fixed = Kernel(forward, backward)
    out = varlen_attention((ones, ones, ones), [(pair[0], pair[1])], cuts, 1.0, 2, fixed)
    out.backward(ones)
    assert pair[0].grad is not None
    assert pair[0].grad.unique().tolist() == [300.0]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_a_step_through_the_kernel_has_the_gradient_of_its_examples_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the way that CUDA takes but the kernel itself; the cuts are worked out once a pass."""
    cuts: list[Cuts] = []

    def cut(*arguments: Any, copied: bool) -> Cuts:
        cuts.append(cuts_of(*arguments, copied=copied))
        return cuts[-1]

    def by_slow_kernel(*arguments: Any) -> Tensor:
        return varlen_attention(*arguments, SLOW)

    monkeypatch.setattr(attention, "fits_varlen", lambda _: True)
    monkeypatch.setattr(attention, "cuts_of", cut)
    monkeypatch.setattr(attention, "varlen_attention", by_slow_kernel)
    rows = rows_of(7)
    _, _, grads = reference_step(tiny(kind, ours=False), rows)
    model = tiny(kind, ours=True)
    for budget in (10_000, 40):
        plan, before = plan_step(rows, budget), len(cuts)
        model.zero_grad()
        backward_step(model, rows, plan)
        passes = len(plan.micro_batches) + (not plan.joined)
        # Gemma's layers have a window or none.
        kinds = 2 if kind == "gemma3_text" else 1
        assert passes <= len(cuts) - before <= kinds * passes
        assert worst_difference(model, grads) < 1e-6


def test_what_the_kernel_does_not_take_goes_the_plain_way() -> None:
    assert not fits_varlen(torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16))


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 3])
def test_the_kernel_is_as_near_to_fp32_as_the_plain_way(window: int | None) -> None:
    leaves = case("cuda", torch.bfloat16)
    exact = [t.detach().float().requires_grad_() for t in leaves]
    reference = torch.autograd.grad(plainly(exact, window).square().sum(), exact)

    def distance(out: Tensor) -> list[float]:
        grads = torch.autograd.grad(out.float().square().sum(), leaves)
        return [
            float((a.float() - b).norm() / b.norm()) for a, b in zip(grads, reference, strict=True)
        ]

    ours = distance(through_kernel(leaves, window))
    plain = distance(plainly(leaves, window))
    assert all(a <= 1.5 * b + 1e-3 for a, b in zip(ours, plain, strict=True))
