"""The log of a run: log.jsonl for machines, a live bar or plain lines on stderr for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from biddable.storage import flush
from biddable.terminal import line

# Characters of a text among the lines of figures.
LONGEST_SHOWN = 100


class Log(Protocol):
    """Takes one event, as it is written to log.jsonl."""

    def __call__(self, event: Mapping[str, Any]) -> None: ...


def json_log(path: Path) -> Log:
    """A log that appends each event as a line, which survives a crash of the run.

    The event `save`, which precedes each checkpoint, waits until all is on disk.
    """

    def write(event: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        if event["event"] == "save":
            flush(path)

    return write


def combined(*logs: Log) -> Log:
    """A log that passes each event to all of these."""

    def write(event: Mapping[str, Any]) -> None:
        for log in logs:
            log(event)

    return write


def silent(event: Mapping[str, Any]) -> None:
    """The log of a rank that is not the first."""


def seldom(out: Console, name: str) -> Callable[[str], None]:
    """A function that shows a line of progress, at most every two seconds."""
    shown = time.monotonic()

    def show(text: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= 2:
            shown = time.monotonic()
            line(out, name, text)

    return show


def counting(out: Console) -> Callable[[int], None]:
    """A function that shows now and then how many conversations are encoded."""
    show = seldom(out, "encoding")
    return lambda done: show(f"{done:,} conversations so far")


class Screen:
    """Shows the steps of a run: a bar on a terminal, else a line at each evaluation."""

    def __init__(self, steps: int, out: Console) -> None:
        self._out, self._steps = out, steps
        self._held_out = float("nan")
        self._last: Mapping[str, Any] = {}
        self._start, self._first = time.monotonic(), 0
        self._bar: Progress | None = None
        if out.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=out,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> Screen:
        if self._bar:
            self._bar.start()
        self._out.print("   step     loss eval loss  trained tokens/s      left", style="dim")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "step":
            self._last = event
            self._first = self._first or int(event["step"])
            if self._bar:
                text = f"loss {event['loss']:.3f}  eval {self._held_out:.3f}  {self._rate()}"
                self._bar.update(self._task, completed=event["step"], description=text)
        elif event["event"] == "eval":
            self._held_out = event["held_out_loss"]
            self._text("prompt", event.get("prompt"))
            self._line(event)
            self._text("output", event.get("answer"))
        elif event["event"] == "rising":
            self._out.print(
                f"        eval loss has turned up: its best was at step {event['best_step']}, "
                "whose weights are kept (--early-stop 2 would stop here)",
                style="yellow",
            )

    def _line(self, event: Mapping[str, Any]) -> None:
        step = int(event["step"])
        if step == 0:
            self._out.print(f"{0:7d}        -  {self._held_out:8.3f}   (base)")
            return
        best = " *" if event.get("best") else ""
        done = step - self._first + 1
        left = (time.monotonic() - self._start) / done * (self._steps - step)
        self._out.print(
            f"{step:7d} {self._last['loss']:8.3f}  {self._held_out:8.3f}  {self._rate():>16s}"
            f"  {int(left // 60):4d}m{int(left % 60):02d}s{best}"
        )

    def _text(self, name: str, text: str | None) -> None:
        """A text on one line, cut."""
        if text:
            words = " ".join(text.split())
            cut = f"{words[:LONGEST_SHOWN]}…" if len(words) > LONGEST_SHOWN else words
            self._out.print(Text(f"        {name}  {cut}", style="dim"))

    def _rate(self) -> str:
        seconds = self._last.get("seconds") or float("inf")
        return f"{self._last.get('trained_tokens', 0) / seconds:.0f}"
