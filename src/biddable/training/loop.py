"""The loop: plan a step, form its gradient, clip, update, evaluate, keep the best.

It knows nothing of files of rows, templates or judgement: it gets examples, weights and functions.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biddable.chat.encode import Example
from biddable.data.findings import BiddableError, place
from biddable.engine.plan import plan_step
from biddable.engine.precision import Weights
from biddable.engine.step import backward_step
from biddable.training.checkpoint import Aside, Progress, save_checkpoint, save_tensors
from biddable.training.interrupt import Interrupt
from biddable.training.log import Log
from biddable.training.schedule import learning_rate, rows_of_step, total_steps
from biddable.training.settings import FitSettings

BEST = "best"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop works with, all built before it starts.

    Args:
        weights: the model and its masters.
        optimizer: over the masters.
        examples: the training examples, in file order.
        evaluate: held-out loss of the model as it is.
        log: takes each event.
        folder: where checkpoints and the best weights go.
        batch_tokens: tokens per micro-batch.
        every: steps between evaluations; 0 follows from the length of an epoch.
    """

    weights: Weights
    optimizer: torch.optim.Optimizer
    examples: Sequence[Example]
    evaluate: Callable[[], float]
    log: Log
    folder: Path
    batch_tokens: int
    every: int = 0


def make_optimizer(weights: Weights, settings: FitSettings) -> torch.optim.AdamW:
    """Fused AdamW over the fp32 masters; only matrices decay."""
    matrices = [m for m in weights.masters if m.ndim >= 2]
    vectors = [m for m in weights.masters if m.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)


def fit(parts: Parts, settings: FitSettings, progress: Progress, interrupt: Interrupt) -> Progress:
    """Trains from `progress` to the last step, or to the step in which an interrupt came.

    After an evaluation with the lowest held-out loss so far, the weights are kept in
    `folder/best/`. On an interrupt a checkpoint is saved, from which the run goes on exactly.

    Raises:
        BiddableError: `loss_not_finite`, with the rows of the step.
    """
    rows = len(parts.examples)
    total = total_steps(rows, settings.batch_size, settings.epochs, settings.steps)
    every = parts.every or evaluation_interval(total, math.ceil(rows / settings.batch_size))
    while progress.step < total:
        progress = _train_step(parts, settings, progress, total)
        if progress.step % every == 0 or progress.step == total:
            progress = _evaluate(parts, progress)
        save = settings.save_every and progress.step % settings.save_every == 0
        if save or (interrupt.exit_code and progress.step < total):
            save_checkpoint(parts.folder, progress, parts.weights, parts.optimizer, settings.keep)
        if interrupt.exit_code:
            break
    return progress


def evaluation_interval(total: int, epoch: int) -> int:
    """Steps between evaluations: twice an epoch, at most 20 in a run."""
    return max(1, math.ceil(epoch / 2), math.ceil(total / 20))


def _train_step(parts: Parts, settings: FitSettings, progress: Progress, total: int) -> Progress:
    start = time.perf_counter()
    step = progress.step + 1
    rows = rows_of_step(step, len(parts.examples), settings.batch_size, settings.seed)
    examples = [parts.examples[i] for i in rows]
    plan = plan_step(examples, parts.batch_tokens)
    loss_sum, weight_sum = backward_step(parts.weights.model, examples, plan)
    loss = loss_sum / weight_sum
    norm = _scale_and_clip(parts.weights, weight_sum, settings.clip)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _not_finite(step, loss, norm, examples)
    rate = learning_rate(step, total, settings.lr, settings.warmup)
    for group in parts.optimizer.param_groups:
        group["lr"] = rate
    parts.optimizer.step()
    parts.optimizer.zero_grad(set_to_none=True)
    parts.weights.push()
    trained = sum(sum(w > 0 for w in e.weights) for e in examples)
    seconds = time.perf_counter() - start
    parts.log(
        {
            "event": "step",
            "step": step,
            "epoch": round(step * settings.batch_size / len(parts.examples), 4),
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "trained_tokens": trained,
            "tokens": plan.tokens,
            "padded_tokens": plan.padded_tokens,
            "seconds": seconds,
        }
    )
    return replace(
        progress,
        step=step,
        trained_tokens=progress.trained_tokens + trained,
        tokens=progress.tokens + plan.tokens,
        seconds=progress.seconds + seconds,
    )


@torch.no_grad()
def _scale_and_clip(weights: Weights, weight_sum: float, clip: float) -> float:
    """Turns summed gradients into those of the mean, clipped; the norm is that before clipping."""
    grads: list[Tensor] = [m.grad for m in weights.masters if m.grad is not None]
    norms = torch.stack([g.to(torch.float32) for g in torch._foreach_norm(grads)])
    norm = float(torch.linalg.vector_norm(norms)) / weight_sum
    factor = min(1.0, clip / (norm + 1e-6)) if clip > 0 else 1.0
    torch._foreach_mul_(grads, factor / weight_sum)
    return norm


def _evaluate(parts: Parts, progress: Progress) -> Progress:
    start = time.perf_counter()
    loss = parts.evaluate()
    best = loss < progress.best_loss
    if best:
        with Aside(parts.folder / BEST) as aside:
            named = {n: m.detach() for n, m in parts.weights.named()}
            save_tensors(named, aside / "weights.safetensors")
        progress = replace(progress, best_loss=loss, best_step=progress.step)
    seconds = time.perf_counter() - start
    event = {"event": "eval", "step": progress.step, "held_out_loss": loss, "best": best}
    parts.log({**event, "seconds": seconds})
    return progress


def load_best(parts: Parts, progress: Progress) -> None:
    """Puts the weights of the best evaluation back into the model, and drops their copy on disk."""
    from safetensors.torch import load_file

    if progress.best_step and progress.best_step != progress.step:
        parts.weights.load(load_file(parts.folder / BEST / "weights.safetensors"))
    shutil.rmtree(parts.folder / BEST, ignore_errors=True)


def _not_finite(step: int, loss: float, norm: float, examples: Sequence[Any]) -> BiddableError:
    places = ", ".join(sorted({place(e.file, e.line) for e in examples}))
    return BiddableError(
        f"step {step}: the loss is {loss} and the gradient norm {norm}; its rows: {places}",
        code="loss_not_finite",
        fix="look at these rows; a smaller --lr or --precision fp32 may help",
    )
