"""`pretrain`: from plain text to a small base model, with the engine and the loop of `train`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from biddable.data.texts import PlainText, read_texts
from biddable.engine.memory import choose_batch_tokens, keep_freed_memory, needs_of
from biddable.engine.plan import plan_step
from biddable.engine.precision import choose_device, choose_dtype, new_model
from biddable.engine.step import backward_step
from biddable.errors import BiddableError
from biddable.from_scratch.corpus import Corpus, cut_ends, encode_corpus
from biddable.from_scratch.new_model import Shape, new_config
from biddable.from_scratch.pretrained import Pretrained, Pretraining, samples_of, save_pretrained
from biddable.from_scratch.tokenizer import open_tokenizer, train_tokenizer
from biddable.models.model_files import model_files, own_template
from biddable.options import read_config, with_values, write_config
from biddable.settings import PretrainSettings
from biddable.storage import refuse_existing_run
from biddable.terminal import console, line
from biddable.training.checkpoint import Progress
from biddable.training.evaluate import held_out_loss
from biddable.training.interrupt import Interrupt
from biddable.training.log import Screen, each, json_log
from biddable.training.loop import TrainerParts, best_weights, finished, fit, make_optimizer
from biddable.training.resume import refuse_changes, resume_progress
from biddable.training.run_folder import Lock, RunFolder, new_run_folder, open_run_folder
from biddable.training.schedule import total_steps
from biddable.training.weights import Replicas

# Each feeds all held-out text, which costs about as much as five steps.
EVALUATIONS = 5
# What evaluations, the optimizer and the log leave of the time for forward and backward.
SHARE_OF_PASSES = 0.85
TIMED_STEPS = 4
# Of the sample at each evaluation.
WATCHED_TOKENS = 32
TOKENIZER_FILE = "tokenizer.json"


def pretrain(data: str | Sequence[str] = (), *, resume: str = "", **options: Any) -> Pretrained:
    """Trains a small model on plain text, every token counted.

    Args:
        data: text files, folders of .txt and .md files, or `shakespeare`.
        resume: a run folder to go on with; its config.toml holds the settings.
        options: fields of `biddable.settings.PretrainSettings`, by name.

    Raises:
        BiddableError: whatever is wrong with texts, tokenizer, options or folders.
    """
    out = console()
    if bool(resume) == bool(data) or (resume and options):
        raise BiddableError(
            "option",
            "give either texts and options, or --resume alone",
            "biddable pretrain TEXT... --out DIR, or biddable pretrain --resume DIR",
        )
    folder: RunFolder | None = None
    if resume:
        folder = open_run_folder(resume)
        folder.refuse_finished()
        config = read_config(str(folder.config), PretrainSettings)
        settings = with_values(PretrainSettings(), config)
    else:
        settings = with_values(PretrainSettings(), {"data": data, **options})
        refuse_existing_run(settings.out)
    device = choose_device(settings.device)
    texts = read_texts(settings.data)
    kept = folder.path / TOKENIZER_FILE if folder else None
    tokenizer = _tokenizer(settings, texts, kept)
    corpus = encode_corpus([text.content for text in texts], tokenizer, settings.context)
    weights, budget = _build(settings, tokenizer, device)
    _show(settings, texts, corpus, weights, out)
    beside = model_files(
        weights.model,
        tokenizer,
        chat_template=own_template(tokenizer),
        stop_ids=[tokenizer.eos_token_id],
    )
    record = {"sources": {text.file: text.sha256 for text in texts}}
    if folder:
        refuse_changes(folder.read_json("data.json"), record, folder)
    else:
        settings = _settled(settings, weights, corpus, budget)
        folder = new_run_folder(settings.out, settings.data)
        folder.write_json("data.json", record)
        tokenizer.backend_tokenizer.save(str(folder.path / TOKENIZER_FILE))
        # Comes last: it says that the run has begun.
        write_config(settings, folder.config)
    task = Pretraining(settings, folder, tokenizer, corpus, weights, beside, out)
    with Lock(folder), Interrupt() as interrupt:
        return _run(task, interrupt, bool(resume))


def _tokenizer(settings: PretrainSettings, texts: Sequence[PlainText], kept: Path | None) -> Any:
    """That of the run that is resumed, the one asked for, or one trained on the training text."""
    if kept or settings.tokenizer:
        return open_tokenizer(str(kept or settings.tokenizer))
    starts = [start for start, _ in cut_ends([text.content for text in texts])]
    return train_tokenizer(starts, settings.vocab)


def _build(
    settings: PretrainSettings, tokenizer: Any, device: torch.device
) -> tuple[Replicas, int]:
    """A new model's weights, and tokens per pass."""
    s = settings
    shape = Shape(s.shape, s.width, s.layers, s.heads, s.context)
    config = new_config(shape, len(tokenizer), tokenizer.eos_token_id)
    keep_freed_memory()
    dtype = choose_dtype(s.precision, device)  # type: ignore[arg-type]
    weights = Replicas(new_model(config, device, s.seed), dtype)
    return weights, s.batch_tokens or choose_batch_tokens(
        needs_of(weights.model, weights.pieces, weights.working_bytes), device
    )


