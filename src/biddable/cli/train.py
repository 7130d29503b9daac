"""`biddable train DATA`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from biddable.cli.options import add_settings, settings_of
from biddable.dataset.early import refuse_early
from biddable.errors import BiddableError
from biddable.settings import Settings, with_values
from biddable.terminal import notices, write_json


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "train", help="tune a base model on the data, and judge the result on held-out rows"
    )
    parser.add_argument("data", nargs="*", metavar="DATA", help="files or folders with the rows")
    add_settings(parser, (f.name for f in fields(Settings) if f.name != "data"))
    parser.add_argument("--config", default="", metavar="FILE", help="settings in TOML")
    resume_help = "go on with this run; auto: with the one that this command began, if any"
    parser.add_argument("--resume", default="", metavar="RUN", help=resume_help)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains; returns 0, or 130 or 143 when it was interrupted and saved."""
    options = settings_of(args)
    if not args.resume:
        refuse_early(with_values(Settings(), options))
    from biddable.commands.train import train

    try:
        trained = train(options.pop("data", ()), resume=args.resume, **options)
    except BiddableError as error:
        # Whatever restarts what died must not take a run that is done for one that failed.
        if args.resume != "auto" or error.finding.code != "run_finished":
            raise
        notices().write(f"{error.finding.message}\n")
        return 0
    if args.json and trained.rank == 0:
        write_json(trained.as_json())
    return trained.exit_code
