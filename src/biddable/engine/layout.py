"""How a flat micro-batch is cut: its segments, and the prefixes that they continue.

Letters: T tokens of a flat micro-batch, P prefix tokens, K key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from biddable.engine.flash import Tile
from biddable.engine.varlen import Cuts


@dataclass(slots=True)
class Prefix:
    """Keys and values of one prefix, per attention call of a pass: (1, K, P, E) each."""

    length: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def leaves(self) -> Prefix:
        """The same numbers cut off from their graph, to collect the suffixes' gradients in."""

        def cut(tensors: dict[int, Tensor]) -> dict[int, Tensor]:
            return {layer: t.detach().requires_grad_() for layer, t in tensors.items()}

        return Prefix(self.length, cut(self.keys), cut(self.values))

    def cut(self, length: int) -> Prefix:
        """The first tokens of it."""
        parts = (
            {n: t[:, :, :length] for n, t in kept.items()} for kept in (self.keys, self.values)
        )
        return Prefix(length, *parts)


@dataclass(slots=True)
class Layout:
    """How the T tokens of a flat micro-batch are cut.

    Args:
        lengths: tokens of each segment, in order; they sum to T.
        prefix_of: for each segment the index in `prefixes` that it continues, or -1.
        prefixes: what the segments may continue.
        keep: where given, one `Prefix` a segment to store its keys and values in.
        calls: how often the pass called attention so far.
        tiles: what one flash call attends to, worked out once for all layers; on a CPU.
        cuts: the same on CUDA, for attention with a window (True) and without.
    """

    lengths: Sequence[int]
    prefix_of: Sequence[int]
    prefixes: Sequence[Prefix] = ()
    keep: Sequence[Prefix] = ()
    calls: int = 0
    tiles: list[Tile] = field(default_factory=list)
    cuts: dict[bool, Cuts] = field(default_factory=dict)

    def spans(self) -> list[tuple[int, int, int]]:
        """(start, stop, prefix index) of each segment."""
        spans, start = [], 0
        for length, prefix in zip(self.lengths, self.prefix_of, strict=True):
            spans.append((start, start + length, prefix))
            start += length
        return spans
