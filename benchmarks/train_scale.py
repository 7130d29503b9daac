"""Training on many rows whose encoding is kept: `python benchmarks/train_scale.py 1000000`.

Encodes a thousand rows of about 200 tokens and trains a tiny model with SmolLM2's tokenizer on them
for a few steps: what everything but the data takes. Then the same with as many rows as were asked
for. Prints what encoding took, and of each training the seconds until the first step was done and
the largest memory of the process, its own and that of mapped files (which the kernel may take
back). With a folder as second argument all is left there, and a second call encodes nothing. Linux
only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.check_scale import write_rows
from biddable.models.base import load_tokenizer, resolve_base

STEPS = 20


def base_folder(path: Path) -> None:
    """A random Llama of 1.6 million parameters with the packaged base's tokenizer."""
    tokenizer = load_tokenizer(resolve_base("smollm2"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)


def processor_seconds(process: int) -> float:
    """What a process has used so far."""
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def memory(process: int) -> tuple[int, int]:
    """(own, of mapped files) MiB that are resident; 0 once the process has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in text.splitlines())
    own, mapped = (int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssFile"))
    return own // 1024, mapped // 1024


def trained(data: Path, base: Path, out: Path) -> dict[str, float]:
    """Trains; the seconds to the first step and in all, and the memory after it and at most."""
    command = [
        sys.executable, "-m", "biddable", "train", str(data), "--base", str(base), "--out",
        str(out), "--steps", str(STEPS), "--answers", "2", "--device", "cpu", "--precision", "fp32",
        "--batch-tokens", "4096", "--template", "chatml",
    ]  # fmt: skip
    start, first, used = time.perf_counter(), 0.0, 0.0
    most, steps = (0, 0), (0, 0)
    with (out.parent / f"{out.name}.txt").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            own, mapped = memory(process.pid)
            most = max(most[0], own), max(most[1], mapped)
            log = out / "log.jsonl"
            done = log.read_text().count('"event": "step"') if log.exists() else 0
            if done and not first:
                first, used = time.perf_counter() - start, processor_seconds(process.pid)
            if done < STEPS:
                steps = most
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit((out.parent / f"{out.name}.txt").read_text())
    return {
        "first_step_after_s": round(first, 1),
        "processor_s_until_then": round(used, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "own_mib_until_the_last_step": steps[0],
        "mapped_mib_until_the_last_step": steps[1],
        "own_mib_until_the_report": most[0],
        "mapped_mib_until_the_report": most[1],
    }


def checked(data: Path, base: Path) -> dict[str, float]:
    """Has `biddable check` read, check, encode and keep the rows; what that took.

    The largest process is this one's child; its workers are looked at beside it.
    """
    command = [sys.executable, "-m", "biddable", "check", str(data), "--base", str(base)]
    command += ["--template", "chatml", "--json"]
    start, used, most, workers = time.perf_counter(), 0.0, 0, 0
    with data.with_suffix(".txt").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            most = max(most, memory(process.pid)[0])
            workers = max([workers, *(memory(child.pid)[0] for child in children)])
            with suppress(psutil.Error):
                everyone = [process.pid, *(child.pid for child in children)]
                used = max(used, sum(processor_seconds(pid) for pid in everyone))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(data.with_suffix(".txt").read_text()[-2000:])
    return {
        "encoded_after_s": round(time.perf_counter() - start, 1),
        "processor_s": round(used, 1),
        "own_mib": most,
        "own_mib_of_a_worker": workers,
    }


def main(count: int, folder: Path) -> None:
    """Writes, encodes, trains twice, prints a JSON line each."""
    base_folder(folder / "base")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    for rows in (1000, count):
        data = folder / f"{rows}.jsonl"
        if not data.exists():
            write_rows(data, rows)
            line = {"rows": rows, **checked(data, folder / "base")}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        out = folder / f"run-{rows}-{time.time():.0f}"
        line = {"rows": rows, **trained(data, folder / "base", out)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        Path(sys.argv[2]).mkdir(exist_ok=True)
        main(int(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(int(sys.argv[1]), Path(name))
