"""`pretrain`: from plain text to a small base model, with the engine and the loop of `train`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from biddable import __version__
from biddable.data.findings import BiddableError
from biddable.data.texts import PlainText, read_texts
from biddable.dialogue.tokens import Piece, encode_batch, make_codec
from biddable.engine.memory import choose_batch_tokens, keep_freed_memory, needs_of
from biddable.engine.plan import plan_step
from biddable.engine.precision import Weights, choose_device, choose_dtype, new_model
from biddable.engine.step import backward_step
from biddable.judging.generate import generate
from biddable.judging.pictures import loss_curve
from biddable.judging.report import document, facts_list, section
from biddable.models.fresh import Shape, new_config
from biddable.models.save import save_model
from biddable.models.vocabulary import open_tokenizer, train_tokenizer
from biddable.training.checkpoint import Progress
from biddable.training.corpus import Corpus, cut_ends, encode_corpus
from biddable.training.evaluate import held_out_loss
from biddable.training.interrupt import Interrupt
from biddable.training.log import Screen, console, each, json_log
from biddable.training.loop import Parts, fit, load_best, make_optimizer
from biddable.training.run_folder import Lock, RunFolder, new_run_folder, open_run_folder
from biddable.training.settings import PretrainSettings, read_config, with_values, write_config
from biddable.verbs.begin import refuse_changes, resume_progress
from biddable.verbs.reporting import versions
from biddable.verbs.show import line

# Each feeds all held-out text, which costs about as much as five steps.
EVALUATIONS = 5
# What evaluations, the optimizer and the log leave of the time for forward and backward.
SHARE_OF_PASSES = 0.85
TIMED_STEPS = 4
SAMPLE_TOKENS = 160
# Of the sample at each evaluation.
WATCHED_TOKENS = 32
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """The result of `pretrain`.

    Args:
        run: the run folder; `run/model` is the Hugging Face folder.
        progress: steps done, tokens, seconds and the best evaluation.
        parameters: of the model.
        bits_per_byte: held-out loss per byte of text; None when the run was interrupted.
        exit_code: 0, or 130 or 143 when a signal stopped it after saving.
    """

    run: Path
    progress: Progress
    parameters: int
    bits_per_byte: float | None
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        """The object that `pretrain --json` prints."""
        return {
            "run": str(self.run),
            "steps": self.progress.step,
            "train_tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 3),
            "parameters": self.parameters,
            "loss": self.progress.best_loss,
            "bits_per_byte": self.bits_per_byte,
        }


def pretrain(data: str | Sequence[str] = (), *, resume: str = "", **options: Any) -> Pretrained:
    """Trains a small model on plain text, every token counted.

    Args:
        data: text files, folders of .txt and .md files, or `shakespeare`.
        resume: a run folder to go on with; its config.toml holds the settings.
        options: fields of `biddable.training.settings.PretrainSettings`, by name.

    Raises:
        BiddableError: whatever is wrong with texts, tokenizer, options or folders.
    """
    out = console()
    if bool(resume) == bool(data) or (resume and options):
        raise BiddableError(
            "give either texts and options, or --resume alone",
            code="option",
            fix="biddable pretrain TEXT... --out DIR, or biddable pretrain --resume DIR",
        )
    folder: RunFolder | None = None
    if resume:
        folder = open_run_folder(resume)
        config = read_config(str(folder.config), PretrainSettings)
        settings = with_values(PretrainSettings(), config)
    else:
        files = (data,) if isinstance(data, str) else tuple(data)
        settings = with_values(PretrainSettings(), {"data": files, **options})
    texts = read_texts(settings.data)
    kept = folder.path / TOKENIZER_FILE if folder else None
    tokenizer = _tokenizer(settings, texts, kept)
    corpus = encode_corpus([text.content for text in texts], tokenizer, settings.context)
    weights, budget = _build(settings, tokenizer)
    _show(settings, texts, corpus, weights, out)
    record = {"sources": {text.file: text.sha256 for text in texts}}
    if folder:
        refuse_changes(folder.read_json("data.json"), record, folder)
    else:
        settings = with_values(settings, {"steps": _steps(settings, weights, corpus, budget)})
        folder = new_run_folder(settings.out, settings.data)
        folder.write_json("data.json", record)
        tokenizer.backend_tokenizer.save(str(folder.path / TOKENIZER_FILE))
        # Comes last: it says that the run has begun.
        write_config(settings, folder.config)
    task = _Task(settings, folder, tokenizer, corpus, weights, budget, out)
    with Lock(folder), Interrupt() as interrupt:
        return _run(task, interrupt, bool(resume))


@dataclass(frozen=True, slots=True)
class _Task:
    """What a run works on."""

    settings: PretrainSettings
    folder: RunFolder
    tokenizer: Any
    corpus: Corpus
    weights: Weights
    budget: int
    out: Console


def _tokenizer(settings: PretrainSettings, texts: Sequence[PlainText], kept: Path | None) -> Any:
    """That of the run that is resumed, the one asked for, or one trained on the training text."""
    if kept or settings.tokenizer:
        return open_tokenizer(str(kept or settings.tokenizer))
    starts = [start for start, _ in cut_ends([text.content for text in texts])]
    return train_tokenizer(starts, settings.vocab)


def _build(settings: PretrainSettings, tokenizer: Any) -> tuple[Weights, int]:
    """A new model's weights, and tokens per pass."""
    s = settings
    shape = Shape(s.shape, s.width, s.layers, s.heads, s.context)
    config = new_config(shape, len(tokenizer), tokenizer.eos_token_id)
    keep_freed_memory()
    device = choose_device(s.device)
    dtype = choose_dtype(s.precision, device)  # type: ignore[arg-type]
    weights = Weights(new_model(config, device, s.seed), dtype)
    return weights, s.batch_tokens or choose_batch_tokens(
        needs_of(weights.model, weights.masters), device
    )


