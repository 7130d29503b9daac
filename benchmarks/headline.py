"""Time to equal accuracy on held-out rows: `python -m benchmarks.headline OUT --peer PYTHON ...`.

The peer's side: TRL, all weights, at each --rate and seed, with its accuracy after every half
epoch; its time is when it first reaches, at two evaluations running, the mean of the accuracies
that its best rate ends with. Its own answers on the way cost it nothing. Our side is a whole
command with both judgements and the report, as `defaults_study.py` measured it on the same rows:
the shortest setting whose mean accuracy is at least the same. A line of JSON a run goes to
benchmarks/results/headline.jsonl, and what stands there is not run again.

    python -m benchmarks.headline OUT --peer PYTHON --clinc150 FILE --cells clinc24/0 demo/0
    python -m benchmarks.headline OUT --table
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.defaults_study import finished, processor, rows_of
from benchmarks.verdicts import write
from biddable.models.base import resolve_base

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RATES, ROWS_PER_STEP = (1e-4, 2e-4), 8
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2"}
Lines = Sequence[dict[str, Any]]


def peer_run(
    cell: str, rate: float, args: argparse.Namespace, files: dict[str, str]
) -> dict[str, Any]:
    """One training of TRL: (step, accuracy, seconds) at each evaluation."""
    (data, seed), out = cell.split("/"), args.out
    train_rows, held_rows = rows_of(data, int(seed), files)
    steps = math.ceil(len(train_rows) * args.epochs / ROWS_PER_STEP)
    every = math.ceil(steps / args.epochs / 2)
    command = [
        args.peer, str(HERE / "peer_trl_headline.py"),
        write(out / f"{data}-{seed}-train.jsonl", train_rows),
        write(out / f"{data}-{seed}-held.jsonl", held_rows),
        str(resolve_base("smollm2").folder), f"{rate:g}", str(steps), str(every), str(args.batch),
        seed, f"{time.time()}",
    ]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    if process.returncode:
        raise SystemExit(process.stderr[-2000:])
    lines = [json.loads(x) for x in process.stdout.splitlines() if x.startswith('{"step"')]
    return {
        "cell": f"{cell}/{rate:g}/{args.batch}", "rate": rate, "steps": steps, "batch": args.batch,
        "evaluations": [(x["step"], x["accuracy"], x["seconds"]) for x in lines],
    }  # fmt: skip


def reached(evaluations: Sequence[tuple[int, float, float]], accuracy: float) -> float | None:
    """The seconds at which the first of two evaluations running is at least so accurate."""
    for (_, first, seconds), (_, second, _) in pairwise(evaluations):
        if min(first, second) >= accuracy:
            return seconds
    return None


def last(runs: Sequence[Sequence[tuple[int, float, float]]]) -> tuple[float, float]:
    """Mean accuracy and seconds at the last evaluations."""
    return mean(run[-1][1] for run in runs), mean(run[-1][2] for run in runs)


def table(peer_lines: Lines, our_lines: Lines) -> str:
    """The headline for each data set that both sides have."""
    rows = ["| data | accuracy | TRL | ours | ratio |", "|---|---|---|---|---|"]
    for data in sorted({line["cell"].split("/")[0] for line in peer_lines}):
        runs_of = defaultdict(list)
        for line in peer_lines:
            if line["cell"].startswith(f"{data}/"):
                runs_of[line["rate"], line["batch"]].append(line["evaluations"])
        # The best rate, with the device batch that is quickest at it.
        chosen = max(runs_of, key=lambda k: (last(runs_of[k])[0], -last(runs_of[k])[1]))
        runs, (accuracy, seconds) = runs_of[chosen], last(runs_of[chosen])
        times = [t for run in runs if (t := reached(run, accuracy))]
        theirs = mean(times) if times else seconds
        settings = defaultdict(list)
        for line in our_lines:
            name, _, setting = line["cell"].split("/")
            if name == data:
                settings[setting].append(line)
        minutes = {
            setting: mean(x["minutes"] for x in lines)
            for setting, lines in settings.items()
            if mean(x["accuracy"] for x in lines) >= accuracy
        }
        peer_text = f"{theirs:.0f} s at {chosen[0]:g} by {chosen[1]} rows, {len(runs)} seeds"
        if not minutes:
            rows.append(f"| {data} | {accuracy:.0%} | {peer_text} | not reached | |")
            continue
        quickest = min(minutes, key=lambda setting: minutes[setting])
        ours = 60 * minutes[quickest]
        our_text = f"{ours:.0f} s with {quickest}, {len(settings[quickest])} seeds"
        rows.append(f"| {data} | {accuracy:.0%} | {peer_text} | {our_text} | {ours / theirs:.2f} |")
    return "\n".join(rows)


def lines_of(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the rows")
    parser.add_argument("--peer", default="python", help="interpreter with trl 1.16.0")
    parser.add_argument("--cells", nargs="+", default=["clinc24/0", "demo/0"], help="DATA/SEED")
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=8, help="TRL's rows of a device batch")
    parser.add_argument("--clinc150", default="")
    parser.add_argument("--results", type=Path, default=RESULTS / "headline.jsonl")
    parser.add_argument("--ours", type=Path, default=RESULTS / "defaults-study.jsonl")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = {"gsm8k": "", "clinc150": args.clinc150}
    for cell in () if args.table else args.cells:
        for rate in args.rates:
            if f"{cell}/{rate:g}/{args.batch}" in finished(args.results):
                continue
            line = peer_run(cell, rate, args, files)
            stamp = {"date": date.today().isoformat(), "processor": processor(), "threads": 2}
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **stamp}) + "\n")
    print(table(lines_of(args.results), lines_of(args.ours)))


if __name__ == "__main__":
    main()
