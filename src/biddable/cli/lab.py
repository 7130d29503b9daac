"""`biddable lab`."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "lab", help="see template, tokens and mask of an example in the browser, on this machine"
    )
    parser.add_argument("base", nargs="?", default="smollm2", help="hub id, folder, run or .gguf")
    parser.add_argument("--data", default="", metavar="FILE", help="a file whose rows to open")
    parser.add_argument("--weights", action="store_true", help="load them, for the masked mean")
    parser.add_argument("--port", type=int, default=8765, metavar="N")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C."""
    from biddable.commands.lab import lab

    lab(args.base, data=args.data, weights=args.weights, port=args.port)
    return 0
