"""A soak of `biddable serve`: mixed requests from many clients, some of which vanish.

    python benchmarks/soak.py RUN --requests 2000

Starts a server, learns its greedy answers one by one, and then sends everything at once: whole and
streamed requests, bad JSON, prompts beyond the context, unknown parameters and models, and clients
that close the socket at once or in the middle of a stream. Prints the counts, and adds a line to
benchmarks/results: no wrong answer, no hang, no row left, and how the memory grew.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import psutil

QUESTIONS = [f"Question {i}: what is {i} plus {i * 7 % 11}?" for i in range(24)]
TOKENS = 24
BAD: dict[str, tuple[Any, int]] = {
    "bad JSON": (b'{"model": ', 400),
    "too long": ({"messages": [{"role": "user", "content": "word " * 5_000}]}, 400),
    "unsupported": ({"n": 3}, 400),
    "unknown parameter": ({"temprature": 1}, 400),
    "unknown model": ({"model": "gpt-4o"}, 404),
    "too large": (b" " * (5 << 20), 413),
}
KINDS = ("whole", "streamed", "vanishes at once", "vanishes midway", *BAD)


def start(words: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A server on a free port."""
    command = [sys.executable, "-m", "biddable", "serve", *words, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if port := re.search(r":(\d+)/v1", line):
            return process, int(port[1])
    raise SystemExit("the server did not start")


def body_of(model: str, question: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "max_tokens": TOKENS, **more}


def connect(port: int, data: bytes) -> socket.socket:
    """A connection on which a request has been sent."""
    client = socket.create_connection(("127.0.0.1", port), timeout=300)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    # A server that refuses a large body may close before it has all of it.
    with suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(head.encode() + data)
    return client


def read_all(client: socket.socket) -> tuple[int, bytes]:
    """(status, body) of the reply; a chunked body is joined."""
    reply = b""
    with suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            reply += part
    head, _, body = reply.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        rest, body = body, b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return int(head.split(b" ", 2)[1]) if head else 0, body


def streamed_text(body: bytes) -> str:
    events = [e.removeprefix(b"data: ") for e in body.split(b"\n\n") if e]
    if not events or events[-1] != b"[DONE]":
        raise ValueError("the stream has no end")
    choices = [json.loads(e)["choices"][0] for e in events[:-1]]
    return "".join(c["delta"].get("content", "") for c in choices)


def one(kind: str, port: int, model: str, number: int, answers: dict[str, str]) -> str:
    """Sends one request of a kind: `ok`, or what went wrong."""
    question = QUESTIONS[number % len(QUESTIONS)]
    if kind in BAD:
        change, expected = BAD[kind]
        data = (
            change
            if isinstance(change, bytes)
            else json.dumps(body_of(model, question) | change).encode()
        )
        with connect(port, data) as client:
            status, _ = read_all(client)
        # A body that is refused midway may reset the connection before its reply is read.
        return "ok" if status == expected or (kind == "too large" and not status) else str(status)
    stream = kind != "whole" and (kind != "vanishes at once" or number % 2 == 0)
    data = json.dumps(body_of(model, question, stream=stream)).encode()
    with connect(port, data) as client:
        if kind == "vanishes at once":
            return "ok"
        if kind == "vanishes midway":
            client.recv(400)
            return "ok"
        status, body = read_all(client)
    if status == 429:
        return "429"
    if status != 200:
        return f"{status} {body[:200]!r}"
    text = streamed_text(body) if stream else json.loads(body)["choices"][0]["message"]["content"]
    return "ok" if text == answers[question] else f"wrong: {text!r}, not {answers[question]!r}"


def gauges(port: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/metrics"
    text = urllib.request.urlopen(url, timeout=60).read().decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def wait_until_idle(port: int) -> float:
    """Seconds until no row is left."""
    began = time.monotonic()
    while gauges(port)["biddable_running"] + gauges(port)["biddable_waiting"]:
        if time.monotonic() - began > 120:
            raise SystemExit("rows are left two minutes after the last request")
        time.sleep(0.1)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    process, port = start([args.run])
    memory = psutil.Process(process.pid)
    models = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60))
    model = models["data"][0]["id"]
    answers: dict[str, str] = {}
    for question in QUESTIONS:
        with connect(port, json.dumps(body_of(model, question)).encode()) as client:
            answers[question] = json.loads(read_all(client)[1])["choices"][0]["message"]["content"]
    draw = random.Random(0)
    kinds = [draw.choice(KINDS) for _ in range(args.requests)]
    before, began = memory.memory_info().rss, time.monotonic()
    middle = 0
    results: list[str] = []
    with ThreadPoolExecutor(args.clients) as pool:
        jobs = [pool.submit(one, kind, port, model, i, answers) for i, kind in enumerate(kinds)]
        for place, job in enumerate(jobs):
            results.append(job.result())
            if place == len(jobs) // 2:
                middle = memory.memory_info().rss
    seconds, idle = time.monotonic() - began, wait_until_idle(port)
    after, files = memory.memory_info().rss, memory.num_fds()
    process.send_signal(signal.SIGINT)
    code = process.wait(60)
    assert process.stderr is not None
    counts = Counter(f"{kind}: {result}" for kind, result in zip(kinds, results, strict=True))
    line = {
        "workload": "soak", "requests": args.requests, "clients": args.clients,
        "results": dict(sorted(counts.items())), "seconds": seconds, "seconds_until_idle": idle,
        "megabytes": [round(b / 1e6) for b in (before, middle, after)], "open_files": files,
        "exit_code": code, "stderr": process.stderr.read()[-500:],
        "date": f"{date.today():%Y-%m-%d}",
    }  # fmt: skip
    print(json.dumps(line, indent=1))
    with (args.results / f"{line['date']}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    sys.exit(any(result not in ("ok", "429") for result in results))


if __name__ == "__main__":
    main()
