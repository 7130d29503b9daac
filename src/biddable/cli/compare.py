"""`biddable compare BASE TUNED`."""

from __future__ import annotations

import argparse
from typing import Any

from biddable.dataset.early import refuse_early
from biddable.settings import Settings, with_values
from biddable.terminal import write_json

_TEXTS = {
    "data": "held-out rows (default: those of the run folder TUNED)",
    "train": "rows TUNED was trained on (default: those of the run folder TUNED)",
    "map": "build messages from columns, as for check",
    "encoding": "of text files, as for check",
    "system": "system prompt for rows without one",
    "template": "chat template for both (default: that of TUNED)",
    "format": "format rule: a regular expression, labels:a,b,c, keys:a,b or schema:FILE",
    "metric": "FILE.py:FUNCTION of (reference, answer) that gives a number",
    "device": "auto, cuda, mps or cpu",
    "precision": "fp32 (default), bf16 or auto",
    "html": "write the report as a page",
}
_NUMBERS = {
    "few-shot": "training examples in the prompt of BASE: the fair rival",
    "answers": "prompts that are answered (default: 32)",
    "max-new-tokens": "limit of an answer (default: from the references)",
}
_SWITCHES = {
    "probe-frame": "also ask TUNED without system message and with renamed roles",
    "redact": "leave every text out of the page",
}


def add_parser(verbs: Any) -> None:
    """Adds the verb; its options are the fields of `verbs.comparing.Options`."""
    # What is not given is left out, so that the defaults stand in one place.
    parser: argparse.ArgumentParser = verbs.add_parser(
        "compare",
        help="judge base and tuned on the same held-out rows",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("base", metavar="BASE", help="hub id, folder, run folder, .gguf or smollm2")
    parser.add_argument("tuned", metavar="TUNED", help="the same")
    for name, text in _TEXTS.items():
        parser.add_argument(f"--{name}", metavar="X", help=text)
    for name, text in _NUMBERS.items():
        flags = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        parser.add_argument(*flags, type=int, metavar="N", help=text)
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)
    limit = "exit 1 where tuned is worse than X; repeatable"
    parser.add_argument("--fail-under", action="append", metavar="METRIC=X", help=limit)
    parser.add_argument(
        "--json", action="store_true", default=False, help="print the scorecard as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares; returns 1 where --fail-under found something."""
    own = {"verb", "run", "json", "base", "tuned"}
    options = {k: v for k, v in vars(args).items() if k not in own}
    reading = {k: v for k, v in options.items() if k in ("map", "encoding", "device")}
    files = tuple(options[k] for k in ("data", "train") if k in options)
    refuse_early(with_values(Settings(), {"data": files, **reading}))
    from biddable.commands.compare import compare

    found = compare(args.base, args.tuned, **options)
    if args.json:
        write_json(found.as_json())
    return 1 if found.failures else 0
