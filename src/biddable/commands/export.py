"""`export`: a tuned model for the programs that serve it, proven where that can be done here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
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
from biddable.exporting.baked import bake, prove_baked
from biddable.exporting.gguf_file import round_weights, write_gguf
from biddable.exporting.gguf_weights import Value
from biddable.exporting.gguf_words import vocabulary_of
from biddable.exporting.llama_cpp import LlamaCpp, installed, llama_cpp
from biddable.exporting.read_me import readme
from biddable.exporting.round_trip import Asked, composes, longest_answer, prove, questions_for
from biddable.generation.stream import text_of
from biddable.judging.judge import Judgement, answer_limit
from biddable.judging.scorecard import Terms
from biddable.models.adapters import merge_adapter
from biddable.models.base import Base, load_tokenizer, resolve_base, trained_system_prompt
from biddable.models.model_files import stop_ids_of
from biddable.models.support import context_of
from biddable.options import with_values
from biddable.settings import CompareSettings, ExportSettings, Printing
from biddable.storage import Aside, need_space, refuse_existing_run, write_text
from biddable.template.template import Template
from biddable.template.wrap import with_arguments
from biddable.terminal import console, line, write_json
from biddable.training.run_folder import RunFolder

# The type of the weights where none is named.
DEFAULT_TYPE = "q8_0"
# Held-out prompts that the proof asks.
_PROVEN = 8
# Room of llama.cpp beyond prompt and answer.
_SPARE = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of `export`.

    Args:
        folder: what was written.
        record: export.json.
    """

    folder: Path
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tuned:
    """The model that is exported.

    Args:
        stop_ids: at which its answers end.
        system: the system prompt of every training row, None where there is none.
        exam: the held-out rows; None where they are not known.
    """

    base: Base
    model: Any
    tokenizer: Any
    template: Template
    stop_ids: tuple[int, ...]
    system: str | None
    exam: Exam | None


