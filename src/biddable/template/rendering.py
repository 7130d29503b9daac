"""Rendering chat templates in a process of its own, which ends where a render takes too much.

One process (sandbox.py) serves a caller's process for all its rows and ends with it. On Linux the
kernel keeps both limits. macOS bounds no memory and Windows neither; there a thread of the caller
looks 20 times a second, so a template may take more for a moment before its process is ended.

A request costs more than a render. So a caller that knows what it will need calls
`Renders.gather`, which renders in batches; `Renders.text` then returns the stored result.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import RLock, Thread
from typing import Any, TypeVar

import psutil

from biddable.errors import BiddableError, Finding
from biddable.template import sandbox

MEMORY = 512 << 20
SECONDS = 2.0
KERNEL = sys.platform == "linux"
LOOK_EVERY = 0.05
# Renders of one request.
BATCH = 64
# The code for a template that takes too much: it ends the run, and is not tried for every row.
UNUSABLE = "template_unusable"
# Kinds of answers after which nothing more is rendered, and their error codes.
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
        self.turns = 0  # odd while a request is under way
        self.ended_for = ""

    def ask(self, text: str, items: Sequence[str]) -> list[Answer]:
        """A template's answers for variables in JSON; they end at one that takes too much."""
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
        """The answers to a request, or why the process ended; an exception here ends it too."""
        process = self.process = self.process or self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        try:
            self.turns += 1
            with suppress(BrokenPipeError):
                process.stdin.write(line)
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            self.turns += 1
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
        # A process that waits for requests exits once its pipes are closed.
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
        turn, before = 0, 0.0
        with suppress(psutil.Error):
            watched = psutil.Process(process.pid)
            while not self.ended_for:
                time.sleep(LOOK_EVERY)
                spent = sum(watched.cpu_times()[:2])
                if turn != self.turns or self.turns % 2 == 0:
                    turn, before = self.turns, spent
                if watched.memory_info().rss > self.memory:
                    self.ended_for = self.too_large
                elif spent - before > self.seconds:
                    self.ended_for = self.too_long
            process.kill()


@lru_cache(maxsize=1)
def renderer_of(process_id: int) -> Renderer:
    """The renderer of this process; a forked process must not use its parent's pipes."""
    renderer = Renderer()
    atexit.register(renderer.close)
    return renderer


class Renders:
    """The renders of one template; a request is the JSON of its variables.

    Args:
        template: the Jinja text.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        self.known: dict[str, str | Finding] = {}

    def gather(self, requests: Iterable[str]) -> None:
        """Renders these requests in batches, and stops at one that takes too much."""
        missing = [request for request in dict.fromkeys(requests) if request not in self.known]
        for first in range(0, len(missing), BATCH):
            batch = missing[first : first + BATCH]
            answers = renderer_of(os.getpid()).ask(self.template, batch)
            for request, (kind, value) in zip(batch, answers, strict=False):
                self.known[request] = value if kind == "result" else refusal(kind, value)
                if kind in FINAL:
                    return

    def text(self, request: str) -> str:
        """The text of one request.

        Raises:
            BiddableError: `template_refused`, for these variables or for any; `template_unusable`.
        """
        self.gather([request])
        result = self.known[request]
        if isinstance(result, Finding):
            raise BiddableError.of(result)
        return result


def literal_texts(template: str) -> list[str]:
    """The literal texts that stand in a template's expressions.

    Raises:
        BiddableError: `template_refused`, it is no Jinja; `template_unusable`.
    """
    ((kind, value),) = renderer_of(os.getpid()).ask(template, ["null"])
    if kind != "result":
        raise BiddableError.of(refusal(kind, value))
    return list(value)


def attempt(make: Callable[[], T]) -> T | BiddableError:
    """What a function returns, or its error, unless that error ends the run."""
    try:
        return make()
    except BiddableError as error:
        if error.finding.code == UNUSABLE:
            raise
        return error


def refusal(kind: str, why: str) -> Finding:
    if kind in FINAL:
        fix = "Choose another template with --template."
        return Finding(FINAL[kind], "error", f"The chat template {why}.", fix)
    what = f"The chat template does not render this conversation: {why}"
    fix = "Change the conversation, or choose another template with --template."
    return Finding("template_refused", "error", what, fix)
