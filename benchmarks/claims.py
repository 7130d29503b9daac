"""What courses claim about supervised fine-tuning, measured: `python benchmarks/claims.py CLAIM`.

    python benchmarks/claims.py mask --base runs/scratch/base --data examples/chapter/sft.jsonl
    python benchmarks/claims.py rows --base smollm2 --data examples/tool-library/train.jsonl \
        --eval examples/tool-library/heldout.jsonl --steps 60

CLAIM is one of mask, rows, fall, frame, remix, rate. Each trains the same data with three seeds,
judges on rows that were held out, and prints one JSON line for each variant: means with 95 %
intervals over the seeds (Student's t). Every run goes through the loop of `biddable train`; what is
measured is always the loss of the answers, whatever was trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from biddable.data.conversation import Conversation
from biddable.dialogue.encode import Example, encode
from biddable.dialogue.template import Template
from biddable.engine.memory import keep_freed_memory
from biddable.engine.precision import Weights, choose_device, load_model
from biddable.judging.judge import Judgement, ask, judge
from biddable.judging.metrics import copier, similarity
from biddable.judging.probes import probes
from biddable.models.base import resolve_base
from biddable.training.checkpoint import Progress
from biddable.training.evaluate import held_out_loss
from biddable.training.interrupt import Interrupt
from biddable.training.loop import Parts, fit, load_best, make_optimizer
from biddable.training.settings import Settings
from biddable.verbs.prepare import prepare
from biddable.verbs.prepared import Prepared

BUDGET = 2048
ANSWERS = 32
COUNTS = (10, 30, 50, 100, 200)
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Bench:
    """A base and the data, encoded once; `prepared` holds the split of the first seed."""

    settings: Settings
    prepared: Prepared
    every: int


@dataclass(frozen=True)
class Run:
    """One training: held-out answer loss by step, training loss by step, and the judgement."""

    curve: list[tuple[int, float]]
    losses: list[float]
    model: Any
    judged: Judgement | None = None


def train(
    bench: Bench, examples: Sequence[Example], seed: int, *, lr: float = 0.0, answers: bool = True
) -> Run:
    """Trains on the examples, and judges with the weights of the lowest held-out loss."""
    settings = replace(bench.settings, seed=seed, lr=lr or bench.settings.lr)
    held_out = bench.prepared.held_out.examples
    weights = Weights(load_model(bench.prepared.base, choose_device("cpu")), torch.float32)
    curve = [(0, held_out_loss(weights.model, held_out, BUDGET))]
    losses: list[float] = []

    def log(event: Any) -> None:
        if event["event"] == "eval":
            curve.append((event["step"], event["held_out_loss"]))
        elif event["event"] == "step":
            losses.append(event["loss"])

    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(
            weights=weights,
            optimizer=make_optimizer(weights, settings),
            examples=examples,
            evaluate=lambda: held_out_loss(weights.model, held_out, BUDGET),
            answer=lambda: "",
            log=log,
            folder=Path(folder),
            batch_tokens=BUDGET,
            every=bench.every,
        )
        progress = fit(parts, settings, Progress(), Interrupt())
        load_best(parts, progress)
    rows = bench.prepared.held_out.conversations
    judged = judged_on(bench, weights.model, rows) if answers else None
    return Run(curve, losses, weights.model, judged)


def judged_on(
    bench: Bench,
    model: Any,
    conversations: Sequence[Conversation],
    template: Template | None = None,
) -> Judgement:
    """Answers and losses on some conversations, under the run's template or another."""
    made = template or bench.prepared.template
    tokenizer = bench.prepared.tokenizer
    examples = [e for c in conversations for e in encode(c, tokenizer, made)]
    questions = ask(conversations, tokenizer, made, most=ANSWERS)
    return judge(model, tokenizer, made, questions, examples)


