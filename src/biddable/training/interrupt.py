"""Ctrl-C and SIGTERM: the first lets the loop finish its step and save, the second exits."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

_EXIT = {signal.SIGINT: 130, signal.SIGTERM: 143}
# A scheduler that ends a job signals torchrun and its ranks, and torchrun signals them again.
SAME_WITHIN = 2.0


class Interrupt:
    """While entered, remembers the signal that asks the run to stop.

    A second one ends the process at once, unless it follows within two seconds. Only the main
    thread can take signals; elsewhere no signal is seen.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._first = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in _EXIT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first and now - self._first > SAME_WITHIN:
            os._exit(self.exit_code)
        self._first = self._first or now
        self.exit_code = _EXIT[signal.Signals(number)]
