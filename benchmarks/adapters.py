"""W6: eight adapters of 200 rows on one base, as whole processes from raw rows to saved adapters.

`train --each` in one process, against eight runs of `train` one after another, and against eight
runs of TRL with PEFT. All train 25 steps of 8 rows, rank 16, and write their adapters. Ours holds a
tenth of the rows out and judges base and tuned on them, which the peer does not do; no answers are
written. The rows are clinc150's, each file with labels of its own in the system prompt.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.defaults_study import forget_judgements
from biddable.models.base import resolve_base

FILES, ROWS, STEPS, BATCH, RANK = 8, 200, 25, 8, 16
# Of a file: what a narrow task has.
LABELS = 18
# TRL's rows of a device batch that are tried for two steps each.
PEER_BATCHES = (1, 2, 8)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2"}


@dataclass(frozen=True)
class Taken:
    """What a process took."""

    seconds: float
    processor_seconds: float
    peak: int


def taken_by(command: Sequence[str]) -> Taken:
    """Runs a command to its end; its resident memory at the peak is in bytes."""
    forget_judgements()
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{output.read()[-3000:]}")
    return Taken(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def narrow_files(clinc150: str, folder: Path, count: int, rows: int) -> list[Path]:
    """Files of rows, each with 18 intents of its own."""
    with Path(clinc150).open(encoding="utf-8", newline="") as file:
        messages = list(csv.DictReader(file))
    random.Random(0).shuffle(messages)
    intents = sorted({m["intent"] for m in messages})
    paths = []
    for number in range(count):
        labels = intents[number * LABELS : (number + 1) * LABELS]
        system = f"Name the intent of the message. The intents are: {', '.join(labels)}."
        kept = [m for m in messages if m["intent"] in labels][:rows]
        texts = [
            json.dumps({"system": system, "user": m["text"], "assistant": m["intent"]})
            for m in kept
        ]
        path = folder / f"task{number}.jsonl"
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        paths.append(path)
    return paths


def eight_adapters(
    peer: str, clinc150: str, folder: Path, *, small: bool, sampled: int = FILES
) -> dict[str, Any]:
    """W6; the small one has two files of 16 rows and two steps.

    Args:
        sampled: so many of the eight single runs of each side are measured, and stand for all.
    """
    if not clinc150:
        raise SystemExit("W6 needs --clinc150 FILE")
    count, rows, steps = (2, 16, 2) if small else (FILES, ROWS, STEPS)
    files = narrow_files(clinc150, folder, count, rows)
    ours = [sys.executable, "-m", "biddable", "train"]
    fixed = ["--lora", str(RANK), "--steps", str(steps), "--batch-size", str(BATCH)]
    fixed += ["--answers", "0"]
    base = str(resolve_base("smollm2").folder)
    script = str(Path(__file__).parent / "peer_trl_lora.py")

    def theirs(path: Path, batch: int, most: int) -> list[str]:
        numbers = [str(n) for n in (RANK, most, batch, BATCH // batch)]
        return [peer, script, str(path), base, str(folder / f"peer-{path.stem}"), *numbers]

    tried = {
        batch: taken_by(theirs(files[0], batch, 2)).seconds
        for batch in ((1,) if small else PEER_BATCHES)
    }
    best = min(tried, key=lambda batch: tried[batch])
    names = [str(path) for path in files]
    each = taken_by([*ours, *names, "--each", *fixed, "--out", str(folder / "each")])
    alone = [taken_by([*ours, n, *fixed, "--out", f"{n}-alone"]) for n in names[:sampled]]
    peers = [taken_by(theirs(path, best, steps)) for path in files[:sampled]]
    return {
        "adapters": count, "rows": rows, "steps": steps, "rank": RANK,
        "peer_batch": best, "peer_tried": tried,
        **figures(count, each, alone, peers),
    }  # fmt: skip


def figures(
    count: int, each: Taken, alone: Sequence[Taken], peers: Sequence[Taken]
) -> dict[str, Any]:
    """Ratios of the one process to `count` of the others, by both clocks, and the peaks."""
    sums = {
        clock: [
            getattr(each, clock),
            *(count * mean(getattr(t, clock) for t in s) for s in (alone, peers)),
        ]
        for clock in ("seconds", "processor_seconds")
    }
    seconds, processor = sums["seconds"], sums["processor_seconds"]
    return {
        "ratio": seconds[0] / seconds[2],
        "ratio_to_our_own_runs": seconds[0] / seconds[1],
        "processor_ratio": processor[0] / processor[2],
        "processor_ratio_to_our_own_runs": processor[0] / processor[1],
        "each_seconds": seconds[0],
        "alone_seconds": [t.seconds for t in alone],
        "peer_seconds": [t.seconds for t in peers],
        "each_peak": each.peak,
        "alone_peak": max(t.peak for t in alone),
        "peer_peak": max(t.peak for t in peers),
    }
