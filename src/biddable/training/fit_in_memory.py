"""Before step 1: how the weights are held, tokens of a micro-batch, and memory at the peak."""

from __future__ import annotations

import os
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from biddable.engine.memory import (
    choose_batch_tokens,
    free_bytes,
    give_back_freed_memory,
    needs_of,
    peak_of,
    refuse_too_much,
)
from biddable.engine.plan import trained_count
from biddable.engine.precision import load_proven
from biddable.engine.proof import Proof
from biddable.engine.step import plan_for
from biddable.engine.top_layers import freeze_below
from biddable.models.adapters import add_adapter
from biddable.models.base import Base
from biddable.models.completeness import parameter_count
from biddable.models.four_bits import largest_dequantized
from biddable.models.text_part import freeze_other_parts, refuse_shards
from biddable.settings import Settings
from biddable.terminal import line
from biddable.training.kept_rows import FedRows
from biddable.training.ranks import Ranks, all_max
from biddable.training.schedule import rows_of_step, total_steps
from biddable.training.shards import Shards
from biddable.training.weights import Replicas, WeightStore

# Planning thousands of steps ahead costs more than it is worth.
MOST_PLANNED = 100
# Share of free memory that the weights may take.
_MOST_HELD = 0.6


def tokens_per_pass(
    settings: Settings, weights: WeightStore, rows: FedRows, device: torch.device, out: Console
) -> int:
    """Tokens per micro-batch, as set or chosen; the predicted peak is shown.

    Raises:
        BiddableError: `out_of_memory`, the peak is more than what is free.
    """
    examples = rows.train
    working = weights.working_bytes + largest_dequantized(weights.model)
    needs = needs_of(weights.model, weights.pieces, working, weights.run)
    budget = settings.batch_tokens or choose_batch_tokens(needs, device)
    steps = [
        [examples[i] for i in rows_of_step(n, len(examples), settings.batch_size, settings.seed)]
        for n in range(1, min(total_steps(len(examples), settings), MOST_PLANNED) + 1)
    ]
    steps.append([examples[rows.longest]])
    trained = [sum(map(trained_count, rows)) for rows in steps]
    peak = peak_of(needs, [plan_for(weights.model, rows, budget) for rows in steps], trained)
    free = free_bytes(device) + needs.resident
    line(out, "memory", f"{peak / 2**30:.1f} GiB at the peak, {free / 2**30:.1f} GiB free")
    refuse_too_much(needs, peak, budget, device)
    return budget


def open_weights(
    base: Base,
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks,
    loaded: tuple[Any, Proof] | None = None,
) -> tuple[WeightStore, Proof]:
    """The base's weights as these ranks hold them, and the proof of how rows may be fed.

    Trained weights are in fp32, whatever the compute dtype: all of them; with --lora an adapter,
    while the base is held once, in the compute dtype; with --top-layers a part, while the rest is
    also kept unchanged for the tuned model. `--shard auto` shards where what does not
    depend on rows would take more than most of the memory of some rank.

    Args:
        loaded: the base and its proof, if they are in memory from an adapter before.
    """
    if settings.lora:
        model, proof = loaded or load_proven(base, device, dtype)
        add_adapter(model, settings.lora, settings.seed)
        return Replicas(model, torch.float32, ranks), proof
    if settings.top_layers:
        model, proof = load_proven(base, device)
        freeze_below(model, settings.top_layers, base.name)
        frozen = _cast_frozen(model, dtype)
        return Replicas(model, dtype, ranks, frozen), proof
    if ranks.count > 1 and settings.shard != "off":
        count = parameter_count(base.folder, base.name)
        needed = count * (8 + 8 / ranks.count + (2 if dtype != torch.float32 else 0))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
        tight = all_max(ranks, needed > _MOST_HELD * free_bytes(device) / here)[0]
        if settings.shard == "on" or tight:
            give_back_freed_memory()
            model, proof = load_proven(base, torch.device("cpu"))
            refuse_shards(model, base.name)
            return Shards(model, device, dtype, ranks), proof
    model, proof = load_proven(base, device)
    freeze_other_parts(model)
    return Replicas(model, dtype, ranks, _cast_frozen(model, dtype)), proof


def _cast_frozen(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Casts the frozen parameters to what is computed in; returns them by name as they were."""
    frozen: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen[name] = parameter.data if dtype == parameter.dtype else parameter.data.cpu()
            parameter.data = parameter.data.to(dtype)
    return frozen
