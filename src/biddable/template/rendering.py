"""Rendering chat templates in a process of its own, which ends where a render takes too much.

One process (sandbox.py) serves a caller's process for all its rows and ends with it. On Linux the
kernel keeps both limits. macOS bounds no memory and Windows neither; there a thread of the caller
looks 20 times a second, so that a template may take more for a moment before it is ended.

To ask for one render at a time would cost more than the renders. So what needs renders is written
as coroutines, which await them, and `run_all` sends what many of them wait for in one request.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import RLock, Thread
from types import coroutine
from typing import Any, TypeVar

import psutil

from biddable.errors import BiddableError
from biddable.template import sandbox

MEMORY = 512 << 20
SECONDS = 2.0
KERNEL = sys.platform == "linux"
LOOK_EVERY = 0.05
# Renders of one request. With more, what is under way makes the garbage collector slow.
BATCH = 64
# The code of a template that takes too much: it ends a run, and is not tried again for every row.
UNUSABLE = "template_unusable"
# Kinds of answers after which no more is asked: of what is no Jinja, and of what takes too much.
FINAL = {"invalid": "template_refused", "unusable": UNUSABLE}

Answer = Sequence[Any]  # a kind (`result`, `error`, or one of FINAL) and a value
T = TypeVar("T")


class Renderer:
    """A process that renders, started when it is first needed and again where it was ended.

    Args:
        memory: bytes that the process may have.
        seconds: time of the processor that one render may take.
        kernel: the kernel keeps these limits; else a thread of the caller does.
    """

    def __init__(
        self, memory: int = MEMORY, seconds: float = SECONDS, kernel: bool = KERNEL
    ) -> None:
        self.memory, self.seconds, self.kernel = memory, seconds, kernel
        self.too_long = f"takes more than {seconds:g} s of the processor for one conversation"
        self.too_large = f"takes more than {memory >> 20} MiB of memory for one conversation"
        self.lock = RLock()
        self.process: subprocess.Popen[bytes] | None = None
        self.text: str | None = None
        self.asked = 0
        self.ended_for = ""

    def ask(self, text: str, items: Sequence[str]) -> list[Answer]:
        """A template's answers for some variables in JSON, none after one that takes too much."""
        with self.lock:
            known = "null" if text == self.text else json.dumps(text, ensure_ascii=False)
            line = f"[{known}, [{', '.join(items)}]]\n".encode("utf-8", "surrogatepass")
            answers, why = self.exchange(line)
            self.text = text if answers and answers[-1][0] not in FINAL else None
            if not answers and len(items) == 1:
                return [("unusable", why)]
            # One of them took too much, or all of them together.
            for item in items if not answers else ():
                answers += self.ask(text, [item])
                if answers[-1][0] in FINAL:
                    break
            return answers

    def exchange(self, line: bytes) -> tuple[list[Answer], str]:
        """The answers to a request, or why the process ended; it ends too if we stop waiting."""
        process = self.process = self.process or self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        try:
            self.asked += 1
            with suppress(BrokenPipeError):
                process.stdin.write(line)
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            self.asked += 1
            if not answer.endswith(b"\n"):
                code = self.close()
        if self.process is not None:
            return json.loads(answer), ""
        causes = {sandbox.OUT_OF_TIME: self.too_long, sandbox.OUT_OF_MEMORY: self.too_large}
        broken = f"breaks the process that renders it (exit code {code})"
        return [], causes.get(code) or self.ended_for or broken

    def close(self) -> int:
        """Ends the process, if there is one, and returns its exit code."""
        process, self.process, self.text = self.process, None, None
        if process is None:
            return 0
        # It leaves by itself where it waits for requests.
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        return process.wait()

    def start(self) -> subprocess.Popen[bytes]:
        limits = (self.memory, self.seconds) if self.kernel else (0, 0)
        process = subprocess.Popen(
            [sys.executable, "-P", sandbox.__file__, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Other locales would take room in memory.
            env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "1"},
        )
        self.ended_for = ""
        if not self.kernel:
            Thread(target=self.watch, args=[process], daemon=True).start()
        return process

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the process where a request takes more than the limits."""
        asked, before = 0, 0.0
        with suppress(psutil.Error):
            seen = psutil.Process(process.pid)
            while not self.ended_for:
                time.sleep(LOOK_EVERY)
                spent = sum(seen.cpu_times()[:2])
                if asked != self.asked or self.asked % 2 == 0:
                    asked, before = self.asked, spent
                if seen.memory_info().rss > self.memory:
                    self.ended_for = self.too_large
                elif spent - before > self.seconds:
                    self.ended_for = self.too_long
            process.kill()


@lru_cache(maxsize=1)
def renderer_of(process_id: int) -> Renderer:
    """The renderer of this process; one that was forked must not use its parent's pipes."""
    renderer = Renderer()
    atexit.register(renderer.close)
    return renderer


