"""Our side of workloads: `python -m benchmarks.ours WORKLOAD.json... [DEVICE]`, a line a step.

The package's own loop does the work; nothing is left out but the evaluations, which the peer does
not have either.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from biddable.engine.attention import NAME, register
from biddable.engine.memory import choose_batch_tokens, keep_freed_memory, needs_of, peak_of
from biddable.engine.norms import fuse_norms
from biddable.engine.plan import plan_step
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.models.adapters import add_adapter
from biddable.models.base import resolve_base
from biddable.settings import Settings
from biddable.training.checkpoint import Progress
from biddable.training.interrupt import Interrupt
from biddable.training.loop import TrainerParts, fit, make_optimizer
from biddable.training.schedule import rows_of_step
from biddable.training.weights import Replicas

# As in workloads.py, which needs packages that this need not.
RATE, WARMUP = 1e-4, 0.1


@dataclass(frozen=True)
class Row:
    """What the loop needs of an example."""

    input_ids: list[int]
    weights: list[float]
    file: str = "benchmark"
    line: int = 1


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """The machine's best rate of matrix products in FLOP/s, with the shape of a small model's."""
    rows, inner, outer = (8192, 4096, 4096) if device.type == "cuda" else (1024, 576, 1536)
    a = torch.randn(rows, inner, dtype=dtype, device=device)
    b = torch.randn(outer, inner, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(40):
        start = time.perf_counter()
        float((a @ b.T)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * outer / best


def useful_flops(model: Any, tokens: int, trained: int) -> int:
    """6 FLOPs for each block weight and token fed, and for each head weight and trained row; 4 for
    frozen ones."""
    head = model.get_output_embeddings().weight
    outside = ("embed", "wte", "wpe", "lm_head")
    blocks = sum(
        (6 if p.requires_grad else 4) * p.numel()
        for n, p in model.named_parameters()
        if p.ndim >= 2 and not any(part in n for part in outside)
    )
    outer: int = (6 if head.requires_grad else 4) * head.numel() * trained
    return blocks * tokens + outer


def random_model(config: Any, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    """A model of a configuration with random weights, drawn on the device."""
    from transformers import AutoModelForCausalLM

    register()
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    if device.type == "cuda":
        fuse_norms(model)
    return model.eval()


def load(work: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Replicas:
    """The model of a workload, with an adapter where it has one; at random where its folder has no
    weights."""
    from transformers import AutoConfig

    held = dtype if work.get("lora") else torch.float32
    if any(Path(work["base"]).glob("*.safetensors")):
        model = load_model(resolve_base(work["base"]), device, held)
    else:
        model = random_model(AutoConfig.from_pretrained(work["base"]), device, held, NAME)
    if not work.get("lora"):
        return Replicas(model, dtype)
    return Replicas(add_adapter(model, work["lora"], 0), torch.float32)


def measure(work: dict[str, Any], device: torch.device) -> None:
    """Trains the steps of a workload; prints a line for each, and one about the whole."""
    rows = [Row(r["input_ids"], [float(i != -100) for i in r["labels"]]) for r in work["rows"]]
    placed = [*rows]
    for number, step in enumerate(work["order"], 1):
        # Where the loop looks for the rows of this step.
        for place, row in zip(rows_of_step(number, len(rows), len(step), 0), step, strict=True):
            placed[place] = rows[row]
    dtype = choose_dtype("auto", device)
    weights = load(work, device, dtype)
    needs = needs_of(weights.model, weights.pieces, weights.working_bytes)
    budget = choose_batch_tokens(needs, device)
    steps = [[rows[i] for i in step] for step in work["order"]]
    trained = [sum(sum(w > 0 for w in r.weights) for r in step) for step in steps]
    predicted = peak_of(needs, [plan_step(step, budget) for step in steps], trained)
    constant = len(set(work["rates"])) == 1
    settings = Settings(
        batch_size=len(steps[0]), steps=len(steps), batch_tokens=budget, lr=RATE,
        warmup=0.0 if constant else WARMUP,
    )  # fmt: skip
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ends = [time.perf_counter()]

    def tell(event: Any) -> None:
        if event["event"] != "step":
            return
        line = {k: event[k] for k in ("step", "loss", "seconds", "tokens", "learning_rate")}
        if device.type == "cuda":  # The update is still under way.
            torch.cuda.synchronize()
            ends.append(time.perf_counter())
            line["seconds"] = ends[-1] - ends[-2]
        line["flops"] = useful_flops(weights.model, event["tokens"], event["trained_tokens"])
        print(json.dumps({"workload": work["name"], **line}), flush=True)

    with tempfile.TemporaryDirectory() as folder, Interrupt() as interrupt:
        parts = TrainerParts(
            weights=weights,
            optimizer=make_optimizer(weights, settings),
            examples=placed,  # type: ignore[arg-type]
            evaluate=lambda: float("inf"),
            answer=lambda: "",
            log=tell,
            folder=Path(folder),
            settings=settings,
            floor=1.0 if constant else 0.1,
        )
        fit(parts, Progress(), interrupt)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    first = plan_step(steps[0], budget)
    print(
        json.dumps(
            {
                "workload": work["name"],
                "peak": peak,
                "predicted_peak": predicted,
                "setting": f"{str(dtype)[6:]}, {budget} tokens a pass",
                "product_rate": product_rate(dtype, device),
                "micro_batches": len(first.micro_batches),
                "prefix_tokens": sum(map(len, first.prefixes)),
            }
        ),
        flush=True,
    )


def main() -> int:
    faults = 0
    paths = [argument for argument in sys.argv[1:] if argument.endswith(".json")]
    device = choose_device("auto" if sys.argv[-1] in paths else sys.argv[-1])
    keep_freed_memory()
    for path in paths:
        work = json.loads(Path(path).read_text(encoding="utf-8"))
        try:
            measure(work, device)
        except Exception as error:
            # The other workloads are measured all the same.
            traceback.print_exc()
            faults += 1
            fault = f"{type(error).__name__}: {error}".splitlines()[0]
            print(json.dumps({"workload": work["name"], "fault": fault}), flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
