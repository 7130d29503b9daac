"""`train`: from files to a tuned model, a scorecard and a verdict."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from biddable.commands.check import fix_command
from biddable.commands.each import Adapters, train_files
from biddable.commands.exam import set_exam
from biddable.commands.finish import card_files, finish, save_tuned
from biddable.commands.rows import with_files
from biddable.commands.run_parts import (
    Run,
    Shared,
    base_judgement,
    begin,
    first_event,
    folder_files,
    judged,
    load_base,
    refuse_adapter,
    trainer_parts,
)
from biddable.data.rows import number_of
from biddable.dataset.prepare import prepare
from biddable.display.outcome import show_smallest_difference
from biddable.display.preparation import show_findings, show_masks, show_prepared
from biddable.display.report import card_table
from biddable.engine.precision import choose_device
from biddable.engine.proof import Proof
from biddable.errors import BiddableError
from biddable.judging.judge import Judgement
from biddable.judging.own_metric import load_metric
from biddable.judging.scorecard import Scorecard, Terms
from biddable.judging.verdict import INTERRUPTED
from biddable.models.adapters import decoder_layers
from biddable.models.base import load_config
from biddable.settings import TrainPrinting
from biddable.terminal import console, line, notices, write_json
from biddable.training.checkpoint import Progress
from biddable.training.estimate import in_words, seconds_of_fit, top_layers_note
from biddable.training.interrupt import Interrupt
from biddable.training.log import Log, Screen, combined, counting, json_log, silent
from biddable.training.loop import best_weights, finished, fit
from biddable.training.ranks import Ranks, broadcast_from_first, first_before_others, joined_ranks
from biddable.training.resume import (
    begun_with,
    data_record,
    day_of,
    new_folder,
    refuse_changes,
    resume_progress,
    start,
)
from biddable.training.run_folder import Lock
from biddable.training.schedule import MEASURED_WIDTH, peak_rate, total_steps
from biddable.training.trackers import tracker, tracker_package


@dataclass(frozen=True, slots=True, repr=False)
class Trained:
    """The result of `train`.

    Args:
        run: the run folder.
        progress: steps done, tokens, seconds and the best evaluation.
        scorecard: base against tuned; None when the run was interrupted.
        exit_code: 0, or 130 or 143 when a signal stopped it after saving.
        rank: of this process; only the first, 0, judges and has a scorecard.
        tuned: the tuned model's judgement, beside that of the base in the run folder.
        proof: how rows were fed.
    """

    run: Path
    progress: Progress
    scorecard: Scorecard | None
    exit_code: int = 0
    rank: int = 0
    tuned: Judgement | None = None
    proof: Proof | None = None

    def __repr__(self) -> str:
        verdict = self.scorecard.verdict if self.scorecard else INTERRUPTED
        return f"<{self.run}, {number_of(self.progress.step, 'step')}: {verdict.sentence}>"

    def _repr_html_(self) -> str:
        return card_table(self.scorecard) if self.scorecard else f"<p>{INTERRUPTED.sentence}</p>"

    def as_json(self) -> dict[str, Any]:
        """The object that `train --json` prints."""
        card, loss = self.scorecard, self.progress.best_loss
        metrics = card.metrics if card else {}
        return {
            "run": str(self.run),
            "steps": self.progress.step,
            "train_tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 3),
            "loss": loss if isfinite(loss) else None,
            "path": asdict(self.proof) if self.proof else None,
            "base": {name: m.base for name, m in metrics.items()},
            "tuned": {name: m.tuned for name, m in metrics.items()},
            "verdict": asdict(card.verdict if card else INTERRUPTED),
        }


def train(data: Any = (), *, resume: str = "", **options: Any) -> Trained:
    """Tunes a base model on the data, and judges base and tuned on held-out rows.

    Args:
        data: files or folders with the training rows, or rows in memory.
        resume: a run folder to go on with, whose config.toml holds the settings; or `auto`: go on
            with the run that the same call began, if there is one.
        options: fields of `biddable.settings.Settings`, by name.

    Raises:
        BiddableError: whatever is wrong with data, base, template, options or folders.
    """
    options = with_files({"data": data, **options})
    with joined_ranks() as ranks:
        return _train_once(options, resume, ranks, Shared())


def train_each(data: Any = (), *, resume: str = "", **options: Any) -> Adapters:
    """Trains an adapter on each file, into a run folder of its own below `out`.

    Args:
        data: files or folders.
        resume: `auto` goes on where an earlier call with the same `out` ended.
        options: fields of `biddable.settings.Settings`, by name; `lora` among them.

    Raises:
        BiddableError: as `train`, before the first is trained.
    """

    def once(own: dict[str, Any], how: str, ranks: Ranks, shared: Shared) -> int:
        return _train_once(own, how, ranks, shared).exit_code

    names = (data,) if isinstance(data, str | PathLike) else tuple(data)
    return train_files(names, resume, with_files(options), once)


def _train_once(options: dict[str, Any], resume: str, ranks: Ranks, shared: Shared) -> Trained:
    """One run; it takes the base from `shared`, or loads it and leaves it there."""
    out = console()
    out.quiet = not ranks.first
    settings, folder = start(options.pop("data"), resume, options, ranks)
    refuse_adapter(settings.base)
    choose_device(settings.device)  # One that is not there is refused before the data is read.
    package, metric = tracker_package(settings.report_to), load_metric(settings.metric)
    today = day_of(folder, ranks)
    line(out, "reading", ", ".join(settings.data))
    prepared = first_before_others(ranks, lambda: prepare(settings, counting(out), today))
    show_prepared(prepared, out)
    show_masks(prepared.train.examples[:1], prepared, out)
    show_findings(prepared, out, fix_command(settings, prepared.findings))
    prepared.refuse_errors()
    text_config = load_config(prepared.base).get_text_config()
    width = getattr(text_config, "hidden_size", MEASURED_WIDTH)
    given_rate, settings = settings.lr, replace(settings, lr=peak_rate(settings, width))
    exam = set_exam(
        prepared.tokenizer, prepared.template, prepared.held_out, prepared.train,
        settings.answers, Terms(leaked=prepared.leaked, user_metric=metric),
    )  # fmt: skip
    show_smallest_difference(exam.questions, out)
    folder = folder or new_folder(settings, ranks)
    record = data_record(prepared, settings, today)
    run = Run(settings, given_rate, prepared, exam, folder, record, ranks, out, shared)
    with Lock(folder) if ranks.first else nullcontext(), Interrupt() as interrupt:
        if not ranks.first:
            return _train(run, interrupt, silent)
        tracker_log = tracker(settings.report_to, package, folder.path, asdict(settings), out)
        with tracker_log as log:
            return _train(run, interrupt, log)


def _train(run: Run, interrupt: Interrupt, tracker_log: Log) -> Trained:
    """Loads the base, judges it, trains it, and judges and saves the tuned model."""
    folder, out, prepared = run.folder, run.out, run.prepared
    resumed = broadcast_from_first(run.ranks, lambda: folder.begun)
    if resumed:
        refuse_changes(begun_with(folder), run.record, folder)
    line(out, "loading", f"the base '{prepared.base.name}'")
    run, weights, fresh = load_base(run)
    settings = run.settings
    files = folder_files(prepared, weights.model)
    steps = _show_plan(run)
    if run.ranks.first and not resumed:
        begin(run, weights)
    screen = Screen(steps, out)
    parts = trainer_parts(run, weights, combined(json_log(folder.log), screen, tracker_log))
    base, judging = base_judgement(run, weights, fresh) if run.ranks.first else (None, 0.0)
    progress = resume_progress(folder, parts, out) if resumed else Progress()
    seconds = seconds_of_fit(parts, len(prepared.held_out.examples), progress)
    _show_estimate(run, weights.model, steps - progress.step, seconds, judging)
    with screen:
        if base and not progress.step:
            parts.log(first_event(run.exam, base))
        progress = fit(parts, progress, interrupt)
    done = finished(progress, settings, len(prepared.train.examples))
    if not done:
        line(out, "interrupted", f"saved; go on with: biddable train --resume {folder.path}")
    elif progress.step < steps:
        why = f"{number_of(progress.since_best, 'evaluation')} without improvement"
        line(out, "early stop", f"after step {progress.step}: {why}")
    best = best_weights(parts, progress) if done else {}
    if base is None or not done:
        return Trained(
            folder.path, progress, None, interrupt.exit_code, run.ranks.index, proof=run.proof
        )
    parts.optimizer.state.clear()
    line(out, "judging", f"the tuned model on {number_of(len(run.exam.questions), 'prompt')}")
    model = weights.standalone_model(fresh, best)
    tuned = judged(run, weights, model)
    card = run.exam.scored(base, tuned)
    save_tuned(run, model, {**weights.frozen, **best}, {**files, **card_files(run, card)})
    finish(run, card, {"base": base, "tuned": tuned})
    return Trained(folder.path, progress, card, tuned=tuned, proof=run.proof)


def _show_estimate(run: Run, model: Any, steps: int, seconds: float, judging: float) -> None:
    left = number_of(steps, "step")
    line(run.out, "estimate", f"{in_words(seconds + judging)} for {left} and judging")
    # Only rows that are fed flat have what frozen layers give kept.
    flat = run.proof is not None and run.proof.prefixes and run.ranks.count == 1
    layers = len(decoder_layers(model)) if flat else 0
    if note := top_layers_note(seconds, judging, run.settings, layers):
        line(run.out, "faster", note)


def _show_plan(run: Run) -> int:
    """Shows what will be done, and returns the number of steps."""
    settings = run.settings
    steps = total_steps(len(run.prepared.train.examples), settings)
    epochs = f"{settings.epochs:g} epoch{'s' * (settings.epochs != 1)} = "
    passes = "" if settings.steps else epochs
    plan = f"{passes}{number_of(steps, 'step')}, batch size {settings.batch_size}"
    line(run.out, "path", str(run.proof))
    line(run.out, "plan", f"{plan}, at most {settings.batch_tokens:,} tokens per micro-batch")
    line(run.out, "rate", f"{settings.lr:g} at its peak")
    return steps


def run(options: dict[str, Any], printing: TrainPrinting) -> int:
    """Trains; returns 0, or 130 or 143 when it was interrupted and saved."""
    trained: Trained | Adapters
    try:
        trained = (train_each if printing.each else train)(**options)
    except BiddableError as error:
        # A program that restarts dead runs must not take a finished run for a failed one.
        if options.get("resume") != "auto" or error.finding.code != "run_finished":
            raise
        notices().write(f"{error.finding.message}\n")
        return 0
    if printing.json and trained.rank == 0:
        write_json(trained.as_json())
    return trained.exit_code
