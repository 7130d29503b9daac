"""What a training run is made of: the base's weights, the folder, the parts of the loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from biddable.commands.exam import Exam
from biddable.commands.kept_judgements import judgement_path, keep_judgement, kept_judgement
from biddable.data.fix import as_row
from biddable.data.rows import number_of
from biddable.dataset.prepared import Prepared
from biddable.engine.memory import keep_freed_memory
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.engine.proof import Proof
from biddable.errors import BiddableError
from biddable.generation.generate import generate
from biddable.generation.stream import text_decoder
from biddable.judging.judge import Judgement, LossRows, answer_limit
from biddable.models.adapter_files import adapter_folder
from biddable.models.base import load_config
from biddable.models.model_files import model_files, stop_ids_of
from biddable.models.text_part import processor_files, router_note, text_part_note
from biddable.options import write_config
from biddable.settings import Settings
from biddable.storage import need_space, write_whole
from biddable.terminal import line
from biddable.training.checkpoint import weight_bytes
from biddable.training.evaluate import mean_loss
from biddable.training.fit_in_memory import open_weights, tokens_per_pass
from biddable.training.kept_rows import FedRows, keep_rows
from biddable.training.log import Log, silent
from biddable.training.loop import TrainerParts, make_optimizer
from biddable.training.ranks import Ranks, all_max, broadcast_from_first
from biddable.training.resume import settings_record, with_absolute_paths
from biddable.training.run_folder import RunFolder
from biddable.training.schedule import evaluation_interval
from biddable.training.shards import Shards
from biddable.training.weights import Replicas, WeightStore

BASE_FILE = "base.json"
# Tokens of the answer at each evaluation: enough to watch it change.
MOST_WATCHED = 64


@dataclass(slots=True)
class Shared:
    """What the runs of one process share: their base.

    Args:
        loaded: the base in memory, with or without an adapter, and its proof; None before.
        judgements: of the base, by the key of the exam.
    """

    loaded: tuple[Any, Proof] | None = None
    judgements: dict[str, Judgement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run works on.

    Args:
        settings: with what was chosen for this machine, once the base is loaded.
        given_rate: the peak learning rate that was given, 0 where it follows from the base.
        record: data.json.
        shared: what the runs before have left in memory.
        proof: how rows are fed, once the base is loaded.
        rows: what the loop feeds, once the base is loaded.
    """

    settings: Settings
    given_rate: float
    prepared: Prepared
    exam: Exam
    folder: RunFolder
    record: dict[str, Any]
    ranks: Ranks
    out: Console
    shared: Shared
    proof: Proof | None = None
    rows: FedRows | None = None


def refuse_adapter(base: str) -> None:
    """Refuses to train on top of an adapter, which would leave one that needs two others."""
    if adapter_folder(Path(base)):
        what = f"the base {base} is an adapter, and what is trained on top of it would need both"
        fix = "train on the adapter's own base, with the rows of both"
        raise BiddableError("adapter_in_base", what, fix)


def load_base(run: Run) -> tuple[Run, WeightStore, Callable[[], Any]]:
    """The run with what was chosen and proven for the base, its weights as they are trained, and
    what loads the base as it is computed with."""
    settings = run.settings
    keep_freed_memory()
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.precision, device)  # type: ignore[arg-type]
    # Ranks on different machines might choose differently.
    precision = broadcast_from_first(
        run.ranks, lambda: "bf16" if dtype == torch.bfloat16 else "fp32"
    )
    dtype = choose_dtype(precision, device)
    base = replace(run.prepared.base, bits=settings.base_bits)
    weights, proof = open_weights(base, settings, device, dtype, run.ranks, run.shared.loaded)
    rows = _fed_rows(run, weights)
    own_budget = tokens_per_pass(settings, weights, rows, device, run.out)
    budget = -all_max(run.ranks, -own_budget)[0]
    sharded = ", sharded" if isinstance(weights, Shards) else ""
    bits = f", base in {settings.base_bits} bits" if settings.base_bits else ""
    kind = load_config(base).model_type
    if note := text_part_note(weights.model, kind, adapter=bool(settings.lora)):
        line(run.out, "text part", note)
    if note := router_note(weights.model):
        line(run.out, "experts", note)
    line(run.out, "compute", f"{precision} on {device.type}{sharded}{bits}")
    if settings.lora:
        run.shared.loaded = weights.model, proof
        line(run.out, "adapter", f"rank {settings.lora}, {_trained_count(weights)}")
    if settings.top_layers:
        line(run.out, "top layers", f"{settings.top_layers}, {_trained_count(weights)}")
    chosen = replace(settings, device=device.type, precision=precision, batch_tokens=budget)
    run = replace(run, settings=chosen, proof=proof, rows=rows)
    return run, weights, partial(load_model, base, device, dtype)


def _trained_count(weights: WeightStore) -> str:
    return f"{sum(shape.numel() for shape in weights.shapes):,} trained parameters"


def _fed_rows(run: Run, weights: WeightStore) -> FedRows:
    """The rows as the loop feeds them."""
    prepared, settings = run.prepared, run.settings
    rows = FedRows(prepared.train.examples, prepared.held_out.examples, prepared.longest)
    if not settings.top_layers:
        return rows
    assert isinstance(weights, Replicas)
    others = run.exam.loss_rows(weights.full_model)
    rows = replace(rows, judged=[*others.swapped, *others.train, *others.general])
    return keep_rows(weights, settings.top_layers, rows, settings, run.folder.path, run.out)


