"""Frozen linear layers held in four bits a weight (QLoRA), by the package bitsandbytes.

The format is NF4 in blocks of 64 weights with quantized block scales, 4.13 bits a weight. A layer
computes with its dequantized weights, in the dtype of its input, and so does its backward; they
exist only while it computes. Weights are always quantized on the processor from the numbers in the
base's files, so that every device and every later load has the same bits.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from biddable.models.adapter_files import missing_bits

_BLOCK = 64
# Not where a weight is only looked at, or cut into parts.
_HANDED_ON = re.compile(r"self\.(\w+)\.weight\b(?!\.(?:dtype|device|shape)|\[)")


class FourBits(nn.Module):
    """A linear layer with frozen weights in four bits.

    Args:
        layer: what it replaces: `nn.Linear`, or GPT-2's Conv1D, whose weight is transposed.
        dtype: that its weights are dequantized to.
    """

    packed: Tensor

    def __init__(self, layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        self.transposed = not isinstance(layer, nn.Linear)
        matrix = (weight.T if self.transposed else weight).detach().float().contiguous()
        self.out_features, self.in_features = map(int, matrix.shape)
        packed, self.state = _bitsandbytes().functional.quantize_4bit(
            matrix, blocksize=_BLOCK, quant_type="nf4", compress_statistics=True
        )
        self.state.to(device)
        self.state.dtype = dtype
        self.register_buffer("packed", packed.to(device))
        self.bias = bias

    def __deepcopy__(self, _: Any) -> FourBits:
        """Itself: nothing ever changes it, so copies of a model share it."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        # Of two dimensions, or the product may be a view that the adapter could not be added to.
        rows = x.reshape(-1, x.shape[-1])
        y: Tensor = _bitsandbytes().matmul_4bit(rows, self.packed, self.state, bias=self.bias)
        return y if x.ndim == 2 else y.view(*x.shape[:-1], self.out_features)

    def matrix(self) -> Tensor:
        """(O, I) the dequantized weights."""
        whole: Tensor = _bitsandbytes().functional.dequantize_4bit(self.packed, self.state)
        return whole

    def weight_bytes(self) -> int:
        """Bytes of the dequantized weights."""
        return self.out_features * self.in_features * int(self.state.dtype.itemsize)

    @torch.no_grad()
    def dequantized(self) -> nn.Module:
        """A plain layer, of the kind that was quantized, with the weights that this one has."""
        from transformers.pytorch_utils import Conv1D

        matrix = self.matrix()
        shape = (self.in_features, self.out_features)
        with torch.device("meta"):
            layer: nn.Module = Conv1D(*shape[::-1]) if self.transposed else nn.Linear(*shape)
        weight = matrix.T.contiguous() if self.transposed else matrix
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = self.bias
        return layer


def linear_layers(layers: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, layer) of the linear layers that are called, plain ones and in four bits.

    State-space mixers hand weights on to a kernel of their own, where neither packed weights nor an
    adapter would count; PEFT leaves such layers out, too. What inherits from a linear layer and
    gives something else, such as the router of Llama 4, is none.
    """
    for parent in list(layers.modules()):
        kind: Any = type(parent)
        kept = _handed_on(kind)
        for name, layer in list(parent.named_children()):
            if name not in kept and _is_product(layer):
                yield parent, name, layer


@torch.no_grad()
def _is_product(layer: nn.Module) -> bool:
    """Whether a layer gives W x + b; some that compute it in their own way do."""
    from transformers.pytorch_utils import Conv1D

    if not isinstance(layer, nn.Linear) or type(layer).forward is nn.Linear.forward:
        return isinstance(layer, nn.Linear | Conv1D | FourBits)
    row = torch.ones_like(layer.weight[:1])
    try:
        own = layer(row)
    except (RuntimeError, TypeError, ValueError):
        return False
    return torch.is_tensor(own) and torch.allclose(own, nn.Linear.forward(layer, row), atol=1e-3)


@cache
def _handed_on(kind: Any) -> frozenset[str]:
    """The names of the layers whose weights the code of a class hands on."""
    try:
        return frozenset(_HANDED_ON.findall(inspect.getsource(kind)))
    except (OSError, TypeError):
        return frozenset()


def quantize_linears(layers: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Replaces each linear layer in decoder layers; the old weights are freed one by one.

    Raises:
        BiddableError: `missing_extra`.
    """
    for parent, name, layer in linear_layers(layers):
        setattr(parent, name, FourBits(layer, device, dtype))


def largest_dequantized(model: nn.Module) -> int:
    """Bytes of the largest weights that exist while a layer computes; 0 without such layers."""
    sizes = (m.weight_bytes() for m in model.modules() if isinstance(m, FourBits))
    return max(sizes, default=0)


def _bitsandbytes() -> Any:
    """The package, which takes seconds to import.

    Raises:
        BiddableError: `missing_extra`.
    """
    try:
        import bitsandbytes
    except (ImportError, OSError, RuntimeError) as error:
        raise missing_bits(f"which cannot be loaded: {error}") from error
    return bitsandbytes
