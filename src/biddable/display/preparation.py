"""What is shown before step 1: the data in numbers, the masks, and the findings."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from biddable.data.rows import number_of
from biddable.dataset.prepared import Prepared, summary
from biddable.display.masks import example_text, page, worst_first
from biddable.display.pages import BAD, CAUTION
from biddable.display.plots import histogram
from biddable.encoding.encode import Example
from biddable.errors import Finding, by_kind, place
from biddable.terminal import line

# Places of a kind of finding that are named.
MOST_PLACES = 3
# Examples of the page with masks.
MOST_MASKS = 20
_STYLES = {"error": f"bold {BAD.terminal}", "warning": CAUTION.terminal, "note": "dim"}
_BARS = " ▁▂▃▄▅▆▇█"


class FindingLine(NamedTuple):
    """All findings of a kind in one line, with the first places and what to do."""

    severity: str
    text: str
    code: str
    places: str
    fix: str


def show_prepared(prepared: Prepared, out: Console) -> None:
    """Counts, lengths, stop token and split, a line each."""
    counts = summary(prepared)
    tokens, trained = counts["tokens"], counts["trained_tokens"]
    share = trained / tokens if tokens else 0.0
    stop = "yes" if counts["stop_token_trained"] else "NO"
    rows = number_of(counts["rows"], "row")
    line(out, "data", f"{prepared.format or 'nothing that could be read'}, {rows}")
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
    """The examples of a line of the file, or `count` of them: the first, or the least trained."""
    if at_line:
        return [e for e in prepared.examples() if e.line == at_line]
    if worst:
        return worst_first(prepared.examples(), prepared.max_length, count)
    return list(islice(prepared.examples(), count))


def show_findings(prepared: Prepared, out: Console, command: str = "") -> None:
    """The findings by kind, worst first, how many there are, and the command that mends some."""
    out.print()
    kinds = by_kind([*prepared.findings, *prepared.dropped])
    show_kinds(kinds, out)
    out.print(", ".join(_number(kinds, severity) for severity in ("error", "warning")))
    if command:
        line(out, "next", command)


def show_kinds(kinds: Sequence[Sequence[Finding]], out: Console) -> None:
    """A line for each kind of finding, with the first places and what to do."""
    for severity, text, code, places, fix in finding_lines(kinds):
        style = _STYLES[severity]
        out.print(Text.assemble((f"{severity:<8}", style), f"{text} ", (f"[{code}]", "dim")))
        if places:
            out.print(Text(f"        at {places}", "dim"))
        if fix:
            out.print(Text(f"        fix: {fix}", "dim"))


def mask_page(prepared: Prepared) -> str:
    """One HTML page with the findings, and the masks of the least trained examples."""
    kinds = by_kind([*prepared.findings, *prepared.dropped])
    return page(
        chosen(prepared, MOST_MASKS, worst=True),
        prepared.tokenizer,
        prepared.template,
        summary={name.replace("_", " "): value for name, value in summary(prepared).items()},
        findings=[finding._asdict() for finding in finding_lines(kinds)],
    )


def finding_lines(kinds: Sequence[Sequence[Finding]]) -> Iterator[FindingLine]:
    """A line for each kind, and one for each finding that sums up rows: it has its own message."""
    for kind in kinds:
        rest = []
        for finding in kind:
            if finding.line and finding.count > 1:
                yield _line_of([finding])
            else:
                rest.append(finding)
        if rest:
            yield _line_of(rest)


def _line_of(kind: Sequence[Finding]) -> FindingLine:
    first, total, places = kind[0], sum(finding.count for finding in kind), ""
    where = first.place() if len(kind) == 1 else f"{total:,} times"
    if len({finding.message for finding in kind if finding.line}) > 1:
        where += ", the first"
    if len(kind) > 1:
        single = (place(f.file, f.line) for f in kind if f.file and f.count == 1)
        named = list(dict.fromkeys(single))[:MOST_PLACES]
        more = total - len(named)
        if named:
            places = ", ".join(named) + (f" and {more:,} more" if more > 0 else "")
    text = f"{where}: {first.message}" if where else first.message
    return FindingLine(first.severity, text, first.code, places, first.fix)


def _number(kinds: Sequence[Sequence[Finding]], severity: str) -> str:
    """`1 error`, `2 warnings`; one that sums up rows and has a place of its own is one."""
    number = sum(1 if f.line else f.count for kind in kinds for f in kind if f.severity == severity)
    return number_of(number, severity)


def length_line(lengths: Sequence[int]) -> str:
    """Median, 99th percentile and longest, with a small histogram."""
    if not lengths:
        return "none"
    ordered = sorted(lengths)
    bins = histogram(ordered, 16)
    bars = "".join(_BARS[-(-8 * n // max(bins))] for n in bins)
    median, most = int(statistics.median(ordered)), ordered[-(-99 * len(ordered) // 100) - 1]
    return f"{bars}  median {median}, 99 % {most}, most {ordered[-1]}"
