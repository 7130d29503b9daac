"""Head and cross-entropy on trained rows only, in chunks, with the gradient formed on the way.

Letters: R trained rows, V vocabulary, D model width. The logits of one chunk are the largest
tensor that ever exists; what is kept for the backward is the gradient itself: (R, D) and (V, D).
Forming gradients in the forward is the idea of Liger's fused linear cross-entropy (arXiv
2410.10989).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from biddable.engine.head import Head

# Logits of a chunk: 512 rows of a vocabulary of 49,152 are 96 MiB in fp32; on CUDA 512 MiB, for
# each chunk goes over the head's gradient once.
_CHUNK, _CHUNK_CUDA = 512 * 49_152, 2**27


def loss_sum(hidden: Tensor, head: Head, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """sum(w_r * CE_r) over the trained rows, and each CE_r.

    Args:
        hidden: (R, D) hidden states of the rows that predict.
        targets: (R,) the token ids they should predict.
        weights: (R,) how much each counts.

    Returns:
        A scalar in fp32 (fp64 for an fp64 model), whose gradient reaches hidden, weight and bias;
        and (R,) losses without gradient.
    """
    total: Tensor
    losses: Tensor
    arguments = (hidden, head.weight, head.bias, targets, weights, head)
    total, losses = _HeadLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return total, losses


def row_losses(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """(R,) cross-entropy of each row, without gradient."""
    with torch.no_grad():
        return torch.cat(
            [_chunk_losses(h, head, t)[1] for h, t in _chunks(hidden, targets, head)]
            or [hidden.new_empty(0)]
        )


def chunk_rows(device: torch.device, vocabulary: int) -> int:
    """Rows whose logits exist together."""
    return max(1, (_CHUNK_CUDA if device.type == "cuda" else _CHUNK) // vocabulary)


def _chunks(hidden: Tensor, targets: Tensor, head: Head) -> list[tuple[Tensor, Tensor]]:
    size = chunk_rows(hidden.device, head.weight.shape[0])
    return [(hidden[i : i + size], targets[i : i + size]) for i in range(0, len(targets), size)]


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """(R, V) logits of hidden states (R, D), in fp32 or wider."""
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if head.divide != 1.0:
        logits = logits / head.divide
    if head.softcap is not None:
        # In place but for the first, which leaves room for no third chunk.
        logits = (logits / head.softcap).tanh_().mul_(head.softcap)
    return logits


def _chunk_losses(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, losses, log-sum-exp) of a chunk."""
    logits = head_logits(hidden, head)
    lse = torch.logsumexp(logits, -1)
    return logits, lse - logits.gather(1, targets[:, None])[:, 0], lse


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        head: Head,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        # A frozen head needs no gradient; that of its weight is a third of the work.
        _, learns, bias_learns, *_ = ctx.needs_input_grad
        d_weight = None
        d_bias = torch.zeros_like(bias) if bias is not None and bias_learns else None
        row_losses = hidden.new_empty(len(targets), dtype=wide)
        start = 0
        for h, t in _chunks(hidden, targets, head):
            rows = slice(start, start + len(t))
            start += len(t)
            logits, losses, lse = _chunk_losses(h, head, t)
            w = weights[rows].to(wide)
            total += (losses * w).sum()
            row_losses[rows] = losses
            d_logits = _logit_gradient(logits, lse, t, w, head).to(hidden.dtype)
            d_hidden[rows] = d_logits @ weight
            if learns:
                d_weight = d_logits.T @ h if d_weight is None else d_weight.addmm_(d_logits.T, h)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        # A pass without trained rows has a gradient too: ranks that share weights wait for it.
        if learns and d_weight is None:
            d_weight = torch.zeros_like(weight)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(row_losses)
        return total, row_losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = list(ctx.saved_tensors)
        # A pass over the head's gradient, rarely needed; to look on CUDA would be to wait for it.
        if grad.device.type == "cuda" or grad.item() != 1.0:
            scaled = [None if d is None else d.mul_(grad.to(d.dtype)) for d in scaled]
        return (*scaled, None, None, None)


def _logit_gradient(logits: Tensor, lse: Tensor, targets: Tensor, w: Tensor, head: Head) -> Tensor:
    """d(sum w CE) / d(raw logits), written over `logits`."""
    slope = None
    if head.softcap is not None:
        slope = (logits / head.softcap).square_().neg_().add_(1)
    d = logits.sub_(lse[:, None]).exp_()
    d.scatter_add_(1, targets[:, None], torch.full_like(lse, -1.0)[:, None])
    d.mul_((w / head.divide)[:, None])
    return d if slope is None else d.mul_(slope)
