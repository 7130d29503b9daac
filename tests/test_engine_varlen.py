"""The CUDA path: what it hands to the kernel, and on a GPU the kernel itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from biddable.engine import attention
from biddable.engine.masked import Scores, masked_attention
from biddable.engine.plan import plan_step
from biddable.engine.step import backward_step
from biddable.engine.varlen import Cuts, Stretch, cuts_of, fits_varlen, varlen_attention
from tiny import reference_step, rows_of, tiny, worst_difference

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# Two segments of the first prefix, one without, one of the second.
SPANS = [(0, 4, 0), (4, 5, 0), (5, 9, -1), (9, 14, 1)]


def slow_kernel(
    q: Tensor, k: Tensor, v: Tensor, *ends: Any, scale: float, window_size: tuple[int, int]
) -> Tensor:
    """varlen_attn's contract in PyTorch 2.11, by the book: sequences apart, causal from the end of
    both, each key/value head for a group of query heads."""
    (ends_q, ends_k, max_q, max_k), (left, right) = ends, window_size
    assert right == 0
    assert all(t.is_contiguous() for t in (q, k, v))
    assert {ends_q.dtype, ends_k.dtype} == {torch.int32}
    sizes = [(ends[1:] - ends[:-1]).max() for ends in (ends_q, ends_k)]
    assert [max_q, max_k] == sizes
    parts = []
    for n in range(len(ends_q) - 1):
        rows, seen = slice(ends_q[n], ends_q[n + 1]), slice(ends_k[n], ends_k[n + 1])
        how = Scores(scale, None if left < 0 else left + 1)
        heads = (t.transpose(0, 1)[None] for t in (q[rows], k[seen], v[seen]))
        parts.append(masked_attention(*heads, how)[0].transpose(0, 1))
    return torch.cat(parts)


def newer_kernel(*tensors: Any, enable_gqa: bool = False, **options: Any) -> Tensor:
    """The contract of PyTorch 2.12, which takes fewer key/value heads only where that is said."""
    assert enable_gqa == (tensors[0].shape[1] != tensors[1].shape[1])
    return slow_kernel(*tensors, **options)


def case(device: str, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and two prefixes' keys and values, as leaves."""
    torch.manual_seed(0)
    width = 16
    shapes = [(1, 4, 14, width), (1, 2, 14, width), (1, 2, 14, width)]
    shapes += [(1, 2, 5, width)] * 2 + [(1, 2, 3, width)] * 2
    return [torch.randn(s, dtype=dtype, device=device).requires_grad_() for s in shapes]


def through_kernel(leaves: list[Tensor], window: int | None, kernel: Any = None) -> Tensor:
    pairs = [(leaves[3], leaves[4]), (leaves[5], leaves[6])]
    cuts = cuts_of(SPANS, [5, 3], leaves[0].device)
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


@pytest.mark.parametrize("kernel", [slow_kernel, newer_kernel])
@pytest.mark.parametrize("window", [None, 3])
def test_segments_reach_the_kernel_as_the_plain_way_has_them(
    window: int | None, kernel: Callable[..., Tensor]
) -> None:
    leaves = case("cpu", torch.float64)
    wanted = plainly(leaves, window)
    grads = torch.autograd.grad(wanted.square().sum(), leaves)
    got = through_kernel(leaves, window, kernel)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    for a, b in zip(torch.autograd.grad(got.square().sum(), leaves), grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_without_prefixes_no_key_is_copied() -> None:
    cuts = cuts_of([(0, 2, -1), (2, 5, -1)], [], torch.device("cpu"))
    assert cuts.rows is None
    assert cuts.query_ends.tolist() == cuts.key_ends.tolist() == [0, 2, 5]


def test_the_gradient_of_a_shared_prefix_is_added_in_fp32() -> None:
    """Of 300 equal bf16 addends a sum in bf16 stops at 256: on CUDA; a CPU adds wider anyway."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    like: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
    count, ones = 300, torch.ones(1, 1, 300, 8, **like)
    pair = tuple(torch.ones(1, 1, 1, 8, **like).requires_grad_() for _ in range(2))
    cuts = cuts_of([(i, i + 1, 0) for i in range(count)], [1], device)

    def kernel(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        return q + (k + v).view(count, 2, 1, 8).sum(1)

    varlen_attention((ones, ones, ones), [(pair[0], pair[1])], cuts, 1.0, None, kernel).backward(
        ones
    )
    assert pair[0].grad is not None
    assert pair[0].grad.unique().tolist() == [300.0]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_a_step_through_the_kernel_has_the_gradient_of_its_examples_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the way that CUDA takes but the kernel itself; the cuts are worked out once a pass."""
    cuts: list[Cuts] = []

    def cut(*arguments: Any) -> Cuts:
        cuts.append(cuts_of(*arguments))
        return cuts[-1]

    def by_slow_kernel(*arguments: Any) -> Tensor:
        return varlen_attention(*arguments, slow_kernel)

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
        assert len(cuts) - before == len(plan.micro_batches) + (not plan.joined)
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
