"""PyTorch's fused RMS norm in place of a model's own, on CUDA.

transformers composes it of six passes over the hidden states and three times as many backward: a
third of the kernels of a small model's step, and a seventh of the time of a larger one's. What a
module computes is not read off its name: only one that gives the same numbers is replaced.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from biddable.engine.proof import MODEL_ERRORS

_ROUNDING = 1e-5


class FusedNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in one kernel; parameters keep their names."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.epsilon)


def fuse_norms(model: nn.Module) -> int:
    """Replaces the norms that are an RMS norm with a plain weight; returns how many."""
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            epsilon = _epsilon_of(child)
            if epsilon is not None and _is_rms_norm(child, epsilon):
                setattr(parent, name, FusedNorm(child.get_parameter("weight"), epsilon))
                count += 1
    return count


def _epsilon_of(module: nn.Module) -> float | None:
    """The epsilon of what may be an RMS norm: of one tensor, with one vector of weights and nothing
    else. A gate that may be left out would be lost."""
    parameters, buffers = list(module.named_parameters()), list(module.named_buffers())
    epsilon: Any = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    alone = [name for name, _ in parameters] == ["weight"] and not buffers
    fits = alone and parameters[0][1].ndim == 1 and len(signature(module.forward).parameters) == 1
    return epsilon if fits and isinstance(epsilon, float) else None


@torch.no_grad()
def _is_rms_norm(module: nn.Module, epsilon: float) -> bool:
    """Whether it gives what the fused one does, for large rows and for such that epsilon counts."""
    weight = module.get_parameter("weight")
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(8, len(weight), generator=draw) * torch.logspace(-4, 3, 8)[:, None]
    rows = rows.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
    try:
        own: Any = module(rows)
    except MODEL_ERRORS:
        return False
    fused = rms_norm(rows, weight.shape, weight.to(rows.dtype), epsilon)
    same = torch.is_tensor(own) and own.shape == fused.shape and own.dtype == fused.dtype
    return same and torch.allclose(own, fused, rtol=_ROUNDING, atol=_ROUNDING)
