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

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from biddable.engine.flash import Flash, tiles_of
from biddable.engine.layout import Layout
from biddable.engine.masked import masked_attention
from biddable.engine.row_attention import Rows, attend_rows
from biddable.engine.varlen import Piece, fits_varlen, varlen_attention

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
    **given: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat micro-batch.

    Args:
        query: (1, H, T, E).
        key, value: (1, K, T, E); heads are never repeated.
        layout: gives how T is cut; `Rows` when each of the T tokens continues a row of its own.
        given: what transformers passes beside it; `scaling`, `sliding_window` and `softcap` are
            honoured, `dropout` and `s_aux` (attention sinks) refused, the rest changes nothing.

    Returns:
        (1, T, H, E), and no weights.

    Raises:
        RuntimeError: the caller broke a contract (a mask, no layout, dropout, sinks).
    """
    dropped = given.get("dropout", 0.0) > 0 or given.get("s_aux") is not None
    if layout is None or attention_mask is not None or dropped:
        raise RuntimeError("attention needs a layout, and takes no mask, dropout or sinks")
    scaling, softcap, sliding_window = (
        given.get(name) for name in ("scaling", "softcap", "sliding_window")
    )
    cut, layer = layout(), int(module.layer_idx)  # type: ignore[arg-type]
    cut.layers.append(layer)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if isinstance(cut, Rows):
        out = attend_rows(cut, layer, (query, key, value), scale, sliding_window, softcap)
        return out, None
    return _attend_segments(cut, layer, (query, key, value), scale, sliding_window, softcap), None


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
    reach = max(stop - start + _prefix_length(layout, g) for start, stop, g in spans)
    window = sliding_window if sliding_window is not None and sliding_window < reach else None
    if softcap is None and window is None and query.device.type == "cpu":
        return _flash_of(layout, layer, spans, qkv, scale).transpose(1, 2)
    pieces = [Piece(a, b, _pair(layout, g, layer)) for a, b, g in spans]
    if softcap is None and fits_varlen(query):
        return varlen_attention(query, key, value, pieces, scale, window).transpose(1, 2)
    return _plain(qkv, pieces, scale, window, softcap).transpose(1, 2)


def _plain(
    qkv: tuple[Tensor, Tensor, Tensor],
    pieces: Sequence[Piece],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """(1, H, T, E): piece by piece with a mask, what works everywhere."""
    parts = []
    for piece in pieces:
        q, k, v = (t[:, :, piece.start : piece.stop] for t in qkv)
        if piece.prefix is not None:
            k, v = torch.cat([piece.prefix[0], k], 2), torch.cat([piece.prefix[1], v], 2)
        parts.append(masked_attention(q, k, v, scale, window=window, softcap=softcap))
    return torch.cat(parts, 2)


def _flash_of(
    layout: Layout,
    layer: int,
    spans: list[tuple[int, int, int]],
    qkv: tuple[Tensor, Tensor, Tensor],
    scale: float,
) -> Tensor:
    """(1, H, T, E): the flash calls of a pass on a CPU."""
    used = [layout.prefixes[g] for g in _used(spans)]
    pairs = [t for p in used for t in (p.keys[layer], p.values[layer])]
    layout.tiles = layout.tiles or tiles_of(layout.lengths, qkv[0])
    out: Tensor = Flash.apply(*qkv, scale, layout.tiles, _renumber(spans), *pairs)  # type: ignore[no-untyped-call]
    return out


def _pair(layout: Layout, prefix: int, layer: int) -> tuple[Tensor, Tensor] | None:
    """Keys and values of a layer of the prefix that a segment continues."""
    if prefix < 0:
        return None
    return layout.prefixes[prefix].keys[layer], layout.prefixes[prefix].values[layer]


def _prefix_length(layout: Layout, prefix: int) -> int:
    return layout.prefixes[prefix].length if prefix >= 0 else 0


def _used(spans: list[tuple[int, int, int]]) -> list[int]:
    """The prefixes that occur, in order of first use."""
    return list(dict.fromkeys(g for _, _, g in spans if g >= 0))


def _renumber(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The spans with prefixes numbered by their place among those used."""
    number = {g: n for n, g in enumerate(_used(spans))}
    return [(start, stop, number.get(g, -1)) for start, stop, g in spans]
