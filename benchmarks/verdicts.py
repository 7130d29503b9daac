"""The runs that the verdict's rules are calibrated on; docs/verdict.md has the table.

    python benchmarks/verdicts.py OUT [--cases demo zero ...] [--gsm8k FILE] [--clinc150 FILE]

Each case trains the default base into OUT/CASE and prints a row: what the verdict should be, what
it was, and its evidence. Where few-shot is a rival worth asking, `compare` judges the run once more
with it. gsm8k is JSONL with question and answer, clinc150 CSV with text and intent.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path
from typing import Any

from biddable.judging.verdict import Verdict
from biddable.training.settings import Settings
from biddable.verbs.compare import compare
from biddable.verbs.train import train

EXAMPLES = Path(__file__).parents[1] / "examples" / "tool-library"
EXPECTED = {
    "demo": {"learnt"},
    "shuffled": {"format_only", "no_change", "worse"},
    "memorised": {"memorised"},
    "zero": {"no_change"},
    "broken": {"worse"},
    "gsm8k": {"format_only"},
    "clinc150": {"learnt"},
    "clinc150_shuffled": {"format_only", "no_change", "worse"},
    "perfect_prompt": {"learnt"},
}
# Examples in the prompt of the rival, and what the advice must then say.
SHOTS = {"clinc150": (5, ""), "perfect_prompt": (3, "the tuning was not needed")}
ALWAYS = "Passed on to a librarian."


def demo(name: str) -> list[dict[str, Any]]:
    """The rows of a demo file."""
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def gsm8k(path: str, count: int) -> list[dict[str, Any]]:
    """The first rows of gsm8k."""
    with Path(path).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{"user": r["question"], "assistant": r["answer"]} for r in rows[:count]]


def clinc150(path: str, count: int) -> list[dict[str, Any]]:
    """Messages and intents, with all labels in the system prompt."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    labels = ", ".join(sorted({r["intent"] for r in rows}))
    system = f"Name the intent of the message. The intents are: {labels}."
    return [{"system": system, "user": r["text"], "assistant": r["intent"]} for r in rows[:count]]


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their answers dealt anew."""
    answers = [r["assistant"] for r in rows]
    random.Random(0).shuffle(answers)
    return [{**r, "assistant": a} for r, a in zip(rows, answers, strict=True)]


def rows_of(case: str, args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(training and held-out rows as one list, options); held-out ones carry `held`."""
    held = [{**r, "held": True} for r in demo("heldout.jsonl")]
    if case.startswith("clinc150"):
        rows = clinc150(args.clinc150, 564)
        tail = [{**r, "held": True} for r in rows[500:]]
        head = shuffled(rows[:500]) if case.endswith("shuffled") else rows[:500]
        return head + tail, {"epochs": 2.0}
    if case == "gsm8k":
        rows = gsm8k(args.gsm8k, 224)
        return rows[:200] + [{**r, "held": True} for r in rows[200:]], {"steps": 24}
    if case == "shuffled":
        return shuffled(demo("train.jsonl")) + held, {}
    if case == "perfect_prompt":
        held = [{**r, "assistant": ALWAYS} for r in held]
        return [{**r, "assistant": ALWAYS} for r in demo("train.jsonl")[:48]] + held, {"steps": 12}
    if case == "memorised":
        return demo("train.jsonl")[:10] + held, {"epochs": 50.0, "warmup": 0.02}
    rate = {"zero": {"lr": 0.0, "steps": 2}, "broken": {"lr": 1e-2, "steps": 12}}.get(case, {})
    return demo("train.jsonl") + held, rate


def told(case: str, verdict: Verdict, advice: str = "") -> None:
    """A row of the table."""
    good = verdict.outcome in EXPECTED[case] and advice in verdict.advice
    mark = "ok" if good else "WRONG"
    words = f"{verdict.sentence} {verdict.advice}".strip()
    print(f"| {case} | {mark} | {words} | {verdict.evidence} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(EXPECTED))
    parser.add_argument("--gsm8k", default="")
    parser.add_argument("--clinc150", default="")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for case in args.cases:
        rows, options = rows_of(case, args)
        for name, held in (("train", False), ("held", True)):
            kept = [
                {k: v for k, v in r.items() if k != "held"}
                for r in rows
                if r.get("held", False) is held
            ]
            text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept)
            (args.out / f"{case}-{name}.jsonl").write_text(text, encoding="utf-8")
        done = train(
            str(args.out / f"{case}-train.jsonl"), eval=str(args.out / f"{case}-held.jsonl"),
            out=str(args.out / case), **options,
        )  # fmt: skip
        if done.scorecard is None:
            raise SystemExit("interrupted")
        told(case, done.scorecard.verdict)
        if case in SHOTS:
            again = compare(Settings().base, str(args.out / case), few_shot=SHOTS[case][0])
            told(case, again.verdict, SHOTS[case][1])
            shown = ("accuracy", "exact_match", "follows_format", "stops_by_itself")
            card = again.as_json()
            print(json.dumps({name: card[name] for name in shown if name in card}), flush=True)


if __name__ == "__main__":
    main()
