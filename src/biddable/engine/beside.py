"""Rows beside each other: the path of models that mix tokens outside of our attention function.

The model runs as transformers has it, on rows padded at their ends and without a mask. That is
exact wherever the model is causal, for what stands behind a row then changes nothing in it; both
are proven before step 1 (engine/proof.py). Which path a model takes is written in it: it is the
name of its attention function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from biddable.engine.attention import NAME
from biddable.engine.head import Head, forward_to_head


def is_flat(model: Any) -> bool:
    """Whether the model's rows are fed one after another, through our attention function."""
    return bool(model.config.get_text_config()._attn_implementation == NAME)


def feed_beside(model: Any, input_ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Head]:
    """(T, D) of what enters the head, of rows that stand one after another in (1, T) ids."""
    rows = pad_sequence(list(torch.split(input_ids[0], list(lengths))), batch_first=True)
    hidden, head = forward_to_head(model, {"input_ids": rows})
    return torch.cat([row[:length] for row, length in zip(hidden, lengths, strict=True)]), head
