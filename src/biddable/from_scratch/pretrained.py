"""The records of `pretrain`, and what it writes: the model's folder, samples and report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from biddable import __version__
from biddable.display.pages import render
from biddable.display.plots import loss_curve
from biddable.display.report import versions
from biddable.encoding.tokens import Piece, encode_batch, make_codec
from biddable.from_scratch.corpus import Corpus
from biddable.generation.generate import generate
from biddable.models.save import save_model
from biddable.settings import PretrainSettings
from biddable.storage import write_whole
from biddable.terminal import line
from biddable.training.checkpoint import Progress, clear_best
from biddable.training.run_folder import RunFolder
from biddable.training.weights import Replicas

SAMPLE_TOKENS = 160


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


@dataclass(frozen=True, slots=True)
class Pretraining:
    """A run of `pretrain`; `files` are those beside the weights in the model's folder."""

    settings: PretrainSettings
    folder: RunFolder
    tokenizer: Any
    corpus: Corpus
    weights: Replicas
    files: Mapping[str, str]
    out: Console


def save_pretrained(task: Pretraining, result: Pretrained) -> None:
    """Writes model, samples and report, and shows them."""
    folder, out = task.folder, task.out
    samples = samples_of(task, ["", *task.corpus.openings], SAMPLE_TOKENS)
    files = {**task.files, "README.md": _card(task, result)}
    save_model(task.weights.model, task.weights.gather(), files, folder.model)
    rows = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    write_whole(folder.path / "samples.jsonl", rows)
    # Comes last: it says that the run is finished.
    write_whole(folder.path / "report.html", _page(task, result, samples))
    clear_best(folder.checkpoints)
    for sample in samples:
        out.print()
        out.print(sample["prompt"], style="dim", end="")
        out.print(sample["text"])
    loss = (
        f"{result.progress.best_loss:.3f} nats per token, {result.bits_per_byte:.3f} bits per byte"
    )
    line(out, "held out", loss)
    line(out, "report", str(folder.path / "report.html"))
    line(out, "next", f"biddable train data.jsonl --base {folder.path}")


def samples_of(task: Pretraining, openings: Sequence[str], tokens: int) -> list[dict[str, str]]:
    """What the model writes after each opening, at most `tokens` tokens."""
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


def _page(task: Pretraining, result: Pretrained, samples: Sequence[Mapping[str, str]]) -> str:
    """report.html: the loss, what the model writes, and the settings."""
    log = task.folder.log.read_text(encoding="utf-8").splitlines()
    settings = {k: v for k, v in asdict(task.settings).items() if v not in ("", ())}
    return render(
        "from_scratch/pretrained.html",
        title=f"pretrained on {', '.join(task.settings.data)}",
        figures=result.as_json(),
        loss_curve=loss_curve([json.loads(event) for event in log]),
        samples=samples,
        settings={**settings, **versions()},
    )


def _card(task: Pretraining, result: Pretrained) -> str:
    """README.md of the model folder."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [biddable]
---

A {task.settings.shape}-shaped model of {result.parameters:,} parameters, trained from scratch with
biddable {__version__} on {result.progress.tokens:,} tokens of plain text. It continues a text and
follows no instructions. Held-out loss: {result.bits_per_byte:.3f} bits per byte.
"""
