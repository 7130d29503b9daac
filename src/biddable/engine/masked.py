"""The plain way to attend: for soft caps, sliding windows and other devices, and as reference.

Slower than flash attention and always there; ordinary autograd.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Scores:
    """How the products of queries and keys become shares.

    Args:
        scale: what they are multiplied by.
        window: a query sees the last `window` positions, itself included (as in Mistral, Gemma).
        softcap: scores s become softcap * tanh(s / softcap) (as in Gemma 2).
        sinks: (H,) a score for nothing, which takes a share of each query (as in gpt-oss).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    def within(self, reach: int) -> Scores:
        """The same, without a window that hides nothing of `reach` positions."""
        hides = self.window is not None and self.window < reach
        return self if hides else replace(self, window=None)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, how: Scores) -> Tensor:
    """Causal attention of the last S of L positions to all L.

    Args:
        q: (1, H, S, E), the queries of positions L - S to L - 1.
        k, v: (1, K, L, E) with H a multiple of K.

    Returns:
        (1, H, S, E).
    """
    queries, length = q.shape[2], k.shape[2]
    place = torch.arange(length, device=q.device)
    ahead = place[length - queries :, None] - place[None, :]
    seen = ahead >= 0 if how.window is None else (ahead >= 0) & (ahead < how.window)
    if how.softcap is None and how.sinks is None:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=how.scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    groups = q.reshape(1, k.shape[1], -1, queries, q.shape[3])
    scores = torch.einsum("bkgse,bkle->bkgsl", groups, k) * how.scale
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    shares = shares_of(scores.masked_fill(~seen, float("-inf")), how.sinks)
    return torch.einsum("bkgsl,bkle->bkgse", shares, v).flatten(1, 2)


def shares_of(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """The softmax over the last dimension of (N, K, G, ..., L), which the sinks (H,) take part in.

    It runs in fp32 at least.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    if sinks is None:
        return scores.softmax(-1, dtype=wide).to(scores.dtype)
    shape = (1, *scores.shape[1:3], *[1] * (scores.dim() - 3))
    column = sinks.to(scores.dtype).view(shape).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1, dtype=wide)[..., :-1].to(scores.dtype)