def judged(run: Run, weights: WeightStore, model: Any, known: Judgement | None = None) -> Judgement:
    """The judgement of a model that has these weights.

    With kept states the losses are measured by the top layers on them.

    Args:
        known: the same model's judgement by an exam of the same key.
    """
    if not run.settings.top_layers or run.rows is None:
        return run.exam.judged(model, known)
    tokens, numbers = run.exam.loss_rows(model), iter(run.rows.judged)
    swaps = list(islice(numbers, len(tokens.swapped)))
    train = list(islice(numbers, len(tokens.train)))
    ids = tokens.token_ids
    kept = LossRows(weights.model, run.rows.held_out, ids, swaps, train, list(numbers))
    return run.exam.judged(model, known, kept)


def folder_files(prepared: Prepared, model: Any) -> dict[str, str]:
    """What the model folder will hold beside weights and card: proven before step 1, since a run
    that cannot be saved has trained for nothing."""
    tokenizer, template = prepared.tokenizer, prepared.template
    stop_ids = stop_ids_of(model, tokenizer, template)
    files = model_files(model, tokenizer, chat_template=template.text, stop_ids=stop_ids)
    return {**processor_files(prepared.base.folder, model), **files}


def begin(run: Run, weights: WeightStore) -> None:
    """Writes what the run is made of; config.toml comes last, and says that it has begun."""
    settings, folder = run.settings, run.folder
    # Checkpoints while one more is written, the best weights and those before, the tuned model.
    checkpoints = settings.keep + 1 if settings.save_every else 1
    frozen = sum(4 * tensor.numel() for tensor in weights.frozen.values())
    need_space(folder.path, (3 * checkpoints + 3) * weight_bytes(weights) + frozen)
    path = asdict(run.proof) if run.proof else None
    record = {**run.record, "settings": settings_record(settings), "path": path}
    folder.write_json("data.json", record)
    rows = (json.dumps(as_row(c), ensure_ascii=False) for c in run.prepared.held_out.conversations)
    write_whole(folder.eval_rows, "".join(f"{row}\n" for row in rows))
    # With another base another rate follows, so only one that was given is handed on.
    write_config(replace(with_absolute_paths(settings), lr=run.given_rate), folder.config)


def trainer_parts(run: Run, weights: WeightStore, log: Log) -> TrainerParts:
    """What the loop works with; of several ranks only the first logs, and watches an answer.

    Shards watch none: as many passes as the answer has tokens, each with all ranks.
    """
    assert run.rows is not None
    settings, examples = run.settings, run.rows.train
    held_out, budget = run.rows.held_out, settings.batch_tokens
    watched = weights.full_model if run.ranks.first and isinstance(weights, Replicas) else None
    return TrainerParts(
        weights=weights,
        optimizer=make_optimizer(weights, settings),
        examples=examples,
        evaluate=lambda: mean_loss(weights, held_out, budget),
        answer=lambda: _watched_answer(run.exam, watched) if watched is not None else "",
        log=log if run.ranks.first else silent,
        folder=run.folder.checkpoints,
        settings=settings,
        every=evaluation_interval(len(examples), len(held_out), settings),
    )


def _watched_answer(exam: Exam, model: Any) -> str:
    """The model's answer to the first prompt, as far as it is watched."""
    if not exam.questions:
        return ""
    answer = generate(
        model,
        [exam.questions[0].prompt],
        stop_ids=stop_ids_of(model, exam.tokenizer, exam.template),
        max_new_tokens=min(MOST_WATCHED, answer_limit(exam.questions)),
        references=[exam.first_row()],
    )[0]
    return text_decoder(exam.tokenizer)(answer.ids) + ("" if answer.stopped else " …")


def base_judgement(
    run: Run, weights: WeightStore, fresh: Callable[[], Any]
) -> tuple[Judgement, float]:
    """The base's judgement, and the seconds that it took: made before step 1 or taken from the
    cache, and kept for when the run is resumed."""
    if (run.folder.path / BASE_FILE).is_file():
        return Judgement(**run.folder.read_json(BASE_FILE)), 0.0
    prompts, key = number_of(len(run.exam.questions), "prompt"), run.exam.key()
    folder = run.prepared.base.folder
    path = judgement_path(run.exam, run.settings, folder, run.record["base"])
    kept = kept_judgement(path)
    line(run.out, "judging", f"the base on {prompts}{', known from an earlier run' * bool(kept)}")
    if kept is None:
        began, known = time.perf_counter(), run.shared.judgements.get(key)
        base = judged(run, weights, weights.standalone_model(fresh, {}), known)
        kept = base, time.perf_counter() - began
        keep_judgement(path, *kept)
    run.shared.judgements[key] = kept[0]
    run.folder.write_json(BASE_FILE, asdict(kept[0]))
    return kept


def first_event(exam: Exam, base: Judgement) -> dict[str, Any]:
    """The evaluation of step 0: that of the base."""
    event = {"event": "eval", "step": 0, "held_out_loss": base.mean_loss()}
    if not exam.questions:
        return event
    answer = base.answers[0] + ("" if base.stopped[0] else " …")
    return {**event, "prompt": exam.questions[0].text, "answer": answer}
