"""`train`: from files to a tuned model, a scorecard and a verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from biddable import __version__
from biddable.chat.encode import stop_token_ids
from biddable.data.findings import BiddableError
from biddable.engine.memory import choose_batch_tokens, keep_freed_memory
from biddable.engine.precision import Weights, choose_device, choose_dtype, load_model
from biddable.judging.judge import Judgement, Question, ask, judge
from biddable.judging.report import Report, page
from biddable.judging.scorecard import Scorecard, score
from biddable.models.save import save_model
from biddable.training.checkpoint import Progress, load_checkpoint
from biddable.training.evaluate import held_out_loss
from biddable.training.interrupt import Interrupt
from biddable.training.log import Screen, both, console, counting, json_log
from biddable.training.loop import Parts, fit, load_best, make_optimizer
from biddable.training.run_folder import Lock, RunFolder, cut_log, new_run_folder, open_run_folder
from biddable.training.schedule import total_steps
from biddable.training.settings import Settings, read_config, with_values, write_config
from biddable.verbs.outcome import model_card, samples, show_outcome
from biddable.verbs.prepare import Prepared, prepare
from biddable.verbs.reporting import shown_tokens, versions
from biddable.verbs.show import line, show_findings, show_masks, show_prepared

BASE_FILE = "base.json"
# Training examples whose loss is measured, to tell learning from memorising.
MOST_COMPARED = 32


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
    if resume:
        if data or options:
            raise BiddableError(
                "--resume goes on with the settings of the run and takes no others",
                code="option",
                fix="leave the other options out, or start a new run",
            )
        folder = open_run_folder(resume)
        settings = with_values(Settings(), read_config(str(folder.config)))
    else:
        files = (data,) if isinstance(data, str) else tuple(data)
        given = {"data": files, **options} if files else options
        settings = with_values(Settings(), given)
        if not settings.data:
            raise BiddableError("no data is given", code="option", fix="biddable train data.jsonl")
    prepared = prepare(settings, counting(out))
    show_prepared(prepared, out)
    show_masks(prepared.train.examples[:1], prepared, out)
    show_findings(prepared, out)
    prepared.refuse_errors()
    if not resume:
        folder = new_run_folder(settings.out, settings.data)
        write_config(settings, folder.config)
        folder.write_json("data.json", data_record(prepared, settings))
    else:
        refuse_changes(folder.read_json("data.json"), data_record(prepared, settings), folder)
    questions = ask(
        prepared.held_out.conversations,
        prepared.tokenizer,
        prepared.template,
        most=settings.answers,
    )
    task = _Task(prepared, settings, folder, questions, out)
    with Lock(folder), Interrupt() as interrupt:
        return _run(task, interrupt, bool(resume))


def data_record(prepared: Prepared, settings: Settings) -> dict[str, Any]:
    """data.json: what the run is made of, so that nothing can change under it unseen."""
    return {
        "sources": prepared.hashes,
        "format": prepared.format,
        "rows": prepared.rows,
        "template": prepared.template.text,
        "seed": settings.seed,
        "train": len(prepared.train.examples),
        "held_out": [[c.file, c.line] for c in prepared.held_out.conversations],
        "dropped": [str(f) for f in prepared.dropped],
    }


def refuse_changes(before: dict[str, Any], now: dict[str, Any], folder: RunFolder) -> None:
    """Refuses to go on with a run whose data or template is no longer what it was.

    Raises:
        BiddableError: `run_changed`, with the names of what changed.
    """
    changed = [name for name in before if before[name] != now.get(name)]
    if changed:
        raise BiddableError(
            f"the run {folder.path} cannot go on: {', '.join(changed)} changed since it started",
            code="run_changed",
            fix="put it back as it was, or start a new run",
        )


@dataclass(frozen=True, slots=True)
class _Task:
    """What a run works on, whichever of its parts is at work."""

    prepared: Prepared
    settings: Settings
    folder: RunFolder
    questions: Sequence[Question]
    out: Console

    def judged(self, model: Any) -> Judgement:
        """The model measured on the held-out rows and, for memorising, on some trained ones."""
        held_out, train = self.prepared.held_out.examples, self.prepared.train.examples
        return judge(
            model,
            self.prepared.tokenizer,
            self.prepared.template,
            self.questions,
            held_out,
            train_examples=train[: max(MOST_COMPARED, len(held_out))],
        )


def _run(task: _Task, interrupt: Interrupt, resumed: bool) -> Trained:
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
        log=both(json_log(folder.log), screen),
        folder=folder.checkpoints,
        batch_tokens=budget,
    )
    base = _base_judgement(task, weights)
    progress = resume_progress(folder, parts, out) if resumed else Progress()
    with screen:
        if not resumed:
            parts.log({"event": "eval", "step": 0, "held_out_loss": base.mean_loss()})
        progress = fit(parts, settings, progress, interrupt)
    if progress.step < steps:
        line(out, "interrupted", f"saved; go on with: biddable train --resume {folder.path}")
        return Trained(folder.path, progress, None, interrupt.exit_code)
    load_best(parts, progress)
    optimizer.state.clear()
    return _judge_and_save(task, weights, base, progress)


def _load(task: _Task) -> tuple[Weights, int]:
    """The base's weights on the chosen device in the chosen precision, and tokens per pass."""
    settings = task.settings
    keep_freed_memory()
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.precision, device)  # type: ignore[arg-type]
    # Loaded in fp32 whatever is computed in: these are the masters.
    weights = Weights(load_model(task.prepared.base, device), dtype)
    budget = settings.batch_tokens or choose_batch_tokens(weights.model.config, device, dtype)
    line(task.out, "compute", f"{str(dtype).removeprefix('torch.')} on {device.type}")
    return weights, budget


