"""The command line: parse, call one command, turn its errors into messages and exit codes.

Exit codes: 0 ok, 1 findings or failure, 2 usage, 130 (SIGINT) or 143 (SIGTERM) after saving.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import Field, asdict, fields
from importlib import import_module
from typing import Any

import psutil

from biddable import __version__
from biddable.command_table import COMMANDS, Command
from biddable.dataset.early import refuse_early
from biddable.errors import BiddableError, Finding, did_you_mean, first_line, refuse_no_text
from biddable.options import (
    ALIASES,
    GROUPS,
    LENGTHS,
    checked_values,
    choices_of,
    names_of,
    read_config,
    refuse_other_rate,
    refuse_two_lengths,
    with_values,
)
from biddable.terminal import console, drop_output, flush_output, guard, notices, write_json

_OTHER_REMEDY = "check that it exists, that there is room, and that you may use it"
_REMEDIES = {
    errno.EACCES: "give a place where you may read and write",
    errno.EPERM: "give a place where you may read and write",
    errno.EROFS: "give a place that may be written",
    errno.ENOSPC: "make room on this disk",
    errno.EDQUOT: "make room within your quota",
    errno.ENOENT: "check that it exists",
    errno.EMFILE: "allow more open files: ulimit -n",
}
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
# Kinds of options whose text is read as a number.
_NUMBERS = (int, float)
# Per cent of the machine's cores; above it another program is at work.
_IDLE = 20.0
_START = """
start with:  biddable check data.jsonl      what would be learned, and what is wrong with the data
then:        biddable train data.jsonl      a tuned model, and a verdict
and:         biddable chat runs/NAME        talk to it

biddable COMMAND --help lists the options of a command.
"""


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code; no exception leaves it but argparse's exit."""
    parsed = False
    try:
        if not argv or argv[0].startswith("-"):
            parser = _top_parser()
            parser.parse_args(argv)
            parser.error("give a command: biddable COMMAND ...")
        name, command = argv[0], _command(argv[0])
        options, printing = read_arguments(name, command, argv[1:])
        parsed = True
        if "torch" not in sys.modules:
            os.environ.update(waiting())
        # Torch and transformers take seconds.
        with console().status("loading torch and transformers"):
            module = import_module(f"biddable.commands.{name}")
        code: int = module.run(options, printing)
        flush_output()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be written to it.
        drop_output()
        return 1
    except SystemExit:
        raise
    except BaseException as error:
        # A panic of a library written in Rust is no Exception.
        return _fail(finding_of(error), "--json" in argv, not parsed)


