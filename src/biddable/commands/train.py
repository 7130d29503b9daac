"""`train`: from files to a tuned model, a scorecard and a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biddable import __version__
from biddable.commands.repair import fix_command
from biddable.commands.task import Task, judged_by, report_of, trained_rows
from biddable.data.fix import as_row
from biddable.dataset.prepare import prepare
from biddable.dataset.prepared import shared_system_prompt
from biddable.display.model_card import model_card
from biddable.display.outcome import samples, show_outcome, show_smallest_difference, show_unusual
from biddable.display.preparation import show_findings, show_masks, show_prepared
from biddable.display.report import page, training_answers
from biddable.engine.memory import keep_freed_memory
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.errors import BiddableError
from biddable.judging.judge import Judgement
from biddable.judging.own_metric import load_metric
from biddable.judging.scorecard import Scorecard, score
from biddable.judging.verdict import INTERRUPTED
from biddable.models.base import SYSTEM_PROMPT_FILE
from biddable.models.model_files import model_files, stop_ids_of
from biddable.models.save import save_model
from biddable.options import write_config
from biddable.settings import Printing, Settings
from biddable.storage import need_space, write_whole
from biddable.terminal import console, line, notices, write_json
from biddable.training.checkpoint import Progress, clear_best, weight_bytes
from biddable.training.evaluate import mean_loss
from biddable.training.fit_in_memory import open_weights, tokens_per_pass
from biddable.training.interrupt import Interrupt
from biddable.training.log import Log, Screen, counting, each, json_log, silent
from biddable.training.loop import TrainerParts, best_weights, finished, fit, make_optimizer
from biddable.training.ranks import all_max, broadcast_from_first, first_before_others, joined_ranks
from biddable.training.resume import (
    data_record,
    day_of,
    new_folder,
    refuse_changes,
    resume_progress,
    settings_record,
    start,
    with_absolute_paths,
)
from biddable.training.run_folder import Lock
from biddable.training.schedule import evaluation_interval, total_steps
from biddable.training.shards import Shards
from biddable.training.trackers import tracker, tracker_package
from biddable.training.weights import WeightStore

BASE_FILE = "base.json"
# How rows are fed: one after another, with prefixes that several share once.
PATH = {"name": "flat", "error": None, "prefixes": True}


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of `train`.

    Args:
        run: the run folder.
        progress: steps done, tokens, seconds and the best evaluation.
        scorecard: base against tuned; None when the run was interrupted.
        exit_code: 0, or 130 or 143 when a signal stopped it after saving.
        rank: of this process; only the first, 0, judges and has a scorecard.
        tuned: the tuned model's judgement, beside that of the base in the run folder.
    """

    run: Path
    progress: Progress
    scorecard: Scorecard | None
    exit_code: int = 0
    rank: int = 0
    tuned: Judgement | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The object that `train --json` prints."""
        told = {
            "run": str(self.run),
            "steps": self.progress.step,
            "train_tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 3),
            "loss": self.progress.best_loss if isfinite(self.progress.best_loss) else None,
            "path": PATH,
        }
        if self.scorecard is None:
            return {**told, "base": {}, "tuned": {}, "verdict": INTERRUPTED.as_json()}
        metrics = self.scorecard.metrics
        return {
            **told,
            "base": {name: m.base for name, m in metrics.items()},
            "tuned": {name: m.tuned for name, m in metrics.items()},
            "verdict": self.scorecard.verdict.as_json(),
        }


def train(data: str | Sequence[str] = (), *, resume: str = "", **options: Any) -> Trained:
    """Tunes a base model on the data, and judges base and tuned on held-out rows.

    Args:
        data: files or folders with the training rows.
        resume: a run folder to go on with, whose config.toml holds the settings; or `auto`: go on
            with the run that the same call began, if there is one.
        options: fields of `biddable.settings.Settings`, by name.

    Raises:
        BiddableError: whatever is wrong with data, base, template, options or folders.
    """
    out = console()
    with joined_ranks() as ranks:
        out.quiet = not ranks.first
        settings, folder = start(data, resume, options, ranks)
        choose_device(settings.device)  # One that is not there is refused before the data is read.
        package, metric = tracker_package(settings.report_to), load_metric(settings.metric)
        today = day_of(folder, ranks)
        prepared = first_before_others(ranks, lambda: prepare(settings, counting(out), today))
        show_prepared(prepared, out)
        show_masks(prepared.train.examples[:1], prepared, out)
        show_findings(prepared, out, fix_command(settings, prepared.findings))
        prepared.refuse_errors()
        questions, terms = judged_by(prepared, settings.answers, metric)
        show_smallest_difference(questions, out)
        folder = folder or new_folder(settings, ranks)
        record = data_record(prepared, settings, today)
        task = Task(prepared, settings, folder, questions, out, ranks, record, terms)
        with Lock(folder) if ranks.first else nullcontext(), Interrupt() as interrupt:
            if not ranks.first:
                return _run(task, interrupt, silent)
            sent = tracker(settings.report_to, package, folder.path, asdict(settings), out)
            with sent as log:
                return _run(task, interrupt, log)


def _run(task: Task, interrupt: Interrupt, sent: Log) -> Trained:
    folder, out = task.folder, task.out
    resumed = broadcast_from_first(task.ranks, lambda: folder.begun)
    if resumed:
        refuse_changes(folder.read_json("data.json"), task.record, folder)
    weights, settings, fresh = _load(task)
    rows = len(task.prepared.train.examples)
    steps = total_steps(rows, settings)
    passes = f"{settings.epochs:g} epochs = " if not settings.steps else ""
    line(out, "path", "flat, architecture on the list of those tested")
    plan = f"{passes}{steps} steps, batch size {settings.batch_size}"
    line(out, "plan", f"{plan}, at most {settings.batch_tokens:,} tokens per micro-batch")
    task = replace(task, settings=settings, files=_files(task, weights.model))
    if task.ranks.first and not resumed:
        _begin(task, weights)
    screen = Screen(steps, out)
    parts = _parts(task, weights, each(json_log(folder.log), screen, sent))
    base = _base_judgement(task, weights, fresh) if task.ranks.first else None
    progress = resume_progress(folder, parts, out) if resumed else Progress()
    with screen:
        if base and not progress.step:
            parts.log(task.first_event(base))
        progress = fit(parts, progress, interrupt)
    done = finished(progress, settings, rows)
    if not done:
        line(out, "interrupted", f"saved; go on with: biddable train --resume {folder.path}")
    elif progress.step < steps:
        told_why = f"{progress.since_best} evaluations without improvement"
        line(out, "early stop", f"after step {progress.step}: {told_why}")
    best = best_weights(parts, progress) if done else {}
    if base is None or not done:
        return Trained(folder.path, progress, None, interrupt.exit_code, task.ranks.index)
    parts.optimizer.state.clear()
    return _judge_and_save(task, weights.standalone_model(fresh, best), best, base, progress)


def _files(task: Task, model: Any) -> dict[str, str]:
    """What the model folder will hold beside weights and card: proven before step 1, since a run
    that cannot be saved has trained for nothing."""
    tokenizer, template = task.prepared.tokenizer, task.prepared.template
    stop_ids = stop_ids_of(model, tokenizer, template)
    return model_files(model, tokenizer, chat_template=template.text, stop_ids=stop_ids)


def _parts(task: Task, weights: WeightStore, log: Log) -> TrainerParts:
    """What the loop works with; of several ranks only the first logs, and watches an answer.

    Shards watch none: as many passes as the answer has tokens, each with all ranks.
    """
    settings, examples = task.settings, task.prepared.train.examples
    held_out, budget = task.prepared.held_out.examples, settings.batch_tokens
    watched = task.ranks.first and not isinstance(weights, Shards)
    return TrainerParts(
        weights=weights,
        optimizer=make_optimizer(weights, settings),
        examples=examples,
        evaluate=lambda: mean_loss(weights, held_out, budget, task.ranks),
        answer=lambda: task.answer(weights.model) if watched else "",
        log=log if task.ranks.first else silent,
        folder=task.folder.checkpoints,
        settings=settings,
        every=evaluation_interval(len(examples), len(held_out), settings),
        ranks=task.ranks,
    )


def _load(task: Task) -> tuple[WeightStore, Settings, Callable[[], Any]]:
    """The base's weights as they are trained, the settings with what was chosen for them, and what
    loads the base as it is computed with."""
    settings = task.settings
    keep_freed_memory()
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.precision, device)  # type: ignore[arg-type]
    # Two ranks that measured for themselves might choose otherwise.
    precision = broadcast_from_first(
        task.ranks, lambda: "bf16" if dtype == torch.bfloat16 else "fp32"
    )
    dtype = choose_dtype(precision, device)
    base = task.prepared.base
    weights = open_weights(base, settings.shard, device, dtype, task.ranks)
    mine = tokens_per_pass(settings, weights, task.prepared, device, task.out)
    budget = -all_max(task.ranks, -mine)[0]
    sharded = ", sharded" if isinstance(weights, Shards) else ""
    line(task.out, "compute", f"{precision} on {device.type}{sharded}")
    chosen = replace(settings, device=device.type, precision=precision, batch_tokens=budget)
    return weights, chosen, partial(load_model, base, device, dtype)


def _begin(task: Task, weights: WeightStore) -> None:
    """Writes what the run is made of; config.toml comes last, and says that it has begun."""
    settings, folder = task.settings, task.folder
    # Checkpoints while one more is written, the best weights and those before, the tuned model.
    checkpoints = settings.keep + 1 if settings.save_every else 1
    need_space(folder.path, (3 * checkpoints + 3) * weight_bytes(weights))
    folder.write_json("data.json", {**task.record, "settings": settings_record(settings)})
    rows = (json.dumps(as_row(c), ensure_ascii=False) for c in task.prepared.held_out.conversations)
    write_whole(folder.eval_rows, "".join(f"{row}\n" for row in rows))
    write_config(with_absolute_paths(settings), folder.config)


def _base_judgement(task: Task, weights: WeightStore, fresh: Callable[[], Any]) -> Judgement:
    """The base's judgement: made before step 1, and kept for when the run is resumed."""
    if (task.folder.path / BASE_FILE).is_file():
        return Judgement.from_json(task.folder.read_json(BASE_FILE))
    line(task.out, "base", f"answers {len(task.questions)} held-out prompts")
    base = task.judged(weights.standalone_model(fresh, {}))
    task.folder.write_json(BASE_FILE, base.as_json())
    return base


