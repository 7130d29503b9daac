"""Rows beside each other: the path of models that mix tokens outside of our attention function.

The model runs as transformers has it, on rows padded at their ends and without a mask. That is
exact wherever the model is causal, for what stands behind a row then changes nothing in it; both
are proven before step 1 (engine/proof.py). Which path a model takes is written in it: it is the
name of its attention function; and so is whether what it keeps of earlier tokens is relied on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from biddable.engine.attention import NAME
from biddable.engine.head import Head, forward_to_head

# Under which names models give, and take, what they keep of earlier tokens.
_KEPT = ("past_key_values", "cache_params", "state", "past_buckets_states")


def is_flat(model: Any) -> bool:
    """Whether the model's rows are fed one after another, through our attention function."""
    return bool(model.config.get_text_config()._attn_implementation == NAME)


def feed_beside(model: Any, input_ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Head]:
    """(T, D) of what enters the head, of rows that stand one after another in (1, T) ids."""
    rows = pad_sequence(list(torch.split(input_ids[0], list(lengths))), batch_first=True)
    hidden, head = forward_to_head(model, {"input_ids": rows})
    return torch.cat([row[:length] for row, length in zip(hidden, lengths, strict=True)]), head


def feed_on(
    model: Any, rows: Sequence[Sequence[int]], kept: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """(N, V) logits of the next token of equally long rows, and what the model keeps of them.

    Args:
        kept: what it kept of all but their last tokens; if empty, they are fed whole.
    """
    ids = torch.tensor([row[-1:] if kept else row for row in rows], device=model.device)
    out = model(input_ids=ids, **kept, use_cache=relies_on_kept(model))
    logits: Tensor = out.logits[:, -1]
    wide = torch.promote_types(logits.dtype, torch.float32)
    known = {name: out.get(name) for name in _KEPT if relies_on_kept(model)}
    return logits.to(wide), {name: value for name, value in known.items() if value is not None}


def relies_on_kept(model: Any) -> bool:
    """Whether what the model keeps of earlier tokens stands for them when it writes an answer."""
    return bool(model.generation_config and model.generation_config.use_cache is not False)


def rely_on_kept(model: Any, whether: bool) -> None:
    """Has answers go on from what the model keeps, or be fed from their first token each time."""
    if model.generation_config:
        model.generation_config.use_cache = whether
