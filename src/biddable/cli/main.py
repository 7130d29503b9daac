"""The command line: parse, call one verb, turn its errors into messages and exit codes.

Exit codes: 0 ok, 1 findings or failure, 2 usage, 130 (SIGINT) or 143 (SIGTERM) after saving.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

import psutil

from biddable import __version__
from biddable.cli import chat, check, compare, convert, lab, pretrain, train
from biddable.data.findings import BiddableError, Finding

# Per cent of the machine's cores; above it another program is at work.
_IDLE = 20.0
_EPILOG = """\
Start with:  biddable check data.jsonl      what would be learnt, and what is wrong with the data
Then:        biddable train data.jsonl      a tuned model, and a verdict
And:         biddable chat runs/NAME        talk to it
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; it loads neither torch nor transformers."""
    parser = argparse.ArgumentParser(
        prog="biddable",
        description="Gives a language model instructions: supervised fine-tuning with proof.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"biddable {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in (check, train, chat, compare, pretrain, convert, lab):
        verb.add_parser(verbs)
    return parser


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code."""
    return _call(build_parser().parse_args(argv))


def _call(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
        return code
    except BiddableError as error:
        return _fail(error.finding, getattr(args, "json", False))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        found = Finding("system", "error", what, "see that there is room and the right to write")
        return _fail(found, getattr(args, "json", False))


def waiting() -> dict[str, str]:
    """Settings for how OpenMP's threads wait for each other, to be made before torch loads.
    Those of the environment win.

    On an idle machine they spin for about 0.1 ms first, for waking up costs that: 264 ms a step of
    a 30M model against 332. On a busy one a spinning thread takes the core from the one that it
    waits for: 1,600 ms against 470 with two such runs on two cores; there they sleep at once.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return {}
    if psutil.cpu_percent(interval=0.1) < _IDLE:
        return {"GOMP_SPINCOUNT": "30000"}
    return {"OMP_WAIT_POLICY": "PASSIVE"}


def run() -> None:
    """The entry point of the command `biddable`."""
    args = build_parser().parse_args()  # --help and --version end here, and wait for nothing
    os.environ.update(waiting())
    sys.exit(_call(args))


def _fail(found: Finding, as_json: bool) -> int:
    where = found.place()
    sys.stderr.write(f"error: {where + ': ' if where else ''}{found.message} [{found.code}]\n")
    if found.fix:
        sys.stderr.write(f"  fix: {found.fix}\n")
    if as_json:
        sys.stdout.write(json.dumps({"error": asdict(found)}) + "\n")
    return 1