def _base_judgement(task: _Task, weights: Weights) -> Judgement:
    """The base's judgement: made before step 1, and kept for when the run is resumed."""
    if (task.folder.path / BASE_FILE).is_file():
        return Judgement.from_json(task.folder.read_json(BASE_FILE))
    line(task.out, "base", f"answers {len(task.questions)} held-out prompts")
    base = task.judged(weights.model)
    task.folder.write_json(BASE_FILE, base.as_json())
    return base


def resume_progress(folder: RunFolder, parts: Parts, out: Console) -> Progress:
    """The progress of the newest sound checkpoint; the log is cut back to it."""
    progress, damaged = load_checkpoint(folder.checkpoints, parts.weights, parts.optimizer)
    for name in damaged:
        line(out, "damaged", f"checkpoint {name} is passed over")
    cut_log(folder.log, progress.step)
    line(out, "resume", f"from step {progress.step}")
    return progress


def _judge_and_save(task: _Task, weights: Weights, base: Judgement, progress: Progress) -> Trained:
    prepared, folder, questions = task.prepared, task.folder, task.questions
    tuned = task.judged(weights.model)
    card = score(base, tuned, questions, _training_answers(prepared))
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
    report = _report(task, card, base, tuned)
    (folder.path / "report.html").write_text(page(report), encoding="utf-8")
    show_outcome(card, questions, base, tuned, task.out)
    line(task.out, "run", str(folder.path))
    line(task.out, "report", str(folder.path / "report.html"))
    line(task.out, "next", f"biddable chat {folder.path}")
    return Trained(folder.path, progress, card)


def _report(task: _Task, card: Scorecard, base: Judgement, tuned: Judgement) -> Report:
    """What report.html shows of the run."""
    prepared, settings = task.prepared, task.settings
    log = task.folder.log.read_text(encoding="utf-8").splitlines()
    facts = {name: str(value) for name, value in asdict(settings).items() if value not in ("", ())}
    hashes = {f"sha256 of {name}": value for name, value in prepared.hashes.items()}
    return Report(
        title=f"{prepared.base.name} tuned on {', '.join(settings.data)}",
        card=card,
        questions=task.questions,
        base=base,
        tuned=tuned,
        examples=prepared.held_out.examples,
        tokens=shown_tokens(prepared.held_out.examples, prepared.tokenizer, prepared.template),
        training_answers=_training_answers(prepared),
        events=[json.loads(text) for text in log],
        lengths=prepared.lengths,
        limit=prepared.max_length,
        facts={**facts, **versions(), **hashes},
        dropped=[str(f) for f in prepared.dropped],
    )


def _training_answers(prepared: Prepared) -> list[str]:
    return [
        m.content
        for c in prepared.train.conversations
        for m in c.messages
        if m.role == "assistant" and m.content
    ]
