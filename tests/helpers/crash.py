"""The kill sweep: `python tests/helpers/crash.py` kills a tiny run everywhere, and has it resume.

The run is the whole verb, `biddable train --resume auto`, with a save every 3 steps. It is ended
at every write, flush, rename and removal of what it leaves on disk, and by SIGKILL at random
moments, up to three times in a row. Then the same command runs to its end, and weights, scorecard,
answers and log must be those of the run that nobody killed.

Each run is a fork of this process, which has imported everything and computed nothing: a start
costs a fiftieth of a second rather than four. Ends with one line of JSON.
"""

from __future__ import annotations

import os

# Before torch is loaded: a fork of a process with threads would hang.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import hashlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

import biddable.commands.train  # noqa: F401
from biddable.cli import main
from folders import base_folder, rows, write_jsonl

NEVER = 10**6
# What a killed process ends with, as a shell tells it.
KILLED = 137


def ending_at(crash_at: int, out: Path) -> Callable[[], int]:
    """Makes this process end before the n-th write, flush, rename or removal under `out`.

    The system's own functions are replaced, here in the child only, so that the product needs to
    know nothing of it and no point of the save path can be forgotten.

    Returns:
        A function that says how many points are left.
    """
    left = crash_at

    def point(*places: object) -> None:
        nonlocal left
        inside = any(str(p).startswith(str(out)) for p in places if isinstance(p, str | Path))
        if inside and left <= 1:
            os._exit(KILLED)
        left -= inside

    def counted(function: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            point(*args)
            return function(*args, **more)

        return call

    def opened(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if set(mode) & set("wax+"):
            point(file)
        return plain_open(file, mode, *args, **more)

    def flushed(descriptor: int) -> None:
        point(Path(f"/proc/self/fd/{descriptor}").readlink())
        plain_fsync(descriptor)

    plain_open, plain_fsync = io.open, os.fsync
    io.open, os.fsync = opened, flushed
    for home, name in ((os, "rename"), (os, "replace"), (os, "mkdir"), (shutil, "rmtree")):
        setattr(home, name, counted(getattr(home, name)))
    safetensors.torch.save_file = counted(safetensors.torch.save_file)
    return lambda: left


def command(place: Path, out: Path) -> list[str]:
    """A run of 10 steps that evaluates and saves often."""
    return [
        "train", str(place / "data.jsonl"), "--base", str(place / "base"), "--out", str(out),
        "--steps", "10", "--save-every", "3", "--lr", "3e-3", "--answers", "1",
        "--device", "cpu", "--precision", "fp32", "--resume", "auto",
    ]  # fmt: skip


def started(place: Path, out: Path, crash_at: int = NEVER) -> int:
    """Starts the command in a fork, and gives its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (place / "said.txt").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        points_left = ending_at(crash_at, out)
        code = main(command(place, out))
        (place / "left.txt").write_text(str(points_left()))
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Waits for a process; its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(place: Path, out: Path) -> None:
    """Runs the command to its end, unless a kill came so late that it has ended already."""
    code = ended(started(place, out))
    assert code == 0, (place / "said.txt").read_text()


def outcome(out: Path) -> dict[str, Any]:
    """All that must be the same: sums of weights, scorecard and answers, and the log."""
    events = [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]
    # How long a thing took differs, and a kill may come between a save and the word of it.
    log = [{k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] != "saved"]
    names = ("model/model.safetensors", "scorecard.json", "samples.jsonl", "base.json")
    sums = {n: hashlib.sha256((out / n).read_bytes()).hexdigest() for n in names}
    hidden = sorted(p.name for p in out.rglob(".*") if p.name != ".lock")
    return {**sums, "log": log, "left behind": hidden}


def crash_each(place: Path, whole: dict[str, Any], points: list[int]) -> None:
    """Ends the run at each of these points of the save path."""
    for point in points:
        out = place / f"point-{point}"
        assert ended(started(place, out, point)) == KILLED, point
        finish(place, out)
        assert outcome(out) == whole, f"another outcome after a crash at point {point}"
        shutil.rmtree(out)


def kill_at_random(place: Path, whole: dict[str, Any], trials: int, seconds: float) -> int:
    """SIGKILL at random moments, up to three in a row; gives how many hit a living process."""
    draw, hits = random.Random(0), 0
    for trial in range(trials):
        out = place / f"trial-{trial}"
        for _ in range(draw.choice([1, 1, 2, 3])):
            child = started(place, out)
            time.sleep(draw.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            hits += ended(child) == -signal.SIGKILL
        finish(place, out)
        assert outcome(out) == whole, f"another outcome after the kills of trial {trial}"
        shutil.rmtree(out)
    return hits


def sweep(place: Path, every: int, trials: int) -> dict[str, Any]:
    """The figures of a sweep over every `every`-th point and some random moments."""
    base_folder(place / "base")
    write_jsonl(place / "data.jsonl", rows())
    start = time.monotonic()
    finish(place, place / "whole")
    seconds = time.monotonic() - start
    whole, points = outcome(place / "whole"), NEVER - int((place / "left.txt").read_text())
    assert [e["step"] for e in whole["log"] if e["event"] == "step"] == list(range(1, 11))
    tried = list(range(1, points + 1, every))
    crash_each(place, whole, tried)
    return {
        "points_of_the_save_path": points,
        "crashed_at": len(tried),
        "random_trials": trials,
        "random_kills": kill_at_random(place, whole, trials, seconds),
        "seconds": round(time.monotonic() - start),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="crash at every N-th point")
    parser.add_argument("--trials", type=int, default=200, help="runs killed at random moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = sweep(Path(folder), given.every, given.trials)
    sys.stdout.write(json.dumps(figures) + "\n")
