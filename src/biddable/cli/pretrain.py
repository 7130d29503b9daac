"""`biddable pretrain TEXT...`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from biddable.cli.options import add_settings, settings_of
from biddable.settings import PretrainSettings
from biddable.terminal import write_json


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "pretrain", help="train a small base model from scratch on plain text"
    )
    parser.add_argument(
        "data", nargs="*", metavar="TEXT", help="text files, folders of them, or shakespeare"
    )
    names = (f.name for f in fields(PretrainSettings) if f.name != "data")
    add_settings(parser, names, PretrainSettings)
    parser.add_argument("--config", default="", metavar="FILE", help="settings in TOML")
    parser.add_argument("--resume", default="", metavar="RUN", help="go on with this run folder")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains; returns 0, or 130 or 143 when it was interrupted and saved."""
    options = settings_of(args, PretrainSettings)
    from biddable.from_scratch.pretrain import pretrain

    trained = pretrain(options.pop("data", ()), resume=args.resume, **options)
    if args.json:
        write_json(trained.as_json())
    return trained.exit_code
