"""Gradients and losses of shards on two gloo ranks against those of one process.

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
from typing import IO, Any

# Before torch is loaded: a fork of a process with threads would hang.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from biddable.engine.step import backward_step, plan_for
from biddable.models.adapters import add_adapter
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
    some = [rows[i] for i in mine]
    plan = held.match_passes(plan_for(held.model, some, BUDGET))
    loss, _, _ = backward_step(held.model, some, plan, held.run)
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
                    found_loss, found = gradients(shards, shares[ranks.index], ranks)
                    mean = mean_loss(shards, examples(), BUDGET)
                apart = [
                    float((a - b).abs().max() / b.abs().max())
                    for a, b in zip(found, wanted, strict=True)
                ]
                told = {
                    "kind": kind, "dtype": name, "rows": way,
                    "gradient": max(apart), "loss": abs(found_loss / loss - 1),
                    "held_out": abs(mean / judged - 1),
                }  # fmt: skip
                if ranks.first:
                    file.write(json.dumps(told) + "\n")
        compare_adapters(ranks, file)


def adapted(kind: str) -> Any:
    """A model with an adapter that is past its first step, where half of it learns nothing."""
    model = add_adapter(model_of(kind), 4, 0)
    draws = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.normal_(generator=draws)
    return model


def compare_adapters(ranks: Ranks, file: IO[str]) -> None:
    """The same for an adapter whose parts two ranks update."""
    for kind in ("llama", "lfm2"):
        loss, expected = gradients(Replicas(adapted(kind), torch.float32), range(11), Ranks())
        for way, shares in SHARES.items():
            shared = Replicas(adapted(kind), torch.float32, ranks)
            shared_loss, grads = gradients(shared, shares[ranks.index], ranks)
            errors = [
                float((a - b).abs().max() / b.abs().max())
                for a, b in zip(grads, expected, strict=True)
            ]
            law = {
                "kind": kind, "dtype": "adapter", "rows": way,
                "gradient": max(errors), "loss": abs(shared_loss / loss - 1), "held_out": 0.0,
            }  # fmt: skip
            if ranks.first:
                file.write(json.dumps(law) + "\n")


if __name__ == "__main__":
    on_ranks(2, partial(compare, Path(sys.argv[1])))
