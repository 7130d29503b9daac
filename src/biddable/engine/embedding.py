"""The input embedding, whose gradient touches only the rows of the tokens that were fed.

PyTorch forms it as large as the vocabulary, zeroed, and adds all of it to what is there: with
GPT-2's vocabulary and a short pass a quarter of the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def embed(module: nn.Module, input_ids: Tensor) -> Tensor:
    """(1, T, D) embeddings of ids (1, T).

    A module that is more than a table is simply called, and a frozen one, and one of half precision
    whose gradient goes on to the fp32 masters through autograd's hooks.
    """
    if not (
        type(module) is nn.Embedding and _is_trained_wide(module.weight) and torch.is_grad_enabled()
    ):
        embeddings: Tensor = module(input_ids)
        return embeddings
    # Something that requires a gradient, or no backward would be called.
    started = torch.zeros((), requires_grad=True)
    embeddings = _Embed.apply(started, module.weight.detach(), input_ids, module)  # type: ignore[no-untyped-call]
    return embeddings


def tokens_of(module: nn.Module, ids: Tensor) -> Tensor:
    """The tokens behind the ids (T,) that an input embedding is fed: the ids themselves, unless the
    model is fed with numbers of beginnings (kept_states.py)."""
    last_tokens: Tensor | None = getattr(module, "last_tokens", None)
    return ids if last_tokens is None else last_tokens[ids.to(last_tokens.device)].to(ids.device)


def _is_trained_wide(weight: Tensor) -> bool:
    return (
        type(weight) is nn.Parameter
        and weight.requires_grad
        and weight.dtype in (torch.float32, torch.float64)
    )


class _Embed(torch.autograd.Function):
    """Adds to the weight's `.grad` by itself, as autograd's own accumulation would."""

    @staticmethod
    def forward(
        ctx: Any, started: Tensor, weight: Tensor, input_ids: Tensor, module: nn.Embedding
    ) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(input_ids)
        return nn.functional.embedding(input_ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (input_ids,) = ctx.saved_tensors
        module: nn.Embedding = ctx.module
        ids, rows = input_ids[0], grad[0]
        if module.padding_idx is not None:  # as PyTorch has it: this row is never trained
            rows = rows.masked_fill((ids == module.padding_idx)[:, None], 0.0)
        if module.weight.grad is None:
            module.weight.grad = torch.zeros_like(module.weight)
        module.weight.grad.index_add_(0, ids, rows.to(module.weight.dtype))
        return None, None, None, None
