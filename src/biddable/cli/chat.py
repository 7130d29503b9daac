"""`biddable chat MODEL`."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "chat", help="talk to a model with the template it was trained with"
    )
    parser.add_argument("model", metavar="MODEL", help="run folder, model folder, hub id or base")
    parser.add_argument("--prompt", "-p", metavar="TEXT", help="answer once and exit; - is stdin")
    parser.add_argument(
        "--system", "-s", metavar="TEXT", help="system prompt; '' for none (default: of training)"
    )
    parser.add_argument("--temperature", "-t", type=float, default=0.7, metavar="T")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answers one prompt, or talks until the end of input."""
    from biddable.commands.chat import chat

    prompt = args.prompt
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        prompt = sys.stdin.read()
    chat(
        args.model,
        prompt=prompt,
        system=args.system,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        stop=args.stop,
        seed=args.seed,
    )
    return 0