def _top_parser() -> ArgumentParser:
    commands = "".join(f"  {name:<11}{command.help}\n" for name, command in COMMANDS.items())
    parser = ArgumentParser(
        prog="biddable",
        usage="biddable COMMAND ...",
        description="Gives a language model instructions: supervised fine-tuning with proof.",
        epilog=f"commands:\n{commands}{_START}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"biddable {__version__}")
    return parser


def _command(name: str) -> Command:
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        fix = f"the commands are {', '.join(COMMANDS)}"
        raise BiddableError("usage", f"there is no command {name!r}{hint}", fix)
    return COMMANDS[name]


def make_parser(name: str, command: Command) -> ArgumentParser:
    """The parser of a command, from the fields of its records."""
    records = [*fields(command.options), *fields(command.printing)]
    words = " ".join(_metavar(f) for f in records if f.metadata.get("nargs"))
    usage = f"biddable {name} {words} [options]"
    parser = ArgumentParser(prog=f"biddable {name}", usage=usage, description=command.help)
    headings = {title: parser.add_argument_group(title) for title in GROUPS}
    grouped = {option: title for title, options in GROUPS.items() for option in options}
    for f in records:
        _add_option(headings[grouped.get(f.name, "training")], f)
    if command.config:
        text = "options from a TOML file; those given beside it win"
        headings["output"].add_argument("--config", metavar="FILE", help=text)
    if command.resume:
        text = "go on with this run; auto: with the unfinished run of this command, if any"
        flags = ("--resume", "--resume-from-checkpoint")
        headings["output"].add_argument(*flags, metavar="RUN", help=text)
    return parser


def _metavar(f: Field[Any]) -> str:
    if choices := choices_of(f):
        return "{" + ",".join(choices) + "}"
    if f.metadata.get("nargs"):
        return f.name.upper()
    return "N" if type(f.default) is int else "X" if type(f.default) is float else "TEXT"


def _add_option(group: Any, f: Field[Any]) -> None:
    kind: type[Any] = type(f.default)
    # The names of a value; a flag of the same name has its own alone.
    also = () if kind is bool else ALIASES.get(f.name, ())
    short = [name for name in also if not name.startswith("--")]
    long = [name for name in also if name.startswith("--")]
    value = f"{f.default:g}" if kind is float else str(f.default or "") if kind is str else ""
    default = f.metadata["shown"] or (str(f.default) if kind is int else value)
    notes = [f"default: {default}"] if default else []
    notes += [f"also {name}" for name in long[:1]]
    text = f.metadata["help"].replace("%", "%%") + (f" ({'; '.join(notes)})" if notes else "")
    if nargs := f.metadata.get("nargs"):
        many = {} if nargs == "1" else {"nargs": nargs}
        group.add_argument(f.name, metavar=_metavar(f), default=None, help=text, **many)
        return
    how: dict[str, Any] = {"metavar": _metavar(f), "type": kind if kind in _NUMBERS else str}
    if kind is bool:
        how = {"action": "store_true"}
    elif kind is tuple:
        how["action"] = "append"
    how |= {"dest": f.name, "default": SUPPRESS}
    group.add_argument(f"--{f.name.replace('_', '-')}", *short, help=text, **how)
    if long:
        group.add_argument(*long, help=SUPPRESS, **how)


def read_arguments(name: str, command: Command, words: list[str]) -> tuple[dict[str, Any], Any]:
    """The options that were given, by name, and how to print; all checked, nothing slow loaded."""
    for word in words:
        refuse_no_text(word, "an argument")
    parser = make_parser(name, command)
    # Users of other tools write --batch_size.
    dashed = [
        w.replace("_", "-", w.partition("=")[0].count("_")) if w.startswith("--") else w
        for w in words
    ]
    namespace, unknown = parser.parse_known_intermixed_args(dashed)
    if unknown:
        raise _unknown(unknown[0], command)
    typed = {k: v for k, v in vars(namespace).items() if v not in (None, [])}
    config, resume = typed.pop("config", ""), typed.pop("resume", "")
    screened = {f.name for f in fields(command.printing)}
    printing = with_values(command.printing(), {k: v for k, v in typed.items() if k in screened})
    own = {f.name for f in fields(command.options)}
    values = read_config(config, command.config) if config and command.config else {}
    refuse_two_lengths(typed)
    # A config holds all three lengths; the first that is set counts, unless one is given here.
    replaced = any(typed.get(name) for name in LENGTHS)
    first = "" if replaced else next((name for name in LENGTHS if values.get(name)), "")
    values = {k: v for k, v in values.items() if k in own and (k not in LENGTHS or k == first)}
    chosen = checked_values(command.options, {k: v for k, v in typed.items() if k in own})
    refuse_other_rate(values, chosen)
    values |= chosen
    if not resume:
        refuse_early(with_values(command.options(), values))
    return values | ({"resume": resume} if resume else {}), printing


def _unknown(word: str, command: Command) -> BiddableError:
    if not word.startswith("-"):
        return BiddableError(
            "usage",
            f"{word!r} is one argument too many",
            "put quotes around an argument with spaces",
        )
    flag = word.partition("=")[0]
    names = names_of(command.options) | names_of(command.printing)
    hint = did_you_mean(flag, [f"--{name.replace('_', '-')}" for name in (*names, "config")])
    name = flag.strip("-").replace("-", "_")
    having = {v: names_of(c.options) | names_of(c.printing) for v, c in COMMANDS.items()}
    *others, last = [verb for verb, known in having.items() if name in known] or [""]
    if last:
        verbs = f"{', '.join(others)} and {last} have" if others else f"{last} has"
        hint = f" here; {verbs} it"
    return BiddableError("usage", f"there is no option {word}{hint}", "--help lists the options")


def finding_of(error: BaseException) -> Finding:
    """The finding to show for an error: its own, the system's words, or where the traceback is."""
    if isinstance(error, BiddableError):
        return error.finding
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return Finding("system", "error", what, _REMEDIES.get(error.errno, _OTHER_REMEDY))
    if isinstance(error, MemoryError) or any(word in str(error) for word in _NO_MEMORY):
        fix = "free memory, or give a smaller model, --batch-tokens or --max-length"
        return Finding("out_of_memory", "error", f"memory is full: {first_line(error)}", fix)
    what = f"internal error: {first_line(error)}"
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


def waiting() -> dict[str, str]:
    """Environment variables for how OpenMP's threads wait for each other, set before torch loads.
    Where the user has set one, nothing is changed.

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


def _fail(finding: Finding, as_json: bool, usage: bool) -> int:
    """Shows what is wrong; a bad option among the arguments exits like a usage error."""
    where = finding.place()
    try:
        out = console()
        out.print(
            f"error: {where + ': ' if where else ''}{finding.message} [{finding.code}]",
            soft_wrap=True,
        )
        if finding.fix:
            out.print(f"  fix: {finding.fix}", soft_wrap=True)
        if as_json:
            write_json({"error": asdict(finding)})
        flush_output()
    except OSError:
        # What cannot be written, for a full disk or a reader that has gone, fails once only.
        drop_output()
    return 2 if usage and finding.code in ("usage", "option") else 1
