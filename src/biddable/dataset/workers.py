"""Encoding on several cores: worker processes that get conversations as lines of JSON.

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
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby
from queue import SimpleQueue
from typing import IO, Any

from biddable.data.conversation import Conversation, Message
from biddable.encoding.chats import Rules
from biddable.encoding.encode import Encoder, Example, encode_many
from biddable.encoding.tokens import make_codec
from biddable.encoding.trained_turns import LossOn
from biddable.errors import BiddableError, Finding
from biddable.template.template import Template
from biddable.terminal import Writer, exact_output, guard

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
            yield from map(_packed, encode_many(encoder, batch, loss_on))
        return
    idle: SimpleQueue[Worker] = SimpleQueue()
    started = [_start(encoder, loss_on) for _ in range(workers)]
    for worker in started:
        idle.put(worker)

    def encode(batch: Sequence[Conversation]) -> list[Result]:
        worker = idle.get()
        try:
            _send(worker.stdin, [as_json(conversation) for conversation in batch])
            return [_result_of(value) for value in _receive(worker.stdout)]
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(workers)
    try:
        for results in pool.map(encode, batches):
            yield from results
    finally:
        # The caller may stop early: batches that are not done yet are cancelled.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in started:
            worker.kill()
            # Waits for it, and closes its pipes.
            with suppress(BrokenPipeError), worker:
                pass


def _start(encoder: Encoder, loss_on: LossOn) -> Worker:
    worker = subprocess.Popen(
        [sys.executable, "-c", "from biddable.dataset.workers import work; work()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        # The workers are the parallel part; threads in each would only fight over the cores.
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"},
    )
    _send(worker.stdin, setup_of(encoder, loss_on))
    return worker


def setup_of(encoder: Encoder, loss_on: LossOn) -> dict[str, Any]:
    """All that decides how conversations are encoded, as JSON values."""
    rules = encoder.rules
    return {
        "source": rules.codec.source,
        "template": asdict(rules.template) | {"today": None},
        "loss_on": loss_on,
        "ends": rules.ends,
        "closing": rules.closing,
        "stops": encoder.stops,
        "bos": encoder.bos,
        "adds_bos": encoder.adds_bos,
    }


def work() -> None:
    """What a worker process does: one line of setup, then a line of results for every batch."""
    guard()
    setup = _receive(sys.stdin)
    template = setup["template"]
    template["tokens"] = tuple((name, text) for name, text in template["tokens"])
    codec = make_codec(setup["source"])
    rules = Rules(Template(**template), codec, tuple(setup["ends"]), setup["closing"])
    encoder = Encoder(rules, tuple(setup["stops"]), setup["bos"], setup["adds_bos"])
    for line in sys.stdin:
        batch = [from_json(value) for value in json.loads(line)]
        results = encode_many(encoder, batch, setup["loss_on"])
        _send(exact_output(), [_as_json_result(result) for result in results])


def _send(pipe: Writer | None, value: Any) -> None:
    if pipe is not None:
        pipe.write(json.dumps(value) + "\n")
        pipe.flush()


def _receive(pipe: IO[str] | None) -> Any:
    line = pipe.readline() if pipe is not None else ""
    if not line:
        raise RuntimeError("a worker process ended before its work was done")
    return json.loads(line)


def as_json(conversation: Conversation) -> list[Any]:
    """The conversation as JSON values that `from_json` reads back."""
    c = conversation
    messages = [[m.role, m.content, m.weight, m.extra] for m in c.messages]
    return [messages, c.file, c.line, c.group, list(c.tools), c.origin]


def from_json(value: list[Any]) -> Conversation:
    """The conversation that `as_json` gave."""
    messages, *rest = value
    return Conversation([Message(*message) for message in messages], *rest)


def _as_json_result(result: Result) -> Any:
    if isinstance(result, BiddableError):
        return asdict(result.finding)
    return [[list(e.input_ids), runs_of(e.weights), e.file, e.line, e.turn] for e in result]


def _result_of(value: Any) -> Result:
    if isinstance(value, dict):
        return BiddableError.of(Finding(**value))
    return [
        Example(array("i", ids), from_runs(runs), file, line, turn)
        for ids, runs, file, line, turn in value
    ]


def _packed(result: Result) -> Result:
    """Examples with arrays for lists, which take a tenth of the memory."""
    return result if isinstance(result, BiddableError) else _result_of(_as_json_result(result))


def runs_of(weights: Sequence[float]) -> list[tuple[float, int]]:
    """Weights as (weight, how many in a row): a few pairs for what may be thousands of zeros."""
    return [(weight, len(list(run))) for weight, run in groupby(weights)]


def from_runs(runs: Sequence[Sequence[float]]) -> Sequence[float]:
    """The weights: one byte each where they are all 0 or 1, as nearly always, and else eight."""
    kind = "b" if all(weight in (0, 1) for weight, _ in runs) else "d"
    weights: array[Any] = array(kind)
    for weight, count in runs:
        value = int(weight) if kind == "b" else weight
        weights.extend(array(kind, [value]) * int(count))
    return weights
