"""The options of a verb, made from the fields of `Settings`, so that help cannot drift."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from biddable.settings import FitSettings, Settings, read_config, with_values

# What reads and encodes; `check` has these, `train` all.
DATA_OPTIONS = (
    "base", "template", "header", "template_arg", "map", "system", "encoding", "group_by", "eval",
    "max_length", "too_long", "loss_on", "seed",
)  # fmt: skip


def add_settings(
    parser: argparse.ArgumentParser, names: Iterable[str], kind: type[FitSettings] = Settings
) -> None:
    """Adds an option for each named field; `--max_length` is taken for `--max-length`."""
    wanted = set(names)
    # The verb's own options stand before those that the loop has for all.
    for f in sorted(fields(kind), key=lambda f: f.name not in kind.__annotations__):
        if f.name not in wanted:
            continue
        flags = [f"--{f.name.replace('_', '-')}"]
        if "_" in f.name:
            flags.append(f"--{f.name}")
        given: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS}
        if isinstance(f.default, tuple):
            given["action"] = "append"
        else:
            given["type"] = type(f.default)
            given["choices"] = f.metadata["choices"] or None
        shown = f" (default: {f.default})" if f.default not in ("", ()) else ""
        metavar = None if f.metadata["choices"] else f.name.upper()
        parser.add_argument(*flags, help=f.metadata["help"] + shown, metavar=metavar, **given)


def settings_of(args: argparse.Namespace, kind: type[FitSettings] = Settings) -> dict[str, Any]:
    """The settings that were given, on the command line or, behind it, in --config.

    Raises:
        BiddableError: the config file cannot be used, or a value is out of range.
    """
    names = {f.name for f in fields(kind)}
    given = {k: v for k, v in vars(args).items() if k in names and v not in (None, [])}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    config = read_config(args.config, kind) if getattr(args, "config", "") else {}
    merged = {**config, **values}
    with_values(kind(), merged)
    return merged
