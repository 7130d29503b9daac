"""Our engine against its peers: `python -m benchmarks.run W1 W4 --peer PYTHON --gsm8k FILE ...`.

Each workload: the peer tries its settings for a step or two and keeps the fastest; then ours and
the peer run in turn, each as a process of its own. Printed, and appended as a line of JSON to
benchmarks/results/DATE.jsonl: the median ratio of step times with its spread, both peaks of
resident memory, and our use of the machine's matrix-product rate.

`first` compares whole processes, from their start to the end of step 1; `trajectory` the losses of
30 steps. W5 trains an adapter (LoRA of rank 16) against PEFT's; W6 eight of them, see adapters.py.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.adapters import eight_adapters
from benchmarks.workloads import make
from biddable.cli import waiting

HERE = Path(__file__).parent
# TRL's settings worth trying: dtype, rows of a device batch, and `free` for flattened batches.
SETTINGS = {
    "W1": ["fp32 1", "fp32 2", "fp32 4", "fp32 8", "fp32 8 free", "bf16 1"],
    "W2": ["fp32 1", "fp32 4"],
    "W3": ["fp32 1", "fp32 2"],
    "W5": ["fp32 1", "fp32 2", "fp32 4", "fp32 8", "fp32 8 free", "bf16 1"],
    "trajectory": ["fp32 2"],
}
REPETITIONS = {"W1": 3, "W2": 2, "W3": 2, "W4": 3, "W5": 3, "trajectory": 1}
PEERS = {"W4": "plain PyTorch", "W5": "trl 1.16.0, peft 0.21.2", "W6": "trl 1.16.0, peft 0.21.2"}
# Others are given up when their first step takes this much longer than the best one's.
HOPELESS = 2.0
# Threads wait as each side's own users have it: ours as the command sets it, the peer's as PyTorch
# does.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2"}


def run(command: list[str], steps: int = 0, limit: float = float("inf")) -> list[dict[str, Any]]:
    """The JSON lines a process prints, each with the seconds since its start.

    Args:
        steps: end it after so many steps; 0 lets it finish.
        limit: end it when a step has not come after so many seconds.
    """
    start = time.perf_counter()
    lines: list[dict[str, Any]] = []
    settings = waiting() if command[0] == sys.executable else {}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**ENVIRONMENT, **settings},
        ) as process,
    ):
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith('{"'):
                lines.append({**json.loads(text), "since_start": time.perf_counter() - start})
            slow = lines and lines[-1].get("seconds", 0) > limit
            if slow or (steps and len(lines) == steps):
                process.kill()
                break
        if not lines:
            process.wait()
            errors.seek(0)
            print(errors.read()[-2000:], file=sys.stderr)
    return lines


def best_setting(peer: str, path: Path, name: str) -> tuple[str, dict[str, float]]:
    """TRL's fastest setting, and the seconds of the step that decided for each."""
    tried: dict[str, float] = {}
    steps = 1 if name in ("W2", "W3") else 2
    for setting in SETTINGS[name]:
        if len(SETTINGS[name]) == 1:
            return setting, {}
        limit = HOPELESS * min(tried.values(), default=float("inf"))
        lines = run(trl(peer, path, setting), steps, limit)
        tried[setting] = lines[-1]["seconds"] if lines else float("inf")
        print(f"  {name} peer {setting}: {tried[setting]:.2f} s", flush=True)
    return min(tried, key=lambda s: tried[s]), tried


def trl(peer: str, path: Path, setting: str) -> list[str]:
    """The command of TRL's side."""
    return [peer, str(HERE / "peer_trl.py"), str(path), *setting.split()]


