"""`convert`: what the command line prints of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from biddable.data.rows import number_of
from biddable.from_scratch.convert import convert
from biddable.settings import Printing
from biddable.terminal import console, line, write_json


def run(options: dict[str, Any], printing: Printing) -> int:
    """Converts, and says what came out."""
    model = convert(**options)
    shape = (
        f"{number_of(model.layers, 'layer')} of width {model.width}, "
        f"{number_of(model.heads, 'head')}, {model.context} long"
    )
    line(console(), "model", f"gpt2, {model.parameters:,} parameters, {shape}")
    line(console(), "next", f"biddable train data.jsonl --base {model.folder}")
    if printing.json:
        write_json({**asdict(model), "folder": str(model.folder)})
    return 0
