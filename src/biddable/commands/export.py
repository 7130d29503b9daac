"""`export`: a tuned model for the programs that serve it, proven where that can be done here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from biddable.commands.exam import Exam, set_exam
from biddable.commands.judged_rows import judged_rows
from biddable.data.conversation import Message
from biddable.dataset.early import refuse_early
from biddable.dataset.encode_all import encode_all
from biddable.dataset.prepared import SplitPart
from biddable.engine.precision import load_model
from biddable.errors import BiddableError
from biddable.exporting.gguf_file import round_weights
from biddable.exporting.llama_cpp import llama_cpp
from biddable.exporting.read_me import readme
from biddable.exporting.round_trip import composes
from biddable.exporting.targets import GGUF, SPARE, Tuned, write_folder, write_gguf_folder
from biddable.generation.generate import remaining_context
from biddable.generation.stream import text_decoder
from biddable.judging.judge import answer_limit
from biddable.judging.scorecard import Terms
from biddable.models.adapter_files import adapter_folder
from biddable.models.adapters import dequantize_base, merge_adapter
from biddable.models.base import load_tokenizer, resolve_base, trained_system_prompt
from biddable.models.model_files import stop_ids_of
from biddable.models.support import context_of
from biddable.options import with_values
from biddable.settings import CompareSettings, ExportSettings, Printing
from biddable.storage import AtomicFolder, refuse_existing_run, write_text
from biddable.template.template import Template
from biddable.terminal import console, line, write_json
from biddable.training.run_folder import RunFolder

# The type of the weights where none is named.
DEFAULT_TYPE = "q8_0"
# Held-out prompts that the proof sends.
_PROVEN = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of `export`.

    Args:
        folder: what was written.
        record: export.json.
    """

    folder: Path
    record: dict[str, Any]


