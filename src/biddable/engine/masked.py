"""The plain way to attend: for soft caps, sliding windows and other devices, and as reference.

Slower than flash attention and always there; ordinary autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention of the last S of L positions to all L.

    Args:
        q: (1, H, S, E), the queries of positions L - S to L - 1.
        k, v: (1, K, L, E) with H a multiple of K.
        window: a query sees the last `window` positions, itself included (as in Mistral, Gemma).
        softcap: scores s become softcap * tanh(s / softcap) (as in Gemma 2).

    Returns:
        (1, H, S, E).
    """
    queries, length = q.shape[2], k.shape[2]
    place = torch.arange(length, device=q.device)
    ahead = place[length - queries :, None] - place[None, :]
    seen = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
    if softcap is None:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    groups = q.reshape(1, k.shape[1], -1, queries, q.shape[3])
    scores = torch.einsum("bkgse,bkle->bkgsl", groups, k) * scale
    scores = softcap * torch.tanh(scores / softcap)
    shares = scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=_wide(q)).to(q.dtype)
    return torch.einsum("bkgsl,bkle->bkgse", shares, v).flatten(1, 2)


def _wide(x: Tensor) -> torch.dtype:
    """Softmax runs in fp32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