def export(run: str | PathLike[str], **options: Any) -> Exported:
    """Writes a run's model for another program, and proves it where llama.cpp is installed.

    Args:
        run: run folder, model folder, or whatever else `chat` takes.
        options: fields of `biddable.settings.ExportSettings`, by name.

    Raises:
        BiddableError: `not_expressible`, `export_differs`, `option`, or the model cannot be used.
    """
    settings = with_values(ExportSettings(), {"run": fspath(run), **options})
    refuse_early(settings)
    folder = _folder(settings)
    refuse_existing_run(str(folder), resumes=False)
    line(console(), "loading", settings.run)
    tuned = _load(settings)
    with Aside(folder, manifest=False) as aside:
        record = _written_gguf(settings, tuned, aside)
        write_text(aside / "README.md", readme(record))
        write_text(aside / "export.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
    return Exported(folder, record)


def _folder(settings: ExportSettings) -> Path:
    """--out, or a folder in the run, or beside a model that is no run."""
    if settings.out:
        return Path(settings.out)
    kind = settings.type or DEFAULT_TYPE
    name = f"{settings.to}-{kind}" if settings.to in ("gguf", "ollama") else settings.to
    path = Path(settings.run)
    return path / name if RunFolder(path).begun else path.with_name(f"{path.stem}-{name}")


def _load(settings: ExportSettings) -> Tuned:
    base = resolve_base(settings.run)
    tokenizer = load_tokenizer(base)
    model = load_model(base, torch.device("cpu"))
    if base.adapter:
        merge_adapter(model)
    template = Template.of(tokenizer)
    stop_ids = stop_ids_of(model, tokenizer, template)
    exam = None
    if RunFolder(Path(settings.run)).eval_rows.is_file():
        exam = _exam(settings, model, tokenizer, template)
    system = trained_system_prompt(base)
    return Tuned(base, model, tokenizer, template, stop_ids, system, exam)


def _exam(settings: ExportSettings, model: Any, tokenizer: Any, template: Template) -> Exam:
    """The held-out rows of the run."""
    rows = judged_rows(CompareSettings(tuned=settings.run), console())
    limit = context_of(model.config)
    examples = encode_all(rows.held_out, tokenizer, template, max_length=limit).examples
    held_out, train = SplitPart(rows.held_out, examples), SplitPart(rows.train, ())
    return set_exam(tokenizer, template, held_out, train, settings.answers, Terms())


def _written_gguf(settings: ExportSettings, tuned: Tuned, folder: Path) -> dict[str, Any]:
    """Writes and proves the GGUF file; returns what export.json says."""
    kind, out = settings.type or DEFAULT_TYPE, console()
    system = tuned.system if settings.system == "bake" else None
    chats = _chats(tuned)
    prompts = questions_for(tuned.tokenizer, tuned.template, system, chats)
    words = _words(tuned, system, prompts)
    name = Path(settings.run).name
    file = folder / f"{name}-{kind}.gguf"
    need_space(folder, 8 * sum(p.numel() for p in tuned.model.parameters()))
    line(out, "writing", file.name)
    write_gguf(file, tuned.model, words, kind)
    record: dict[str, Any] = {
        "name": name, "to": settings.to, "type": kind, "file": file.name,
        "system": settings.system, "system_prompt": tuned.system, "round_trip": None,
        "llama_cpp": None, "cost": None, "composes": composes(tuned.tokenizer),
    }  # fmt: skip
    if not installed():
        line(out, "checked", "no: llama.cpp is not installed; pip install 'biddable[export]'")
        return record
    record["llama_cpp"] = _version()
    record["round_trip"] = _proven(tuned, prompts, words, file, kind)
    if tuned.exam is not None:
        record["cost"] = _cost(tuned, tuned.exam, file, kind)
    return record


def _version() -> str:
    try:
        return f"xllamacpp {version('xllamacpp')}"
    except PackageNotFoundError:
        return "xllamacpp"


def _chats(tuned: Tuned) -> list[list[Message]]:
    """Messages before the answer of the first held-out rows."""
    rows = tuned.exam.held_out.conversations[:_PROVEN] if tuned.exam else ()
    chats = []
    for row in rows:
        roles = [m.role for m in row.messages]
        if "user" in roles and roles[-1] == "assistant":
            chats.append(list(row.messages[:-1]))
    return chats


def _words(tuned: Tuned, system: str | None, prompts: Sequence[Asked]) -> dict[str, Value]:
    """The settings of the file that describe tokenizer and template."""
    tokenizer, text = tuned.tokenizer, tuned.template.text
    missing = [n for n in ("bos_token", "eos_token") if not getattr(tokenizer, n) and n in text]
    if missing:
        # llama.cpp would print a token of its own choice there.
        text = with_arguments(text, dict.fromkeys(missing, ""))
    if system is not None:
        text = bake(text, system)
        plain = [[m for m in p.messages if m.role != "system"] for p in prompts]
        prove_baked(replace(tuned.template, text=text), tuned.template, system, plain)
    rows = tuned.model.get_input_embeddings().weight.shape[0]
    begins = prompts[0].ids[:1] == [tokenizer.bos_token_id]
    words = vocabulary_of(tokenizer, rows, tuned.stop_ids, begins_with_bos=begins)
    return {**words, "tokenizer.chat_template": text}


def _proven(
    tuned: Tuned, prompts: Sequence[Asked], words: dict[str, Value], file: Path, kind: str
) -> dict[str, Any]:
    """The proof on the same model in fp32, whose file goes afterwards."""
    twin = file if kind == "f32" else file.with_name("twin.gguf")
    if kind != "f32":
        write_gguf(twin, tuned.model, words, "f32")
    room = max(len(p.ids) for p in prompts) + longest_answer(tuned.model, prompts) + _SPARE
    bos = tuned.tokenizer.bos_token if words["tokenizer.ggml.add_bos_token"] else ""
    line(console(), "checking", f"{len(prompts)} prompts in llama.cpp")
    with llama_cpp(twin, room, torch.get_num_threads(), exact=True) as server:
        trip = prove(server, tuned.model, prompts, tuned.stop_ids, bos)
    if kind != "f32":
        twin.unlink()
    return asdict(trip)


def _cost(tuned: Tuned, exam: Exam, file: Path, kind: str) -> dict[str, Any]:
    """The scorecard of the file beside that of the tuned model, whose weights it changes."""
    line(console(), "judging", f"{len(exam.questions)} answers, tuned and {kind}")
    before = exam.judged(tuned.model)
    round_weights(tuned.model, kind)
    limit = answer_limit(exam.questions)
    room = max((len(q.prompt) for q in exam.questions), default=0) + limit + _SPARE
    with llama_cpp(file, room, torch.get_num_threads(), exact=False) as server:
        after = _answered(exam.judged(tuned.model), exam, server, limit)
    card = exam.scored(before, after)
    changed = sum(a != b for a, b in zip(before.answers, after.answers, strict=True))
    metrics = {
        name: {"tuned": metric.base, "exported": metric.tuned, "n": metric.n}
        for name, metric in card.metrics.items()
    }
    return {"answers": len(before.answers), "answers_changed": changed, "metrics": metrics}


def _answered(judgement: Judgement, exam: Exam, server: LlamaCpp, limit: int) -> Judgement:
    """A judgement with llama.cpp's own answers."""
    answers = [server.answer(q.prompt, limit) for q in exam.questions]
    text = text_of(exam.tokenizer)
    return replace(
        judgement,
        answers=[text(a.ids) for a in answers],
        stopped=[a.stopped for a in answers],
        tokens=[len(a.ids) for a in answers],
    )


def run(options: dict[str, Any], printing: Printing) -> int:
    """Exports, and says what was proven and what it costs."""
    exported, out = export(**options), console()
    record = exported.record
    if trip := record.get("round_trip"):
        stops = f"{trip['stops']} stop token{'s' * (trip['stops'] != 1)}"
        same = f"{trip['prompts']} prompts, their ids and greedy answers are equal in fp32"
        line(out, "checked", f"in llama.cpp {same}; it stops at {stops}")
    if cost := record.get("cost"):
        loss = cost["metrics"].get("held_out_loss")
        losses = f"; held-out loss {loss['tuned']:.4f} to {loss['exported']:.4f}" if loss else ""
        text = f"{cost['answers_changed']} of {cost['answers']} answers changed{losses}"
        line(out, record["type"], text)
    line(out, "exported", str(exported.folder))
    if printing.json:
        write_json({"folder": str(exported.folder), **record})
    return 0
