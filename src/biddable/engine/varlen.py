"""Attention on CUDA: one variable-length flash call for all segments of a pass.

Each segment's keys are those of its prefix and its own, laid side by side; the kernel's causal mask
is aligned to the end of both, so that a query sees the whole prefix and, of its own segment, what
does not come after it. How they are laid is worked out once a pass; without prefixes nothing is
copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import accumulate
from typing import Any

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
class Cuts:
    """Where the segments of a pass stand among its queries and keys, on the device.

    Args:
        query_ends, key_ends: (N + 1,) one past the last token of each segment, 0 in front.
        most_queries, most_keys: of a segment.
        rows: which rows of the prefixes' keys and the pass's own, in this order, the segments see
            one after another; None without prefixes, where they see their own.
    """

    query_ends: Tensor
    key_ends: Tensor
    most_queries: int
    most_keys: int
    rows: Tensor | None


def cuts_of(
    spans: Sequence[tuple[int, int, int]], prefixes: Sequence[int], device: torch.device
) -> Cuts:
    """The cuts of segments (start, stop, prefix or -1), with the length of each prefix."""
    starts = [0, *accumulate(prefixes)]
    queries = [stop - start for start, stop, _ in spans]
    keys = [n + (prefixes[g] if g >= 0 else 0) for n, (_, _, g) in zip(queries, spans, strict=True)]
    rows: list[Tensor] = []
    for start, stop, g in spans:
        if g >= 0:
            rows.append(torch.arange(starts[g], starts[g + 1]))
        rows.append(torch.arange(starts[-1] + start, starts[-1] + stop))
    query_ends, key_ends = (
        to_device(torch.tensor([0, *accumulate(side)], dtype=torch.int32), device)
        for side in (queries, keys)
    )
    taken = to_device(torch.cat(rows), device) if prefixes else None
    return Cuts(query_ends, key_ends, max(queries), max(keys), taken)


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
    kernel: Callable[..., Any] | None = None,
) -> Tensor:
    """Causal attention of each segment to its prefix and itself.

    Args:
        qkv: (1, H, T, E), and twice (1, K, T, E), heads never repeated.
        pairs: keys and values (1, K, P, E) of each prefix that the cuts name.
        window: a query sees the last `window` positions, itself included.
        kernel: another of varlen_attn's contract, for tests.

    Returns:
        (1, H, T, E).
    """
    if kernel is None:
        # Not at the top: it loads torch's compiler, two seconds that only a CUDA device makes good.
        from torch.nn.attention.varlen import varlen_attn

        kernel = varlen_attn
    # (T, heads, E), as the kernel reads them.
    q, k, v = (t[0].transpose(0, 1) for t in qkv)
    if cuts.rows is not None:
        k, v = (
            _Taken.apply(torch.cat([*(p[i][0].transpose(0, 1) for p in pairs), own]), cuts.rows)  # type: ignore[no-untyped-call]
            for i, own in enumerate((k, v))
        )
    # PyTorch 2.11 takes fewer key/value heads without a word, later versions want one.
    grouped: dict[str, Any] = {}
    if _names_groups(kernel):
        grouped = {"enable_gqa": q.shape[1] != k.shape[1]}
    out: Any = kernel(
        q.contiguous(), k.contiguous(), v.contiguous(),
        cuts.query_ends, cuts.key_ends, cuts.most_queries, cuts.most_keys,
        scale=scale, window_size=(-1 if window is None else window - 1, 0), **grouped,
    )  # fmt: skip
    by_head: Tensor = out.transpose(0, 1)[None]
    return by_head


@cache
def _names_groups(kernel: Callable[..., Any]) -> bool:
    return "enable_gqa" in signature(kernel).parameters


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
