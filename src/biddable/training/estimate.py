"""How long the training will take, from passes that are timed before step 1."""

from __future__ import annotations

import time

from biddable.settings import Settings
from biddable.training.checkpoint import Progress
from biddable.training.evaluate import mean_loss
from biddable.training.loop import TrainerParts
from biddable.training.schedule import rows_of_step, total_steps

# A backward pass costs about twice its forward pass.
PASSES_OF_A_STEP = 3
# Layers that docs/measurements/defaults.md has figures of, and seconds of a run worth shortening.
TOP, WORTH_A_WORD = 16, 120


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


def top_layers_note(fit_seconds: float, judging: float, settings: Settings, layers: int) -> str:
    """What `--top-layers` would come to, for a long run of all layers on a CPU.

    Args:
        fit_seconds: of the steps and evaluations.
        judging: seconds that stay as they are.
        layers: of the decoder.

    Returns:
        Empty where there is nothing to say.
    """
    frozen = settings.lora or settings.top_layers
    short = 2 * layers < 3 * TOP or fit_seconds < WORTH_A_WORD
    if frozen or short or settings.device != "cpu":
        return ""
    seconds = fit_seconds * TOP / layers + judging
    return (
        f"--top-layers {TOP} would take {in_words(seconds)}; on the demo it had 84 % right, all "
        "layers 91 %; on 24 labels 91 and 94 %"
    )


def in_words(seconds: float) -> str:
    """`about 3 minutes`."""
    if seconds < 50:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    return f"about {seconds / 3600:.1f} hours"
