"""What courses claim about supervised fine-tuning: `python -m benchmarks.claims CLAIM...`.

    python -m benchmarks.claims mask rows fall frame remix rate --base runs/scratch/base \
        --data examples/chapter/sft.jsonl --template plain
    python -m benchmarks.claims rows --data examples/tool-library/train.jsonl \
        --eval examples/tool-library/heldout.jsonl --steps 30

CLAIM is any of mask, rows, fall, frame, remix, rate. Each seed splits the data anew (unless --eval
is given), orders the rows anew, and trains through the loop of `biddable train`; it is judged with
the weights of the lowest held-out loss, which is always that of the answers, whatever was trained
on. One JSON line for each variant and seed; `--read FILE` makes the table of such lines: means with
the half widths of 95 % intervals over the seeds (Student's t), and the same for the differences
from the claim's first variant, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from biddable.data.conversation import Conversation
from biddable.dataset.prepare import prepare
from biddable.dataset.prepared import Prepared
from biddable.encoding.encode import Example, encode, stop_token_ids
from biddable.engine.memory import keep_freed_memory
from biddable.engine.precision import choose_device, load_model
from biddable.generation.generate import generate
from biddable.judging.judge import answer_limit, make_questions
from biddable.judging.probes import probes
from biddable.judging.text_measures import copier, normalized, similarity, words
from biddable.models.adapters import add_adapter
from biddable.models.base import resolve_base
from biddable.settings import FULL_LR, Settings
from biddable.template.template import Template
from biddable.training.checkpoint import Progress
from biddable.training.evaluate import held_out_loss
from biddable.training.interrupt import Interrupt
from biddable.training.loop import TrainerParts, best_weights, fit, make_optimizer
from biddable.training.weights import Replicas

BUDGET = 2048
COUNTS = (10, 30, 50, 100, 200)
RATES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)
# Options here that `train` has not.
NO_SETTINGS = ("claims", "read", "seeds", "first_seed", "evaluations")

Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Bench:
    """A base and the data, split and encoded with the seed of the settings."""

    settings: Settings
    prepared: Prepared
    every: int


@dataclass(frozen=True)
class Run:
    """One training: held-out answer loss by step, training loss by step, and the best model."""

    curve: list[tuple[int, float]]
    losses: list[float]
    model: Any


@dataclass(frozen=True)
class Asked:
    """A model's greedy answers to the held-out questions, the right ones, and how good it is."""

    answers: list[str]
    right: list[str]
    figures: Figures


@lru_cache(maxsize=1)
def usual(bench: Bench) -> Run:
    """The run that most claims begin with: all of the training side, at the rate asked for."""
    return train(bench, bench.prepared.train.examples)


def train(bench: Bench, examples: Sequence[Example], lr: float = 0.0) -> Run:
    """Trains on the examples."""
    settings = replace(bench.settings, lr=lr or bench.settings.lr or FULL_LR)
    held_out = bench.prepared.held_out.examples
    model = load_model(bench.prepared.base, choose_device("cpu"))
    if settings.lora:
        add_adapter(model, settings.lora, settings.seed)
    weights = Replicas(model, torch.float32)
    curve = [(0, held_out_loss(weights.model, held_out, BUDGET))]
    losses: list[float] = []

    def log(event: Any) -> None:
        if event["event"] == "eval":
            curve.append((event["step"], event["held_out_loss"]))
        elif event["event"] == "step":
            losses.append(event["loss"])

    with tempfile.TemporaryDirectory() as folder:
        parts = TrainerParts(
            weights=weights,
            optimizer=make_optimizer(weights, settings),
            examples=examples,
            evaluate=lambda: held_out_loss(weights.model, held_out, BUDGET),
            answer=lambda: "",
            log=log,
            folder=Path(folder),
            settings=settings,
            every=bench.every,
        )
        progress = fit(parts, Progress(), Interrupt())
        weights.load(best_weights(parts, progress))
    return Run(curve, losses, weights.model)


def asked(
    bench: Bench,
    model: Any,
    conversations: Sequence[Conversation] = (),
    template: Template | None = None,
) -> Asked:
    """Asks the held-out questions as trained, or otherwise put or under another template."""
    rows = conversations or bench.prepared.held_out.conversations
    template, tokenizer = template or bench.prepared.template, bench.prepared.tokenizer
    questions = make_questions(rows, tokenizer, template)
    completions = generate(
        model,
        [q.prompt for q in questions],
        stop_ids=stop_token_ids(tokenizer, template),
        max_new_tokens=answer_limit(questions),
    )
    answers = [tokenizer.decode(a.ids).strip() for a in completions]
    pairs = [(a, q.reference) for a, q in zip(answers, questions, strict=True)]
    examples = [e for c in rows for e in encode(c, tokenizer, template)]
    figures = {
        "held_out_loss": held_out_loss(model, examples, BUDGET),
        "similarity": float(np.mean([similarity(a, b) for a, b in pairs])),
        "exact": float(np.mean([normalized(a) == normalized(b) for a, b in pairs])),
        "stopped": float(np.mean([a.stopped for a in completions])),
    }
    return Asked(answers, [q.reference for q in questions], figures)


def sample_of(bench: Bench, count: int) -> list[Example]:
    """So many of the training examples, drawn with the bench's seed."""
    examples = bench.prepared.train.examples
    order = np.random.default_rng(bench.settings.seed).permutation(len(examples))
    return [examples[i] for i in order[:count]]


