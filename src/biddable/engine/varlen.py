"""Attention on CUDA: FlashAttention 2 for all segments of a pass, of any lengths.

A segment's own tokens are one causal call for the whole pass. What continues a prefix attends to it
in a second call, where nothing is masked and nothing copied, and both results are merged by their
log-sum-exp. The gradient is exact: the kernel forms probabilities from the log-sum-exp that it is
given, and that is the merged one. A sliding window cuts each segment's view of its prefix
elsewhere; there the keys of prefix and segment are laid side by side, aligned to their end.

The kernel is called as PyTorch's own `varlen_attn` calls it, which gives no gradient to go through
a merge, and costs more of the host's time than most of a small model's kernels of the device's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

# What FlashAttention-2 takes; other shapes and older devices go the plain way.
_WIDEST, _OLDEST = 256, (8, 0)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One segment of a pass: tokens start to stop, after the keys and values (1, K, P, E) of a
    prefix if it continues one."""

    start: int
    stop: int
    prefix: tuple[Tensor, Tensor] | None = None

    def seen(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Its keys and values out of those of the pass (1, K, T, E), behind those of its prefix."""
        k, v = key[:, :, self.start : self.stop], value[:, :, self.start : self.stop]
        if self.prefix is None:
            return k, v
        return torch.cat([self.prefix[0], k], 2), torch.cat([self.prefix[1], v], 2)


@dataclass(frozen=True, slots=True)
class Ends:
    """What one call attends to: N sequences of queries, and those of keys.

    Args:
        queries, keys: (N + 1,) one past the last token of each, 0 in front, on the device.
        most_queries, most_keys: of a sequence.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens start to stop, one segment behind another, all of which continue one prefix."""

    start: int
    stop: int
    prefix: int
    ends: Ends


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where the segments of a pass stand among its queries and keys.

    Args:
        ends: of the causal call.
        runs: what attends to a prefix in a call of its own.
        rows: with a window, which rows of the prefixes' keys and the pass's own, in this order, the
            segments see one after another; None where they see their own.
    """

    ends: Ends
    runs: tuple[Run, ...] = ()
    rows: Tensor | None = None


class Kernel(NamedTuple):
    """FlashAttention 2, or another of its contract; see `_forward` and `_backward`."""

    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def cuts_of(
    spans: Sequence[tuple[int, int, int]],
    prefixes: Sequence[int],
    device: torch.device,
    *,
    copied: bool = False,
) -> Cuts:
    """The cuts of segments (start, stop, prefix or -1), with the length of each prefix.

    Args:
        copied: whether prefixes are laid in front of each segment, as a window needs them.
    """
    lengths = [stop - start for start, stop, _ in spans]
    if copied and prefixes:
        return _copied(spans, lengths, prefixes, device)
    runs = []
    for g, group in groupby(spans, key=lambda span: span[2]):
        parts = list(group)
        start, stop = parts[0][0], parts[-1][1]
        if g >= 0:
            runs.append(Run(start, stop, g, _ends([stop - start], [prefixes[g]], device)))
    return Cuts(_ends(lengths, lengths, device), tuple(runs))


def _copied(
    spans: Sequence[tuple[int, int, int]],
    lengths: Sequence[int],
    prefixes: Sequence[int],
    device: torch.device,
) -> Cuts:
    starts = [0, *accumulate(prefixes)]
    keys = [n + (prefixes[g] if g >= 0 else 0) for n, (_, _, g) in zip(lengths, spans, strict=True)]
    rows: list[Tensor] = []
    for start, stop, g in spans:
        if g >= 0:
            rows.append(torch.arange(starts[g], starts[g + 1]))
        rows.append(torch.arange(starts[-1] + start, starts[-1] + stop))
    return Cuts(_ends(lengths, keys, device), rows=to_device(torch.cat(rows), device))


def _ends(queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Ends:
    query_ends, key_ends = (
        to_device(torch.tensor([0, *accumulate(side)], dtype=torch.int32), device)
        for side in (queries, keys)
    )
    return Ends(query_ends, key_ends, max(queries), max(keys))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device; from pinned memory, or CUDA would wait until it is idle."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def fits_varlen(query: Tensor) -> bool:
    """Whether the kernel takes this device, dtype and head width."""
    width = query.shape[-1]
    half = query.dtype in (torch.bfloat16, torch.float16)
    fits = query.device.type == "cuda" and half and width % 8 == 0 and width <= _WIDEST
    return fits and torch.cuda.get_device_capability(query.device) >= _OLDEST


def varlen_attention(
    qkv: tuple[Tensor, Tensor, Tensor],
    pairs: Sequence[tuple[Tensor, Tensor]],
    cuts: Cuts,
    scale: float,
    window: int | None = None,
    kernel: Kernel | None = None,
) -> Tensor:
    """Causal attention of each segment to its prefix and itself.

    Args:
        qkv: (1, H, T, E), and twice (1, K, T, E), heads never repeated.
        pairs: keys and values (1, K, P, E) of each prefix that the cuts name.
        window: a query sees the last `window` positions, itself included; the cuts are `copied`.
        kernel: another one, for tests.

    Returns:
        (1, H, T, E).
    """
    # (T, heads, E), as the kernel reads them.
    q, k, v = (t[0].transpose(0, 1) for t in qkv)
    flat = [t[0].transpose(0, 1) for pair in pairs for t in pair]
    if cuts.rows is not None:
        k = _Taken.apply(torch.cat([*flat[::2], k]), cuts.rows)  # type: ignore[no-untyped-call]
        v = _Taken.apply(torch.cat([*flat[1::2], v]), cuts.rows)  # type: ignore[no-untyped-call]
        flat = []
    how = (scale, -1 if window is None else window - 1, kernel or Kernel(_forward, _backward))
    out: Tensor = _Merged.apply(q, k, v, cuts, how, *flat)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1)[None]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, ends: Ends, *, causal: bool, scale: float, left: int
) -> tuple[Tensor, ...]:
    """Attention (T, H, E), its log-sum-exp (H, T) in fp32, and two tensors for the backward.

    Args:
        q: (T, H, E).
        k, v: (L, K, E).
        causal: whether a query sees no key behind its own, counted from the ends of both.
        left: keys that it sees in front of its own; -1 for all.
    """
    right = 0 if causal else -1
    out, lse, state, unused, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, ends.queries, ends.keys, ends.most_queries, ends.most_keys,
        0.0, causal and left < 0, False,
        scale=scale, window_size_left=left, window_size_right=right,
    )  # fmt: skip
    return out, lse, state, unused


