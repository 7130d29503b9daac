"""`train`: from files to a tuned model, a scorecard and a verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biddable import __version__
from biddable.chat.encode import stop_token_ids
from biddable.data.findings import BiddableError
from biddable.engine.memory import keep_freed_memory
from biddable.engine.precision import Weights, choose_device, choose_dtype, load_model
from biddable.judging.judge import Judgement, ask
from biddable.judging.report import page
from biddable.judging.scorecard import Scorecard, score
from biddable.models.save import save_model
from biddable.training.checkpoint import Progress, load_checkpoint
from biddable.training.evaluate import held_out_loss
from biddable.training.interrupt import Interrupt
from biddable.training.log import Log, Screen, console, counting, each, json_log
from biddable.training.loop import Parts, finished, fit, load_best, make_optimizer
from biddable.training.run_folder import Lock, RunFolder, cut_log, new_run_folder, open_run_folder
from biddable.training.schedule import total_steps
from biddable.training.settings import Settings, read_config, with_values, write_config
from biddable.training.trackers import tracker, tracker_package
from biddable.verbs.budget import tokens_per_pass
from biddable.verbs.outcome import model_card, samples, show_outcome, show_unusual
from biddable.verbs.prepare import prepare
from biddable.verbs.record import data_record, refuse_changes
from biddable.verbs.reporting import training_answers
from biddable.verbs.show import line, show_findings, show_masks, show_prepared
from biddable.verbs.task import Task, report_of, trained_rows

BASE_FILE = "base.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of `train`.

    Args:
        run: the run folder.
        progress: steps done, tokens, seconds and the best evaluation.
        scorecard: base against tuned; None when the run was interrupted.
        exit_code: 0, or 130 or 143 when a signal stopped it after saving.
    """

    run: Path
    progress: Progress
    scorecard: Scorecard | None
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        """The object that `train --json` prints."""
        told = {
            "run": str(self.run),
            "steps": self.progress.step,
            "train_tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 3),
            "loss": self.progress.best_loss,
        }
        if self.scorecard is None:
            return {**told, "base": {}, "tuned": {}, "verdict": "interrupted"}
        metrics = self.scorecard.metrics
        return {
            **told,
            "base": {name: m.base for name, m in metrics.items()},
            "tuned": {name: m.tuned for name, m in metrics.items()},
            "verdict": self.scorecard.verdict.sentence,
        }


def train(data: str | Sequence[str] = (), *, resume: str = "", **options: Any) -> Trained:
    """Tunes a base model on the data, and judges base and tuned on held-out rows.

    Args:
        data: files or folders with the training rows.
        resume: a run folder to go on with; its config.toml holds the settings.
        options: fields of `biddable.training.settings.Settings`, by name.

    Raises:
        BiddableError: whatever is wrong with data, base, template, options or folders.
    """
    out = console()
    settings, folder = _asked(data, resume, options)
    package = tracker_package(settings.report_to)
    prepared = prepare(settings, counting(out))
    show_prepared(prepared, out)
    show_masks(prepared.train.examples[:1], prepared, out)
    show_findings(prepared, out)
    prepared.refuse_errors()
    record = data_record(prepared, settings)
    if folder is None:
        folder = new_run_folder(settings.out, settings.data)
        write_config(settings, folder.config)
        folder.write_json("data.json", record)
    else:
        refuse_changes(folder.read_json("data.json"), record, folder)
    questions = ask(
        prepared.held_out.conversations,
        prepared.tokenizer,
        prepared.template,
        most=settings.answers,
    )
    task = Task(prepared, settings, folder, questions, out)
    sent = tracker(settings.report_to, package, folder.path, asdict(settings), out)
    with Lock(folder), Interrupt() as interrupt, sent as log:
        return _run(task, interrupt, log, bool(resume))


def _asked(
    data: str | Sequence[str], resume: str, options: dict[str, Any]
) -> tuple[Settings, RunFolder | None]:
    """The settings, and the folder of the run that is to go on."""
    if resume:
        if data or options:
            raise BiddableError(
                "--resume goes on with the settings of the run and takes no others",
                code="option",
                fix="leave the other options out, or start a new run",
            )
        folder = open_run_folder(resume)
        return with_values(Settings(), read_config(str(folder.config))), folder
    files = (data,) if isinstance(data, str) else tuple(data)
    settings = with_values(Settings(), {"data": files, **options} if files else options)
    if not settings.data:
        raise BiddableError("no data is given", code="option", fix="biddable train data.jsonl")
    return settings, None


