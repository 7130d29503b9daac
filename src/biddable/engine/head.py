"""A model's own forward up to its vocabulary head, and what the head is.

Models differ in what stands between their last norm and their head (a factor, a layer, another
norm) and in what follows it (a factor, a soft cap, under many names). Neither is read from the
configuration: the forward runs as it is, the head is fed no row, and two numbers that take the
place of its logits show what becomes of them. The engine computes the head itself, for trained
rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# So small that a soft cap leaves it, and so large that nothing but the cap is left of it.
_SMALL, _LARGE = 2.0**-20, 2.0**40
# A factor this near to one is one; what lies between is rounding.
_NEAR = 1e-6


@dataclass(frozen=True, slots=True)
class Head:
    """The vocabulary head: logits = softcap((h W^T + b) / divide)."""

    weight: Tensor
    bias: Tensor | None
    divide: float = 1.0
    softcap: float | None = None


def forward_to_head(model: Any, fed: Mapping[str, Tensor]) -> tuple[Tensor, Head]:
    """(N, T, D): what enters the vocabulary head in the model's own forward; and the head.

    Raises:
        LookupError or ValueError: the head is never called, or something else gives the logits.
    """
    entered: list[Tensor] = []
    layer = model.get_output_embeddings()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered.append(inputs[0])
        return (inputs[0][:, :0],)

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Not on the model's device: reading them there would wait for all of the forward.
        return torch.tensor([[[_SMALL, _LARGE]]], dtype=torch.float64)

    hooks = (layer.register_forward_pre_hook(keep), layer.register_forward_hook(replace))
    try:
        logits = model(**fed, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    small, large = logits.flatten().tolist()
    divide = 1.0 if abs(small / _SMALL - 1) < _NEAR else _SMALL / small
    capped = large * divide < _LARGE / 2
    return entered[0], Head(layer.weight, layer.bias, divide, large if capped else None)
