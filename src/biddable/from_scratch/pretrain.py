"""`pretrain`: from plain text to a small base model, with the engine and the loop of `train`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from biddable.data.rows import number_of
from biddable.data.texts import PlainText, read_texts
from biddable.engine.memory import choose_batch_tokens, keep_freed_memory, needs_of
from biddable.engine.plan import plan_step
from biddable.engine.precision import choose_device, choose_dtype, new_model
from biddable.engine.step import backward_step
from biddable.errors import BiddableError
from biddable.from_scratch.corpus import Corpus, cut_ends, encode_corpus
from biddable.from_scratch.new_model import new_config
from biddable.from_scratch.pretrained import Pretrained, Pretraining, samples_of, save_pretrained
from biddable.from_scratch.tokenizer import open_tokenizer, train_tokenizer
from biddable.models.model_files import model_files, own_template
from biddable.options import read_config, refuse_two_lengths, with_values, write_config
from biddable.settings import PretrainSettings
from biddable.storage import refuse_existing_run
from biddable.terminal import console, line
from biddable.training.checkpoint import Progress
from biddable.training.evaluate import held_out_loss
from biddable.training.interrupt import Interrupt
from biddable.training.log import Screen, combined, json_log
from biddable.training.loop import TrainerParts, best_weights, finished, fit, make_optimizer
from biddable.training.resume import refuse_changes, resume_progress
from biddable.training.run_folder import Lock, RunFolder, new_run_folder, open_run_folder
from biddable.training.schedule import total_steps
from biddable.training.weights import Replicas

# Each feeds all held-out text, which costs about as much as five steps.
EVALUATIONS = 5
# Share of the time for forward and backward; the rest is evaluations, optimizer and log.
SHARE_OF_PASSES = 0.85
TIMED_STEPS = 4
# Tokens sampled at each evaluation.
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
    settings, folder = _start(data, resume, options)
    device = choose_device(settings.device)
    texts = read_texts(settings.data)
    tokenizer = _tokenizer(settings, texts, folder)
    corpus = encode_corpus([text.content for text in texts], tokenizer, settings.context)
    settings, weights = _build(settings, tokenizer, device)
    _show(settings, texts, corpus, weights, out)
    template, ends = own_template(tokenizer), [tokenizer.eos_token_id]
    files = model_files(weights.model, tokenizer, chat_template=template, stop_ids=ends)
    record = {"sources": {text.file: text.sha256 for text in texts}}
    if folder:
        refuse_changes(folder.read_json("data.json"), record, folder)
    else:
        settings = replace(settings, steps=_steps(settings, weights, corpus))
        folder = _begin(settings, record, tokenizer)
    task = Pretraining(settings, folder, tokenizer, corpus, weights, files, out)
    with Lock(folder), Interrupt() as interrupt:
        return _run(task, interrupt, resumed=bool(resume))


def _start(
    data: str | Sequence[str], resume: str, options: dict[str, Any]
) -> tuple[PretrainSettings, RunFolder | None]:
    """The settings, and the run to go on with; None for a new one."""
    if bool(resume) == bool(data) or (resume and options):
        what = "give either texts and options, or --resume alone"
        fix = "biddable pretrain TEXT... --out DIR, or biddable pretrain --resume DIR"
        raise BiddableError("option", what, fix)
    if resume:
        folder = open_run_folder(resume)
        folder.refuse_finished()
        config = read_config(str(folder.config), PretrainSettings)
        return with_values(PretrainSettings(), config), folder
    refuse_two_lengths(options)
    settings = with_values(PretrainSettings(), {"data": data, **options})
    refuse_existing_run(settings.out)
    return settings, None


def _begin(settings: PretrainSettings, record: dict[str, Any], tokenizer: Any) -> RunFolder:
    """The folder of a new run; config.toml comes last, and says that the run has begun."""
    folder = new_run_folder(settings.out, settings.data)
    folder.write_json("data.json", record)
    tokenizer.backend_tokenizer.save(str(folder.path / TOKENIZER_FILE))
    write_config(settings, folder.config)
    return folder


def _tokenizer(
    settings: PretrainSettings, texts: Sequence[PlainText], folder: RunFolder | None
) -> Any:
    """The tokenizer of the run that is resumed, that of the settings, or one trained here."""
    name = str(folder.path / TOKENIZER_FILE) if folder else settings.tokenizer
    if name:
        return open_tokenizer(name)
    starts = [start for start, _ in cut_ends([text.content for text in texts])]
    return train_tokenizer(starts, settings.vocab)


def _build(
    settings: PretrainSettings, tokenizer: Any, device: torch.device
) -> tuple[PretrainSettings, Replicas]:
    """A new model's weights, and the settings with what was chosen for it."""
    config = new_config(settings, len(tokenizer), tokenizer.eos_token_id)
    keep_freed_memory()
    dtype = choose_dtype(settings.precision, device)  # type: ignore[arg-type]
    weights = Replicas(new_model(config, device, settings.seed), dtype)
    budget = settings.batch_tokens or choose_batch_tokens(
        needs_of(weights.model, weights.pieces, weights.working_bytes), device
    )
    precision = "fp32" if dtype == torch.float32 else "bf16"
    chosen = replace(settings, batch_tokens=budget, device=device.type, precision=precision)
    return chosen, weights


