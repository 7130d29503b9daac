"""Sharded weights: each rank holds a part of every parameter, gradient and moment.

PyTorch's FSDP2 (`fully_shard`) gathers a layer when a pass comes to it and lets it go after, and
sums gradients into the parts after the backward of each layer. Its hooks sit on a module's inputs
and outputs, and each is a collective, so

- every pass runs inside the forward of one outermost module (`run`), the head included, whose
  weight is used outside of its own module;
- all ranks make the same passes, empty ones where they have nothing to feed (`match_passes`);
- the backward of a prefix begins at the end of its pass, with a gradient of zero, and not only at
  the keys and values inside of the layers (engine/step.py).

In bf16 the parts are the fp32 masters, gathered in bf16; gradients are summed in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from biddable.engine.plan import StepPlan, even_plan
from biddable.engine.step import T
from biddable.models.adapters import decoder_layers
from biddable.training.ranks import Ranks, all_max, rank_errors


class _Outermost(nn.Module):
    """The module whose forward a pass is: around it, what belongs to no layer is gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        return work()


class Shards:
    """A `WeightStore` of which each rank has a part.

    Args:
        model: the whole model in fp32, on the CPU of each rank.
        device: where this rank computes.
        dtype: what it computes in.
    """

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype, ranks: Ranks) -> None:
        self.ranks = ranks
        self._mesh = init_device_mesh(device.type, (ranks.count,))
        self.names = [name for name, _ in model.named_parameters()]
        self.shapes = [p.shape for p in model.parameters()]
        self.model = model
        self.frozen: Mapping[str, Tensor] = {}
        half = dtype if dtype != torch.float32 else None
        policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
        layers = decoder_layers(model)
        largest = max(sum(p.numel() for p in layer.parameters()) for layer in layers)
        all_layers = sum(p.numel() for p in layers.parameters())
        count = sum(shape.numel() for shape in self.shapes)
        # Weights and gradients of what stands outside of the layers, and of two layers at a time.
        gathered = (count - all_layers + 2 * largest) * (2 * dtype.itemsize + 4)
        self.working_bytes = 4 * count // ranks.count + gathered
        self._root = _Outermost(model)
        for layer in layers:
            fully_shard(layer, mesh=self._mesh, reshard_after_forward=True, mp_policy=policy)
        fully_shard(self._root, mesh=self._mesh, reshard_after_forward=False, mp_policy=policy)
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                # Sums, which are divided once by the trained tokens of all ranks.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._parts: list[Any] = list(self._root.parameters())
        self.pieces = [nn.Parameter(p.data.to_local()) for p in self._parts]

    def run(self, work: Callable[[], T]) -> T:
        with rank_errors():
            result: T = self._root(work)
        return result

    def match_passes(self, plan: StepPlan) -> StepPlan:
        apart = bool(plan.prefixes) and not plan.joined
        passes, any_apart = all_max(self.ranks, len(plan.micro_batches), int(apart))
        return even_plan(plan, passes, apart=bool(any_apart))

    def reduce_gradients(self) -> None:
        for part, piece in zip(self._parts, self.pieces, strict=True):
            piece.grad, part.grad = part.grad.to_local(), None

    def publish(self) -> None:
        """Does nothing: the pieces are views of the parts, which every pass gathers again."""

    def full_tensor(self, index: int, value: Tensor) -> Tensor:
        shape, stride = self.shapes[index], self._parts[index].stride()
        with rank_errors():
            sharded = DTensor.from_local(
                value, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
            )
            full: Tensor = sharded.full_tensor()
        return full

    def local_part(self, index: int, value: Tensor) -> Tensor:
        size = -(-len(value) // self.ranks.count)
        return value[self.ranks.index * size : (self.ranks.index + 1) * size]

    def gather(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for i, (name, piece) in enumerate(zip(self.names, self.pieces, strict=True)):
            full = self.full_tensor(i, piece.data)
            if self.ranks.first:
                tensors[name] = full.cpu()
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        # Otherwise weights that an evaluation gathered would outlive the load.
        assert isinstance(self._root, FSDPModule)
        self._root.reshard()
        for i, (name, piece) in enumerate(zip(self.names, self.pieces, strict=True)):
            piece.copy_(self.local_part(i, tensors[name]))

    @torch.no_grad()
    def standalone_model(self, fresh: Callable[[], Any], tensors: Mapping[str, Tensor]) -> Any:
        model = fresh()
        for name, parameter in model.named_parameters():
            if tensors:
                parameter.copy_(tensors[name])
        return model
