"""The weights as the ranks hold them: what the loop and the checkpoints need, and whole copies.

`Replicas` is one process, or ranks that each have the whole model; `shards.Shards` are ranks that
have a part of it. The optimizer always works on fp32: AdamW steps of a small learning rate vanish
in bf16 weights, where they round to no change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

from biddable.engine.plan import StepPlan
from biddable.engine.step import T, directly
from biddable.training.ranks import ALONE, Ranks, rank_errors


class WeightStore(Protocol):
    """Weights, one object on each rank. Methods marked with * are collectives: all ranks call them.

    Args:
        ranks: those that share the weights, and this one's place among them.
        names: of the parameters that are trained, those of transformers; tied ones once.
        shapes: of these parameters, whole.
        pieces: fp32, one a parameter: what this rank's optimizer changes.
        model: what the passes run through.
        frozen: the fp32 parameters by name that a saved model needs beside these.
        working_bytes: of all gradients of a step, and of what is gathered for its passes.

    Raises:
        BiddableError: `rank_lost`, from a collective.
    """

    ranks: Ranks
    names: list[str]
    shapes: list[torch.Size]
    pieces: list[nn.Parameter]
    model: Any
    frozen: Mapping[str, Tensor]
    working_bytes: int

    def run(self, work: Callable[[], T]) -> T:
        """Calls a pass of the model (* with shards)."""
        ...

    def match_passes(self, plan: StepPlan) -> StepPlan:
        """The plan with the passes that all ranks make (*)."""
        ...

    def reduce_gradients(self) -> None:
        """Sums the gradients over the ranks into the pieces (*)."""
        ...

    def publish(self) -> None:
        """Makes the model compute with the pieces as the optimizer left them (*)."""
        ...

    def full_tensor(self, index: int, value: Tensor) -> Tensor:
        """All ranks' parts of what belongs to a parameter, in its shape (*)."""
        ...

    def local_part(self, index: int, value: Tensor) -> Tensor:
        """This rank's part of what belongs to a parameter, in the shape of its piece."""
        ...

    def gather(self) -> dict[str, Tensor]:
        """The fp32 weights by name, on the first rank; the others get nothing (*)."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrites the weights by name, on each rank for itself."""
        ...

    def standalone_model(self, fresh: Callable[[], Any], tensors: Mapping[str, Tensor]) -> Any:
        """A model that this rank can use without the others.

        Args:
            fresh: loads the base as it is computed with.
            tensors: its weights by name; if empty, the model keeps the base weights.
        """
        ...


class Replicas:
    """Each rank has the whole model; of several, each updates an equal part of every parameter.

    So each rank holds a part of the moments, and no more is sent than an all-reduce would send.
    In bf16 the masters are fp32 copies: each parameter's gradient is added to its master's as soon
    as a micro-batch has formed it, and `publish` casts the masters back once a step.

    Args:
        model: its trained parameters, those that require a gradient, are in fp32.
        dtype: that they are cast to, in place, to be computed with.
        frozen: parameters by name that the tuned model has as the base has them.

    Attributes:
        full_model: the model, also where passes run through its top layers alone.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
        frozen: Mapping[str, Tensor] | None = None,
    ) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(trained)
        self.model, self.full_model, self.ranks = model, model, ranks
        self.frozen = frozen or {}
        self._masters: list[nn.Parameter] = list(trained.values())
        self._computed: list[Tensor] = []
        if dtype != torch.float32:
            # Tied parameters occur once in parameters(), so the copies stay tied too.
            self._computed = list(trained.values())
            self._masters = [nn.Parameter(p.detach().clone()) for p in self._computed]
            for parameter, master in zip(self._computed, self._masters, strict=True):
                # Parameters only: rounded rotary frequencies, which are buffers, would put every
                # token where the model that is served does not.
                parameter.data = parameter.data.to(dtype)
                parameter.register_post_accumulate_grad_hook(_adder(master))  # type: ignore[no-untyped-call]
        self.shapes = [master.shape for master in self._masters]
        self.working_bytes = 4 * sum(shape.numel() for shape in self.shapes)
        self.pieces = self._masters
        if ranks.count > 1:
            # Flat, and in the memory of the masters.
            parts = [self.local_part(i, m.data) for i, m in enumerate(self._masters)]
            self.pieces = [nn.Parameter(part) for part in parts]

    def run(self, work: Callable[[], T]) -> T:
        return directly(work)

    def match_passes(self, plan: StepPlan) -> StepPlan:
        return plan

    def reduce_gradients(self) -> None:
        if self.ranks.count == 1:
            return
        with rank_errors():
            for master, piece in zip(self._masters, self.pieces, strict=True):
                # A rank without rows takes part with zeros.
                grad = torch.zeros_like(master) if master.grad is None else master.grad
                size = self._part_size(grad)
                padded = pad(grad.reshape(-1), (0, size * self.ranks.count - grad.numel()))
                part = grad.new_empty(size)
                dist.reduce_scatter(part, list(padded.view(-1, size).unbind()))
                piece.grad, master.grad = part[: piece.numel()], None

    @torch.no_grad()
    def publish(self) -> None:
        if self.ranks.count > 1:
            for i, (master, piece) in enumerate(zip(self._masters, self.pieces, strict=True)):
                master.copy_(self.full_tensor(i, piece.data))
        if self._computed:
            torch._foreach_copy_(self._computed, [m.data for m in self._masters])

    def full_tensor(self, index: int, value: Tensor) -> Tensor:
        if self.ranks.count == 1:
            return value
        master = self._masters[index]
        size = self._part_size(master)
        parts = value.new_empty(size * self.ranks.count)
        with rank_errors():
            dist.all_gather(list(parts.view(-1, size).unbind()), pad(value, (0, size - len(value))))
        return parts[: master.numel()].view(master.shape)

    def local_part(self, index: int, value: Tensor) -> Tensor:
        if self.ranks.count == 1:
            return value
        size = self._part_size(value)
        return value.view(-1)[self.ranks.index * size : (self.ranks.index + 1) * size]

    def gather(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self._masters, strict=True)) if self.ranks.first else {}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, master in zip(self.names, self._masters, strict=True):
            master.copy_(tensors[name])
        if self._computed:
            torch._foreach_copy_(self._computed, [m.data for m in self._masters])

    def standalone_model(self, fresh: Callable[[], Any], tensors: Mapping[str, Tensor]) -> Any:
        if tensors:
            self.load(tensors)
        return self.full_model

    def _part_size(self, parameter: Tensor) -> int:
        """Elements of a rank's part, rounded up: the last ranks may have fewer."""
        return -(-parameter.numel() // self.ranks.count)


def _adder(master: nn.Parameter) -> Callable[[Tensor], None]:
    def add(computed: Tensor) -> None:
        if computed.grad is None:
            return
        if master.grad is None:
            master.grad = computed.grad.to(master.dtype)
        else:
            master.grad.add_(computed.grad)
        computed.grad = None

    return add