def _show(
    settings: PretrainSettings,
    texts: Sequence[PlainText],
    corpus: Corpus,
    weights: Replicas,
    out: Console,
) -> None:
    size = sum(len(t.content) for t in texts)
    rows, held_out = len(corpus.train), sum(len(e.input_ids) - 1 for e in corpus.held_out)
    line(out, "text", f"{number_of(len(texts), 'text')} of {size:,} characters")
    line(out, "tokens", f"{rows:,} rows of {settings.context} to train on, {held_out:,} held out")
    shape = f"{settings.shape} of {number_of(settings.layers, 'layer')}"
    line(out, "model", f"{shape}, {_parameters(weights):,} parameters")


def _parameters(weights: Replicas) -> int:
    return sum(shape.numel() for shape in weights.shapes)


def _steps(settings: PretrainSettings, weights: Replicas, corpus: Corpus) -> int:
    """The steps of the run: as set, of so many epochs, or as many as fit into the minutes."""
    if settings.steps or settings.epochs:
        return total_steps(len(corpus.train), settings)
    examples = corpus.train[: settings.batch_size]
    plan = plan_step(examples, settings.batch_tokens)
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        backward_step(weights.model, examples, plan)
        seconds.append(time.perf_counter() - start)
    for piece in weights.pieces:
        piece.grad = None
    return max(1, int(60 * settings.minutes * SHARE_OF_PASSES / min(seconds)))


def _run(task: Pretraining, interrupt: Interrupt, *, resumed: bool) -> Pretrained:
    settings, weights, folder, out = task.settings, task.weights, task.folder, task.out
    screen = Screen(settings.steps, out)
    parts = TrainerParts(
        weights=weights,
        optimizer=make_optimizer(weights, settings),
        examples=task.corpus.train,
        evaluate=lambda: held_out_loss(weights.model, task.corpus.held_out, settings.batch_tokens),
        answer=lambda: samples_of(task, [""], WATCHED_TOKENS)[0]["text"],
        log=combined(json_log(folder.log), screen),
        folder=folder.checkpoints,
        settings=settings,
        every=math.ceil(settings.steps / EVALUATIONS),
        floor=0.0,
    )
    progress = resume_progress(folder, parts, out) if resumed else Progress()
    with screen:
        progress = fit(parts, progress, interrupt)
    parameters = _parameters(weights)
    if not finished(progress, settings, len(parts.examples)):
        line(out, "interrupted", f"saved; go on with: biddable pretrain --resume {folder.path}")
        return Pretrained(folder.path, progress, parameters, None, interrupt.exit_code)
    weights.load(best_weights(parts, progress))
    # Comparable between tokenizers, which nats per token are not.
    bits = progress.best_loss / math.log(2) / task.corpus.bytes_per_token
    result = Pretrained(folder.path, progress, parameters, bits)
    save_pretrained(task, result)
    return result
