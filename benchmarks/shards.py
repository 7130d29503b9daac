"""Memory and time of ranks with and without sharded weights: `python -m benchmarks.shards RANKS`.

Runs itself under torchrun, first with shards and then with replicas (of one rank with replicas
alone), one thread a rank, on a random Llama of 116 million parameters. One JSON line for each, with
bytes per parameter beyond those of the program in two steps of two rows of 64 tokens a rank: once
loaded, at the peak, and the peak foreseen; and the seconds of a step of 8 rows of 256 tokens,
shared out over the ranks, in passes of 512: the best of three.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from biddable.engine.attention import NAME, register
from biddable.engine.memory import give_back_freed_memory, keep_freed_memory, needs_of, peak_of
from biddable.engine.plan import StepPlan, plan_step
from biddable.engine.step import backward_step
from biddable.settings import FULL_LR, Settings
from biddable.training.loop import make_optimizer
from biddable.training.ranks import Ranks, joined_ranks
from biddable.training.shards import Shards
from biddable.training.weights import Replicas, WeightStore

CPU = torch.device("cpu")
TOKENS = 64


@dataclass(frozen=True)
class Row:
    """An example for the engine."""

    input_ids: list[int]
    weights: list[float]


def own_memory() -> int:
    """Bytes that no other process has."""
    return int(psutil.Process().memory_full_info().uss)


def random_model() -> Any:
    """A Llama of 116 million parameters, few of them in its embedding."""
    register()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=4096,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=16,
        num_attention_heads=12,
        num_key_value_heads=12,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=NAME).eval()


def held(way: str, ranks: Ranks) -> WeightStore:
    """The weights as shards or as replicas."""
    if way == "shards":
        give_back_freed_memory()
        return Shards(random_model(), CPU, torch.float32, ranks)
    keep_freed_memory()
    return Replicas(random_model(), torch.float32, ranks)


def step(
    weights: WeightStore, optimizer: torch.optim.Optimizer, rows: list[Row], budget: int
) -> StepPlan:
    """One optimizer step of these rows of this rank."""
    plan = weights.match_passes(plan_step(rows, budget))
    backward_step(weights.model, rows, plan, weights.run)
    weights.reduce_gradients()
    optimizer.step()
    optimizer.zero_grad()
    weights.publish()
    return plan


def row(number: int, tokens: int) -> Row:
    """Half of the tokens are trained; no row begins like another."""
    half = tokens // 2
    return Row([number, *range(1, tokens)], [0.0] * half + [1.0] * half)


def measure(way: str) -> None:
    """One rank's part of a measurement; the first prints the line."""
    peak = [0]

    watched = threading.Event()

    def watch() -> None:
        while not watched.is_set():
            peak[0] = max(peak[0], own_memory())
            time.sleep(0.02)

    with joined_ranks() as ranks:
        before = own_memory()
        weights = held(way, ranks)
        count = sum(shape.numel() for shape in weights.shapes)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        loaded = own_memory()
        needs = needs_of(weights.model, weights.pieces, weights.working_bytes, weights.run)
        threading.Thread(target=watch, daemon=True).start()
        optimizer = make_optimizer(weights, Settings(lr=FULL_LR))
        rows = [row(n, TOKENS) for n in range(2)]
        for _ in range(2):
            plan = step(weights, optimizer, rows, TOKENS)
        foreseen = peak_of(needs, [plan], [TOKENS])
        sizes = {"loaded": loaded, "peak": peak[0], "foreseen": foreseen}
        # Looking at the memory costs time.
        watched.set()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            step(
                weights, optimizer, [row(n, 256) for n in range(8)[ranks.index :: ranks.count]], 512
            )
            seconds.append(time.perf_counter() - start)
        per_parameter = {name: round((size - before) / count, 2) for name, size in sizes.items()}
        if ranks.first:
            line = {"benchmark": "shards", "held": way, "ranks": ranks.count, "parameters": count}
            figures = {"bytes_per_parameter": per_parameter, "step_seconds": round(min(seconds), 2)}
            print(json.dumps({**line, **figures}), flush=True)


def main() -> None:
    """Starts both measurements, or is one rank of one."""
    if sys.argv[1] in ("shards", "replicas"):
        measure(sys.argv[1])
        return
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", sys.argv[1]]
    for way in ("shards", "replicas") if sys.argv[1] != "1" else ("replicas",):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*start, "-m", "benchmarks.shards", way], check=True, env=env)


if __name__ == "__main__":
    main()
