"""A run that Ctrl-C interrupts, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

_CODE = """
import os, signal, sys
from biddable.cli import main
from biddable.training import loop

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupted_at = int(sys.argv.pop(1))

def due(step, *_):
    if step == interrupted_at:
        os.kill(os.getpid(), signal.SIGINT)
    return False

loop._save_is_due = due
sys.exit(main(sys.argv[1:]))
"""


def interrupt(arguments: Sequence[str], step: int) -> None:
    """Runs the command until a step, at which it is interrupted and saves."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(step), *arguments],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
