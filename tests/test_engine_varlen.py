"""The CUDA path: what it hands to the kernel, and on a GPU the kernel itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from biddable.engine.masked import Scores, masked_attention
from biddable.engine.varlen import Stretch, fits_varlen, varlen_attention

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def slow_kernel(
    q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, *_: Any, **given: Any
) -> Tensor:
    """varlen_attn's contract by the book: sequences apart, causal from the end of both."""
    left, right = given["window_size"]
    assert right == 0
    assert given["enable_gqa"] == (q.shape[1] != k.shape[1])
    out = torch.zeros_like(q)
    group = q.shape[1] // k.shape[1]
    for n in range(len(ends_q) - 1):
        queries = range(int(ends_q[n]), int(ends_q[n + 1]))
        keys = range(int(ends_k[n]), int(ends_k[n + 1]))
        for i, row in enumerate(queries):
            last = len(keys) - len(queries) + i
            seen = slice(
                keys.start + (max(0, last - left) if left >= 0 else 0), keys.start + last + 1
            )
            for head in range(q.shape[1]):
                scores = (k[seen, head // group] @ q[row, head]) * given["scale"]
                out[row, head] = scores.softmax(0) @ v[seen, head // group]
    return out


def case(device: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Stretch]]:
    """q, k, v, two prefixes' keys and values as leaves, and pieces: two of one prefix, a loner."""
    torch.manual_seed(0)
    width = 16
    shapes = [(1, 4, 14, width), (1, 2, 14, width), (1, 2, 14, width)]
    shapes += [(1, 2, 5, width)] * 2 + [(1, 2, 3, width)] * 2
    leaves = [torch.randn(s, dtype=dtype, device=device).requires_grad_() for s in shapes]
    one, other = (leaves[3], leaves[4]), (leaves[5], leaves[6])
    return leaves, [Stretch(0, 4, one), Stretch(4, 5, one), Stretch(5, 9), Stretch(9, 14, other)]


def plainly(leaves: list[Tensor], pieces: list[Stretch], window: int | None) -> Tensor:
    parts = []
    for piece in pieces:
        q, k, v = (t[:, :, piece.start : piece.stop] for t in leaves[:3])
        if piece.prefix is not None:
            k, v = torch.cat([piece.prefix[0], k], 2), torch.cat([piece.prefix[1], v], 2)
        parts.append(masked_attention(q, k, v, Scores(0.25, window)))
    return torch.cat(parts, 2)


@pytest.mark.parametrize("window", [None, 3])
def test_pieces_reach_the_kernel_as_the_plain_way_has_them(window: int | None) -> None:
    leaves, pieces = case("cpu", torch.float64)
    wanted = plainly(leaves, pieces, window)
    grads = torch.autograd.grad(wanted.square().sum(), leaves)
    got = varlen_attention(*leaves[:3], pieces, 0.25, window, slow_kernel)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    for a, b in zip(torch.autograd.grad(got.square().sum(), leaves), grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_what_the_kernel_does_not_take_goes_the_plain_way() -> None:
    assert not fits_varlen(torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16))


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 3])
def test_the_kernel_is_as_near_to_fp32_as_the_plain_way(window: int | None) -> None:
    leaves, pieces = case("cuda", torch.bfloat16)
    exact = [t.detach().float().requires_grad_() for t in leaves]
    pairs = {id(leaves[i]): exact[i] for i in range(len(leaves))}
    wide = [
        Stretch(p.start, p.stop, p.prefix and (pairs[id(p.prefix[0])], pairs[id(p.prefix[1])]))
        for p in pieces
    ]
    wanted = plainly(exact, wide, window)
    reference = torch.autograd.grad(wanted.square().sum(), exact)

    def distance(out: Tensor) -> list[float]:
        found = torch.autograd.grad(out.float().square().sum(), leaves)
        return [
            float((a.float() - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True)
        ]

    ours = distance(varlen_attention(*leaves[:3], pieces, 0.25, window))
    plain = distance(plainly(leaves, pieces, window))
    assert all(a <= 1.5 * b + 1e-3 for a, b in zip(ours, plain, strict=True))
