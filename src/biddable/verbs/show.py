"""What a person sees on standard error: the data before step 1, findings, and the outcome."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import islice

from rich.console import Console
from rich.text import Text

from biddable.data.findings import Finding
from biddable.dialogue.encode import Example
from biddable.dialogue.preview import example_text, page, worst_first
from biddable.verbs.prepared import Prepared, summary

MOST_SHOWN = 20
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


def show_prepared(prepared: Prepared, out: Console) -> None:
    """Counts, lengths, stop token and split, a line each."""
    told = summary(prepared)
    tokens, trained = told["tokens"], told["trained_tokens"]
    share = trained / tokens if tokens else 0.0
    stop = "yes" if told["stop_token_trained"] else "NO"
    line(out, "data", f"{prepared.format}, {told['rows']:,} rows")
    line(out, "base", f"{prepared.base.name} ({prepared.base.folder})")
    line(out, "tokens", f"{tokens:,}, of which {trained:,} are trained ({share:.0%})")
    line(out, "lengths", f"{length_line(prepared.lengths)}, limit {prepared.max_length:,}")
    line(out, "stop token", f"trained in every answer: {stop}")
    train, held_out = len(prepared.train.examples), len(prepared.held_out.examples)
    line(out, "split", f"{train:,} examples to train on, {held_out:,} held out")
    if prepared.dropped:
        line(out, "dropped", f"{len(prepared.dropped):,} too long")


def show_masks(examples: Sequence[Example], prepared: Prepared, out: Console) -> None:
    """Examples with their trained tokens marked."""
    for example in examples:
        out.print()
        out.print(example_text(example, prepared.tokenizer, prepared.template))


def chosen(
    prepared: Prepared, count: int, *, at_line: int = 0, worst: bool = False
) -> Sequence[Example]:
    """Those of a line of the file, or `count` of them: the first, or the least trained."""
    if at_line:
        return [e for e in prepared.examples() if e.line == at_line]
    if worst:
        return worst_first(prepared.examples(), prepared.max_length, count)
    return list(islice(prepared.examples(), count))


def show_findings(prepared: Prepared, out: Console) -> None:
    """The findings, worst first, and how many there are of each kind."""
    findings = [*prepared.findings, *prepared.dropped]
    out.print()
    for finding in findings[:MOST_SHOWN]:
        _finding(finding, out)
    if len(findings) > MOST_SHOWN:
        out.print(f"... and {len(findings) - MOST_SHOWN:,} more; --json lists all", style="dim")
    counts = {kind: sum(f.severity == kind for f in findings) for kind in _COLOURS}
    out.print(f"{counts['error']} errors, {counts['warning']} warnings")


def mask_page(prepared: Prepared, count: int = 20) -> str:
    """One HTML page with the masks of the examples that most need a look."""
    told = [(name, str(value)) for name, value in summary(prepared).items()]
    return page(
        chosen(prepared, count, worst=True), prepared.tokenizer, prepared.template, summary=told
    )


def length_line(lengths: Sequence[int]) -> str:
    """Median, 99th percentile and longest, with a small histogram."""
    if not lengths:
        return "none"
    ordered = sorted(lengths)
    last = ordered[-1]
    bins = [0] * 16
    for length in ordered:
        bins[min(15, 16 * length // (last + 1))] += 1
    bars = "".join(" ▁▂▃▄▅▆▇█"[-(-8 * n // max(bins))] for n in bins)
    median = int(statistics.median(ordered))
    return f"{bars}  median {median}, 99 % {ordered[-(-99 * len(ordered) // 100) - 1]}, most {last}"


def line(out: Console, name: str, text: str) -> None:
    """One line of a name and a text; the text is never read as markup."""
    out.print(Text.assemble((f"{name:<11} ", "bold"), text))


def _finding(finding: Finding, out: Console) -> None:
    where = finding.place()
    head = Text.assemble(
        (f"{finding.severity:<8}", _COLOURS[finding.severity]),
        f"{where + ': ' if where else ''}{finding.message} ",
        (f"[{finding.code}]", "dim"),
    )
    out.print(head)
    if finding.fix:
        out.print(Text(f"        fix: {finding.fix}", "dim"))
