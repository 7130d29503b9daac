"""Flash attention on CPU: how a backward is cut changes nothing but its time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from biddable.engine.flash import Flash, tiles_of
from biddable.engine.masked import Scores, masked_attention

WIDTH, SCALE = 16, 0.25


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def leaf(heads: int, tokens: int) -> Tensor:
    # Laid out as models give it: (1, T, H, E).
    tensor = torch.randn(1, tokens, heads, WIDTH, dtype=torch.float64).transpose(1, 2)
    return tensor.detach().requires_grad_()


@pytest.mark.parametrize(("heads", "kinds"), [(3, 1), (6, 3), (4, 4)])
@pytest.mark.parametrize("queries", [7, 64, 131, 200])
@pytest.mark.parametrize("sunk", [False, True])
def test_the_gradients_are_those_of_plain_attention(
    threads: int, heads: int, kinds: int, queries: int, sunk: bool
) -> None:
    torch.manual_seed(queries)
    lengths = [queries - 5, 5]
    q, k, v = leaf(heads, queries), leaf(kinds, queries), leaf(kinds, queries)
    keys, values = leaf(kinds, 40), leaf(kinds, 40)
    leaves = [q, k, v, keys, values]
    sinks = torch.linspace(-1, 3, heads, dtype=torch.float64).requires_grad_() if sunk else None
    leaves += [] if sinks is None else [sinks]
    direction = torch.randn(1, heads, queries, WIDTH, dtype=torch.float64)
    spans = [(0, queries - 5, 0), (queries - 5, queries, 0)]
    ours = Flash.apply(q, k, v, SCALE, sinks, (tiles_of(lengths, q), spans), keys, values)
    gradients = torch.autograd.grad(ours, leaves, direction)
    parts = [
        masked_attention(
            q[:, :, a:b],
            torch.cat([keys, k[:, :, a:b]], 2),
            torch.cat([values, v[:, :, a:b]], 2),
            Scores(SCALE, sinks=sinks),
        )
        for a, b, _ in spans
    ]
    plain = torch.cat(parts, 2)
    assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients, torch.autograd.grad(plain, leaves, direction), strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-11)
