"""How long the training will take, from passes that are timed before step 1."""

from __future__ import annotations

import time

from biddable.training.checkpoint import Progress
from biddable.training.evaluate import mean_loss
from biddable.training.loop import TrainerParts
from biddable.training.schedule import rows_of_step, total_steps

# A backward pass costs about twice its forward pass.
PASSES_OF_A_STEP = 3


def seconds_of_fit(parts: TrainerParts, held_out: int, progress: Progress) -> float:
    """Seconds that the steps and evaluations which are left will take; all ranks call it.

    Args:
        held_out: examples that each evaluation feeds.
    """
    s = parts.settings
    steps = total_steps(len(parts.examples), s)
    chosen = rows_of_step(progress.step + 1, len(parts.examples), s.batch_size, s.seed)
    rows = [parts.examples[i] for i in chosen]
    seconds = 0.0
    # The first pass also waits for other ranks and fills caches.
    for _ in range(2):
        start = time.perf_counter()
        mean_loss(parts.weights, rows, s.batch_tokens)
        seconds = time.perf_counter() - start
    left = steps - progress.step
    evaluations = left // parts.every if parts.every else 1
    return seconds * (PASSES_OF_A_STEP * left + evaluations * held_out / len(rows))


def in_words(seconds: float) -> str:
    """`about 3 minutes`."""
    if seconds < 50:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    return f"about {seconds / 3600:.1f} hours"
