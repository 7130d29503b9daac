"""The rows, the order and the settings of each workload, written as one JSON file for both sides.

Ours and the peer read the same file: the same token ids and labels, the same rows in each
optimizer step, the same learning rate at each step. Within a step the peer gets the rows sorted by
length, which is the best that grouping by length can do.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from biddable.data.conversation import Conversation, Message
from biddable.dataset.encode_all import encode_all
from biddable.models.base import Base, load_tokenizer, resolve_base
from biddable.template.template import Template
from biddable.training.schedule import learning_rate, rows_of_step

LIBRARIAN = Path(__file__).parents[1] / "docs"
RATE, WARMUP, BETA2 = 1e-4, 0.1, 0.99


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What both sides do.

    Args:
        base: folder of the model; one without weights is initialised at random.
        rows: ids, and labels with -100 where a token does not count.
        order: the rows of each step.
        rates: the learning rate of each step.
        counted: steps that are timed; those before them warm up.
        lora: rank of the adapter that is trained; 0 trains all weights.
    """

    name: str
    base: str
    rows: list[dict[str, list[int]]]
    order: list[list[int]]
    rates: list[float]
    counted: int
    lora: int = 0

    def write(self, folder: Path) -> Path:
        """The file that both sides read."""
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def encoded(conversations: Iterable[Conversation], base: Base) -> list[dict[str, list[int]]]:
    """Ids and labels by the package's own encoding, with the base's template."""
    tokenizer = load_tokenizer(base)
    template = Template.of(tokenizer)
    result = encode_all(list(conversations), tokenizer, template, max_length=2048)
    return [
        {
            "input_ids": list(e.input_ids),
            "labels": [i if w else -100 for i, w in zip(e.input_ids, e.weights, strict=True)],
        }
        for e in result.examples
    ]


def conversation(system: str, user: str, assistant: str) -> Conversation:
    """One question and one answer."""
    system_messages = [Message("system", system)] if system else []
    return Conversation(
        [*system_messages, Message("user", user), Message("assistant", assistant)], "benchmark", 1
    )


def gsm8k(path: str, count: int, system: str = "") -> list[Conversation]:
    """The first rows of a JSONL file with question and answer."""
    with Path(path).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:count]
    return [conversation(system, r["question"], r["answer"]) for r in rows]


def clinc150(path: str, count: int) -> list[Conversation]:
    """Messages and intents of a CSV file, with all labels in the system prompt."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    system = "Name the intent. " + ", ".join(sorted({r["intent"] for r in rows}))
    return [conversation(system, r["text"], r["intent"]) for r in rows[:count]]


def handbook(base: Base, tokens: int) -> str:
    """A system prompt of so many tokens, from this project's own design document."""
    tokenizer = load_tokenizer(base)
    ids = tokenizer((LIBRARIAN / "design.md").read_text(encoding="utf-8"))["input_ids"]
    while len(ids) < tokens:
        ids = ids + ids
    text: str = tokenizer.decode(ids[:tokens])
    return text


def sums(count: int) -> list[Conversation]:
    """Short rows in the manner of the chapter: one system line, a question, a short answer."""
    draw = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    rows = []
    for _ in range(count):
        a, b = draw.randrange(10), draw.randrange(10)
        question = f"What is {words[a]} plus {words[b]}?"
        rows.append(conversation("You are a helpful assistant.", question, f"It is {a + b + 2}."))
    return rows


def small_gpt(folder: Path) -> Path:
    """A model folder of the chapter's shape, without weights."""
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=50_257, n_positions=256, n_embd=384, n_layer=6, n_head=6,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    config.save_pretrained(folder / "small-gpt")
    return folder / "small-gpt"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Rows a step, steps that warm up and steps counted of a workload."""

    batch: int
    counted: int
    warm: int = 1
    lora: int = 0


SHAPES = {
    "W1": Shape(batch=8, counted=5),
    "W2": Shape(batch=32, counted=2),
    "W3": Shape(batch=16, counted=2),
    "W4": Shape(batch=8, counted=10, warm=5),
    "W5": Shape(batch=8, counted=5, lora=16),
    "trajectory": Shape(batch=4, counted=29),
}


NEEDED = {"W5": "gsm8k", "W1": "gsm8k", "W2": "clinc150", "W3": "gsm8k", "trajectory": "gsm8k"}


def make(name: str, files: dict[str, str], folder: Path, *, small: bool = False) -> Workload:
    """The workload of that name, from the data files; a small one has one counted step of a row."""
    shape, needed = SHAPES[name], NEEDED.get(name, "")
    if small:
        shape = replace(shape, batch=1, counted=1)
    if needed and not files[needed]:
        raise SystemExit(f"{name} needs --{needed} FILE")
    base, steps = resolve_base("smollm2"), shape.counted + shape.warm
    count = shape.batch * steps
    where: Any = base.folder
    match name:
        case "W1" | "W5" | "trajectory":
            rows = encoded(gsm8k(files["gsm8k"], count), base)
        case "W2":
            rows = encoded(clinc150(files["clinc150"], count), base)
        case "W3":
            rows = encoded(gsm8k(files["gsm8k"], count, handbook(base, 1500)), base)
        case _:
            rows, where = encoded(sums(60), base), small_gpt(folder)
    order = [rows_of_step(s, len(rows), shape.batch, 0) for s in range(1, steps + 1)]
    rates = [learning_rate(s, steps, RATE, WARMUP) for s in range(1, steps + 1)]
    return Workload(
        name=name, base=str(where), rows=rows, order=order, rates=rates, counted=shape.counted,
        lora=shape.lora,
    )  # fmt: skip