def compare(
    name: str, path: Path, peer: str, counted: int, repetitions: int, known: str
) -> dict[str, Any]:
    """One workload: ratios of the counted steps, peaks, and what each side said."""
    setting, tried = "its own loop", {}
    if name != "W4":
        setting, tried = (known, {}) if known else best_setting(peer, path, name)
    rival = [sys.executable, str(HERE / "peer_chapter.py"), str(path)]
    theirs_command = rival if name == "W4" else trl(peer, path, setting)
    ratios, seconds, peaks = [], ([], []), ([], [])  # type: ignore[var-annotated]
    use, last = [], {}
    differences = [0.0]
    for _ in range(repetitions or REPETITIONS[name]):
        ours = run([sys.executable, "-m", "benchmarks.ours", str(path)])
        theirs = run(theirs_command)
        last = ours[-1]
        for a, b in zip(ours[-1 - counted : -1], theirs[-1 - counted : -1], strict=True):
            ratios.append(a["seconds"] / b["seconds"])
            use.append(a["flops"] / a["seconds"] / last["product_rate"])
            seconds[0].append(a["seconds"])
            seconds[1].append(b["seconds"])
        differences += [
            abs(a["loss"] - b["loss"]) for a, b in zip(ours[:-1], theirs[:-1], strict=True)
        ]
        for side, lines in zip(peaks, (ours, theirs), strict=True):
            side.append(lines[-1]["peak"])
    return {
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "counted": counted,
        "our_seconds": statistics.median(seconds[0]),
        "peer_seconds": statistics.median(seconds[1]),
        "our_peak": max(peaks[0]),
        "peer_peak": max(peaks[1]),
        "memory_ratio": max(peaks[0]) / max(peaks[1]),
        "flop_use": statistics.median(use),
        "product_rate": last["product_rate"],
        "predicted_peak": last["predicted_peak"],
        "our_setting": last["setting"],
        "peer_setting": setting,
        "peer_tried": tried,
        "loss_difference": max(differences) if name != "W4" else None,
    }


def first_step(peer: str, gsm8k: str, folder: Path) -> dict[str, Any]:
    """Seconds from the start of the process to the end of step 1, from raw rows on."""
    ours, theirs = [], []
    rows = folder / "gsm8k.jsonl"
    lines = Path(gsm8k).read_text(encoding="utf-8").splitlines()[:48]
    problems = [json.loads(line) for line in lines]
    rows.write_text(
        "".join(
            json.dumps({"user": r["question"], "assistant": r["answer"]}) + "\n" for r in problems
        )
    )
    for _ in range(3):
        mine = run([sys.executable, "-m", "benchmarks.first", str(rows)])
        other = run([peer, str(HERE / "peer_trl_first.py"), str(rows), mine[0]["base"]])
        ours.append(mine[0]["since_start"])
        theirs.append(other[0]["since_start"])
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
        "our_seconds": statistics.median(ours), "peer_seconds": statistics.median(theirs),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["W1", "W2", "W3", "W4", "first", "trajectory"])
    parser.add_argument("--peer", default="python", help="interpreter with trl 1.16.0")
    parser.add_argument("--gsm8k", default="", help="JSONL with question and answer")
    parser.add_argument("--clinc150", default="", help="CSV with text and intent")
    parser.add_argument("--setting", default="", help="TRL's, e.g. 'fp32 1'; else all are tried")
    parser.add_argument("--repetitions", type=int, default=0)
    parser.add_argument(
        "--small", action="store_true", help="only try the scripts of W5 and W6; nothing is kept"
    )
    parser.add_argument(
        "--sampled", type=int, default=8, help="W6: single runs of each side that stand for eight"
    )
    args = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    (HERE / "results").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            if name == "first":
                result = first_step(args.peer, args.gsm8k, Path(folder))
            elif name == "W6":
                result = eight_adapters(
                    args.peer, args.clinc150, Path(folder), small=args.small, sampled=args.sampled
                )
            else:
                files = {"gsm8k": args.gsm8k, "clinc150": args.clinc150}
                work = make(name, files, Path(folder), small=args.small)
                path = work.write(Path(folder))
                known, times = args.setting, args.repetitions
                result = compare(name, path, args.peer, work.counted, times, known)
            line = {
                "workload": name, **result, "date": today, "python": platform.python_version(),
                "torch": version("torch"), "transformers": version("transformers"),
                "peer": PEERS.get(name, "trl 1.16.0"),
                "command": f"python -m benchmarks.run {name}",
            }  # fmt: skip
            print(json.dumps(line, indent=1), flush=True)
            if not args.small:
                with (HERE / "results" / f"{today}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
