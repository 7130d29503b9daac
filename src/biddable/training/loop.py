"""The loop: plan a step, form its gradient, clip, update, evaluate, keep the best.

It does not know about files, templates or judging: it gets examples, weights and functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from biddable.encoding.encode import Example
from biddable.engine.plan import trained_count
from biddable.engine.shares import share_rows
from biddable.engine.step import backward_step, plan_for
from biddable.errors import BiddableError, place
from biddable.settings import FitSettings
from biddable.training import checkpoint
from biddable.training.checkpoint import Progress
from biddable.training.interrupt import Interrupt
from biddable.training.log import Log
from biddable.training.ranks import all_max, all_sum, rank_errors
from biddable.training.schedule import learning_rate, rows_of_step, total_steps
from biddable.training.weights import WeightStore

# Evaluations in a row without improvement after which the loss is reported to have turned up.
RISING = 2
# Where --save-every is 0: a crash costs no more than this.
SECONDS_BETWEEN_SAVES = 600


@dataclass(frozen=True, slots=True)
class TrainerParts:
    """What the loop works with, all built before it starts.

    Args:
        weights: the model, and what this rank holds of it; only the first rank saves.
        optimizer: over the pieces of the weights.
        examples: the training examples, in file order.
        evaluate: held-out loss of the model as it is.
        answer: the model's answer to one fixed held-out prompt.
        log: takes each event.
        folder: where checkpoints and the best weights go.
        settings: those of the run, with what was chosen for it.
        every: steps between evaluations; 0 evaluates at the end only.
        floor: share of the peak learning rate that is left at the last step.
    """

    weights: WeightStore
    optimizer: torch.optim.Optimizer
    examples: Sequence[Example]
    evaluate: Callable[[], float]
    answer: Callable[[], str]
    log: Log
    folder: Path
    settings: FitSettings
    every: int = 0
    floor: float = 0.1


def make_optimizer(weights: WeightStore, settings: FitSettings) -> torch.optim.AdamW:
    """Fused AdamW over this rank's part of the fp32 masters; only matrices decay.

    Raises:
        RuntimeError: no learning rate was chosen (`schedule.peak_rate`).
    """
    if not settings.lr:
        raise RuntimeError("a learning rate of 0 trains nothing")
    pairs = list(zip(weights.shapes, weights.pieces, strict=True))
    groups = [
        {"params": [p for s, p in pairs if len(s) >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for s, p in pairs if len(s) < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)


def fit(parts: TrainerParts, progress: Progress, interrupt: Interrupt) -> Progress:
    """Trains from `progress` until it is finished, or to the step in which an interrupt came.

    After an evaluation with the lowest held-out loss so far, the weights are kept beside the
    checkpoints. On an interrupt a checkpoint is saved, from which the run goes on exactly.

    Raises:
        BiddableError: `loss_not_finite`, with the rows of the step; `no_space`.
    """
    settings, rows = parts.settings, len(parts.examples)
    total = total_steps(rows, settings)
    saved = time.monotonic()
    while not finished(progress, settings, rows):
        progress = _train_step(parts, progress, total)
        if progress.step % (parts.every or total) == 0 or progress.step == total:
            progress = _evaluate(parts, progress)
        # Read once, so that a signal counts either before the save or in the next step. All ranks
        # agree on it: a signal may reach only one of them, and their clocks differ.
        save_is_due = _save_is_due(progress.step, settings.save_every, saved)
        exit_code, due = all_max(parts.weights.ranks, interrupt.exit_code, save_is_due)
        if due or (exit_code and not finished(progress, settings, rows)):
            _save(parts, progress)
            saved = time.monotonic()
        if exit_code:
            interrupt.exit_code = exit_code
            break
    return progress


def finished(progress: Progress, settings: FitSettings, rows: int) -> bool:
    """Whether all steps are done, or held-out loss has not improved for `early_stop` evaluations.

    A function of what a checkpoint holds, so that a resumed run ends where an unbroken one does.
    """
    all_steps = progress.step >= total_steps(rows, settings)
    return all_steps or 0 < settings.early_stop <= progress.since_best


def best_weights(parts: TrainerParts, progress: Progress) -> dict[str, Tensor]:
    """The fp32 weights of the best evaluation by name, on the first rank; all ranks call it.

    Raises:
        BiddableError: `best_damaged`, `rank_lost`.
    """
    if progress.best_step in (0, progress.step):
        return parts.weights.gather()
    first = parts.weights.ranks.first
    return checkpoint.read_best(parts.folder, progress.best_step) if first else {}


def _save_is_due(step: int, every: int, saved: float) -> bool:
    """`saved` is the time.monotonic() of the last save."""
    return step % every == 0 if every else time.monotonic() - saved > SECONDS_BETWEEN_SAVES


def _save(parts: TrainerParts, progress: Progress) -> None:
    # This event flushes the log, so that no checkpoint is ahead of it.
    parts.log({"event": "save", "step": progress.step})
    start = time.perf_counter()
    tensors = parts.weights.gather()
    moments = checkpoint.moments_of(parts.weights, parts.optimizer)
    if parts.weights.ranks.first:
        checkpoint.save_checkpoint(parts.folder, progress, tensors, moments, parts.settings.keep)
    seconds = time.perf_counter() - start
    parts.log({"event": "saved", "step": progress.step, "seconds": seconds})


def _train_step(parts: TrainerParts, progress: Progress, total: int) -> Progress:
    start, step, settings = time.perf_counter(), progress.step + 1, parts.settings
    rows = rows_of_step(step, len(parts.examples), settings.batch_size, settings.seed)
    examples = [parts.examples[i] for i in rows]
    loss_sum, weight_sum, tokens, padded_tokens, *losses = _gradient(parts, examples)
    loss = loss_sum / weight_sum
    norm = _scale_and_clip(parts.weights, weight_sum, settings.clip)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _not_finite(step, loss, norm, examples)
    rate = learning_rate(step, total, settings.lr, settings.warmup, parts.floor)
    for group in parts.optimizer.param_groups:
        group["lr"] = rate
    parts.optimizer.step()
    parts.optimizer.zero_grad(set_to_none=True)
    parts.weights.publish()
    trained = sum(map(trained_count, examples))
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
            "tokens": int(tokens),
            "padded_tokens": int(padded_tokens),
            "rows": rows,
            "row_losses": [round(x, 4) for x in losses],
            "seconds": seconds,
        }
    )
    return replace(
        progress,
        step=step,
        trained_tokens=progress.trained_tokens + trained,
        tokens=progress.tokens + int(tokens),
        seconds=progress.seconds + seconds,
    )


def _gradient(parts: TrainerParts, examples: Sequence[Example]) -> list[float]:
    """Forms the gradient of a step's examples, summed over the ranks; each takes its share of them.

    Returns:
        Loss sum, weight sum, tokens fed and those of a padded run, of all ranks; then the mean loss
        of each example.
    """
    weights, ranks = parts.weights, parts.weights.ranks
    share = share_rows(examples, ranks.count)[ranks.index]
    local = [examples[i] for i in share]
    plan = weights.match_passes(plan_for(weights.model, local, parts.settings.batch_tokens))
    with rank_errors():
        loss_sum, weight_sum, means = backward_step(weights.model, local, plan, weights.run)
    losses = [0.0] * len(examples)
    for i, mean in zip(share, means, strict=True):
        losses[i] = mean
    sums = all_sum(ranks, loss_sum, weight_sum, plan.tokens, plan.padded_tokens, *losses)
    weights.reduce_gradients()
    return sums


@torch.no_grad()
def _scale_and_clip(weights: WeightStore, weight_sum: float, clip: float) -> float:
    """Turns summed gradients into those of the mean, clipped; the norm is that before clipping."""
    grads: list[Tensor] = [p.grad for p in weights.pieces if p.grad is not None]
    norms = torch.stack([g.to(torch.float32) for g in torch._foreach_norm(grads)])
    norm = float(torch.linalg.vector_norm(norms))
    if weights.ranks.count > 1:
        norm = math.sqrt(all_sum(weights.ranks, norm**2)[0])
    norm /= weight_sum
    factor = min(1.0, clip / (norm + 1e-6)) if clip > 0 else 1.0
    torch._foreach_mul_(grads, factor / weight_sum)
    return norm


def _evaluate(parts: TrainerParts, progress: Progress) -> Progress:
    start, step = time.perf_counter(), progress.step
    loss = parts.evaluate()
    best = loss < progress.best_loss
    progress = replace(progress, since_best=progress.since_best + 1)
    if best:
        tensors = parts.weights.gather()
        if parts.weights.ranks.first:
            checkpoint.save_best(parts.folder, step, tensors)
        progress = replace(progress, best_loss=loss, best_step=step, since_best=0)
    event = {"event": "eval", "step": step, "held_out_loss": loss, "best": best}
    answer = parts.answer()
    parts.log({**event, "answer": answer, "seconds": time.perf_counter() - start})
    if progress.since_best == RISING and loss > progress.best_loss:
        parts.log({"event": "rising", "step": step, "best_step": progress.best_step})
    return progress


def _not_finite(step: int, loss: float, norm: float, rows: Sequence[Example]) -> BiddableError:
    places = ", ".join(sorted({place(row.file, row.line) for row in rows}))
    what = f"step {step}: the loss is {loss} and the gradient norm {norm}; its rows: {places}"
    fix = "look at these rows; a smaller --lr or --precision fp32 may help"
    return BiddableError("loss_not_finite", what, fix)
