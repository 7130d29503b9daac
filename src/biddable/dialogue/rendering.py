"""Rendering chat templates in a process of its own, which is ended where a render takes too much.

One process (sandbox.py) serves a caller's process for all its rows and ends with it. On Linux the
kernel keeps both limits. macOS bounds no memory and Windows neither; there a thread of the caller
looks 20 times a second, so that a template may take more for a moment before it is ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from threading import Lock, Thread
from typing import Any

import psutil

from biddable.data.findings import BiddableError, Finding
from biddable.dialogue import sandbox

MEMORY = 512 << 20
SECONDS = 2.0
LOOK_EVERY = 0.05
# The code of what is wrong with a template itself, whatever the row: it ends a run.
UNUSABLE = "template_unusable"
TOO_LONG = f"takes more than {SECONDS:g} s of the processor"
TOO_LARGE = f"takes more than {MEMORY >> 20} MiB of memory"


class Renderer:
    """A process that renders, started when it is first needed and again where it was ended.

    Args:
        kernel: the kernel keeps the limits; else a thread of this process does.
    """

    def __init__(self, kernel: bool = sys.platform == "linux") -> None:
        self.kernel = kernel
        self.lock = Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.text: str | None = None
        self.since = 0.0
        self.ended_for = ""
        self.refused: dict[str, tuple[int, Finding]] = {}

    def ask(self, text: str, variables: Mapping[str, Any] | None) -> Any:
        """The render of a template; without variables, the texts that the template itself holds.

        Raises:
            BiddableError: `template_refused`, the template says so or the variables are not JSON;
                `template_unusable`, it is no Jinja or takes more than the limits.
        """
        with self.lock:
            known = variables is not None and text == self.text
            try:
                request = json.dumps([None if known else text, variables], ensure_ascii=False)
            except (TypeError, ValueError) as error:
                raise refusal(f"a message holds what JSON cannot: {error}") from None
            line = request.encode("utf-8", "surrogatepass") + b"\n"
            size, found = self.refused.get(text, (0, None))
            # What is nearly as long, such as the same with marks, need not be tried again.
            if found is not None and 2 * len(line) >= size:
                raise BiddableError.of(found)
            kind, value = self.exchange(line)
            if variables is not None:
                self.text = text if kind in ("result", "error") else None
            if kind == "error":
                raise refusal(value)
            if kind == "unusable":
                failed = unusable(value)
                self.refused[text] = (len(line), failed.finding)
                raise failed
            return value

    def exchange(self, line: bytes) -> tuple[str, Any]:
        """The answer to a request; the process is ended where it gives none, or we stop asking."""
        process = self.process = self.process or self.start()
        assert process.stdin is not None and process.stdout is not None
        answer = b""
        try:
            self.since = time.monotonic()
            with suppress(BrokenPipeError):
                process.stdin.write(line)
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            self.since = 0.0
            if not answer.endswith(b"\n"):
                self.process = self.text = None
                code = stop(process)
        if self.process is not None:
            kind, value = json.loads(answer)
            return kind, value
        ended = {-signal.SIGPROF: TOO_LONG, sandbox.OUT_OF_MEMORY: TOO_LARGE}.get(code)
        return "unusable", ended or self.ended_for or f"broke the process that renders it ({code})"

    def start(self) -> subprocess.Popen[bytes]:
        limits = (MEMORY, SECONDS) if self.kernel else (0, 0)
        process = subprocess.Popen(
            [sys.executable, "-P", sandbox.__file__, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Other locales would take room in memory.
            env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "1"},
        )
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"the process that renders templates does not start: {process.args}")
        if not self.kernel:
            Thread(target=self.watch, args=[process], daemon=True).start()
        return process

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Ends the process where a render takes more than the limits."""
        with suppress(psutil.Error):
            seen = psutil.Process(process.pid)
            self.ended_for = ""
            while not self.ended_for:
                time.sleep(LOOK_EVERY)
                if self.since and time.monotonic() - self.since > SECONDS:
                    self.ended_for = TOO_LONG
                elif seen.memory_info().rss > MEMORY:
                    self.ended_for = TOO_LARGE
            process.kill()


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ends a process and returns its exit code, which is its own where it ended before."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()
    return process.wait()


@lru_cache(maxsize=1)
def renderer_of(process_id: int) -> Renderer:
    """The renderer of this process; one that was forked must not use its parent's pipes."""
    return Renderer()


def render(text: str, variables: Mapping[str, Any]) -> str:
    """Renders a template with variables that are JSON values.

    Raises:
        BiddableError: as of `Renderer.ask`.
    """
    return str(renderer_of(os.getpid()).ask(text, variables))


def texts_in(text: str) -> list[str]:
    """The literal texts in a template's expressions.

    Raises:
        BiddableError: `template_unusable`.
    """
    return list(renderer_of(os.getpid()).ask(text, None))


def refusal(said: str) -> BiddableError:
    return BiddableError(
        f"The chat template does not render this conversation: {said}",
        fix="Change the conversation, or choose another template with --template.",
        code="template_refused",
    )


def unusable(what: str) -> BiddableError:
    return BiddableError(
        f"The chat template {what}.",
        fix="Choose another template with --template.",
        code=UNUSABLE,
    )
