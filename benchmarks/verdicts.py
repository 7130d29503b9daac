"""The runs that the verdict's rules are calibrated on; docs/verdict.md has the table.

    python benchmarks/verdicts.py OUT [--base BASE] [--cases coin json ...] [--gsm8k FILE]
        [--clinc150 FILE]
    python benchmarks/verdicts.py OUT --replay

Each case has training rows, held-out rows, options and the outcomes that an expert would sign. It
trains the base into OUT/CASE and keeps both judgements in OUT/CASE.json, so that `--replay`
judges all runs of OUT anew with changed rules, without training. gsm8k is JSONL with question and
answer, clinc150 CSV with text and intent; their cases are left out without these files.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from biddable.commands.train import train
from biddable.data.readers import read
from biddable.data.split import cluster_numbers
from biddable.judging.judge import Judgement, Question
from biddable.judging.scorecard import Terms, score
from biddable.judging.verdict import Verdict
from biddable.models.base import load_tokenizer, resolve_base
from biddable.settings import PACKAGED

EXAMPLES = Path(__file__).parents[1] / "examples"
Row = dict[str, Any]
TRAIN, HELD = 100, 32


@dataclass(frozen=True)
class Case:
    """A run with a known truth."""

    train: Sequence[Row]
    held: Sequence[Row]
    expected: set[str]
    options: dict[str, Any] = field(default_factory=dict)


TOOLS = (
    "hammer drill", "block plane", "tile cutter", "pipe wrench", "hedge trimmer", "belt sander",
    "soldering iron", "bike stand", "chain tool", "steam iron", "paint roller", "spirit level",
    "wallpaper steamer", "drain snake", "leaf rake", "jigsaw",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
PLACES = ("kitchen", "shed", "balcony", "hallway", "cellar", "attic", "garage", "bathroom")
PEOPLE = ("my sister", "our neighbor", "a friend", "my landlord", "the youth club", "my uncle")
ASKS = {
    "borrow": ("could I pick up the {tool}", "I need the {tool}", "is the {tool} free for me"),
    "return": ("I will bring the {tool} back", "the {tool} comes home", "I hand in the {tool}"),
    "renew": (
        "can I keep the {tool} longer",
        "please extend the {tool}",
        "I need more {tool} time",
    ),
    "report": ("the {tool} is broken", "the {tool} smokes", "a part of the {tool} fell off"),
}


@dataclass(frozen=True)
class Message:
    """A message to the tool library, and what it says."""

    text: str
    intent: str
    tool: str
    day: str | None
    member: int | None

    def fields(self) -> Row:
        return {k: v for k, v in asdict(self).items() if k != "text"}


def message(dice: random.Random) -> Message:
    intent, tool = dice.choice(list(ASKS)), dice.choice(TOOLS)
    day = dice.choice([None, *DAYS])
    member = dice.choice([None, dice.randint(1000, 9999)])
    parts = [
        dice.choice(ASKS[intent]).format(tool=tool) + (f" on {day}" if day else ""),
        f"it is for the {dice.choice(PLACES)} of {dice.choice(PEOPLE)}",
        *([f"my number is {member}"] if member else []),
    ]
    dice.shuffle(parts)
    hello = dice.choice(["Hello, ", "Hi there, ", "Good morning: ", "", "Quick one, "])
    return Message(f"{hello}{', '.join(parts)}.", intent, tool, day, member)


def synthetic_rows(
    answer: Callable[[Message, random.Random], str], system: str
) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows of messages with an answer to each."""
    dice = random.Random(7)
    messages = [message(dice) for _ in range(TRAIN + HELD)]
    rows = [{"system": system, "user": m.text, "assistant": answer(m, dice)} for m in messages]
    return rows[:TRAIN], rows[TRAIN:]


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """The rows with their answers dealt anew."""
    answers = [r["assistant"] for r in rows]
    random.Random(0).shuffle(answers)
    return [{**r, "assistant": a} for r, a in zip(rows, answers, strict=True)]


def as_json(m: Message, **other: Any) -> str:
    return json.dumps({**m.fields(), **other})


SORT = "You sort the messages to a tool library. Answer with one word."
EXTRACT = "Write what the message says as one line of JSON."


def synthetic() -> dict[str, Case]:
    form = {"format_only"}
    answers: dict[str, tuple[Callable[[Message, random.Random], str], str, set[str]]] = {
        "coin": (lambda m, d: d.choice(["approve", "reject"]), SORT, form | {"overfit"}),
        "dice": (
            lambda m, d: d.choice(["red", "blue", "green", "black", "white", "gold"]),
            SORT,
            form | {"overfit"},
        ),
        "majority": (lambda m, d: "high" if d.random() < 0.1 else "low", SORT, form),
        "constant": (lambda m, d: "Passed on to a librarian.", SORT, form),
        "labels": (lambda m, d: m.intent, SORT, {"learned"}),
        "json": (lambda m, d: as_json(m), EXTRACT, {"learned"}),
        "json_part": (lambda m, d: as_json(m, shelf=d.choice("ABCDE")), EXTRACT, {"partly"}),
        "copying": (
            lambda m, d: f"Tool: {m.tool}\nTicket: {d.randint(100, 999)}\nWe will call you back.",
            "Write the ticket for the message.",
            {"partly"},
        ),
        "echo": (lambda m, d: m.text, "Repeat the message.", {"learned"}),
    }
    cases = {
        n: Case(*synthetic_rows(make, system), wanted)
        for n, (make, system, wanted) in answers.items()
    }
    train, held = synthetic_rows(lambda m, d: as_json(m), EXTRACT)
    cases["json_shuffled"] = Case(shuffled(train), shuffled(held), form | {"overfit"})
    return cases


