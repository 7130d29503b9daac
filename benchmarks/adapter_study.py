"""LoRA against full tuning, each at its best rate: `python -m benchmarks.adapter_study`.

    python -m benchmarks.adapter_study --clinc150 FILE            # all 54 cells
    python -m benchmarks.adapter_study --clinc150 FILE --cells inbox:lora prose:full:0.0002:1
    python -m benchmarks.adapter_study --write docs/guide/adapters.md

A cell is DATA:KIND:RATE:SEED. The data are `inbox` (one line of JSON), `clinc150` (24 intents) and
`prose` (the tool library's replies); the kinds `lora` (rank 16) and `full`. Every cell takes the
same steps over the same rows, and is judged on the same held-out rows with its last weights: the
loss of all, and the answers to the first of them. A JSON line a cell goes to the file --out, and
cells that stand there are not run again. A cell is about 50 s on two cores, all of them 45 minutes.

--write puts the table of --out into a document, behind a mark that stays.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import Bench, asked, interval, train
from benchmarks.verdicts import Row, clinc150, example, write
from biddable.dataset.prepare import prepare
from biddable.engine.memory import keep_freed_memory
from biddable.settings import Settings

RATES = {"lora": (1e-3, 2e-3, 4e-3), "full": (1e-4, 2e-4, 4e-4)}
DATA, SEEDS, RANK = ("inbox", "clinc150", "prose"), (0, 1, 2), 16
STEPS, BATCH, HELD_OUT, ANSWERED = 16, 4, 24, 16
MARK = "<!-- written by benchmarks/adapter_study.py -->\n"
RESULTS = Path(__file__).parent / "results" / "adapter-study.jsonl"


@dataclass(frozen=True)
class Cell:
    """One training."""

    data: str
    kind: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}:{self.kind}:{self.rate:g}:{self.seed}"


def all_cells() -> Iterator[Cell]:
    """Seed by seed, so that what is there when time is out compares all."""
    for seed in SEEDS:
        for data in DATA:
            for kind, rates in RATES.items():
                for rate in rates:
                    yield Cell(data, kind, rate, seed)


def rows_of(data: str, path: str) -> tuple[Sequence[Row], Sequence[Row]]:
    """Training and held-out rows."""
    if data != "clinc150":
        train_rows, held = example("inbox" if data == "inbox" else "tool-library")
        return train_rows, held[:HELD_OUT]
    if not path:
        raise SystemExit("clinc150 needs --clinc150 FILE; or leave it out with --cells inbox prose")
    case = clinc150(path)["clinc150_narrow"]
    return case.train, case.held[:HELD_OUT]


def measured(cell: Cell, path: str, steps: int, folder: Path) -> dict[str, Any]:
    """What a cell comes to."""
    train_rows, held = rows_of(cell.data, path)
    settings = Settings(
        data=(write(folder / "train.jsonl", train_rows),),
        eval=write(folder / "held.jsonl", held),
        steps=steps, batch_size=BATCH, batch_tokens=2048, lr=cell.rate, seed=cell.seed,
        lora=RANK if cell.kind == "lora" else 0,
    )  # fmt: skip
    # No evaluation on the way: the last weights are judged.
    bench = Bench(settings, prepare(settings), steps)
    start = time.perf_counter()
    run = train(bench, bench.prepared.train.examples)
    seconds = time.perf_counter() - start
    asked_rows = bench.prepared.held_out.conversations[:ANSWERED]
    answers = asked(bench, run.model, asked_rows)
    exact = [a.strip() == r.strip() for a, r in zip(answers.answers, answers.right, strict=True)]
    return {
        "cell": cell.name, **asdict(cell), "steps": steps, "batch": BATCH,
        "base_loss": run.curve[0][1], "held_out_loss": run.curve[-1][1],
        "exact": float(np.mean(exact)), "similarity": answers.figures["similarity"],
        "stopped": answers.figures["stopped"], "seconds": round(seconds, 1),
    }  # fmt: skip


def table(lines: Sequence[dict[str, Any]]) -> str:
    """A row for data, kind and rate: means over the seeds with their 95 % intervals.

    In bold is each kind's lowest loss over the seeds that all of its rates were run with.
    """
    head = (
        "| data | kind | rate | seeds | held-out loss, base | tuned | answers exactly right |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["data"], line["kind"], line["rate"]), []).append(line)
    best = {key[:2]: _best([k for k in groups if k[:2] == key[:2]], groups) for key in groups}
    rows = []
    for key in sorted(groups):
        group = groups[key]
        loss = interval([g["held_out_loss"] for g in group])
        cells = [
            *key[:2], f"{key[2]:g}", str(len(group)), f"{group[0]['base_loss']:.3f}",
            f"**{loss}**" if best[key[:2]] == key else loss,
            interval([g["exact"] for g in group]),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(rows)


def _best(
    keys: Sequence[tuple[str, str, float]],
    groups: Mapping[tuple[str, str, float], Sequence[dict[str, Any]]],
) -> tuple[str, str, float]:
    """The key whose loss is lowest over the seeds that all of them have."""
    seeds = set.intersection(*({line["seed"] for line in groups[k]} for k in keys))

    def loss(key: tuple[str, str, float]) -> float:
        return float(np.mean([x["held_out_loss"] for x in groups[key] if x["seed"] in seeds]))

    return min(keys, key=loss)


def written(path: Path) -> list[dict[str, Any]]:
    """The cells of a file."""
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(text) for text in texts]


def main() -> None:
    """Measures the cells that are not there yet, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=[""], help="beginnings of names")
    parser.add_argument("--clinc150", default="", help="CSV with text and intent")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write", type=Path, help="document to put the table into")
    args = parser.parse_args()
    if args.write:
        text = args.write.read_text(encoding="utf-8")
        if MARK not in text:
            raise SystemExit(f"{args.write} has no line {MARK}")
        args.write.write_text(f"{text.split(MARK)[0]}{MARK}\n{table(written(args.out))}", "utf-8")
        return
    keep_freed_memory()
    done = {line["cell"] for line in written(args.out) if line["steps"] == args.steps}
    chosen = [c for c in all_cells() if any(c.name.startswith(part) for part in args.cells)]
    for cell in (c for c in chosen if c.name not in done):
        with tempfile.TemporaryDirectory() as folder:
            line = measured(cell, args.clinc150, args.steps, Path(folder))
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
