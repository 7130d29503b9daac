"""How many tokens a micro-batch may hold: what a layer keeps for its backward, token by token."""

from __future__ import annotations

from typing import Any

import torch

_CPU_ACTIVATIONS = 2 * 2**30
_FEWEST, _MOST = 256, 16_384


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Activations that one token keeps until the backward.

    A layer of the Llama shape keeps about 10 vectors of the model's width (both norms with their
    inputs, queries, keys, values, attention output, residuals) and 4 of the MLP's (gate, up, the
    activation and the product).
    """
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    return int(config.num_hidden_layers) * (10 * width + 4 * inner) * dtype.itemsize


def choose_batch_tokens(config: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens per micro-batch: 2 GiB of activations on a CPU, two fifths of what a GPU has free."""
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] * 2 // 5
    else:
        budget = _CPU_ACTIVATIONS
    return max(_FEWEST, min(_MOST, budget // bytes_per_token(config, dtype)))