def _run(task: Task, interrupt: Interrupt, sent: Log, resumed: bool) -> Trained:
    settings, folder, out = task.settings, task.folder, task.out
    weights, budget = _load(task)
    examples = task.prepared.train.examples
    steps = total_steps(len(examples), settings.batch_size, settings.epochs, settings.steps)
    line(out, "plan", f"{steps} steps of {settings.batch_size} rows, {budget:,} tokens at a time")
    optimizer = make_optimizer(weights, settings)
    screen = Screen(steps, out)
    parts = Parts(
        weights=weights,
        optimizer=optimizer,
        examples=examples,
        evaluate=lambda: held_out_loss(weights.model, task.prepared.held_out.examples, budget),
        answer=lambda: task.answer(weights.model),
        log=each(json_log(folder.log), screen, sent),
        folder=folder.checkpoints,
        batch_tokens=budget,
    )
    base = _base_judgement(task, weights)
    progress = _resume(task, parts) if resumed else Progress()
    with screen:
        if not resumed:
            parts.log(task.first_event(base))
        progress = fit(parts, settings, progress, interrupt)
    if not finished(progress, settings, len(examples)):
        line(out, "interrupted", f"saved; go on with: biddable train --resume {folder.path}")
        return Trained(folder.path, progress, None, interrupt.exit_code)
    if progress.step < steps:
        told = f"after step {progress.step}: {progress.since_best} evaluations without improvement"
        line(out, "early stop", told)
    load_best(parts, progress)
    optimizer.state.clear()
    return _judge_and_save(task, weights, base, progress, budget)


def _load(task: Task) -> tuple[Weights, int]:
    """The base's weights on the chosen device in the chosen precision, and tokens per pass."""
    settings = task.settings
    keep_freed_memory()
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.precision, device)  # type: ignore[arg-type]
    # Loaded in fp32 whatever is computed in: these are the masters.
    weights = Weights(load_model(task.prepared.base, device), dtype)
    budget = tokens_per_pass(settings, weights, task.prepared.train.examples, device, task.out)
    line(task.out, "compute", f"{str(dtype).removeprefix('torch.')} on {device.type}")
    return weights, budget


def _base_judgement(task: Task, weights: Weights) -> Judgement:
    """The base's judgement: made before step 1, and kept for when the run is resumed."""
    if (task.folder.path / BASE_FILE).is_file():
        return Judgement.from_json(task.folder.read_json(BASE_FILE))
    line(task.out, "base", f"answers {len(task.questions)} held-out prompts")
    base = task.judged(weights.model)
    task.folder.write_json(BASE_FILE, base.as_json())
    return base


def _resume(task: Task, parts: Parts) -> Progress:
    """The progress of the newest sound checkpoint; the log is cut back to it."""
    progress, damaged = load_checkpoint(task.folder.checkpoints, parts.weights, parts.optimizer)
    for name in damaged:
        line(task.out, "damaged", f"checkpoint {name} is passed over")
    cut_log(task.folder.log, progress.step)
    line(task.out, "resume", f"from step {progress.step}")
    return progress


def _judge_and_save(
    task: Task, weights: Weights, base: Judgement, progress: Progress, budget: int
) -> Trained:
    prepared, folder, questions = task.prepared, task.folder, task.questions
    tuned = task.judged(weights.model)
    card = score(base, tuned, questions, training_answers(prepared.train.conversations))
    trained = trained_rows(task, weights.model, budget)
    save_model(
        weights.model,
        dict(weights.named()),
        prepared.tokenizer,
        chat_template=prepared.template.text,
        stop_ids=stop_token_ids(prepared.tokenizer, prepared.template),
        card=model_card(prepared, task.settings, card, __version__),
        folder=folder.model,
    )
    folder.write_json("scorecard.json", card.as_json())
    rows = [json.dumps(s, ensure_ascii=False) for s in samples(questions, base, tuned)]
    (folder.path / "samples.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    report = report_of(task, card, base, tuned, trained)
    (folder.path / "report.html").write_text(page(report), encoding="utf-8")
    show_outcome(card, questions, base, tuned, task.out)
    show_unusual(trained, task.out)
    line(task.out, "run", str(folder.path))
    line(task.out, "report", str(folder.path / "report.html"))
    line(task.out, "next", f"biddable chat {folder.path}")
    return Trained(folder.path, progress, card)
