"""Training on many rows whose encoding is kept: `python benchmarks/train_scale.py 1000000`.

Encodes a thousand rows of about 200 tokens and trains a tiny model with SmolLM2's tokenizer on them
for a few steps: what everything but the data takes. Then it repeats these rows to as many as were
asked for, in the file and in the cache (encoding them would only take long), and trains on those.
Prints the seconds until the first step was done and the largest memory of the process, its own and
that of mapped files (which the kernel may take back). Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.check_scale import write_rows
from biddable.models.base import load_tokenizer, resolve_base
from biddable.training.kept import Kept
from biddable.training.settings import Settings
from biddable.verbs.kept import hashes_of, keep, place_of
from biddable.verbs.prepare import decides, prepare
from biddable.verbs.prepared import Side, counted

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
    found = dict(line.split(":", 1) for line in text.splitlines())
    own, mapped = (int(found.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssFile"))
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


def repeated(data: Path, base: Path, few: Path, count: int) -> float:
    """Keeps what would be made of the rows of `few`, repeated; the seconds that writing took."""
    settings = Settings(data=(str(few),), base=str(base), template="chatml")
    made = prepare(settings)
    rows, examples = list(made.conversations()), list(made.examples())
    all_rows = Kept(lambda i: replace(rows[i % len(rows)], line=i + 1), range(count))
    all_examples = Kept(lambda i: replace(examples[i % len(rows)], line=i + 1), range(count))
    known = {n: getattr(made, n) for n in ("base", "tokenizer", "template", "max_length")}
    settings = replace(settings, data=(str(data),))
    hashes = hashes_of(settings.data)
    assert hashes is not None
    made = replace(
        made,
        rows=count,
        hashes=hashes,
        train=Side(all_rows[500:], all_examples[500:]),
        held_out=Side(all_rows[:500], all_examples[:500]),
        counts=counted(all_examples),
        lengths=[len(e.input_ids) for e in examples] * (count // len(rows)),
    )
    decided = decides(settings, made.tokenizer, made.template, made.max_length)
    start = time.perf_counter()
    keep(place_of(decided, hashes), made, known)
    return time.perf_counter() - start


def main(count: int) -> None:
    """Writes, trains twice, prints a JSON line each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base_folder(folder / "base")
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        few, many = folder / "few.jsonl", folder / "many.jsonl"
        write_rows(few, 1000)
        with many.open("wb") as file:
            file.writelines(few.read_bytes() for _ in range(count // 1000))
        seconds = repeated(many, folder / "base", few, count)
        kept = sum(p.stat().st_size for p in (folder / "cache").rglob("rows/*/*"))
        told = {"rows": count, "keeping_s": round(seconds, 1), "kept_mib": kept // 2**20}
        sys.stdout.write(json.dumps(told) + "\n")
        for rows, data in ((1000, few), (count, many)):
            told = {"rows": rows, **trained(data, folder / "base", folder / f"run-{rows}")}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