def example(name: str) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows of one of the examples."""
    texts = ((EXAMPLES / name / f).read_text("utf-8") for f in ("train.jsonl", "heldout.jsonl"))
    train, held = ([json.loads(line) for line in text.splitlines()] for text in texts)
    return train, held


def demo_cases() -> dict[str, Case]:
    """The demo's rows as they are, and what can go wrong with them."""
    train, held = example("tool-library")
    return {
        "inbox": Case(*example("inbox"), {"learned"}),
        "demo": Case(train, held, {"partly"}),
        "demo_shuffled": Case(shuffled(train), held, {"format_only"}),
        "memorized": Case(train[:10], held, {"overfit"}, {"epochs": 50.0, "warmup": 0.02}),
        "few_steps": Case(train, held, {"loss_only", "no_change"}, {"steps": 3}),
        "zero": Case(train, held, {"no_change"}, {"lr": 0.0, "steps": 2}),
        "broken": Case(train, held, {"worse"}, {"lr": 1e-2, "steps": 12}),
    }


def gsm8k(path: str) -> dict[str, Case]:
    with Path(path).open(encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(224), file, strict=False)]
    rows = [{"user": r["question"], "assistant": r["answer"]} for r in rows]
    return {"gsm8k": Case(rows[:200], rows[200:], {"format_only"}, {"steps": 24})}


def clinc150(path: str) -> dict[str, Case]:
    """Intents of 24 labels, of all, and of all dealt to other messages."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    every = sorted({r["intent"] for r in rows})

    def of(labels: Sequence[str], count: int) -> tuple[list[Row], list[Row]]:
        system = f"Name the intent of the message. The intents are: {', '.join(labels)}."
        kept = [
            {"system": system, "user": r["text"], "assistant": r["intent"]}
            for r in rows
            if r["intent"] in labels
        ]
        return kept[:count], kept[count : count + 64]

    narrow, broad = of(every[:24], 240), of(every, 500)
    options = {"epochs": 2.0, "answers": 64}
    fooled = {"format_only", "overfit", "worse"}
    return {
        "clinc150_narrow": Case(*narrow, {"learned"}, {"answers": 64}),
        "clinc150_broad": Case(*broad, {"learned"}, options),
        "clinc150_shuffled": Case(shuffled(broad[0]), broad[1], fooled, options),
    }


def write(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


def run(name: str, case: Case, out: Path, base: str) -> Verdict:
    """Trains a case, and keeps what it takes to judge it anew."""
    done = train(
        write(out / f"{name}-train.jsonl", case.train),
        eval=write(out / f"{name}-held.jsonl", case.held), out=str(out / name), base=base,
        **case.options,
    )  # fmt: skip
    if done.scorecard is None or done.tuned is None:
        raise SystemExit("interrupted")
    tokenizer = load_tokenizer(resolve_base(str(out / name)))
    samples = (out / name / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [
        {
            "text": s["question"], "reference": s["reference"],
            "reference_tokens": len(tokenizer.encode(s["reference"], add_special_tokens=False)),
            "file": s["file"], "line": s["line"],
        }
        for s in map(json.loads, samples)
    ]  # fmt: skip
    kept = {
        "base": json.loads((out / name / "base.json").read_text(encoding="utf-8")),
        "tuned": asdict(done.tuned),
        "questions": questions,
        "training_answers": [r["assistant"] for r in case.train],
    }
    (out / f"{name}.json").write_text(json.dumps(kept), encoding="utf-8")
    return done.scorecard.verdict


def replay(path: Path) -> Verdict:
    """The verdict of today's rules on a run that was kept."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    # Near duplicates and groups among the held-out rows, as `train` finds them.
    rows = read([str(path.with_name(f"{path.stem}-held.jsonl"))]).conversations
    clusters = cluster_numbers(rows)
    at = {row.line: cluster for row, cluster in zip(rows, clusters, strict=True)}
    questions = [Question(prompt=(), cluster=at[q["line"]], **q) for q in kept["questions"]]
    base, tuned = (Judgement(**kept[side]) for side in ("base", "tuned"))
    # Rows that training knows were left out; then the examples are those that were answered.
    fed = clusters if len(tuned.losses) == len(rows) else [at[q.line] for q in questions]
    if len(tuned.losses) != len(fed):
        raise SystemExit(f"{path}: the losses are not those of the answered rows")
    terms = Terms(clusters=fed)
    return score(base, tuned, questions, kept["training_answers"], terms=terms).verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", nargs="+", default=[])
    parser.add_argument("--replay", action="store_true", help="judge what OUT has, train nothing")
    parser.add_argument("--base", default=PACKAGED)
    parser.add_argument("--gsm8k", default="")
    parser.add_argument("--clinc150", default="")
    args = parser.parse_args()
    cases = synthetic() | demo_cases()
    cases |= gsm8k(args.gsm8k) if args.gsm8k else {}
    cases |= clinc150(args.clinc150) if args.clinc150 else {}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.cases or cases:
        kept = args.out / f"{name}.json"
        if args.replay and not kept.is_file():
            continue
        verdict = replay(kept) if args.replay else run(name, cases[name], args.out, args.base)
        mark = "ok" if verdict.outcome in cases[name].expected else "WRONG"
        print(f"| {name} | {mark} | {verdict.outcome} | {verdict.sentence} |", flush=True)


if __name__ == "__main__":
    main()
