"""Whether compiling the layers pays: `python -m benchmarks.compiled [BASE] [TOKENS]`.

Seconds of a step's gradient with the layers as they are and with each compiled by torch.compile for
any length, and what the first compiled step took more than a later one.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import torch

from benchmarks.ours import Row
from biddable.engine.memory import keep_freed_memory
from biddable.engine.plan import plan_step
from biddable.engine.precision import choose_device, load_model
from biddable.engine.step import backward_step
from biddable.models.base import resolve_base

LENGTH, REPETITIONS = 100, 4


def seconds(model: Any, rows: int, seed: int) -> float:
    """The gradient of `rows` random rows about LENGTH long, half of their tokens trained."""
    chance = random.Random(seed)
    batch = []
    for _ in range(rows):
        length = LENGTH + chance.randrange(-20, 20)
        ids = [chance.randrange(100, 20_000) for _ in range(length)]
        batch.append(Row(ids, [float(i >= length // 2) for i in range(length)]))
    plan = plan_step(batch, 10**6)
    for parameter in model.parameters():
        parameter.grad = None
    start = time.perf_counter()
    backward_step(model, batch, plan)
    return time.perf_counter() - start


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    rows = (int(sys.argv[2]) if len(sys.argv) > 2 else 800) // LENGTH
    keep_freed_memory()
    model = load_model(resolve_base(base), choose_device("auto"))
    seconds(model, rows, 0)
    plain = [seconds(model, rows, seed) for seed in range(1, REPETITIONS + 1)]
    for layer in model.base_model.layers:
        layer.compile(dynamic=True)
    first = [seconds(model, rows, seed) for seed in (0, 1)]
    compiled = [seconds(model, rows, seed) for seed in range(1, REPETITIONS + 1)]
    line = {
        "plain": min(plain), "compiled": min(compiled), "ratio": min(compiled) / min(plain),
        "first_two": first, "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
