"""Which settings reach which accuracy in which time: the runs that the defaults are chosen by.

    python -m benchmarks.defaults_study OUT [--cells 'demo/*/full*' ...] [--list]
        [--gsm8k FILE] [--clinc150 FILE] [--results FILE]

A cell is DATA/SEED/SETTING. Each cell is a run of the default base, and becomes one line of JSON in
the results: losses at each evaluation with the seconds from the first step, the figures of the
scorecard, and minutes. Cells that the results hold already are passed over, so the study goes on
where it was stopped; a run that was interrupted goes on from its last checkpoint. What the cache
knows of judgements of bases is deleted before each. OUT holds the rows and the run folders, without
the weights of what is finished. gsm8k is JSONL with question and answer, clinc150 CSV with text and
intent; their cells need these files.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from benchmarks.verdicts import EXTRACT, Row, as_json, example, message, write
from biddable.commands.train import Trained, train
from biddable.models.base import cache_folder

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "results"
# What counts as right: the first of these that the scorecard has.
RIGHT = (
    *("json_match", "choices_match", "accuracy", "last_line_match", "exact_match", "similarity"),
)
# (training rows, held-out rows) that are drawn for each seed; the examples are as they are.
SIZES = {"clinc24": (240, 96), "clinc150": (600, 96), "gsm8k": (200, 64), "json": (120, 64)}
DATA = ("demo", "prose", *SIZES)


def settings_of_cells() -> dict[str, dict[str, Any]]:
    """What each setting gives to `train`, by its name."""
    chosen: dict[str, dict[str, Any]] = {}
    for rate in ("1e-4", "2e-4", "4e-4"):
        chosen[f"full-{rate}"] = {"lr": float(rate)}
    for count in (8, 16):
        for rate in ("2e-4", "4e-4", "8e-4"):
            chosen[f"top{count}-{rate}"] = {"top_layers": count, "lr": float(rate)}
    for rate in ("1e-3", "2e-3", "4e-3"):
        chosen[f"lora16-{rate}"] = {"lora": 16, "lr": float(rate)}
    for beta2 in (0.95, 0.999):
        chosen[f"full-2e-4-2epochs-beta{beta2:g}"] = {"lr": 2e-4, "epochs": 2.0, "beta2": beta2}
    for epochs in (1.0, 2.0, 5.0):
        chosen[f"full-2e-4-{epochs:g}epochs"] = {"lr": 2e-4, "epochs": epochs}
        for count in (8, 16):
            options = {"top_layers": count, "lr": 4e-4, "epochs": epochs}
            chosen[f"top{count}-4e-4-{epochs:g}epochs"] = options
        for name, options in (
            ("full-2e-4", {"lr": 2e-4}),
            ("top16-4e-4", {"top_layers": 16, "lr": 4e-4}),
        ):
            chosen[f"{name}-{epochs:g}epochs-4rows"] = {
                **options,
                "epochs": epochs,
                "batch_size": 4,
            }
    return chosen


def rows_of(data: str, seed: int, files: dict[str, str]) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows; those of an example are the same for every seed."""
    draw = random.Random(seed)
    if data in ("demo", "prose"):
        return example({"demo": "inbox", "prose": "tool-library"}[data])
    if data == "json":
        messages = [message(draw) for _ in range(sum(SIZES[data]))]
        rows = [{"system": EXTRACT, "user": m.text, "assistant": as_json(m)} for m in messages]
    elif data == "gsm8k":
        texts = Path(needed(files, data)).read_text(encoding="utf-8").splitlines()
        rows = [{"user": r["question"], "assistant": r["answer"]} for r in map(json.loads, texts)]
        draw.shuffle(rows)
    else:
        rows = intents(needed(files, "clinc150"), 24 if data == "clinc24" else None, draw)
    train_count, held_count = SIZES[data]
    return rows[:train_count], rows[train_count : train_count + held_count]


