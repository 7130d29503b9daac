"""From logits to the next token: greedy, or by temperature and nucleus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# (N, V) logits and the N rows' numbers to N token ids.
Sampler = Callable[[Tensor, Sequence[int]], list[int]]


def make_sampler(temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> Sampler:
    """A sampler; each row draws from a random stream of its own.

    So a row's answer does not depend on which rows stand beside it. `top_p` keeps the fewest most
    likely tokens whose probabilities sum to it at least (nucleus sampling, arXiv 1904.09751).

    Raises:
        ValueError: temperature below 0, or top_p outside (0, 1].
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError("temperature must be 0 or more, top_p above 0 and at most 1")
    if temperature == 0:
        return _most_likely
    streams: dict[int, torch.Generator] = {}

    def draw(row: int) -> float:
        if row not in streams:
            # Neighboring seeds give unrelated streams; a large odd factor keeps them apart.
            streams[row] = torch.Generator().manual_seed((seed * 1_000_003 + row) % 2**63)
        return float(torch.rand((), generator=streams[row], dtype=torch.float64))

    def sample(logits: Tensor, rows: Sequence[int]) -> list[int]:
        logits = logits.double().cpu()
        # However small the temperature is, the likeliest token keeps a finite number: 0.
        shares = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
        shares, ids = shares.sort(dim=-1, descending=True, stable=True)
        sums = shares.cumsum(-1)
        # A token stays if those before it do not reach top_p yet.
        sums = (shares * (sums - shares < top_p)).cumsum(-1)
        draws = torch.tensor([[draw(row)] for row in rows], dtype=torch.float64)
        picks = torch.searchsorted(sums, draws * sums[:, -1:], right=True)
        return ids.gather(1, picks.clamp(max=ids.shape[1] - 1))[:, 0].tolist()

    return sample


def _most_likely(logits: Tensor, _rows: Sequence[int]) -> list[int]:
    # On a CPU, torch's argmax over a vocabulary takes ten times as long as numpy's.
    places = logits.numpy().argmax(-1) if logits.device.type == "cpu" else logits.argmax(-1)
    ids: list[int] = places.tolist()
    return ids
