"""The one attention function: flat micro-batches, isolated examples, shared prefixes, no mask.

Letters: T tokens of a flat micro-batch, P prefix tokens, H query heads, K key/value heads, E head
width. The batch dimension is always 1.

Each segment attends to itself causally, and to all of the prefix that it continues, if any. On a
CPU that is `flash`, on CUDA `varlen`, elsewhere and for what these cannot do `masked`. transformers
passes extra keyword arguments of the model's forward on to the attention function; our `Layout`
comes that way, inside a function: the hooks of sharded modules copy records among the arguments,
and what a layer stores in a copy would be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from biddable.engine.flash import Flash, tiles_of
from biddable.engine.layout import Layout
from biddable.engine.masked import masked_attention
from biddable.engine.row_attention import Rows, attend_rows
from biddable.engine.varlen import Stretch, fits_varlen, varlen_attention

NAME = "biddable"


def register() -> None:
    """Makes the function known to transformers under `NAME`; harmless when done again."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Callable[[], Layout | Rows] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat micro-batch.

    Args:
        query: (1, H, T, E).
        key, value: (1, K, T, E); heads are never repeated.
        layout: gives how T is cut; `Rows` when each of the T tokens continues a row of its own.
        options: what transformers passes beside it; `scaling`, `sliding_window` and `softcap` are
            honored, `dropout` and `s_aux` (attention sinks) refused, the rest changes nothing.

    Returns:
        (1, T, H, E), and no weights.

    Raises:
        RuntimeError: the caller broke a contract (a mask, no layout, dropout, sinks).
    """
    dropped = options.get("dropout", 0.0) > 0 or options.get("s_aux") is not None
    if layout is None or attention_mask is not None or dropped:
        raise RuntimeError("attention needs a layout, and takes no mask, dropout or sinks")
    scaling, softcap, window = (options.get(n) for n in ("scaling", "softcap", "sliding_window"))
    cut, layer = layout(), int(module.layer_idx)  # type: ignore[arg-type]
    cut.layers.append(layer)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if isinstance(cut, Rows):
        return attend_rows(cut, layer, (query, key, value), scale, window, softcap), None
    return _attend_segments(cut, layer, (query, key, value), scale, window, softcap), None


def _attend_segments(
    layout: Layout,
    layer: int,
    qkv: tuple[Tensor, Tensor, Tensor],
    scale: float,
    sliding_window: int | None,
    softcap: float | None,
) -> Tensor:
    """(1, T, H, E): attention of the segments of a micro-batch, by the way that fits them."""
    query, key, value = qkv
    spans = layout.spans()
    for (start, stop, _), kept in zip(spans, layout.keep, strict=False):
        kept.keys[layer] = key[:, :, start:stop].contiguous()
        kept.values[layer] = value[:, :, start:stop].contiguous()
    pairs = [(p.keys[layer], p.values[layer]) for p in layout.prefixes]
    stretches = [Stretch(a, b, pairs[g] if g >= 0 else None) for a, b, g in spans]
    reach = max(stretch.keys for stretch in stretches)
    window = sliding_window if sliding_window is not None and sliding_window < reach else None
    out: Tensor
    if softcap is None and window is None and query.device.type == "cpu":
        layout.tiles = layout.tiles or tiles_of(layout.lengths, query)
        out = Flash.apply(*qkv, scale, layout.tiles, spans, *chain(*pairs))  # type: ignore[no-untyped-call]
    elif softcap is None and fits_varlen(query):
        out = varlen_attention(query, key, value, stretches, scale, window)
    else:
        parts = []
        for stretch in stretches:
            q, (k, v) = query[:, :, stretch.start : stretch.stop], stretch.seen(key, value)
            parts.append(masked_attention(q, k, v, scale, window=window, softcap=softcap))
        out = torch.cat(parts, 2)
    return out.transpose(1, 2)