def _judge_and_save(
    task: Task, model: Any, tensors: Mapping[str, Tensor], base: Judgement, progress: Progress
) -> Trained:
    prepared, folder, questions = task.prepared, task.folder, task.questions
    tuned = task.judged(model)
    judgements = {"base": base, "tuned": tuned}
    answers = training_answers(prepared.train.conversations)
    card = score(base, tuned, questions, answers, terms=task.terms)
    trained = trained_rows(task)
    system = shared_system_prompt(prepared.train.conversations)
    texts = {} if system is None else {SYSTEM_PROMPT_FILE: system}
    texts["README.md"] = model_card(prepared, task.settings, card, __version__, system is not None)
    save_model(model, tensors, {**task.files, **texts}, folder.model)
    folder.write_json("scorecard.json", card.record())
    rows = [json.dumps(s, ensure_ascii=False) for s in samples(questions, judgements)]
    write_whole(folder.path / "samples.jsonl", "\n".join(rows) + "\n")
    report = report_of(task, card, base, tuned, trained)
    write_whole(folder.path / "report.html", page(report))
    clear_best(folder.checkpoints)
    show_outcome(card, questions, judgements, task.out)
    show_unusual(trained, task.out)
    line(task.out, "run", str(folder.path))
    line(task.out, "report", str(folder.path / "report.html"))
    line(task.out, "next", f"biddable chat {folder.path}")
    return Trained(folder.path, progress, card, tuned=tuned)


def run(options: dict[str, Any], printing: Printing) -> int:
    """Trains; returns 0, or 130 or 143 when it was interrupted and saved."""
    try:
        trained = train(**options)
    except BiddableError as error:
        # Whatever restarts what died must not take a run that is done for one that failed.
        if options.get("resume") != "auto" or error.finding.code != "run_finished":
            raise
        notices().write(f"{error.finding.message}\n")
        return 0
    if printing.json and trained.rank == 0:
        write_json(trained.as_json())
    return trained.exit_code
