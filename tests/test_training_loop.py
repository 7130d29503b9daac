"""The loop with held-out losses as a script: when it speaks up, when it stops, what it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from biddable.encoding.encode import Example
from biddable.settings import Settings
from biddable.terminal import console
from biddable.training.checkpoint import Progress
from biddable.training.interrupt import Interrupt
from biddable.training.log import Screen, combined
from biddable.training.loop import TrainerParts, finished, fit, make_optimizer
from biddable.training.schedule import evaluation_interval
from biddable.training.weights import Replicas
from tiny import tiny

SETTINGS = Settings(steps=8, batch_size=1, batch_tokens=100, lr=1e-3)
EXAMPLES = [Example([1, 5, 6 + i, 2], [0, 0, 1, 1], "rows.jsonl", i + 1) for i in range(2)]


def run(
    folder: Path, losses: list[float], settings: Settings = SETTINGS
) -> tuple[Progress, list[Mapping[str, Any]], str]:
    """Trains with an evaluation at each step; returns the progress, the events and the screen."""
    weights = Replicas(tiny("llama", ours=True, dtype=torch.float32), torch.float32)
    scripted, answers = iter(losses), iter(f"answer\n{i} \x1b[31m" for i in range(1, 99))
    events: list[Mapping[str, Any]] = []
    shown = StringIO()
    out = console()
    out.file, out.width = shown, 200
    screen = Screen(settings.steps, out)
    parts = TrainerParts(
        weights=weights,
        optimizer=make_optimizer(weights, settings),
        examples=EXAMPLES,
        evaluate=lambda: next(scripted),
        answer=lambda: next(answers),
        log=combined(events.append, screen),
        folder=folder,
        settings=settings,
        every=1,
    )
    with screen:
        done = fit(parts, Progress(), Interrupt())
    return done, events, shown.getvalue()


def steps(events: list[Mapping[str, Any]], kind: str) -> list[int]:
    return [e["step"] for e in events if e["event"] == kind]


@pytest.mark.parametrize(
    ("total", "epoch", "held_out", "every"),
    [
        *[(36, 12, 12, 6), (36, 12, 32, 12), (1000, 10, 1, 50), (1, 1, 500, 1)],
        # Two steps to the end, not one at step 24 and another at 25.
        *[(25, 23, 20, 13), (44, 15, 32, 15)],
    ],
)
def test_evaluations_are_as_many_as_they_are_cheap(
    total: int, epoch: int, held_out: int, every: int
) -> None:
    settings = Settings(steps=total, batch_size=8)
    assert evaluation_interval(8 * epoch, held_out, settings) == every


def test_every_evaluation_answers_the_prompt_again(tmp_path: Path) -> None:
    _, events, shown = run(tmp_path, [8.0 - i for i in range(8)])
    evals = [e for e in events if e["event"] == "eval"]
    assert [e["answer"].split()[1] for e in evals] == [str(i) for i in range(1, 9)]
    assert "output  answer 3 " in shown
    assert "\x1b" not in shown


def test_a_loss_that_turned_up_is_told_once_at_the_second_evaluation_above_the_best(
    tmp_path: Path,
) -> None:
    done, events, shown = run(tmp_path, [3.0, 2.0, 2.5, 2.4, 2.3, 1.9, 2.0, 2.1])
    rising = [(e["step"], e["best_step"]) for e in events if e["event"] == "rising"]
    assert rising == [(4, 2), (8, 6)]
    assert shown.count("has turned up") == 2
    assert (done.step, done.best_step, done.best_loss, done.since_best) == (8, 6, 1.9, 2)


def test_a_loss_that_stays_where_it_is_has_not_turned_up(tmp_path: Path) -> None:
    _, events, _ = run(tmp_path, [2.0] * 8)
    assert steps(events, "rising") == []


@pytest.mark.parametrize(("patience", "last"), [(0, 8), (1, 3), (2, 7), (3, 8)])
def test_early_stop_ends_the_run_after_so_many_evaluations_without_improvement(
    tmp_path: Path, patience: int, last: int
) -> None:
    losses = [3.0, 2.0, 2.5, 1.9, 1.8, 1.9, 2.0, 1.0]
    settings = replace(SETTINGS, early_stop=patience)
    done, events, _ = run(tmp_path, losses, settings)
    assert steps(events, "step")[-1] == done.step == last
    assert finished(done, settings, len(EXAMPLES))


def test_a_run_that_stopped_early_is_finished_when_it_is_resumed() -> None:
    settings = replace(SETTINGS, early_stop=2)
    assert finished(Progress(step=4, since_best=2), settings, 2)
    assert not finished(Progress(step=4, since_best=1), settings, 2)
    assert not finished(Progress(step=4, since_best=9), SETTINGS, 2)