def intents(path: str, labels: int | None, draw: random.Random) -> list[Row]:
    """Messages with their intents, of so many labels or of all, in an order of the seed's own."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = sorted({r["intent"] for r in rows})[:labels]
    system = f"Name the intent of the message. The intents are: {', '.join(chosen)}."
    draw.shuffle(rows)
    return [
        {"system": system, "user": r["text"], "assistant": r["intent"]}
        for r in rows
        if r["intent"] in chosen
    ]


def needed(files: dict[str, str], name: str) -> str:
    if not files[name]:
        raise SystemExit(f"these cells need --{name} FILE")
    return files[name]


def run_cell(cell: str, out: Path, files: dict[str, str]) -> dict[str, Any]:
    """Trains a cell, and returns its line of the results."""
    data, seed, setting = cell.split("/")
    train_rows, held_rows = rows_of(data, int(seed), files)
    stem, options = cell.replace("/", "-"), settings_of_cells()[setting]
    forget_judgements()
    began = time.perf_counter()
    done = train(
        write(out / f"{stem}-train.jsonl", train_rows),
        eval=write(out / f"{stem}-held.jsonl", held_rows), out=str(out / stem), seed=int(seed),
        answers=len(held_rows), resume="auto", **options,
    )  # fmt: skip
    if done.exit_code or done.scorecard is None:
        raise SystemExit("interrupted; the same command goes on")
    minutes = (time.perf_counter() - began) / 60
    for weights in ("model", "adapter"):
        shutil.rmtree(out / stem / weights, ignore_errors=True)
    return {"cell": cell, **options, "rows": len(train_rows), **figures(done), "minutes": minutes}


def forget_judgements() -> None:
    """Deletes what earlier runs know of bases, so that each command is timed with all it does."""
    shutil.rmtree(cache_folder("judgements"), ignore_errors=True)


def figures(done: Trained) -> dict[str, Any]:
    """What a run came to: losses, what is right, and the seconds of its steps and evaluations."""
    card = done.scorecard
    assert card is not None
    right = next((name for name in RIGHT if name in card.metrics), "")
    lines = (done.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    curve = list(evaluations(json.loads(line) for line in lines))
    loss = card.metrics["held_out_loss"]
    return {
        "steps": done.progress.step,
        "best_step": done.progress.best_step,
        "base_loss": loss.base,
        "loss": loss.tuned,
        "right": right,
        "accuracy": card.metrics[right].tuned if right else None,
        "base_accuracy": card.metrics[right].base if right else None,
        "figures": {name: metric.tuned for name, metric in card.metrics.items()},
        "outcome": card.verdict.outcome,
        "evaluations": curve,
        "fit_minutes": curve[-1][2] / 60 if curve else 0.0,
    }


def evaluations(events: Iterator[dict[str, Any]]) -> Iterator[tuple[int, float, float]]:
    """(step, held-out loss, seconds of steps and evaluations so far) of each evaluation."""
    seconds = 0.0
    for event in events:
        if event["event"] in ("step", "eval"):
            seconds += event.get("seconds", 0.0)
        if event["event"] == "eval":
            yield event["step"], event["held_out_loss"], seconds


def processor() -> str:
    """The processor's name, as Linux has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.processor()}, {kind}"


def cells_of(patterns: Sequence[str]) -> list[str]:
    """The cells that fit any of the patterns, those of the first seed first."""
    cells = [f"{d}/{seed}/{s}" for seed in SEEDS for d in DATA for s in settings_of_cells()]
    return [cell for cell in cells if any(fnmatch(cell, pattern) for pattern in patterns)]


def finished(results: Path) -> set[str]:
    """The cells that the results hold."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    return {json.loads(line)["cell"] for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the rows and run folders")
    parser.add_argument("--cells", nargs="+", default=["*"], help="DATA/SEED/SETTING, with * and ?")
    parser.add_argument("--list", action="store_true", help="print the cells that are left")
    parser.add_argument("--gsm8k", default="")
    parser.add_argument("--clinc150", default="")
    parser.add_argument("--results", type=Path, default=RESULTS / "defaults-study.jsonl")
    args = parser.parse_args()
    files = {"gsm8k": args.gsm8k, "clinc150": args.clinc150}
    done = finished(args.results)
    left = [cell for cell in cells_of(args.cells) if cell not in done]
    if args.list:
        print("\n".join(left))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    about = {"processor": processor(), "threads": torch.get_num_threads()}
    for cell in left:
        line = run_cell(cell, args.out, files)
        stamp = {"date": date.today().isoformat(), **about, "torch": torch.__version__}
        with args.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **stamp}) + "\n")


if __name__ == "__main__":
    main()
