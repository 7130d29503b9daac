"""Draws a recorded terminal session as SVG, without what was redrawn: the README's picture.

script -qec "stty cols 92; biddable train examples/inbox/train.jsonl --eval ..." FILE
python -m benchmarks.terminal_picture FILE docs/pictures/demo.svg
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

# What a live display does before it draws anew, and the lines that it draws.
REDRAWN = re.compile(r"\x1b\[(?:\d*[AK]|\?25[lh])")
LIVE = re.compile(r"^(step \d+/\d+ |. loading )")
WIDTH = 92


def shown(recorded: str) -> list[Text]:
    """The lines that stay on the screen, the last of those that a live display drew left out."""
    lines = recorded.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    texts = [Text.from_ansi(REDRAWN.sub("", line)) for line in lines]
    return [text for text in texts if text.plain.strip() and not LIVE.match(text.plain)]


def main(source: str, target: str) -> None:
    """Writes the SVG."""
    recorded = Path(source).read_text(encoding="utf-8").replace(str(Path.home()), "~")
    body = recorded.partition("\n")[2].rpartition("\nScript done")[0]
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for text in shown(body):
        console.print(text, no_wrap=True, overflow="ellipsis")
    svg = console.export_svg(title="biddable train examples/inbox/train.jsonl")
    Path(target).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
