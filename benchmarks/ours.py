"""Our side of a workload: `python -m benchmarks.ours WORKLOAD.json`, a JSON line per step.

The package's own loop does the work; nothing is left out but the evaluations, which the peer does
not have either.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from biddable.engine.memory import choose_batch_tokens, keep_freed_memory, needs_of, peak_of
from biddable.engine.plan import plan_step
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.models.adapters import add_adapter
from biddable.models.base import resolve_base
from biddable.settings import Settings
from biddable.training.checkpoint import Progress
from biddable.training.interrupt import Interrupt
from biddable.training.loop import TrainerParts, fit, make_optimizer
from biddable.training.weights import Replicas

# Of the adapter's start, which the peer draws in the same order.
SEED = 0


@dataclass(frozen=True)
class Row:
    """What the loop needs of an example."""

    input_ids: list[int]
    weights: list[float]
    file: str = "benchmark"
    line: int = 1


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """The machine's best rate of matrix products in FLOP/s, with the shape of a small model's."""
    rows = 1024 if device.type == "cpu" else 8192
    a = torch.randn(rows, 576, dtype=dtype, device=device)
    b = torch.randn(1536, 576, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(40):
        start = time.perf_counter()
        float((a @ b.T)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * rows * 576 * 1536 / best


def useful_flops(model: Any, tokens: int, trained: int) -> int:
    """6 FLOPs for each block weight and token fed, and for each head weight and trained row.

    Of frozen weights 4: they have no gradient of their own.
    """
    head = model.get_output_embeddings().weight
    blocks = sum(p.numel() for n, p in model.named_parameters() if p.ndim >= 2 and "embed" not in n
                 and "wte" not in n and "wpe" not in n and "lm_head" not in n)  # fmt: skip
    frozen = not head.requires_grad
    return (4 if frozen else 6) * (blocks * tokens + int(head.numel()) * trained)


def load(folder: str, device: torch.device) -> Any:
    """The model with its weights, or one at random where the folder has none."""
    if any(Path(folder).glob("*.safetensors")):
        return load_model(resolve_base(folder), device)
    from transformers import AutoConfig, AutoModelForCausalLM

    from biddable.engine.attention import NAME, register

    register()
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    return AutoModelForCausalLM.from_config(config, attn_implementation=NAME).to(device).eval()


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    keep_freed_memory()
    rows = [Row(r["input_ids"], [float(i != -100) for i in r["labels"]]) for r in work["rows"]]
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    if work["lora"]:
        model = load_model(resolve_base(work["base"]), device, dtype)
        weights = Replicas(add_adapter(model, work["lora"], SEED), torch.float32)
    else:
        weights = Replicas(load(work["base"], device), dtype)
    needs = needs_of(weights.model, weights.pieces, weights.working_bytes)
    budget = choose_batch_tokens(needs, device)
    steps = [[rows[i] for i in step] for step in work["order"]]
    trained = [sum(sum(w > 0 for w in r.weights) for r in step) for step in steps]
    predicted = peak_of(needs, [plan_step(step, budget) for step in steps], trained)
    settings = Settings(batch_size=len(steps[0]), steps=len(steps), batch_tokens=budget)

    def tell(event: Any) -> None:
        if event["event"] == "step":
            done = useful_flops(weights.model, event["tokens"], event["trained_tokens"])
            line = {k: event[k] for k in ("step", "loss", "seconds", "tokens", "learning_rate")}
            print(json.dumps({**line, "flops": done}), flush=True)

    with tempfile.TemporaryDirectory() as folder, Interrupt() as interrupt:
        parts = TrainerParts(
            weights=weights,
            optimizer=make_optimizer(weights, settings),
            examples=rows,  # type: ignore[arg-type]
            evaluate=lambda: float("inf"),
            answer=lambda: "",
            log=tell,
            folder=Path(folder),
            settings=settings,
        )
        fit(parts, Progress(), interrupt)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    first = plan_step(steps[0], budget)
    print(
        json.dumps(
            {
                "peak": peak,
                "predicted_peak": predicted,
                "setting": f"{str(dtype)[6:]}, {budget} tokens a pass",
                "product_rate": product_rate(dtype, device),
                "micro_batches": len(first.micro_batches),
                "prefix_tokens": sum(map(len, first.prefixes)),
            }
        )
    )


if __name__ == "__main__":
    main()
