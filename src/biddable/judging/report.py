"""report.html: one file that shows whether it worked; nothing is loaded, all text is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from html import escape
from importlib.resources import files
from typing import Any

from rapidfuzz import fuzz, process

from biddable.chat.encode import Example
from biddable.chat.preview import Token, visible
from biddable.data.findings import place
from biddable.judging.judge import Judgement, Question
from biddable.judging.metrics import copier, normalised, similarity
from biddable.judging.pictures import lengths, loss_curve, rates
from biddable.judging.scorecard import NAMES, Scorecard
from biddable.judging.shown import cell, difference, number

# Characters of all texts in the table, so that 200 rows stay below half a megabyte.
TABLE_CHARACTERS = 200_000
LONGEST_CELL = 1500
SHORTEST_CELL = 80
# A row is called worse or copied from here on.
WORSE = 0.05
COPIED = 0.5
UNUSUAL = 5
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the page shows; whatever is empty is left out.

    Args:
        title: of the page.
        card, questions, base, tuned: the comparison.
        examples: the held-out examples, as in the judgements' losses.
        tokens: the first of them as tokens to be shown.
        training_answers: for the nearest training answer of each row.
        events: log.jsonl.
        lengths, limit: tokens of all examples, and the longest allowed.
        facts: names and values: settings, versions, hashes.
        dropped: rows that were left out, a sentence each.
    """

    title: str
    card: Scorecard
    questions: Sequence[Question]
    base: Judgement
    tuned: Judgement
    examples: Sequence[Example] = ()
    tokens: Sequence[Sequence[Token]] = ()
    training_answers: Sequence[str] = ()
    events: Sequence[Mapping[str, Any]] = ()
    lengths: Sequence[int] = ()
    limit: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()


def page(report: Report, *, redact: bool = False) -> str:
    """The whole page as HTML.

    Args:
        redact: leave out every text of prompts, references and answers, and what was learnt from
            them; figures and places stay.
    """
    parts = [
        _verdict(report),
        section("Scorecard", _scorecard(report, redact)),
        section("Loss", loss_curve(report.events)),
        section("Rates", rates(report.card.metrics)),
        "" if redact else section("Answers", _answers(report)),
        "" if redact else section("Loss by token", _masks(report)),
        section("Unusual held-out rows", _unusual(report)),
        section("Lengths", lengths(report.lengths, report.limit)),
        section("Rows left out", _listed(report.dropped)),
        section("Settings", facts_list(report.facts)),
    ]
    return document(report.title, "".join(parts))


def document(title: str, body: str) -> str:
    """A whole page around some HTML; the title is text."""
    here = files("biddable.judging")
    style = here.joinpath("report.css").read_text(encoding="utf-8")
    script = here.joinpath("report.js").read_text(encoding="utf-8")
    title = escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head>\n'
        f"<body><h1>{title}</h1>\n{body}<script>{script}</script></body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A heading and some HTML under it; nothing where there is none."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n" if content else ""


def _verdict(report: Report) -> str:
    verdict = report.card.verdict
    advice = f"<p>Next: {escape(verdict.advice)}.</p>" if verdict.advice else ""
    return (
        f'<section class="verdict {verdict.outcome}"><p class="sentence">'
        f"{escape(verdict.sentence)}</p><p>{escape(verdict.evidence)}</p>{advice}</section>\n"
    )


