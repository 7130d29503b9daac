"""The command line: parse, call one verb, turn its errors into messages and exit codes.

Exit codes: 0 ok, 1 findings or failure, 2 usage, 130 (SIGINT) or 143 (SIGTERM) after saving.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import traceback
from dataclasses import asdict

import psutil

from biddable import __version__
from biddable.cli import chat, check, compare, convert, lab, pretrain, train
from biddable.errors import BiddableError, Finding, refuse_no_text
from biddable.terminal import console, drop_output, flush_output, guard, notices, write_json

_OTHER_REMEDY = "see that it is there, and that there is room and the right to use it"
_REMEDIES = {
    errno.EACCES: "give a place where you may read and write",
    errno.EPERM: "give a place where you may read and write",
    errno.EROFS: "give a place that may be written",
    errno.ENOSPC: "make room on this disk",
    errno.EDQUOT: "make room within your quota",
    errno.ENOENT: "see that it is there",
    errno.EMFILE: "allow more open files: ulimit -n",
}
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
# Per cent of the machine's cores; above it another program is at work.
_IDLE = 20.0
_EPILOG = """\
Start with:  biddable check data.jsonl      what would be learned, and what is wrong with the data
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
    """Runs one command and returns its exit code; no exception leaves it but argparse's exit."""
    args = None
    try:
        args = build_parser().parse_args(argv)
        _refuse_broken_text(args)
        if "torch" not in sys.modules:
            os.environ.update(waiting())
        code: int = args.run(args)
        flush_output()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said to it.
        drop_output()
        return 1
    except SystemExit:
        raise
    except BaseException as error:
        # A panic of a library written in Rust is no Exception.
        return _fail(finding_of(error), getattr(args, "json", False))


def finding_of(error: BaseException) -> Finding:
    """What a person is told of an error: its own finding, the system's words, or where to look."""
    if isinstance(error, BiddableError):
        return error.finding
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return Finding("system", "error", what, _REMEDIES.get(error.errno, _OTHER_REMEDY))
    if isinstance(error, MemoryError) or any(word in str(error) for word in _NO_MEMORY):
        fix = "free memory, or give a smaller model, --batch-tokens or --max-length"
        return Finding("out_of_memory", "error", f"memory is full: {_first_line(error)}", fix)
    what = f"internal error: {_first_line(error)}"
    fix = f"this is a fault of biddable; please report it with {_report(error)}"
    return Finding("internal_error", "error", what, fix)


def _report(error: BaseException) -> str:
    """Writes the traceback into a file that only its owner can read, and says where it is."""
    head = f"biddable {__version__}, Python {sys.version}, {sys.platform}\n"
    text = head + "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(".txt", "biddable-error-")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        notices().write(text)
        return "the lines above"
    return f"{path}, after a look whether it quotes private data"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _refuse_broken_text(args: argparse.Namespace) -> None:
    """Refuses arguments whose bytes are no text here: they can be neither stored nor shown.

    Raises:
        BiddableError: `not_text`.
    """
    for name, value in vars(args).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                refuse_no_text(text, name)


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
    guard()
    sys.exit(main(sys.argv[1:]))


def _fail(found: Finding, as_json: bool) -> int:
    where = found.place()
    try:
        out = console()
        out.print(
            f"error: {where + ': ' if where else ''}{found.message} [{found.code}]", soft_wrap=True
        )
        if found.fix:
            out.print(f"  fix: {found.fix}", soft_wrap=True)
        if as_json:
            write_json({"error": asdict(found)})
        flush_output()
    except OSError:
        # What cannot be written, for a full disk or a reader that has gone, fails once only.
        drop_output()
    return 1
