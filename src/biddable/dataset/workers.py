"""Encoding on several cores: worker processes that are sent conversations as lines of JSON.

Plain child processes rather than multiprocessing: that would import the caller's main module again
in every worker (a script without a guard would start over), or fork a process that has threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, Any

from biddable.data.conversation import Conversation, Message
from biddable.encoding.chats import Rules
from biddable.encoding.encode import Encoder, Example, encode_many
from biddable.encoding.tokens import make_codec
from biddable.encoding.trained_turns import LossOn
from biddable.errors import BiddableError, Finding
from biddable.template.template import Template
from biddable.terminal import Writer, answers, guard

BATCH = 512
# Below this a worker's start costs more than it saves.
FEWEST_FOR_WORKERS = 4_000
MOST_WORKERS = 8

Result = list[Example] | BiddableError
Worker = subprocess.Popen[str]


def encode_each(
    encoder: Encoder,
    conversations: Sequence[Conversation],
    loss_on: LossOn,
    workers: int | None = None,
) -> Iterator[Result]:
    """The examples of each conversation in order, ids and weights as arrays.

    Args:
        workers: processes to use; None is one a core where there is enough to do.
    """
    batches = [conversations[n : n + BATCH] for n in range(0, len(conversations), BATCH)]
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workers = min(cores or 1, MOST_WORKERS) if len(conversations) >= FEWEST_FOR_WORKERS else 1
    if workers == 1:
        for batch in batches:
            yield from map(packed, encode_many(encoder, batch, loss_on))
        return
    yield from encode_in_workers(encoder, batches, loss_on, workers)


def encode_in_workers(
    encoder: Encoder, batches: Sequence[Sequence[Conversation]], loss_on: LossOn, workers: int
) -> Iterator[Result]:
    idle: SimpleQueue[Worker] = SimpleQueue()
    started = [start_worker(encoder, loss_on) for _ in range(workers)]
    for worker in started:
        idle.put(worker)

    def ask(batch: Sequence[Conversation]) -> list[Result]:
        worker = idle.get()
        try:
            send(worker.stdin, [as_json(conversation) for conversation in batch])
            return [result_of(value) for value in receive(worker.stdout)]
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(workers)
    try:
        for results in pool.map(ask, batches):
            yield from results
    finally:
        # Stops what is not done yet too, where the caller wants no more.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in started:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()


def start_worker(encoder: Encoder, loss_on: LossOn) -> Worker:
    worker = subprocess.Popen(
        [sys.executable, "-c", "from biddable.dataset.workers import work; work()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # The workers are the parallel part; threads in each would only fight over the cores.
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"},
    )
    send(worker.stdin, setup_of(encoder, loss_on))
    return worker


def setup_of(encoder: Encoder, loss_on: LossOn) -> dict[str, Any]:
    """All that decides how conversations are encoded, as JSON values."""
    rules = encoder.rules
    template = asdict(rules.template) | {"today": None}
    made = {"ends": rules.ends, "closing": rules.closing, "extra": rules.codec.extra}
    state = {"stops": encoder.stops, "bos": encoder.bos, "adds_bos": encoder.adds_bos}
    setup = {"source": rules.codec.source, "template": template, "loss_on": loss_on}
    return setup | made | state


def work() -> None:
    """What a worker process does: one line of setup, then a line of results for every batch."""
    guard()
    setup = receive(sys.stdin)
    template = setup["template"]
    template["tokens"] = tuple((name, text) for name, text in template["tokens"])
    codec = make_codec(setup["source"], setup["extra"])
    rules = Rules(Template(**template), codec, tuple(setup["ends"]), setup["closing"])
    encoder = Encoder(rules, tuple(setup["stops"]), setup["bos"], setup["adds_bos"])
    for line in sys.stdin:
        batch = [from_json(value) for value in json.loads(line)]
        results = encode_many(encoder, batch, setup["loss_on"])
        send(answers(), [as_result(result) for result in results])


def send(pipe: Writer | None, value: Any) -> None:
    if pipe is not None:
        pipe.write(json.dumps(value) + "\n")
        pipe.flush()


def receive(pipe: IO[str] | None) -> Any:
    line = pipe.readline() if pipe is not None else ""
    if not line:
        raise RuntimeError("a worker process ended before its work was done")
    return json.loads(line)


def as_json(conversation: Conversation) -> list[Any]:
    messages = [[m.role, m.content, m.weight, m.extra] for m in conversation.messages]
    place = [conversation.file, conversation.line, conversation.group]
    return [messages, *place, list(conversation.tools), conversation.origin]


def from_json(value: list[Any]) -> Conversation:
    messages, *rest = value
    return Conversation([Message(*message) for message in messages], *rest)


def as_result(result: Result) -> Any:
    if isinstance(result, BiddableError):
        return asdict(result.finding)
    return [[list(e.input_ids), runs_of(e.weights), e.file, e.line, e.turn] for e in result]


def result_of(value: Any) -> Result:
    if isinstance(value, dict):
        return BiddableError.of(Finding(**value))
    return [
        Example(array("i", ids), from_runs(runs), file, line, turn)
        for ids, runs, file, line, turn in value
    ]


def runs_of(weights: Sequence[float]) -> list[tuple[float, int]]:
    """Weights as (weight, how many in a row): a few pairs for what may be thousands of zeros."""
    runs: list[tuple[float, int]] = []
    for weight in weights:
        if runs and runs[-1][0] == weight:
            runs[-1] = (weight, runs[-1][1] + 1)
        else:
            runs.append((weight, 1))
    return runs


def from_runs(runs: Sequence[Sequence[float]]) -> Sequence[float]:
    """The weights: one byte each where they are all 0 or 1, as nearly always, and else eight."""
    weights: array[int] | array[float]
    if all(weight in (0, 1) for weight, _ in runs):
        weights = array("b")
        for weight, count in runs:
            weights.extend(array("b", [int(weight)]) * int(count))
        return weights
    weights = array("d")
    for weight, count in runs:
        weights.extend(array("d", [weight]) * int(count))
    return weights


def packed(result: Result) -> Result:
    """Examples with arrays for lists, which take a tenth of the memory."""
    if isinstance(result, BiddableError):
        return result
    return [
        Example(array("i", e.input_ids), from_runs(runs_of(e.weights)), e.file, e.line, e.turn)
        for e in result
    ]
