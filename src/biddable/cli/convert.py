"""`biddable convert CHECKPOINT`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from biddable.storage import refuse_existing_run


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "convert", help="make a base of a PyTorch checkpoint of a nanoGPT-like GPT"
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".pt or .pth with a state dict")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--heads", type=int, default=0, metavar="N", help="attention heads")
    parser.add_argument(
        "--tokenizer", default="gpt2", metavar="X", help="hub id, folder or file (default: gpt2)"
    )
    parser.add_argument(
        "--activation", default="gelu", metavar="X", help="gelu (default), gelu_new or relu"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converts, and says what came out."""
    from biddable.data.files import refuse_missing

    refuse_missing([args.checkpoint])
    refuse_existing_run(args.out)
    from biddable.from_scratch.convert import convert
    from biddable.terminal import console, line, write_json

    made = convert(
        args.checkpoint,
        out=args.out,
        heads=args.heads,
        tokenizer=args.tokenizer,
        activation=args.activation,
    )
    shape = f"{made.layers} layers of width {made.width}, {made.heads} heads, {made.context} long"
    line(console(), "model", f"gpt2, {made.parameters:,} parameters, {shape}")
    line(console(), "next", f"biddable train data.jsonl --base {made.folder}")
    if args.json:
        write_json({**asdict(made), "folder": str(made.folder)})
    return 0