def _backward(
    grad: Tensor, saved: tuple[Tensor, ...], ends: Ends, *, causal: bool, scale: float, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; `saved` are these and what the forward gave."""
    q, k, v, out, lse, state, unused = saved
    right = 0 if causal else -1
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, q, k, v, out, lse, ends.queries, ends.keys, ends.most_queries, ends.most_keys,
        0.0, causal and left < 0, state, unused,
        scale=scale, window_size_left=left, window_size_right=right,
    )  # fmt: skip
    return grads


class _Merged(torch.autograd.Function):
    """Attention of segments to themselves, merged with that of runs to their prefixes."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cuts: Cuts, how: Any, *flat: Tensor
    ) -> Tensor:
        scale, left, kernel = how
        out: Tensor
        out, lse, *state = kernel.forward(q, k, v, cuts.ends, causal=True, scale=scale, left=left)
        for run in cuts.runs:
            pair, rows = flat[2 * run.prefix : 2 * run.prefix + 2], slice(run.start, run.stop)
            first, first_lse, *_ = kernel.forward(
                q[rows], *pair, run.ends, causal=False, scale=scale, left=-1
            )
            both = torch.logaddexp(lse[:, rows], first_lse)
            share = (first_lse - both).exp_().T[..., None]
            wide = torch.lerp(out[rows].to(share.dtype), first.to(share.dtype), share)
            out[rows], lse[:, rows] = wide, both
        ctx.save_for_backward(q, k, v, out, lse, *state, *flat)
        ctx.cuts, ctx.how = cuts, how
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, state, unused, *flat = ctx.saved_tensors
        scale, left, kernel = ctx.how
        saved = (q, k, v, out, lse, state, unused)
        dq, dk, dv = kernel.backward(
            grad, saved, ctx.cuts.ends, causal=True, scale=scale, left=left
        )
        grads: list[Tensor | None] = [None] * len(flat)
        for run in ctx.cuts.runs:
            at, rows = 2 * run.prefix, slice(run.start, run.stop)
            own = (q[rows], *flat[at : at + 2], out[rows], lse[:, rows].contiguous())
            first = kernel.backward(
                grad[rows], (*own, state, unused), run.ends, causal=False, scale=scale, left=-1
            )
            dq[rows] += first[0]
            for place, more in zip((at, at + 1), first[1:], strict=True):
                before = grads[place]
                grads[place] = more if before is None else before + more
        return dq, dk, dv, None, None, *grads


class _Taken(torch.autograd.Function):
    """Rows (L, K, E) by index. A prefix's are taken for each segment that continues it, so their
    gradients are added in fp32 at least."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = rows.shape
        return rows[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = torch.promote_types(grad.dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=wide, device=grad.device)
        return total.index_add_(0, index, grad.to(wide)).to(grad.dtype), None
