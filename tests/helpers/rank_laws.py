"""Gradients and losses of shards, and of adapters, on two gloo ranks against those of one process.

`python tests/rank_laws.py FILE` writes a JSON object for each architecture, dtype and way of
sharing the rows out, with the largest difference of any parameter's gradient, relative to its
largest element, and of the losses. The rows share prefixes and are cut into several micro-batches.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is loaded: a fork of a process with threads would hang.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from biddable.engine.step import backward_step, plan_for
from biddable.models.adapters import add_adapter, decoder_layers
from biddable.models.four_bits import quantize_linears
from biddable.training.evaluate import held_out_loss, mean_loss
from biddable.training.ranks import Ranks, all_sum, joined_ranks
from biddable.training.shards import Shards
from biddable.training.weights import Replicas, WeightStore
from rank_fit import examples, on_ranks
from tiny import CONFIGS, LFM2, small_model, tiny

BUDGET = 24
# Rows of each rank; one of them may have none.
SHARES = {"both": [[0, 3, 5, 8, 9], [1, 2, 4, 6, 7, 10]], "first": [list(range(11)), []]}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# The last is fed beside.
KINDS = [*CONFIGS, "lfm2"]
CASES = [*((kind, "fp32") for kind in KINDS), ("llama", "bf16"), ("gpt2", "bf16")]


def model_of(kind: str) -> Any:
    if kind == "lfm2":
        return small_model(kind, **LFM2)
    return tiny(kind, ours=True, dtype=torch.float32)


def gradients(
    held: WeightStore, mine: Sequence[int], ranks: Ranks
) -> tuple[float, list[torch.Tensor]]:
    """Loss, and the gradient of each parameter, of the rows of all ranks."""
    rows = examples()
    share = [rows[i] for i in mine]
    plan = held.match_passes(plan_for(held.model, share, BUDGET))
    loss, _, _ = backward_step(held.model, share, plan, held.run)
    held.reduce_gradients()
    grads = [p.grad for p in held.pieces]
    whole = [held.full_tensor(i, g) for i, g in enumerate(grads) if g is not None]
    assert len(whole) == len(held.names)
    return all_sum(ranks, loss)[0], whole


def compare(out: Path) -> None:
    """Writes what was found to a file, by the first rank."""
    with joined_ranks() as ranks, out.open("a") as file:
        for kind, name in CASES:
            dtype = DTYPES[name]
            alone = Replicas(model_of(kind), dtype)
            loss, wanted = gradients(alone, range(11), Ranks())
            judged = held_out_loss(alone.model, examples(), BUDGET)
            for way, shares in SHARES.items():
                model = model_of(kind)
                shards = Shards(model, torch.device("cpu"), dtype, ranks)
                for _ in range(2):  # what the first pass left must not be in the second
                    sharded_loss, sharded_grads = gradients(shards, shares[ranks.index], ranks)
                    mean = mean_loss(shards, examples(), BUDGET)
                apart = [
                    float((a - b).abs().max() / b.abs().max())
                    for a, b in zip(sharded_grads, wanted, strict=True)
                ]
                law = {
                    "kind": kind, "dtype": name, "rows": way,
                    "gradient": max(apart), "loss": abs(sharded_loss / loss - 1),
                    "held_out": abs(mean / judged - 1),
                }  # fmt: skip
                if ranks.first:
                    file.write(json.dumps(law) + "\n")


def with_adapter(kind: str, name: str) -> Any:
    """A tiny model with an adapter that changes what it computes; the base as named."""
    model = model_of(kind)
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    if name == "4 bits":
        quantize_linears(decoder_layers(model), torch.device("cpu"), dtype)
    add_adapter(model.to(dtype), 4, 1)
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


def compare_adapters(out: Path) -> None:
    """The same of adapters, of which each rank holds the whole base."""
    cases = [*((kind, "fp32") for kind in KINDS), ("llama", "bf16"), ("llama", "4 bits")]
    with joined_ranks() as ranks, out.open("a") as file:
        for kind, name in cases:
            alone = Replicas(with_adapter(kind, name), torch.float32)
            loss, expected = gradients(alone, range(11), Ranks())
            for way, shares in SHARES.items():
                replicas = Replicas(with_adapter(kind, name), torch.float32, ranks)
                own_loss, own = gradients(replicas, shares[ranks.index], ranks)
                apart = [
                    float((a - b).abs().max() / b.abs().max())
                    for a, b in zip(own, expected, strict=True)
                ]
                law = {
                    "kind": kind, "dtype": name, "rows": way,
                    "gradient": max(apart), "loss": abs(own_loss / loss - 1), "adapter": True,
                }  # fmt: skip
                if ranks.first:
                    file.write(json.dumps(law) + "\n")


if __name__ == "__main__":
    work = compare_adapters if sys.argv[2:] == ["adapters"] else compare
    on_ranks(2, partial(work, Path(sys.argv[1])))
