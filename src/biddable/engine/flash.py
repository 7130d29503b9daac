"""Flash attention on CPU for flat micro-batches: per segment, prefixes merged by log-sum-exp.

Letters as in `attention`. Where a segment continues a prefix that was fed before, it attends to all
of the prefix in a second call, and the two results are merged by their log-sum-exp (LSE), as in
FlashAttention-2 (arXiv 2307.08691, section 3.1). The backward is the same two flash calls, fed the
merged output and the merged LSE.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor

# Segments up to the first length share a flash call with their neighbors, up to the second.
_SHORT, _TILE = 64, 256
# The fewest queries of a part in a backward.
_PART = 32
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

Tile = tuple[int, int, Tensor | None]
"""(start, stop, mask) of a stretch of the flat micro-batch; without a mask it is plainly causal."""
Span = tuple[int, int, int]
"""(start, stop, prefix index or -1) of a segment."""


def tiles_of(lengths: Sequence[int], like: Tensor) -> list[Tile]:
    """Cuts the micro-batch into flash calls: a call costs more than a few short segments do.

    Short neighbors form one tile, whose mask (L, L) keeps them apart: 0 where a token sees
    another of its own segment that does not come after it, else minus infinity, which adds an
    exact 0 to a sum.
    """
    runs: list[list[int]] = []
    for length in lengths:
        if runs and max(length, *runs[-1]) <= _SHORT and sum(runs[-1]) + length <= _TILE:
            runs[-1].append(length)
        else:
            runs.append([length])
    tiles: list[Tile] = []
    start = 0
    for run in runs:
        stop = start + sum(run)
        tiles.append((start, stop, None if len(run) == 1 else _blocks(run, like)))
        start = stop
    return tiles


def _blocks(run: list[int], like: Tensor) -> Tensor:
    """The additive mask of a tile."""
    number = torch.repeat_interleave(torch.arange(len(run)), torch.tensor(run))
    seen = (number[:, None] == number[None, :]).tril()
    return torch.zeros(seen.shape, dtype=like.dtype).masked_fill(~seen, float("-inf"))


def _continuations(spans: list[Span]) -> list[Span]:
    """Joins neighboring segments of one prefix: to the prefix they are one run of queries."""
    runs: list[Span] = []
    for start, stop, g in spans:
        if g < 0:
            continue
        if runs and runs[-1][1] == start and runs[-1][2] == g:
            runs[-1] = (runs[-1][0], stop, g)
        else:
            runs.append((start, stop, g))
    return runs


def _balanced(start: int, stop: int, kv_heads: int) -> list[tuple[slice, int]]:
    """Queries, and into how many parts they are cut for the backward to keep all threads at work.

    The kernel gives a thread whole key/value heads: of 3 heads on 2 threads, one thread has two,
    and the other waits. Cut in two, there are 6 to share (a quarter faster). On 2 threads 301
    queries are 2 parts of 150 and 1 of 1, and with 4 heads 1 part.
    """
    threads = torch.get_num_threads()
    parts = threads // gcd(threads, kv_heads)
    if stop - start < parts * _PART:
        parts = 1
    end = stop - (stop - start) % parts
    rest = [(slice(end, stop), 1)] if end < stop else []
    return [(slice(start, end), parts), *rest]


def _apart(t: Tensor, parts: int) -> Tensor:
    """(parts, H, T / parts, ...) of (1, H, T, ...), as a view."""
    return t.view(t.shape[1], parts, -1, *t.shape[3:]).transpose(0, 1)


class Flash(torch.autograd.Function):
    """Each segment to itself, and to the prefix that it continues."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        sinks: Tensor | None,
        cut: tuple[list[Tile], list[Span]],
        *pairs: Tensor,
    ) -> Tensor:
        """(1, H, T, E) from q (1, H, T, E), k and v (1, K, T, E), sinks (H,), key/value pairs."""
        (tiles, spans), (_, heads, tokens, width) = cut, q.shape
        # Laid out as (1, T, H, E), which is what the model's output projection reads.
        out = q.new_empty(1, tokens, heads, width).transpose(1, 2)
        lse = q.new_empty(1, heads, tokens, dtype=torch.promote_types(q.dtype, torch.float32))
        for start, stop, mask in tiles:
            one = slice(start, stop)
            o, part = _flash(
                q[:, :, one], k[:, :, one], v[:, :, one], 0.0, mask is None,
                attn_mask=mask, scale=scale,
            )  # fmt: skip
            out[:, :, one], lse[:, :, one] = o, part
        for start, stop, g in _continuations(spans):
            one = slice(start, stop)
            o, part = _flash(q[:, :, one], pairs[2 * g], pairs[2 * g + 1], 0.0, False, scale=scale)
            both = torch.logaddexp(lse[:, :, one], part)
            own = (lse[:, :, one] - both).exp().unsqueeze(-1)
            out[:, :, one] = out[:, :, one] * own + o * (part - both).exp().unsqueeze(-1)
            lse[:, :, one] = both
        if sinks is not None:
            both = torch.logaddexp(lse, sinks.to(lse.dtype)[None, :, None])
            out *= (lse - both).exp().unsqueeze(-1)
            lse = both
        ctx.save_for_backward(q, k, v, out, lse, sinks, *pairs)
        ctx.scale, ctx.tiles, ctx.spans = scale, tiles, spans
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and of each prefix pair."""
        q, k, v, out, lse, sinks, *pairs = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))

        for start, stop, mask in ctx.tiles:
            one = slice(start, stop)
            dq[:, :, one], dk[:, :, one], dv[:, :, one] = _flash_backward(
                grad[:, :, one], q[:, :, one], k[:, :, one], v[:, :, one], out[:, :, one],
                lse[:, :, one].contiguous(), 0.0, mask is None, attn_mask=mask, scale=ctx.scale,
            )  # fmt: skip
        # A prefix that no segment continues has none.
        pair_grads: list[Tensor | None] = [None] * len(pairs)
        runs = _continuations(ctx.spans)
        pieces = [(p, n, g) for a, b, g in runs for p, n in _balanced(a, b, k.shape[1])]
        for one, parts, g in pieces:
            cut = [_apart(t[:, :, one], parts) for t in (grad, q, out, lse)]
            keys, values = (t.expand(parts, -1, -1, -1) for t in pairs[2 * g : 2 * g + 2])
            part, *others = _flash_backward(
                *cut[:2], keys, values, cut[2], cut[3].contiguous(), 0.0, False, scale=ctx.scale
            )
            _apart(dq[:, :, one], parts).add_(part)
            for i, other in enumerate(others, 2 * g):
                total, before = other.sum(0, keepdim=True), pair_grads[i]
                pair_grads[i] = total if before is None else before.add_(total)
        return (dq, dk, dv, None, _sink_gradient(sinks, grad, out, lse), None, *pair_grads)


def _sink_gradient(sinks: Tensor | None, grad: Tensor, out: Tensor, lse: Tensor) -> Tensor | None:
    """(H,): the sink is a key whose value is 0, so only its share takes part."""
    if sinks is None:
        return None
    share = (sinks.to(lse.dtype)[None, :, None] - lse).exp()
    return -(share * (grad * out).sum(-1)).sum((0, 2)).to(sinks.dtype)