def quality(bench: Bench, judged: Judgement) -> dict[str, float]:
    """Similarity to the references, share of answers that stop, and loss."""
    held_out = bench.prepared.held_out.conversations
    questions = ask(held_out, bench.prepared.tokenizer, bench.prepared.template, most=ANSWERS)
    alike = [similarity(a, q.reference) for a, q in zip(judged.answers, questions, strict=True)]
    return {
        "similarity": float(np.mean(alike)),
        "stopped": float(np.mean(judged.stopped)),
        "held_out_loss": judged.mean_loss(),
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and the half width of its 95 % interval over the seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": round(mean, 4)}
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return {"mean": round(mean, 4), "half": round(float(half), 4)}


def told(claim: str, variant: str, found: Sequence[dict[str, float]]) -> None:
    """One JSON line: each figure over the seeds."""
    figures = {name: interval([f[name] for f in found]) for name in found[0]}
    line = {"claim": claim, "variant": variant, "seeds": len(found), **figures}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def steps_to(curve: Sequence[tuple[int, float]], loss: float) -> float:
    """The first step at which the held-out loss is no higher; the last one where it never is."""
    return float(next((step for step, found in curve if found <= loss), curve[-1][0]))


def mask(bench: Bench, seeds: Sequence[int]) -> None:
    """With and without the mask: the answers' held-out loss, and the steps to a given loss."""
    whole = prepare(replace(bench.settings, loss_on="all")).train.examples
    found: dict[str, list[Run]] = {"answers only": [], "every token": []}
    for seed in seeds:
        found["answers only"].append(train(bench, bench.prepared.train.examples, seed))
        found["every token"].append(train(bench, whole, seed))
    for variant, runs in found.items():
        rows = []
        for run, other in zip(runs, found["every token"], strict=True):
            assert run.judged is not None
            goal = min(loss for _, loss in other.curve)
            row = {"best_loss": min(loss for _, loss in run.curve)}
            row["steps_to_the_best_of_every_token"] = steps_to(run.curve, goal)
            rows.append({**row, **quality(bench, run.judged)})
        told("mask", variant, rows)


def rows(bench: Bench, seeds: Sequence[int]) -> None:
    """How many training rows the format takes."""
    examples = bench.prepared.train.examples
    for count in [c for c in COUNTS if c < len(examples)] + [len(examples)]:
        found = []
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(examples))[:count]
            run = train(bench, [examples[i] for i in order], seed)
            assert run.judged is not None
            found.append(quality(bench, run.judged))
        told("rows", f"{count} rows", found)


def fall(bench: Bench, seeds: Sequence[int]) -> None:
    """The training loss at the first step and after 50, 100, 200 and all steps (mean of ten)."""
    found = []
    for seed in seeds:
        losses = train(bench, bench.prepared.train.examples, seed, answers=False).losses
        places = [p for p in (50, 100, 200, len(losses)) if p <= len(losses)]
        row = {f"after {p}": float(np.mean(losses[p - 10 : p])) for p in places}
        found.append({"first": losses[0], **row})
    told("fall", "answers only", found)


def frame(bench: Bench, seeds: Sequence[int]) -> None:
    """Asked as trained, without the System line, and with renamed roles."""
    held_out = bench.prepared.held_out.conversations
    found: dict[str, list[dict[str, float]]] = {}
    base = load_model(bench.prepared.base, choose_device("cpu"))
    found["base as trained"] = [quality(bench, judged_on(bench, base, held_out))]
    for seed in seeds:
        run = train(bench, bench.prepared.train.examples, seed)
        assert run.judged is not None
        found.setdefault("as trained", []).append(quality(bench, run.judged))
        for probe in probes(held_out, bench.prepared.template):
            judged = judged_on(bench, run.model, probe.conversations, probe.template)
            found.setdefault(probe.name, []).append(quality(bench, judged))
    for variant, values in found.items():
        told("frame", variant, values)


def remix(bench: Bench, seeds: Sequence[int]) -> None:
    """How much of the answers of a model of 30 rows stands in its rows."""
    examples, found = bench.prepared.train.examples, []
    by_place = {(c.file, c.line): c for c in bench.prepared.train.conversations}
    for seed in seeds:
        chosen = np.random.default_rng(seed).permutation(len(examples))[:30]
        some = [examples[i] for i in chosen]
        answers = [by_place[e.file, e.line].messages[-1].content for e in some]
        run = train(bench, some, seed)
        assert run.judged is not None
        copied = [copier(answers)(a) for a in run.judged.answers]
        runs = sum(n for _, n, _ in copied)
        share = sum(n for n, _, _ in copied) / runs if runs else 0.0
        known = {word for a in answers for word in a.casefold().split()}
        made = [w for a in run.judged.answers for w in a.casefold().split()]
        found.append(
            {
                "runs_of_8_words_from_a_row": share,
                "whole_answer_of_a_row": float(np.mean([a in answers for a in run.judged.answers])),
                "words_of_the_rows": float(np.mean([w in known for w in made])) if made else 0.0,
            }
        )
    told("remix", "30 rows", found)


def rate(bench: Bench, seeds: Sequence[int]) -> None:
    """Learning rates, below and at that of pretraining."""
    for lr in RATES:
        found = []
        for seed in seeds:
            run = train(bench, bench.prepared.train.examples, seed, lr=lr)
            assert run.judged is not None
            last = {"last_loss": run.curve[-1][1]}
            found.append({**quality(bench, run.judged), **last})
        told("rate", f"{lr:g}", found)


CLAIMS = {f.__name__: f for f in (mask, rows, fall, frame, remix, rate)}


def main() -> None:
    """Measures one claim on one base and data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", choices=sorted(CLAIMS))
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval", default="")
    parser.add_argument("--map", default="")
    parser.add_argument("--template", default="")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    settings = Settings(
        data=(args.data,),
        base=str(resolve_base(args.base).folder),
        eval=args.eval,
        map=args.map,
        template=args.template,
        steps=args.steps,
        lr=args.lr,
    )
    start = time.monotonic()
    bench = Bench(settings, prepare(settings), max(1, args.steps // 20))
    CLAIMS[args.claim](bench, range(args.seeds))
    sys.stderr.write(f"{time.monotonic() - start:.0f} s\n")


if __name__ == "__main__":
    main()