def mask(bench: Bench) -> dict[str, Figures]:
    """With and without the mask: the answers' loss, and the steps to the loss of the latter."""
    whole = prepare(replace(bench.settings, loss_on="all")).train.examples
    runs = {"answers only": usual(bench), "every token": train(bench, whole)}
    goal = min(loss for _, loss in runs["every token"].curve)
    figures = {}
    for variant, run in runs.items():
        step = next(step for step, loss in run.curve if loss <= goal or step == run.curve[-1][0])
        figures[variant] = {
            "steps_to_the_best_of_every_token": float(step),
            **asked(bench, run.model).figures,
        }
    return figures


def rows(bench: Bench) -> dict[str, Figures]:
    """How many training rows the format and the content take."""
    size = len(bench.prepared.train.examples)
    figures = {
        "0 rows": asked(bench, load_model(bench.prepared.base, choose_device("cpu"))).figures
    }
    for count in (c for c in COUNTS if c < size):
        figures[f"{count} rows"] = asked(bench, train(bench, sample_of(bench, count)).model).figures
    # The sides may differ by a row between seeds.
    figures["all rows"] = asked(bench, usual(bench).model).figures
    return figures


def fall(bench: Bench) -> dict[str, Figures]:
    """The training loss at the first step and after 50, 100, 200 and all steps (mean of ten)."""
    losses = usual(bench).losses
    places = [p for p in (50, 100, 200, len(losses)) if p <= len(losses)]
    after = {f"after {p}": float(np.mean(losses[p - 10 : p])) for p in places}
    return {"answers only": {"first": losses[0], **after}}


def frame(bench: Bench) -> dict[str, Figures]:
    """Asked as trained, without the System line, and with renamed roles."""
    model = usual(bench).model
    figures = {"as trained": asked(bench, model).figures}
    for probe in probes(bench.prepared.held_out.conversations, bench.prepared.template):
        figures[probe.name] = asked(bench, model, probe.conversations, probe.template).figures
    base = load_model(bench.prepared.base, choose_device("cpu"))
    figures["base as trained"] = asked(bench, base).figures
    return figures


def remix(bench: Bench) -> dict[str, Figures]:
    """How much of the answers of a model of 30 rows stands in its rows; and of the right ones."""
    by_place = {(c.file, c.line): c for c in bench.prepared.train.conversations}
    sample = sample_of(bench, 30)
    rows = [by_place[e.file, e.line].messages[-1].content for e in sample]
    result = asked(bench, train(bench, sample).model)
    return {"its answers": shared(result.answers, rows), "right ones": shared(result.right, rows)}


def shared(answers: Sequence[str], rows: Sequence[str]) -> Figures:
    """How much of the answers stands in the rows, whole and in one piece."""
    longest = [copier(rows)(answer)[2] / max(1, len(words(answer))) for answer in answers]
    return {
        "is_an_answer_of_a_row": float(np.mean([answer in rows for answer in answers])),
        "longest_piece_of_one_row": float(np.mean(longest)),
    }


def rate(bench: Bench) -> dict[str, Figures]:
    """Learning rates, below and at that of pretraining."""
    figures = {}
    for lr in RATES:
        known = lr == (bench.settings.lr or FULL_LR)
        run = usual(bench) if known else train(bench, bench.prepared.train.examples, lr)
        figures[f"{lr:g}"] = {**asked(bench, run.model).figures, "last_loss": run.curve[-1][1]}
    return figures


CLAIMS = {f.__name__: f for f in (mask, rows, fall, frame, remix, rate)}


def interval(values: Sequence[float]) -> str:
    """Mean and the half width of its 95 % interval over the seeds."""
    mean = f"{float(np.mean(values)):.3f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.3f}"


def show_table(lines: Sequence[str]) -> None:
    """One line for each figure: claim, variant, seeds, mean, difference from the first variant."""
    figures: dict[tuple[str, str, str, str], dict[int, Figures]] = {}
    for line in map(json.loads, lines):
        key = (line["base"], line["data"], line["claim"], line["variant"])
        figures.setdefault(key, {})[line["seed"]] = line["figures"]
    for key, seeds in figures.items():
        first = next(values for other, values in figures.items() if other[:3] == key[:3])
        for name in seeds[min(seeds)]:
            values = [seeds[s][name] for s in seeds]
            shown = [*key, f"n {len(values)}", name, interval(values)]
            if first is not seeds:
                apart = [seeds[s][name] - first[s][name] for s in seeds if s in first]
                shown.append(f"difference {interval(apart)}")
            sys.stdout.write(" | ".join(shown) + "\n")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claims", nargs="*", metavar="CLAIM")
    parser.add_argument("--read", default="", metavar="FILE")
    parser.add_argument("--base", default="smollm2")
    for name in ("data", "eval", "map", "system", "template"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Measures claims on one base and data set, or shows what was measured."""
    args = read_arguments()
    if args.read:
        show_table(Path(args.read).read_text(encoding="utf-8").splitlines())
        return
    keep_freed_memory()
    options = {k: v for k, v in vars(args).items() if k not in NO_SETTINGS}
    options |= {"data": (args.data,), "base": str(resolve_base(args.base).folder)}
    about = {k: vars(args)[k] for k in ("base", "data", "steps", "batch_size", "lr")}
    start = time.monotonic()
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        settings = Settings(**options, seed=seed)
        bench = Bench(settings, prepare(settings), max(1, args.steps // args.evaluations))
        for claim in args.claims:
            for variant, figures in CLAIMS[claim](bench).items():
                line = {"claim": claim, **about, "variant": variant, "seed": seed}
                sys.stdout.write(json.dumps({**line, "figures": figures}) + "\n")
                sys.stdout.flush()
    sys.stderr.write(f"{time.monotonic() - start:.0f} s\n")


if __name__ == "__main__":
    main()