def _show(
    settings: PretrainSettings,
    texts: Sequence[PlainText],
    corpus: Corpus,
    weights: Weights,
    out: Console,
) -> None:
    size = sum(len(t.content) for t in texts)
    line(out, "text", f"{len(texts)} texts of {size:,} characters")
    rows, held_out = len(corpus.train), sum(len(e.input_ids) - 1 for e in corpus.held_out)
    line(out, "tokens", f"{rows:,} rows of {settings.context} to train on, {held_out:,} held out")
    parameters = sum(m.numel() for m in weights.masters)
    line(out, "model", f"{settings.shape} of {settings.layers} layers, {parameters:,} parameters")


def _steps(settings: PretrainSettings, weights: Weights, corpus: Corpus, budget: int) -> int:
    """As many as asked for, or as many as fit into the minutes, by the time of the first few."""
    if settings.steps:
        return settings.steps
    rows = corpus.train[: settings.batch_size]
    plan = plan_step(rows, budget)
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        backward_step(weights.model, rows, plan)
        seconds.append(time.perf_counter() - start)
    for master in weights.masters:
        master.grad = None
    return max(1, int(60 * settings.minutes * SHARE_OF_PASSES / min(seconds)))


def _run(task: _Task, interrupt: Interrupt, resumed: bool) -> Pretrained:
    settings, weights, folder, out = task.settings, task.weights, task.folder, task.out
    parameters = sum(m.numel() for m in weights.masters)
    screen = Screen(settings.steps, out)
    parts = Parts(
        weights=weights,
        optimizer=make_optimizer(weights, settings),
        examples=task.corpus.train,
        evaluate=lambda: held_out_loss(weights.model, task.corpus.held_out, task.budget),
        answer=lambda: _samples(task, [""], WATCHED_TOKENS)[0]["text"],
        log=each(json_log(folder.log), screen),
        folder=folder.checkpoints,
        batch_tokens=task.budget,
        every=math.ceil(settings.steps / EVALUATIONS),
        floor=0.0,
    )
    progress = resume_progress(folder, parts, out) if resumed else Progress()
    with screen:
        progress = fit(parts, settings, progress, interrupt)
    if progress.step < settings.steps:
        line(out, "interrupted", f"saved; go on with: biddable pretrain --resume {folder.path}")
        return Pretrained(folder.path, progress, parameters, None, interrupt.exit_code)
    load_best(parts, progress)
    # Comparable between tokenizers, which nats a token are not.
    bits = progress.best_loss / math.log(2) / task.corpus.bytes_per_token
    result = Pretrained(folder.path, progress, parameters, bits)
    _save(task, result)
    return result


