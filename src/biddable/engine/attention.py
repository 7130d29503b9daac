"""The one attention function: flat micro-batches, isolated examples, shared prefixes, no mask.

Letters: T tokens of a flat micro-batch, P prefix tokens, H query heads, K key/value heads, E head
width. The batch dimension is always 1.

Each segment attends to itself causally, and to all of the prefix that it continues, if any. On a
CPU that is `flash`, on CUDA `varlen`, elsewhere and for what these cannot do `masked`. How the
tokens are cut is known to the pass, not to the model: some models pass nothing on to the attention
function, so the `Layout` waits in a context variable while the model runs (`laid_out`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from biddable.engine.flash import Flash, tiles_of
from biddable.engine.layout import Layout
from biddable.engine.masked import Scores, masked_attention
from biddable.engine.row_attention import Rows, attend_rows
from biddable.engine.varlen import Stretch, cuts_of, fits_varlen, varlen_attention

NAME = "biddable"
_LAYOUT: ContextVar[Layout | Rows | None] = ContextVar("layout of the pass", default=None)


def register() -> None:
    """Makes the function known to transformers under `NAME`; harmless when done again."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


@contextmanager
def laid_out(layout: Layout | Rows) -> Iterator[None]:
    """Gives the attention function the layout of the pass that runs inside."""
    before = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(before)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat micro-batch; `Rows` when each of the T tokens continues a row of its own.

    Keys and values are kept by the number of the call, which is the same in every pass: some models
    attend twice in a layer, or go through their layers twice.

    Args:
        query: (1, H, T, E).
        key, value: (1, K, T, E); heads are never repeated; the value may be of another width.
        options: further arguments of transformers; `scaling`, `sliding_window`, `softcap` and
            `s_aux` (attention sinks) are honored, `dropout` refused, the rest changes nothing.

    Returns:
        (1, T, H, E), and no weights.

    Raises:
        RuntimeError: the caller broke a contract (a mask, no layout, dropout).
    """
    layout = _LAYOUT.get()
    if layout is None or attention_mask is not None or options.get("dropout", 0.0) > 0:
        raise RuntimeError("attention needs a layout, and takes no mask or dropout")
    scaling = options.get("scaling")
    how = Scores(
        scaling if scaling is not None else query.shape[-1] ** -0.5,
        options.get("sliding_window"),
        options.get("softcap"),
        options.get("s_aux"),
    )
    width, widest = value.shape[-1], max(query.shape[-1], value.shape[-1])
    # Zeros change no product of a query and a key, and are cut off what comes out of the values.
    qkv = (_widened(query, widest), _widened(key, widest), _widened(value, widest))
    call, layout.calls = layout.calls, layout.calls + 1
    if isinstance(layout, Rows):
        out = attend_rows(layout, call, qkv, how)
    else:
        out = _attend_segments(layout, call, qkv, how)
    # A slice of all of it would cost the backward a copy.
    return (out if out.shape[-1] == width else out[..., :width]).contiguous(), None


def _widened(t: Tensor, width: int) -> Tensor:
    return t if t.shape[-1] == width else pad(t, (0, width - t.shape[-1]))


def _attend_segments(
    layout: Layout, layer: int, qkv: tuple[Tensor, Tensor, Tensor], how: Scores
) -> Tensor:
    """(1, T, H, E): attention of the segments of a micro-batch, by the way that fits them."""
    query, key, value = qkv
    spans = layout.spans()
    for (start, stop, _), kept in zip(spans, layout.keep, strict=False):
        kept.keys[layer] = key[:, :, start:stop].contiguous()
        kept.values[layer] = value[:, :, start:stop].contiguous()
    pairs = [(p.keys[layer], p.values[layer]) for p in layout.prefixes]
    sizes = [prefix.length for prefix in layout.prefixes]
    how = how.within(max(b - a + (sizes[g] if g >= 0 else 0) for a, b, g in spans))
    plain = how.window is None and how.softcap is None
    out: Tensor
    if how.softcap is None and how.sinks is None and fits_varlen(query):
        copied = how.window is not None
        if copied not in layout.cuts:
            layout.cuts[copied] = cuts_of(spans, sizes, query.device, copied=copied)
        out = varlen_attention(qkv, pairs, layout.cuts[copied], how.scale, how.window)
    elif plain and query.device.type == "cpu":
        layout.tiles = layout.tiles or tiles_of(layout.lengths, query)
        out = Flash.apply(*qkv, how.scale, how.sinks, (layout.tiles, spans), *chain(*pairs))  # type: ignore[no-untyped-call]
    else:
        parts = []
        for start, stop, g in spans:
            stretch = Stretch(start, stop, pairs[g] if g >= 0 else None)
            q, (k, v) = query[:, :, start:stop], stretch.seen(key, value)
            parts.append(masked_attention(q, k, v, how))
        out = torch.cat(parts, 2)
    return out.transpose(1, 2)
