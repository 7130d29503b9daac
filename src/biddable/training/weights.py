"""The weights as the ranks hold them: what the loop and the checkpoints need, and whole copies.

`Replicas` is one process, or ranks that each have the whole model; `shards.Shards` are ranks that
have a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

from biddable.engine.plan import StepPlan
from biddable.engine.precision import Weights
from biddable.engine.step import T, directly
from biddable.training.ranks import ALONE, Ranks, rank_errors


class WeightStore(Protocol):
    """Weights, one object on each rank. Methods marked with * are collectives: all ranks call them.

    Raises:
        BiddableError: `rank_lost`, from a collective.
    """

    names: list[str]
    """Of the parameters, those of transformers; tied ones once."""
    shapes: list[torch.Size]
    pieces: list[nn.Parameter]
    """fp32, one a parameter: what this rank's optimizer changes."""
    model: Any
    working_bytes: int
    """Of all gradients of a step, and of what is gathered for its passes."""

    def run(self, work: Callable[[], T]) -> T:
        """Calls a pass of the model (* with shards)."""
        ...

    def match_passes(self, plan: StepPlan) -> StepPlan:
        """The plan with the passes that all ranks make (*)."""
        ...

    def reduce_gradients(self) -> None:
        """Gives the pieces their gradients, summed over the ranks (*)."""
        ...

    def publish(self) -> None:
        """Has the model compute with the pieces as the optimizer left them (*)."""
        ...

    def full_tensor(self, index: int, value: Tensor) -> Tensor:
        """All ranks' parts of what belongs to a parameter, in its shape (*)."""
        ...

    def local_part(self, index: int, value: Tensor) -> Tensor:
        """This rank's part of what belongs to a parameter, in the shape of its piece."""
        ...

    def gather(self, *, first: bool) -> dict[str, Tensor]:
        """The fp32 weights by name, on the first rank; the others get nothing (*)."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrites the weights by name, on each rank for itself."""
        ...

    def standalone_model(self, fresh: Callable[[], Any], tensors: Mapping[str, Tensor]) -> Any:
        """A model with these weights, by name, that this rank can use without the others.

        Args:
            fresh: loads the base as it is computed with.
            tensors: of none, the model is the base.
        """
        ...


class Replicas:
    """Each rank has the whole model; of several, each updates an equal part of every parameter.

    So the moments are shared out, and no more is sent than an all-reduce of the gradients would.
    """

    def __init__(self, weights: Weights, ranks: Ranks = ALONE) -> None:
        self._weights, self._ranks = weights, ranks
        self.names, self.model, self.pieces = weights.names, weights.model, weights.masters
        self.shapes = [m.shape for m in weights.masters]
        self.working_bytes = 4 * sum(shape.numel() for shape in self.shapes)
        if ranks.count > 1:
            # Flat, and in the memory of the masters.
            self.pieces = [
                nn.Parameter(self.local_part(i, m.data)) for i, m in enumerate(weights.masters)
            ]

    def run(self, work: Callable[[], T]) -> T:
        return directly(work)

    def match_passes(self, plan: StepPlan) -> StepPlan:
        return plan

    def reduce_gradients(self) -> None:
        if self._ranks.count == 1:
            return
        with rank_errors():
            for master, piece in zip(self._weights.masters, self.pieces, strict=True):
                # A rank without rows takes part with zeros.
                grad = torch.zeros_like(master) if master.grad is None else master.grad
                size = self._part(grad)
                whole = pad(grad.reshape(-1), (0, size * self._ranks.count - grad.numel()))
                mine = grad.new_empty(size)
                dist.reduce_scatter(mine, list(whole.view(-1, size).unbind()))
                piece.grad, master.grad = mine[: piece.numel()], None

    def publish(self) -> None:
        if self._ranks.count > 1:
            for i, (master, piece) in enumerate(
                zip(self._weights.masters, self.pieces, strict=True)
            ):
                master.data.copy_(self.full_tensor(i, piece.data))
        self._weights.push()

    def full_tensor(self, index: int, value: Tensor) -> Tensor:
        master = self._weights.masters[index]
        if self._ranks.count == 1:
            return value
        size = self._part(master)
        found = value.new_empty(size * self._ranks.count)
        with rank_errors():
            dist.all_gather(list(found.view(-1, size).unbind()), pad(value, (0, size - len(value))))
        return found[: master.numel()].view(master.shape)

    def local_part(self, index: int, value: Tensor) -> Tensor:
        if self._ranks.count == 1:
            return value
        size = self._part(value)
        return value.view(-1)[self._ranks.index * size : (self._ranks.index + 1) * size]

    def gather(self, *, first: bool) -> dict[str, Tensor]:
        return dict(self._weights.named()) if first else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._weights.load(tensors)

    def standalone_model(self, fresh: Callable[[], Any], tensors: Mapping[str, Tensor]) -> Any:
        if tensors:
            self._weights.load(tensors)
        return self.model

    def _part(self, whole: Tensor) -> int:
        """Elements of a rank's part, rounded up: the last ranks may have fewer."""
        return -(-whole.numel() // self._ranks.count)