def _save(task: _Task, result: Pretrained) -> None:
    folder, out, stop = task.folder, task.out, task.tokenizer.eos_token_id
    model = task.weights.model
    samples = _samples(task, ["", *task.corpus.openings], SAMPLE_TOKENS)
    save_model(
        model,
        dict(task.weights.named()),
        task.tokenizer,
        chat_template=task.tokenizer.chat_template,
        stop_ids=[stop],
        card=_card(task, result),
        folder=folder.model,
    )
    rows = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    (folder.path / "samples.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder.path / "report.html").write_text(_page(task, result, samples), encoding="utf-8")
    for sample in samples:
        out.print()
        out.print(sample["prompt"], style="dim", markup=False, end="")
        out.print(sample["text"], markup=False)
    loss = f"{result.progress.best_loss:.3f} nats a token, {result.bits_per_byte:.3f} bits a byte"
    line(out, "held out", loss)
    line(out, "report", str(folder.path / "report.html"))
    line(out, "next", f"biddable train data.jsonl --base {folder.path}")


def _samples(task: _Task, openings: Sequence[str], tokens: int) -> list[dict[str, str]]:
    """What the model writes after each opening, at most so many tokens."""
    codec = make_codec(task.tokenizer.backend_tokenizer.to_str())
    end = task.tokenizer.eos_token_id
    prompts = [[end, *ids] for ids in encode_batch(codec, [Piece(o) for o in openings])]
    most = task.settings.context // 2
    answers = generate(
        task.weights.model,
        [prompt[:most] for prompt in prompts],
        stop_ids=[end],
        max_new_tokens=tokens,
        temperature=0.8,
        seed=task.settings.seed,
    )
    texts = [task.tokenizer.decode(list(a.ids)) for a in answers]
    return [{"prompt": o, "text": t} for o, t in zip(openings, texts, strict=True)]


def _page(task: _Task, result: Pretrained, samples: Sequence[dict[str, str]]) -> str:
    """report.html: the loss, what the model writes, and the settings."""
    events = [json.loads(text) for text in task.folder.log.read_text("utf-8").splitlines()]
    shown = "".join(
        f'<div class="text" dir="auto"><i>{escape(s["prompt"])}</i>{escape(s["text"])}</div><hr>'
        for s in samples
    )
    settings = {k: str(v) for k, v in asdict(task.settings).items() if v not in ("", ())}
    figures = {k: str(v) for k, v in result.as_json().items()}
    body = [
        section("Held-out loss", facts_list(figures)),
        section("Loss", loss_curve(events)),
        section("Samples", f"<p>In italics: what was given.</p>{shown}"),
        section("Settings", facts_list({**settings, **versions()})),
    ]
    return document(f"pretrained on {', '.join(task.settings.data)}", "".join(body))


def _card(task: _Task, result: Pretrained) -> str:
    """README.md of the model folder."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [biddable]
---

A {task.settings.shape}-shaped model of {result.parameters:,} parameters, trained from scratch with
biddable {__version__} on {result.progress.tokens:,} tokens of plain text. It goes on with a text
and follows no instructions. Held-out loss: {result.bits_per_byte:.3f} bits per byte.
"""
