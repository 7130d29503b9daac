"""Chat in a terminal of its own: lines are edited, Ctrl-C and Ctrl-D do what hands expect."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from select import select

import pytest

from letters import tiny_folder


class Screen:
    """`biddable chat` in a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.terminal, end = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
        command = [sys.executable, "-m", "biddable", "chat", *words]
        self.process = subprocess.Popen(
            command, stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True
        )
        os.close(end)
        self.text = ""

    def expect(self, text: str) -> None:
        """Reads until a text comes that did not come before."""
        limit = time.monotonic() + 300
        while text not in self.text:
            ready, _, _ = select([self.terminal], [], [], max(0.0, limit - time.monotonic()))
            assert ready, f"{text!r} did not come, but {self.text!r}"
            self.text += os.read(self.terminal, 4096).decode(errors="replace")
        self.text = self.text.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, once the process sleeps: one that comes before readline waits ends nothing."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        asleep = 0
        while stat.exists() and asleep < 3:
            state = stat.read_text().rpartition(")")[2].split()[0]
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.02)
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        return self.process.wait(300)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


def test_a_talk_in_a_terminal_edits_lines_and_survives_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("readline")
    with Screen(tiny_folder(tmp_path / "model"), "--max-new-tokens", "5") as screen:
        screen.expect("> ")
        screen.type("/helx\x1b[D\x1b[C\x7fp\r")  # Left, right, backspace.
        screen.expect("/save FILE")
        screen.expect("> ")
        screen.type("\x1b[A\r")  # The line before comes back.
        screen.expect("/save FILE")
        screen.expect("> ")
        screen.interrupt()
        screen.expect("Ctrl-C again")
        screen.expect("> ")
        screen.type("ab?\r")
        screen.expect("> ")
        screen.interrupt()
        screen.expect("Ctrl-C again")
        screen.expect("> ")
        screen.interrupt()
        assert screen.end() == 0


def test_ctrl_d_leaves(tmp_path: Path) -> None:
    with Screen(tiny_folder(tmp_path / "model")) as screen:
        screen.expect("> ")
        screen.type("\x04")
        assert screen.end() == 0
