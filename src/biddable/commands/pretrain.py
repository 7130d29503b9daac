"""`pretrain`: what the command line prints of it."""

from __future__ import annotations

from typing import Any

from biddable.from_scratch.pretrain import pretrain
from biddable.settings import Printing
from biddable.terminal import write_json


def run(options: dict[str, Any], printing: Printing) -> int:
    """Trains; returns 0, or 130 or 143 when it was interrupted and saved."""
    trained = pretrain(**options)
    if printing.json:
        write_json(trained.as_json())
    return trained.exit_code
