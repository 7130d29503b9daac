"""Attention on CUDA: one variable-length flash call for all segments of a pass.

Each segment's keys are those of its prefix and its own, laid side by side; the kernel's causal mask
is aligned to the end of both, so that a query sees the whole prefix and, of its own segment, what
does not come after it. Ordinary autograd adds up the gradients of a shared prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

# What FlashAttention-2 takes; other shapes go the plain way.
_WIDEST = 256


@dataclass(frozen=True, slots=True)
class Stretch:
    """One segment of a pass: tokens start to stop, after the keys and values (1, K, P, E) of a
    prefix if it continues one."""

    start: int
    stop: int
    prefix: tuple[Tensor, Tensor] | None = None

    @property
    def keys(self) -> int:
        """How many keys it attends to."""
        return self.stop - self.start + (self.prefix[0].shape[2] if self.prefix else 0)

    def seen(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Its keys and values out of those of the pass (1, K, T, E), behind those of its prefix."""
        k, v = key[:, :, self.start : self.stop], value[:, :, self.start : self.stop]
        if self.prefix is None:
            return k, v
        return torch.cat([self.prefix[0], k], 2), torch.cat([self.prefix[1], v], 2)


def fits_varlen(query: Tensor) -> bool:
    """Whether the kernel takes this device, dtype and head width."""
    width = query.shape[-1]
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.device.type == "cuda" and half and width % 8 == 0 and width <= _WIDEST


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    stretches: Sequence[Stretch],
    scale: float,
    window: int | None = None,
    kernel: Callable[..., Any] | None = None,
) -> Tensor:
    """Causal attention of each stretch to its prefix and itself.

    Args:
        query: (1, H, T, E); key, value: (1, K, T, E), heads never repeated.
        stretches: in order, together all T tokens.
        window: a query sees the last `window` positions, itself included.
        kernel: another of varlen_attn's contract, for tests.

    Returns:
        (1, H, T, E).
    """
    if kernel is None:
        # Not at the top: it loads torch's compiler, two seconds that only a CUDA device makes good.
        from torch.nn.attention.varlen import varlen_attn

        kernel = varlen_attn
    keys, values = zip(*(stretch.seen(key, value) for stretch in stretches), strict=True)
    lengths = ([s.stop - s.start for s in stretches], [s.keys for s in stretches])
    ends_q, ends_k = (
        torch.tensor([0, *accumulate(side)], dtype=torch.int32, device=query.device)
        for side in lengths
    )
    # (T, heads, E), as the kernel reads them.
    q, k, v = (
        t[0].transpose(0, 1).contiguous() for t in (query, torch.cat(keys, 2), torch.cat(values, 2))
    )
    out: Any = kernel(
        q, k, v, ends_q, ends_k, max(lengths[0]), max(lengths[1]),
        scale=scale, window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    by_head: Tensor = out.transpose(0, 1)[None]
    return by_head
