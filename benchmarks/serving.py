"""Tokens per second of `biddable serve`: one client, and several at once, with equal answers.

    python benchmarks/serving.py RUN --clients 16 --data examples/inbox/heldout.jsonl

Each client sends its prompts one after another, greedy; the answers of both ways have to be equal.
With --peer, transformers' `generate` on the same prompts stands beside it, one by one and in a
padded batch; with --gguf FILE, llama.cpp with a file that `export` wrote of the same run, asked by
the same clients. Adds a line to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from openai import OpenAI

from soak import start


def questions_of(path: Path, count: int) -> list[list[dict[str, str]]]:
    """The messages before the first answer of each row."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if "messages" in rows[0]:
        talks = [row["messages"] for row in rows]
        return [[m for m in talk if m["role"] != "assistant"][:2] for talk in talks][:count]
    names = ("user", "prompt", "question", "input")
    texts = [next(row[name] for name in names if name in row) for row in rows]
    systems = [[{"role": "system", "content": r["system"]}] if "system" in r else [] for r in rows]
    pairs = zip(systems, texts, strict=True)
    return [[*system, {"role": "user", "content": text}] for system, text in pairs][:count]


def measure(client: OpenAI, args: argparse.Namespace, talks: list[Any], clients: int) -> Any:
    """(answers, tokens, wall seconds, processor seconds of the server, which is `args.pid`)."""

    def ask(talk: Any) -> tuple[str, int]:
        reply = client.chat.completions.create(
            model=args.model, messages=talk, temperature=0, max_tokens=args.tokens
        )
        assert reply.usage is not None
        return reply.choices[0].message.content or "", reply.usage.completion_tokens

    clock = psutil.Process(args.pid).cpu_times()
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        pairs = list(pool.map(ask, talks))
    seconds = time.perf_counter() - began
    after = psutil.Process(args.pid).cpu_times()
    processor = after.user + after.system - clock.user - clock.system
    return [text for text, _ in pairs], sum(count for _, count in pairs), seconds, processor


def peer(run: str, talks: list[Any], most: int) -> dict[str, float]:
    """Tokens per second of transformers' `generate`, one by one and all in one padded batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from biddable.models.base import resolve_base

    folder = resolve_base(run).folder
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)
    rates = {}
    for name, size in (("one by one", 1), ("padded batch", len(talks))):
        began, tokens = time.process_time(), 0
        for first in range(0, len(talks), size):
            ids = tokenizer.apply_chat_template(
                talks[first : first + size], add_generation_prompt=True, padding=True,
                return_tensors="pt", return_dict=True,
            )  # fmt: skip
            out = model.generate(**ids, do_sample=False, max_new_tokens=most)
            new = out[:, ids["input_ids"].shape[1] :]
            tokens += int((new != tokenizer.pad_token_id).sum())
        rates[name] = tokens / (time.process_time() - began)
    return rates


def llama_cpp(args: argparse.Namespace, talks: list[Any]) -> dict[str, Any]:
    """Tokens per second of llama.cpp on the same prompts, one by one and from all clients."""
    server = find_spec("biddable.exporting.llama_server")
    assert server is not None
    assert server.origin is not None
    words = [str(args.gguf), str(args.context), str(torch.get_num_threads()), "usual", ""]
    command = [sys.executable, server.origin, *words, str(args.clients)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        address = next(line.strip()[1:] for line in child.stdout if line.startswith("@http"))
        client = OpenAI(base_url=f"{address}/v1", api_key="any", timeout=3600)
        args.pid, args.model = child.pid, "any"
        measure(client, args, talks[:1], 1)
        rates = {}
        for name, clients in (("one by one", 1), ("clients", args.clients)):
            _, tokens, seconds, processor = measure(client, args, talks, clients)
            rates[name] = {"wall": tokens / seconds, "processor": tokens / processor}
        child.kill()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--context", type=int, default=1024, help="tokens of one row in llama.cpp")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    talks = questions_of(args.data, args.count)
    process, port = start([args.run])
    args.pid = process.pid
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", timeout=3600)
    args.model = client.models.list().data[0].id
    measure(client, args, talks[:1], 1)
    alone, tokens, seconds, processor = measure(client, args, talks, 1)
    texts, tokens_many, seconds_many, processor_many = measure(client, args, talks, args.clients)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    line = {
        "workload": "serving", "clients": args.clients, "requests": len(talks),
        "equal": sum(a == b for a, b in zip(alone, texts, strict=True)),
        "tokens": [tokens, tokens_many],
        "tokens_per_second": {
            "wall": [tokens / seconds, tokens_many / seconds_many],
            "processor": [tokens / processor, tokens_many / processor_many],
        },
        "ratio": {
            "wall": tokens_many / seconds_many / (tokens / seconds),
            "processor": tokens_many / processor_many / (tokens / processor),
        },
        "peer_tokens_per_processor_second": peer(args.run, talks, args.tokens) if args.peer else {},
        "llama_cpp_tokens_per_second": llama_cpp(args, talks) if args.gguf else {},
        "threads": torch.get_num_threads(), "load": os.getloadavg()[0],
        "date": f"{date.today():%Y-%m-%d}", "torch": torch.__version__,
        "command": " ".join(sys.argv),
    }  # fmt: skip
    print(json.dumps(line, indent=1))
    with (args.results / f"{line['date']}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
