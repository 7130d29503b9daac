"""Attention of one decoding step: each token continues a row of its own.

Letters: N rows, P prefix tokens, C columns of the cache, K key/value heads, G query heads of one
key/value head, E head width.

Rows that begin alike share the keys and values of that prefix; what is the row's own stands in a
cache whose rows are aligned at their ends, so that a new token is one column for all:

    prefix      own columns
    s s s s     . . u u A       starts = 2
    s s s s     u u u u B       starts = 0        used = 4, about to be 5

The products with a prefix are one matrix product for all rows that share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from biddable.engine.layout import Prefix
from biddable.engine.masked import Scores, shares_of

# Columns that the cache grows by when it is full.
GROWTH = 64
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(slots=True)
class Rows:
    """What the N rows of a decoding step attend to.

    Args:
        starts: (N,) the first column of the cache that belongs to the row.
        shared: (N,) prefix tokens before the row's own, 0 without a prefix.
        runs: (first row, one past the last, index of the prefix or -1), covering all rows.
        prefixes: what the runs name.
        used: columns that hold earlier tokens.
        keys, values: per layer (N, K, C, E); columns outside a row's own hold finite numbers.
        calls: how often the pass called attention so far.
    """

    starts: Tensor
    shared: Tensor
    runs: Sequence[tuple[int, int, int]]
    prefixes: Sequence[Prefix]
    used: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    calls: int = 0
    _seen: dict[int | None, Tensor] = field(default_factory=dict)
    _unseen: Tensor | None = None

    def positions(self) -> Tensor:
        """(N,) the position of each row's next token."""
        return self.shared + self.used - self.starts

    def widest(self) -> int:
        """Tokens of the longest prefix in use."""
        return max((self.prefixes[g].length for _, _, g in self.runs if g >= 0), default=0)

    def step(self) -> None:
        """Takes in the column that the last forward wrote."""
        self.used += 1
        self.calls = 0
        self._seen.clear()
        self._unseen = None

    def seen(self, window: int | None) -> Tensor:
        """(N, 1, 1, P + used + 1) which prefix and own columns the next token attends to."""
        if window not in self._seen:
            width = self.widest()
            prefix = torch.arange(width, device=self.starts.device)[None, :]
            own = torch.arange(self.used + 1, device=self.starts.device)[None, :]
            place = torch.cat(
                [prefix.expand(len(self.starts), -1), own + (self.shared - self.starts)[:, None]], 1
            )
            seen = torch.cat([prefix < self.shared[:, None], own >= self.starts[:, None]], 1)
            if window is not None:
                seen &= self.positions()[:, None] - place < window
            self._seen[window] = seen[:, None, None, :]
        return self._seen[window]

    def reaches(self, window: int | None) -> bool:
        """Whether the window hides any token from a row."""
        return window is not None and window < self.widest() + self.used + 1

    def unseen(self, like: Tensor) -> Tensor:
        """(N, 1, G, used + 1) minus infinity for columns before a row's own, else 0."""
        if self._unseen is None:
            before = torch.arange(self.used + 1, device=self.starts.device) < self.starts[:, None]
            mask = like.new_zeros(before.shape).masked_fill(before, float("-inf"))
            self._unseen = mask[:, None, None, :].expand(-1, 1, like.shape[2], -1)
        return self._unseen

    def keep(self, rows: Sequence[int]) -> None:
        """Lets the other rows leave; `rows` ascend."""
        index = torch.tensor(rows, device=self.starts.device)
        self.starts, self.shared = self.starts[index], self.shared[index]
        spare = int(self.starts.min())
        self.starts = self.starts - spare
        self.used -= spare
        for cache in (self.keys, self.values):
            for layer in cache:
                cache[layer] = cache[layer][index, :, spare:]
        runs = [(sum(a <= r < b for r in rows), g) for a, b, g in self.runs]
        self.runs = _place([run for run in runs if run[0]])

    def join(self, other: Rows) -> None:
        """Takes in the rows of another behind its own; no step of either is under way."""
        width = max(self.used, other.used)
        for own, new in ((self.keys, other.keys), (self.values, other.values)):
            for layer in own:
                own[layer] = _stacked(own[layer], self.used, new[layer], other.used)
        starts = [self.starts + (width - self.used), other.starts + (width - other.used)]
        self.starts = torch.cat(starts)
        self.shared = torch.cat([self.shared, other.shared])
        self.used = width
        named = [
            (b - a, r.prefixes[g] if g >= 0 else None) for r in (self, other) for a, b, g in r.runs
        ]
        # Prefixes that no row continues any more are not kept; equal ones are one object.
        self.prefixes = list({id(prefix): prefix for _, prefix in named if prefix}.values())
        number = {id(prefix): g for g, prefix in enumerate(self.prefixes)}
        self.runs = _place([(count, number.get(id(prefix), -1)) for count, prefix in named])


def start_rows(own: Sequence[Prefix], prefix_of: Sequence[int], prefixes: Sequence[Prefix]) -> Rows:
    """Rows after their prompts were fed.

    Args:
        own: keys and values of each row's tokens behind its prefix.
        prefix_of: the prefix of each row or -1; equal ones stand together.
        prefixes: what `prefix_of` names.
    """
    width, device = max(o.length for o in own), next(iter(own[0].keys.values())).device
    starts = torch.tensor([width - o.length for o in own], device=device)
    shared = torch.tensor([prefixes[g].length if g >= 0 else 0 for g in prefix_of], device=device)
    runs = _place([(len(list(run)), g) for g, run in groupby(prefix_of)])
    rows = Rows(starts, shared, runs, prefixes, width)
    for layer in own[0].keys:
        rows.keys[layer] = _aligned([o.keys[layer] for o in own], width)
        rows.values[layer] = _aligned([o.values[layer] for o in own], width)
    return rows


