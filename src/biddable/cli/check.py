"""`biddable check DATA`."""

from __future__ import annotations

import argparse
from typing import Any

from biddable.cli.options import DATA_OPTIONS, add_settings, settings_of
from biddable.training.settings import MOST, Settings, refuse_out_of_range, with_values
from biddable.verbs.early import refuse_early


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "check", help="read, check, render and encode the data; show what would be learned"
    )
    parser.add_argument("data", nargs="+", metavar="DATA", help="files or folders; - is stdin")
    add_settings(parser, DATA_OPTIONS)
    parser.add_argument("--config", default="", metavar="FILE", help="settings in TOML")
    parser.add_argument("--dump", default="", metavar="FILE", help="write each example as JSON")
    parser.add_argument("--fix", default="", metavar="FILE", help="write a repaired copy")
    parser.add_argument("--html", default="", metavar="FILE", help="write the mask as a page")
    parser.add_argument("--show", type=int, default=1, metavar="N", help="examples to show")
    parser.add_argument("--line", type=int, default=0, metavar="K", help="show the row of line K")
    parser.add_argument("--worst", action="store_true", help="show the least trained rows first")
    parser.add_argument("--strict", action="store_true", help="warnings exit with 1 too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Checks, prints, and returns 1 where there are errors."""
    refuse_out_of_range("show", args.show, (0, MOST))
    refuse_out_of_range("line", args.line, (0, MOST))
    options = settings_of(args)
    data = options.pop("data")
    refuse_early(
        with_values(Settings(), {"data": data, **options}), (args.dump, args.fix, args.html)
    )
    from biddable.terminal import console, write_json
    from biddable.verbs.check import check
    from biddable.verbs.repair import next_command, repair_sentence
    from biddable.verbs.show import chosen, line, show_findings, show_masks, show_prepared

    checked = check(data, dump=args.dump, fix=args.fix, html=args.html, **options)
    out = console()
    show_prepared(checked.prepared, out)
    shown = chosen(checked.prepared, args.show, at_line=args.line, worst=args.worst)
    show_masks(shown, checked.prepared, out)
    show_findings(checked.prepared, out, "" if args.fix else checked.command)
    if args.fix:
        line(out, "fixed", f"{args.fix}: {repair_sentence(checked.fixed)}")
        line(out, "next", next_command(checked.settings, args.fix))
    if args.json:
        write_json(checked.as_json())
    return 0 if checked.clean or (checked.ok and not args.strict) else 1
