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
class Piece:
    """One segment of a pass: rows start to stop, after the keys and values (1, K, P, E) if any."""

    start: int
    stop: int
    prefix: tuple[Tensor, Tensor] | None = None


def fits_varlen(query: Tensor) -> bool:
    """Whether the kernel takes this device, dtype and head width."""
    width = query.shape[-1]
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.device.type == "cuda" and half and width % 8 == 0 and width <= _WIDEST


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pieces: Sequence[Piece],
    scale: float,
    window: int | None = None,
    kernel: Callable[..., Any] | None = None,
) -> Tensor:
    """Causal attention of each piece to its prefix and itself.

    Args:
        query: (1, H, T, E); key, value: (1, K, T, E), heads never repeated.
        pieces: in order, together all T rows.
        window: a query sees the last `window` positions, itself included.
        kernel: another of varlen_attn's contract, for tests.

    Returns:
        (1, H, T, E).
    """
    if kernel is None:
        # Not at the top: it loads torch's compiler, two seconds that only a CUDA device makes good.
        from torch.nn.attention.varlen import varlen_attn

        kernel = varlen_attn
    keys, values, lengths = _side_by_side(key, value, pieces)
    most_q, most_k = (max(side) for side in zip(*lengths, strict=True))
    ends_q, ends_k = (
        torch.tensor([0, *accumulate(side)], dtype=torch.int32, device=query.device)
        for side in zip(*lengths, strict=True)
    )
    rows, columns, contents = (t[0].transpose(0, 1).contiguous() for t in (query, keys, values))
    out: Any = kernel(
        rows, columns, contents, ends_q, ends_k, most_q, most_k,
        scale=scale, window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    found: Tensor = out.transpose(0, 1)[None]
    return found


def _side_by_side(
    key: Tensor, value: Tensor, pieces: Sequence[Piece]
) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Keys and values, each piece's after those of its prefix; (queries, keys) of each piece."""
    keys: list[Tensor] = []
    values: list[Tensor] = []
    lengths: list[tuple[int, int]] = []
    for piece in pieces:
        own = slice(piece.start, piece.stop)
        for parts, side, mine in ((keys, 0, key), (values, 1, value)):
            if piece.prefix is not None:
                parts.append(piece.prefix[side])
            parts.append(mine[:, :, own])
        before = piece.prefix[0].shape[2] if piece.prefix is not None else 0
        lengths.append((piece.stop - piece.start, before + piece.stop - piece.start))
    return torch.cat(keys, 2), torch.cat(values, 2), lengths