def attend_rows(rows: Rows, layer: int, qkv: tuple[Tensor, Tensor, Tensor], how: Scores) -> Tensor:
    """Attention of each row's next token to all that the row has, the token itself included.

    Args:
        rows: stores the token's key and value.
        qkv: (1, H, N, E), (1, K, N, E) and (1, K, N, E).

    Returns:
        (1, N, H, E).
    """
    query, key, value = (t[0].transpose(0, 1) for t in qkv)
    count, heads, width = query.shape
    _write(rows.keys, layer, rows.used, key)
    _write(rows.values, layer, rows.used, value)
    own = (rows.keys[layer][:, :, : rows.used + 1], rows.values[layer][:, :, : rows.used + 1])
    q = query.reshape(count, key.shape[1], -1, width)
    if how.softcap is None and q.device.type == "cpu" and not rows.reaches(how.window):
        out = _flash_rows(rows, layer, q, own, how)
    else:
        out = _plain_rows(rows, layer, q, own, how)
    return out.reshape(1, count, heads, width)


def _plain_rows(
    rows: Rows, layer: int, q: Tensor, own: tuple[Tensor, Tensor], how: Scores
) -> Tensor:
    """(N, K, G, E): with a mask, what works everywhere."""
    keys, values = own
    wide = rows.widest()
    scores = q.new_zeros(*q.shape[:3], wide + rows.used + 1)
    scores[..., wide:] = q @ keys.transpose(2, 3)
    for a, b, g in rows.runs:
        if g >= 0:
            prefix = rows.prefixes[g]
            scores[a:b, ..., : prefix.length] = _with_prefix(
                q[a:b], prefix.keys[layer][0].transpose(1, 2)
            )
    scores *= how.scale
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    shares = shares_of(scores.masked_fill_(~rows.seen(how.window), float("-inf")), how.sinks)
    out = shares[..., wide:] @ values
    for a, b, g in rows.runs:
        if g >= 0:
            prefix = rows.prefixes[g]
            out[a:b] += _with_prefix(shares[a:b, ..., : prefix.length], prefix.values[layer][0])
    return out


def _flash_rows(
    rows: Rows, layer: int, q: Tensor, own: tuple[Tensor, Tensor], how: Scores
) -> Tensor:
    """(N, K, G, E): flash attention to the row's own and to its prefix, merged as in a micro-batch.

    The query heads of a key/value head stand where flash attention expects query positions, so that
    they read its keys together.
    """
    # The kernel reads each head's numbers as neighbors, whatever the strides say.
    q = q.contiguous()
    out: Tensor
    out, lse = _flash(q, *own, 0.0, False, attn_mask=rows.unseen(q), scale=how.scale)
    for a, b, g in rows.runs:
        if g >= 0:
            prefix = rows.prefixes[g]
            kv_heads, groups, width = q.shape[1:]
            flat = q[a:b].transpose(0, 1).reshape(1, kv_heads, -1, width)
            pair = (prefix.keys[layer], prefix.values[layer])
            parts = _flash(flat, *pair, 0.0, False, scale=how.scale)
            o, part = (t.view(kv_heads, b - a, groups, -1).transpose(0, 1) for t in parts)
            share = torch.sigmoid(part - lse[a:b, ..., None]).to(q.dtype)
            out[a:b] = torch.lerp(out[a:b], o, share)
            lse[a:b] = torch.logaddexp(lse[a:b], part[..., 0])
    if how.sinks is not None:
        out *= torch.sigmoid(lse - how.sinks.view(lse.shape[1:]))[..., None].to(q.dtype)
    return out


def _with_prefix(rows: Tensor, matrix: Tensor) -> Tensor:
    """(n, K, G, A) times one (K, A, B) for all rows: (n, K, G, B)."""
    count, kv_heads, groups, width = rows.shape
    flat = rows.transpose(0, 1).reshape(kv_heads, count * groups, width)
    return (flat @ matrix).view(kv_heads, count, groups, -1).transpose(0, 1)


def _write(cache: dict[int, Tensor], layer: int, column: int, new: Tensor) -> None:
    """Stores (N, K, E) as one column, growing the cache where it is full."""
    old = cache[layer]
    if column == old.shape[2]:
        old = torch.cat([old, old.new_zeros(*old.shape[:2], GROWTH, old.shape[3])], 2)
        cache[layer] = old
    old[:, :, column] = new


def _aligned(parts: Sequence[Tensor], width: int) -> Tensor:
    """(N, K, width + GROWTH, E) from (1, K, S, E) each, which end in column width - 1."""
    _, kv_heads, _, size = parts[0].shape
    cache = parts[0].new_zeros(len(parts), kv_heads, width + GROWTH, size)
    for row, part in enumerate(parts):
        cache[row, :, width - part.shape[2] : width] = part[0]
    return cache


def _stacked(first: Tensor, first_used: int, second: Tensor, second_used: int) -> Tensor:
    """The rows of two caches in one, aligned at their ends, with room to grow."""
    width, count = max(first_used, second_used), first.shape[0]
    _, kv_heads, _, size = first.shape
    cache = first.new_zeros(count + second.shape[0], kv_heads, width + GROWTH, size)
    cache[:count, :, width - first_used : width] = first[:, :, :first_used]
    cache[count:, :, width - second_used : width] = second[:, :, :second_used]
    return cache


def _place(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(rows, prefix) of each run to (first row, one past the last, prefix); neighbors with the same
    prefix become one run."""
    placed: list[tuple[int, int, int]] = []
    start = 0
    for count, prefix in runs:
        first = placed.pop()[0] if placed and placed[-1][2] == prefix else start
        start += count
        placed.append((first, start, prefix))
    return placed