def export(run: str | PathLike[str], **options: Any) -> Exported:
    """Writes a run's model for another program, and proves it where that program is installed.

    Args:
        run: run folder, model folder, or whatever else `chat` takes.
        options: fields of `biddable.settings.ExportSettings`, by name.

    Raises:
        BiddableError: `not_expressible`, `export_differs`, `option`, `run_unfinished`, or the
            model cannot be used.
    """
    settings = with_values(ExportSettings(), {"run": fspath(run), **options})
    refuse_early(settings)
    _refuse_misfits(settings)
    if settings.to in GGUF:
        settings = replace(settings, type=settings.type or DEFAULT_TYPE)
    folder = _folder(settings)
    refuse_existing_run(str(folder), resumes=False)
    line(console(), "loading", settings.run)
    tuned, exam = _load(settings)
    record: dict[str, Any] = {
        **dict.fromkeys(("type", "file", "adapter", "reader", "round_trip", "cost")),
        "name": tuned.name, "to": settings.to, "system": settings.system, "bits": tuned.base.bits,
        "system_prompt": tuned.system, "composes": composes(tuned.tokenizer),
    }  # fmt: skip
    write = write_gguf_folder if settings.to in GGUF else write_folder
    with AtomicFolder(folder, manifest=False) as aside:
        record |= write(settings, tuned, aside)
        if exam is not None and record["file"] and record["reader"]:
            record["cost"] = _cost(tuned, exam, aside, record)
        write_text(aside / "README.md", readme(record))
        write_text(aside / "export.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
    return Exported(folder, record)


def _refuse_misfits(settings: ExportSettings) -> None:
    """Refuses options that do not fit each other or the run, before anything is loaded."""
    name, to = settings.run, settings.to
    run, adapter = RunFolder(Path(name)), adapter_folder(Path(name))
    if run.begun and adapter is None and not run.model.is_dir():
        fix = "wait for it, or go on with it: `biddable train --resume` and the run folder"
        raise BiddableError("run_unfinished", f"the run {name} has no model yet", fix)
    if settings.type and to not in GGUF:
        fix = "leave --type out: the weights stay in fp32, as judged"
        raise BiddableError("option", f"--type is for GGUF files, --to {to} writes none", fix)
    if (settings.apart or to == "peft") and adapter is None:
        option = "--apart" if settings.apart else "--to peft"
        fix = "use --to hf or --to gguf; an adapter comes from `train --lora RANK`"
        raise BiddableError("option", f"{option} is for adapters, {name} is none", fix)
    if settings.apart and to != "gguf":
        fix = "use --to gguf --apart, or leave --apart out"
        raise BiddableError("option", f"--apart is for GGUF files, not for --to {to}", fix)


def _folder(settings: ExportSettings) -> Path:
    """--out, else a folder in the run folder, or beside another model."""
    if settings.out:
        return Path(settings.out)
    parts = (settings.to, settings.type, "apart" if settings.apart else "")
    name, path = "-".join(filter(None, parts)), Path(settings.run)
    if RunFolder(path).begun:
        return path / name
    # `.` and `..` have no name to put another beside.
    path = path.resolve() if path.name in ("", "..") else path
    return path.with_name(f"{path.name.removesuffix('.gguf')}-{name}")


def _name(run: str) -> str:
    """A run's name as a file and Ollama can have it."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(run).resolve().name.removesuffix(".gguf"))
    return name.strip("-._") or "run"


def _load(settings: ExportSettings) -> tuple[Tuned, Exam | None]:
    """The model, and the exam on its held-out rows where these are known."""
    base = resolve_base(settings.run)
    tokenizer = load_tokenizer(base)
    model = load_model(base, torch.device("cpu"))
    if base.adapter:
        (dequantize_base if settings.apart else merge_adapter)(model)
    template = Template.of(tokenizer)
    stop_ids = stop_ids_of(model, tokenizer, template)
    exam = None
    if RunFolder(Path(settings.run)).eval_rows.is_file():
        exam = _exam(settings, model, tokenizer, template)
    name, system, chats = _name(settings.run), trained_system_prompt(base), _chats(exam)
    return Tuned(name, base, model, tokenizer, template, stop_ids, system, chats), exam


def _exam(settings: ExportSettings, model: Any, tokenizer: Any, template: Template) -> Exam:
    """The held-out rows of the run."""
    rows = judged_rows(CompareSettings(tuned=settings.run), console())
    limit = context_of(model.config)
    examples = encode_all(rows.held_out, tokenizer, template, max_length=limit).examples
    held_out, train = SplitPart(rows.held_out, examples), SplitPart(rows.train, ())
    return set_exam(tokenizer, template, held_out, train, settings.answers, Terms())


def _chats(exam: Exam | None) -> list[list[Message]]:
    """Messages before the answer of the first held-out rows that are plain text."""
    chats = []
    for row in exam.held_out.conversations if exam else ():
        chat = list(row.messages[:-1])
        plain = not row.tools and not any(m.extra for m in chat)
        if plain and row.messages[-1].role == "assistant" and "user" in {m.role for m in chat}:
            chats.append(chat)
    return chats[:_PROVEN]


def _cost(tuned: Tuned, exam: Exam, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The scorecards of the tuned model and of the files; rounds the model's weights in place."""
    kind, adapter = record["type"], record["adapter"] and folder / record["adapter"]
    line(console(), "judging", f"{len(exam.questions)} answers, tuned and {kind}")
    before = exam.judged(tuned.model)
    round_weights(tuned.model, kind)
    losses = replace(exam, questions=()).judged(tuned.model)
    prompts, most = [q.prompt for q in exam.questions], answer_limit(exam.questions)
    limits = [min(most, room) for room in remaining_context(tuned.model, prompts)]
    context, threads = max(map(len, prompts), default=0) + most + SPARE, torch.get_num_threads()
    file, text = folder / record["file"], text_decoder(exam.tokenizer)
    with llama_cpp(file, context, threads, exact=False, adapter=adapter) as server:
        answers = list(map(server.answer, prompts, limits))
    after = replace(
        losses,
        answers=[text(a.ids) for a in answers],
        stopped=[a.stopped for a in answers],
        tokens=[len(a.ids) for a in answers],
    )
    card = exam.scored(before, after)
    changed = sum(a != b for a, b in zip(before.answers, after.answers, strict=True))
    metrics = {
        name: {"tuned": metric.base, "exported": metric.tuned, "n": metric.n}
        for name, metric in card.metrics.items()
    }
    return {"answers": len(before.answers), "answers_changed": changed, "metrics": metrics}


def run(options: dict[str, Any], printing: Printing) -> int:
    """Exports, and says what was proven and what it costs."""
    exported, out = export(**options), console()
    record = exported.record
    if trip := record["round_trip"]:
        stops = f"{trip['stops']} stop token{'s' * (trip['stops'] != 1)}"
        same = f"{trip['prompts']} prompts, their ids and greedy answers are equal in fp32"
        ties = f", {trip['ties']} answers up to a tie" if trip["ties"] else ""
        line(out, "checked", f"in {record['reader']} {same}{ties}; it stops at {stops}")
    if cost := record["cost"]:
        loss = cost["metrics"].get("held_out_loss")
        losses = f"; held-out loss {loss['tuned']:.4f} to {loss['exported']:.4f}" if loss else ""
        text = f"{cost['answers_changed']} of {cost['answers']} answers changed{losses}"
        line(out, record["type"], text)
    line(out, "exported", str(exported.folder))
    if printing.json:
        write_json({"folder": str(exported.folder), **record})
    return 0
