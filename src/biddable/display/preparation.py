"""What a person sees on standard error: the data before step 1, findings, and the outcome."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import islice

from rich.console import Console
from rich.text import Text

from biddable.dataset.prepared import Prepared, summary
from biddable.display.masks import example_text, page, worst_first
from biddable.encoding.encode import Example
from biddable.errors import Finding, by_kind, place
from biddable.terminal import line

# Places of a kind of finding that are named.
MOST_PLACES = 3
_COLORS = {"error": "bold red", "warning": "yellow", "note": "dim"}


def show_prepared(prepared: Prepared, out: Console) -> None:
    """Counts, lengths, stop token and split, a line each."""
    told = summary(prepared)
    tokens, trained = told["tokens"], told["trained_tokens"]
    share = trained / tokens if tokens else 0.0
    stop = "yes" if told["stop_token_trained"] else "NO"
    line(out, "data", f"{prepared.format or 'nothing that could be read'}, {told['rows']:,} rows")
    line(out, "base", f"{prepared.base.name} ({prepared.base.folder})")
    line(out, "tokens", f"{tokens:,}, of which {trained:,} are trainable ({share:.0%})")
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


def show_findings(prepared: Prepared, out: Console, command: str = "") -> None:
    """The findings by kind, worst first, how many there are, and the command that mends some."""
    kinds = by_kind([*prepared.findings, *prepared.dropped])
    out.print()
    for kind in kinds:
        # A finding that sums up rows has a message of its own, and so a line.
        sums = [finding for finding in kind if finding.line and finding.count > 1]
        for finding in sums:
            _kind([finding], out)
        if rest := [finding for finding in kind if finding not in sums]:
            _kind(rest, out)
    out.print(", ".join(_number(kinds, severity) for severity in ("error", "warning")))
    if command:
        line(out, "next", command)


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


def _number(kinds: Sequence[Sequence[Finding]], severity: str) -> str:
    """`1 error`, `2 warnings`; one that sums up rows and has a place of its own is one."""
    number = sum(1 if f.line else f.count for kind in kinds for f in kind if f.severity == severity)
    return f"{number:,} {severity}{'' if number == 1 else 's'}"


def _kind(kind: Sequence[Finding], out: Console) -> None:
    """One line for all findings of a kind; behind it the first places and what to do."""
    first = kind[0]
    total = sum(finding.count for finding in kind)
    where = first.place() if len(kind) == 1 else f"{total:,} times"
    if len({finding.message for finding in kind if finding.line}) > 1:
        where += ", the first"
    head = Text.assemble(
        (f"{first.severity:<8}", _COLORS[first.severity]),
        f"{where + ': ' if where else ''}{first.message} ",
        (f"[{first.code}]", "dim"),
    )
    out.print(head)
    if len(kind) > 1:
        places = list(dict.fromkeys(place(f.file, f.line) for f in kind if f.line))[:MOST_PLACES]
        more = total - len(places)
        told = ", ".join(places) + (f" and {more:,} more" if more > 0 else "")
        out.print(Text(f"        at {told}", "dim"))
    if first.fix:
        out.print(Text(f"        fix: {first.fix}", "dim"))