def _show(
    settings: PretrainSettings,
    texts: Sequence[PlainText],
    corpus: Corpus,
    weights: Replicas,
    out: Console,
) -> None:
    size = sum(len(t.content) for t in texts)
    line(out, "text", f"{len(texts)} texts of {size:,} characters")
    rows, held_out = len(corpus.train), sum(len(e.input_ids) - 1 for e in corpus.held_out)
    line(out, "tokens", f"{rows:,} rows of {settings.context} to train on, {held_out:,} held out")
    parameters = sum(shape.numel() for shape in weights.shapes)
    line(out, "model", f"{settings.shape} of {settings.layers} layers, {parameters:,} parameters")


def _settled(
    settings: PretrainSettings, weights: Replicas, corpus: Corpus, budget: int
) -> PretrainSettings:
    """The settings with what was chosen here, which a resumed run must not choose anew."""
    model = weights.model
    steps = settings.steps
    if not steps and settings.epochs:
        steps = total_steps(len(corpus.train), settings)
    return replace(
        settings,
        steps=steps or _steps_in(settings, weights, corpus, budget),
        batch_tokens=budget,
        device=model.device.type,
        precision="fp32" if model.dtype == torch.float32 else "bf16",
    )


def _steps_in(settings: PretrainSettings, weights: Replicas, corpus: Corpus, budget: int) -> int:
    """As many steps as fit into the minutes, by the time of the first few."""
    rows = corpus.train[: settings.batch_size]
    plan = plan_step(rows, budget)
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        backward_step(weights.model, rows, plan)
        seconds.append(time.perf_counter() - start)
    for piece in weights.pieces:
        piece.grad = None
    return max(1, int(60 * settings.minutes * SHARE_OF_PASSES / min(seconds)))


def _run(task: Pretraining, interrupt: Interrupt, resumed: bool) -> Pretrained:
    settings, weights, folder, out = task.settings, task.weights, task.folder, task.out
    parameters = sum(shape.numel() for shape in weights.shapes)
    screen = Screen(settings.steps, out)
    parts = TrainerParts(
        weights=weights,
        optimizer=make_optimizer(weights, settings),
        examples=task.corpus.train,
        evaluate=lambda: held_out_loss(weights.model, task.corpus.held_out, settings.batch_tokens),
        answer=lambda: samples_of(task, [""], WATCHED_TOKENS)[0]["text"],
        log=each(json_log(folder.log), screen),
        folder=folder.checkpoints,
        settings=settings,
        every=math.ceil(settings.steps / EVALUATIONS),
        floor=0.0,
    )
    progress = resume_progress(folder, parts, out) if resumed else Progress()
    with screen:
        progress = fit(parts, progress, interrupt)
    if not finished(progress, settings, len(parts.examples)):
        line(out, "interrupted", f"saved; go on with: biddable pretrain --resume {folder.path}")
        return Pretrained(folder.path, progress, parameters, None, interrupt.exit_code)
    weights.load(best_weights(parts, progress))
    # Comparable between tokenizers, which nats a token are not.
    bits = progress.best_loss / math.log(2) / task.corpus.bytes_per_token
    result = Pretrained(folder.path, progress, parameters, bits)
    save_pretrained(task, result)
    return result
