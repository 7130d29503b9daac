"""Attention of a decoding step against its plain definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from biddable.engine.layout import Prefix
from biddable.engine.masked import Scores, masked_attention
from biddable.engine.row_attention import attend_rows, start_rows

# Key/value heads, query heads of each, width of a head.
KINDS, GROUPS, WIDTH = 2, 3, 8
CPU = torch.device("cpu")


def _cached(tokens: int) -> Prefix:
    """Random keys and values of one layer."""
    key, value = torch.randn(2, 1, KINDS, tokens, WIDTH, dtype=torch.float64)
    return Prefix(tokens, {0: key}, {0: value})


def _fed(count: int, heads: int, strided: bool) -> Tensor:
    """(1, heads, N, E) as a projection leaves it, or as a weight-first one does."""
    flat = torch.randn(count, heads * WIDTH, dtype=torch.float64)
    flat = flat.t().contiguous().t() if strided else flat
    return flat.view(1, count, heads, WIDTH).transpose(1, 2)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    shared=st.lists(st.sampled_from([-1, 0, 1]), min_size=6, max_size=6),
    left=st.sets(st.integers(0, 5)),
    window=st.sampled_from([None, 3, 8, 50]),
    softcap=st.sampled_from([None, 2.0]),
    strided=st.booleans(),
    sunk=st.booleans(),
)
def test_each_row_attends_to_its_prefix_its_own_tokens_and_nothing_else(
    lengths: list[int], shared: list[int], left: set[int],
    window: int | None, softcap: float | None, strided: bool, sunk: bool,
) -> None:  # fmt: skip
    prefix_of = sorted(shared[: len(lengths)])
    sinks = torch.linspace(-1, 3, KINDS * GROUPS, dtype=torch.float64) if sunk else None
    own, prefixes = [_cached(n) for n in lengths], [_cached(5), _cached(9)]
    rows = start_rows(own, prefix_of, prefixes)
    stay = [r for r in range(len(own)) if r not in left] or [0]
    # Two steps, with rows leaving between them, so that the cache was written and cut.
    for on in (list(range(len(own))), stay):
        if on == stay:
            rows.keep(on)
            own, prefix_of = [own[r] for r in on], [prefix_of[r] for r in on]
        q = _fed(len(own), KINDS * GROUPS, strided)
        k, v = (_fed(len(own), KINDS, strided) for _ in range(2))
        outputs = attend_rows(rows, 0, (q, k, v), Scores(0.3, window, softcap, sinks))
        rows.step()
        for r, (cache, g) in enumerate(zip(own, prefix_of, strict=True)):
            cache.keys[0] = torch.cat([cache.keys[0], k[:, :, r : r + 1]], 2)
            cache.values[0] = torch.cat([cache.values[0], v[:, :, r : r + 1]], 2)
            before = [prefixes[g]] if g >= 0 else []
            expected = masked_attention(
                q[:, :, r : r + 1],
                torch.cat([p.keys[0] for p in [*before, cache]], 2),
                torch.cat([p.values[0] for p in [*before, cache]], 2),
                Scores(0.3, window, softcap, sinks),
            )
            torch.testing.assert_close(outputs[0, r], expected[0, :, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [None, 11])
def test_rows_that_started_late_never_see_the_empty_columns(window: int | None) -> None:
    own = [_cached(2), _cached(9)]
    rows = start_rows(own, [-1, -1], [])
    # What stands before a row's own tokens is finite, but anything.
    rows.keys[0][0, :, :7] = 1e3
    rows.values[0][0, :, :7] = 1e3
    q, k, v = _fed(2, KINDS * GROUPS, False), _fed(2, KINDS, False), _fed(2, KINDS, False)
    outputs = attend_rows(rows, 0, (q, k, v), Scores(0.3, window))
    assert float(outputs[0, 0].abs().max()) < 100
