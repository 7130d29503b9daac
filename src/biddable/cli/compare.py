"""`biddable compare BASE TUNED`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_parser(verbs: Any) -> None:
    """Adds the verb; its options are the fields of `verbs.comparing.Options`."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "compare", help="judge base and tuned on the same held-out rows"
    )
    parser.add_argument("base", metavar="BASE", help="hub id, folder, run folder, .gguf or smollm2")
    parser.add_argument("tuned", metavar="TUNED", help="the same")
    texts = {
        "data": "held-out rows (default: those of the run folder TUNED)",
        "train": "rows TUNED was trained on (default: those of the run folder TUNED)",
        "map": "build messages from columns, as for check",
        "system": "system prompt for rows without one",
        "template": "chat template for both (default: that of TUNED)",
        "format": "format rule: a regular expression, labels:a,b,c, keys:a,b or schema:FILE",
        "device": "auto, cuda, mps or cpu",
        "precision": "fp32 (default), bf16 or auto",
        "html": "write the report as a page",
    }
    for name, text in texts.items():
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="X", help=text)
    numbers = {
        "few_shot": "training examples in the prompt of BASE: the fair rival",
        "answers": "prompts that are answered (default: 64)",
        "max_new_tokens": "limit of an answer (default: from the references)",
    }
    for name, text in numbers.items():
        flags = [f"--{name.replace('_', '-')}", f"--{name}"]
        parser.add_argument(
            *dict.fromkeys(flags), type=int, default=argparse.SUPPRESS, metavar="N", help=text
        )
    for name, text in {
        "probe_frame": "also ask TUNED without system message and with renamed roles",
        "redact": "leave every text out of the page",
    }.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            action="store_true",
            default=argparse.SUPPRESS,
            help=text,
        )
    parser.add_argument(
        "--fail-under",
        action="append",
        default=argparse.SUPPRESS,
        metavar="METRIC=X",
        help="exit 1 where tuned is worse than X; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the scorecard as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares; returns 1 where --fail-under found something."""
    from biddable.verbs.compare import compare

    own = {"verb", "run", "json", "base", "tuned"}
    options = {k: v for k, v in vars(args).items() if k not in own}
    found = compare(args.base, args.tuned, **options)
    if args.json:
        sys.stdout.write(json.dumps(found.as_json(), ensure_ascii=False) + "\n")
    return 1 if found.failures else 0