Request = tuple[str, str]  # a template and what it is given, in JSON
Plan = Coroutine[Request, Any, T]
# Results of all; or none, and the number of the one that showed the template unusable, with why.
Ran = tuple[list[T], tuple[int, BiddableError] | None]


@coroutine
def answered(request: Request) -> Generator[Request, Any, Any]:
    """Awaits the answer of the process that renders, which `run_all` asks."""
    return (yield request)


async def rendered(text: str, variables: Mapping[str, Any]) -> str:
    """Awaits what a template makes of variables, which are JSON values.

    Raises:
        BiddableError: `template_refused`, the template says so or the variables are not JSON.
    """
    try:
        item = json.dumps(variables, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise refusal(f"a message holds what JSON cannot hold: {error}") from None
    return str(await answered((text, item)))


async def texts_in(text: str) -> list[str]:
    """Awaits the literal texts that stand in a template's expressions."""
    return list(await answered((text, "null")))


def run_all(plans: Sequence[Plan[T]]) -> Ran[T]:
    """Runs coroutines that await renders, all of the same template."""
    results: list[T] = []
    for first in range(0, len(plans), BATCH):
        some, failed = run_some(plans[first : first + BATCH])
        if failed is not None:
            for plan in plans:
                plan.close()
            return [], (first + failed[0], failed[1])
        results += some
    return results, None


def run_some(plans: Sequence[Plan[T]]) -> Ran[T]:
    """`run_all` for few enough to wait together."""
    results: list[Any] = [None] * len(plans)
    steps: list[tuple[int, Any, Any]] = [(n, plan.send, None) for n, plan in enumerate(plans)]
    while steps:
        asking: list[tuple[int, Request]] = []
        for number, step, value in steps:
            try:
                asking.append((number, step(value)))
            except StopIteration as end:
                results[number] = end.value
        steps = []
        for (number, _), (kind, value) in zip(asking, ask(asking), strict=False):
            if kind in FINAL:
                return [], (number, unusable(value, FINAL[kind]))
            send, throw = plans[number].send, plans[number].throw
            failed = kind == "error"
            steps.append((number, throw, refusal(value)) if failed else (number, send, value))
    return results, None


def ask(asking: Sequence[tuple[int, Request]]) -> list[Answer]:
    """The answers to requests, which are all to one template."""
    if not asking:
        return []
    (text,) = {text for _, (text, _) in asking}
    return renderer_of(os.getpid()).ask(text, [item for _, (_, item) in asking])


def run(plan: Plan[T]) -> T:
    """Runs one coroutine that awaits renders.

    Raises:
        BiddableError: its own; `template_refused`, its template is no Jinja; `template_unusable`.
    """
    results, failed = run_all([plan])
    if failed is not None:
        raise failed[1]
    return results[0]


def refusal(said: str) -> BiddableError:
    return BiddableError(
        "template_refused",
        f"The chat template does not render this conversation: {said}",
        "Change the conversation, or choose another template with --template.",
    )


def unusable(why: str, code: str) -> BiddableError:
    return BiddableError(
        code, f"The chat template {why}.", "Choose another template with --template."
    )