def _scorecard(report: Report, redact: bool) -> str:
    metrics = report.card.metrics
    rival = any(m.few_shot is not None for m in metrics.values())
    heads = ["", "base", *(["few-shot base"] if rival else []), "tuned", "difference, 95 %"]
    rows = []
    for name, metric in metrics.items():
        values = [metric.base, *([metric.few_shot] if rival else []), metric.tuned]
        reference = metric.reference
        told = difference(metric)
        if reference is not None:
            told += f"; without a model {number(metric, reference)}"
        rows.append([NAMES[name][0], *(cell(metric, v) for v in values), told])
    rule = report.card.format
    shown = f"<p>Format rule: <code>{escape(rule)}</code></p>" if rule and not redact else ""
    return _table(heads, rows) + shown


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _answers(report: Report) -> str:
    if not report.questions:
        return ""
    longest = TABLE_CHARACTERS // (5 * len(report.questions))
    longest = max(SHORTEST_CELL, min(LONGEST_CELL, longest))
    copied = copier(report.training_answers)
    rows = [_answer(report, i, longest, copied) for i in range(len(report.questions))]
    kinds = ("changed", "worse", "copied", "unstopped")
    names = {"unstopped": "did not stop"}
    boxes = "".join(
        f'<label><input type="checkbox" value="{kind}"> {names.get(kind, kind)}'
        f" ({sum(kind in row_kinds for row_kinds, _ in rows)})</label> "
        for kind in kinds
    )
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("prompt", "reference", "base", "tuned"))
    body = "".join(f'<tr class="{" ".join(kinds)}">{cells}</tr>' for kinds, cells in rows)
    return (
        f'<p class="filters">Show only: {boxes}<output></output></p><p>In answers, words that the '
        "reference does not have are <ins>marked</ins>.</p>"
        f'<table class="answers"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    )


def _answer(
    report: Report, i: int, longest: int, copied: Callable[[str], tuple[int, int, int]]
) -> tuple[list[str], str]:
    """(what the row is, its cells)."""
    question, base, tuned = report.questions[i], report.base, report.tuned
    before, after, reference = base.answers[i], tuned.answers[i], question.reference
    share = _share(copied(after)) - _share(copied(reference))
    kinds = {
        "changed": normalised(before) != normalised(after),
        "worse": similarity(after, reference) < similarity(before, reference) - WORSE
        or (base.stopped[i] and not tuned.stopped[i]),
        "copied": bool(report.training_answers) and share >= COPIED,
        "unstopped": not tuned.stopped[i],
    }
    where = escape(place(question.file, question.line))
    near = process.extractOne(after, report.training_answers, scorer=fuzz.ratio)
    nearest = (
        f"<details><summary>nearest training answer, {near[1]:.0f} % alike</summary>"
        f"{_text(near[0], longest)}</details>"
        if near
        else ""
    )
    cells = [
        f'{_text(question.text, longest)}<p class="place">{where}</p>',
        _text(reference, longest),
        _marked(before, reference, longest) + _end(base.stopped[i]),
        _marked(after, reference, longest) + _end(tuned.stopped[i]) + nearest,
    ]
    body = "".join(f"<td>{text}</td>" for text in cells)
    return [kind for kind, there in kinds.items() if there], body


def _share(copy: tuple[int, int, int]) -> float:
    seen, runs, _ = copy
    return seen / runs if runs else 0.0


def _end(stopped: bool) -> str:
    return "" if stopped else '<p class="place">did not stop</p>'


def _cut(text: str, longest: int) -> tuple[str, str]:
    """(the beginning of a text, what is told of the rest)."""
    more = len(text) - longest
    return text[:longest], f" … {more:,} characters more" if more > 0 else ""


def _text(text: str, longest: int) -> str:
    start, rest = _cut(text.strip(), longest)
    return f'<div class="text" dir="auto">{escape(start)}<i>{rest}</i></div>'


def _marked(answer: str, reference: str, longest: int) -> str:
    """An answer with the words that its reference does not have in their place marked."""
    start, rest = _cut(answer.strip(), longest)
    mine = start.split(" ")
    matcher = SequenceMatcher(None, mine, reference.strip()[: 2 * longest].split(" "), False)
    shown = []
    for kind, a, b, _, _ in matcher.get_opcodes():
        part = escape(" ".join(mine[a:b]))
        if part:
            shown.append(part if kind == "equal" else f"<ins>{part}</ins>")
    return f'<div class="text" dir="auto">{" ".join(shown)}<i>{rest}</i></div>'


def _masks(report: Report) -> str:
    """Sample rows token by token; trained tokens are tinted by their loss, base or tuned."""
    shown = []
    for i, tokens in enumerate(report.tokens[: len(report.tuned.token_losses)]):
        losses = iter(zip(report.base.token_losses[i], report.tuned.token_losses[i], strict=True))
        spans = "".join(_token(token, losses) for token in tokens)
        example = report.examples[i]
        where = escape(place(example.file, example.line))
        shown.append(f'<details><summary>{where}</summary><p class="tokens">{spans}</p></details>')
    if not shown:
        return ""
    return (
        '<p class="sides">Tint: <label><input type="radio" name="side" value="tuned" checked> loss '
        'of tuned</label> <label><input type="radio" name="side" value="base"> loss of base</label>'
        ". The darker and the more underlined, the less expected; trained tokens only.</p>"
        + "".join(shown)
    )


def _token(token: Token, losses: Any) -> str:
    text = escape(visible(token.text))
    if token.weight <= 0:
        return f"<span>{text}</span>"
    found = [next(losses, (0.0, 0.0)) for _ in token.ids]
    base, tuned = (sum(pair[side] for pair in found) for side in (0, 1))
    return (
        f'<span class="t{_shade(tuned)} b{_shade(base)}" '
        f'title="tuned {tuned:.2f}, base {base:.2f}">{text}</span>'
    )


def _shade(loss: float) -> int:
    """0 to 4: expected to wholly unexpected."""
    return sum(loss > limit for limit in (0.25, 1.0, 2.5, 5.0))


def _unusual(report: Report) -> str:
    """The held-out rows with the highest and the lowest loss, with their places."""
    losses = [(s / w, i) for i, (s, w) in enumerate(report.tuned.losses) if w > 0]
    if len(losses) < 2 * UNUSUAL or len(report.examples) != len(report.tuned.losses):
        return ""
    ordered = sorted(losses)
    rows = []
    for what, some in (
        ("highest loss: a wrong or odd answer?", ordered[: -UNUSUAL - 1 : -1]),
        ("lowest loss: boilerplate?", ordered[:UNUSUAL]),
    ):
        for loss, i in some:
            total, weight = report.base.losses[i]
            example = report.examples[i]
            where = place(example.file, example.line)
            rows.append([where, what, f"{total / weight:.3f}", f"{loss:.3f}"])
    return _table(["row", "", "base", "tuned"], rows)


def _listed(sentences: Sequence[str]) -> str:
    return (
        "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>" if sentences else ""
    )


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and values as HTML."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>" if rows else ""
