"""report.html: one file that shows whether it worked; nothing is loaded, all text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from biddable.display.answer_table import answer_table
from biddable.display.masks import Token, heading, marked
from biddable.display.plots import lengths, loss_curve, rates
from biddable.display.scorecard_lines import difference, number
from biddable.encoding.encode import Example
from biddable.errors import place
from biddable.judging.intervals import wilson
from biddable.judging.judge import Judgement, Question
from biddable.judging.metric import Metric, title
from biddable.judging.outliers import ENDS, unusual
from biddable.judging.scorecard import Scorecard

# Characters of an answer that is watched.
LONGEST_WATCHED = 300
# Losses of a token from which on it is marked more, and how the five shades are named.
SHADES = (0.25, 1.0, 2.5, 5.0)
LOSSES = ("below 0.25", "to 1", "to 2.5", "to 5", "above")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the page shows; whatever is empty is left out.

    Args:
        title: of the page.
        card, questions, base, tuned: the comparison.
        few_shot: base with training examples in its prompts, if it was asked so.
        examples: the held-out examples, as in the judgements' losses.
        tokens: the first of them as tokens to be shown.
        training_answers: for the nearest training answer of each row.
        trained: (place, loss of tuned) of training rows, among which unusual ones are looked for.
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
    few_shot: Judgement | None = None
    examples: Sequence[Example] = ()
    tokens: Sequence[Sequence[Token]] = ()
    training_answers: Sequence[str] = ()
    trained: Sequence[tuple[str, float]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    lengths: Sequence[int] = ()
    limit: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()


def page(report: Report, *, redact: bool = False) -> str:
    """The whole page as HTML.

    Args:
        redact: leave out every text of prompts, references and answers, and what was learned from
            them; figures and places stay.
    """
    parts = [
        _verdict(report),
        section("Scorecard", _scorecard(report, redact)),
        section("Loss", loss_curve(report.events)),
        section("Rates", rates(report.card.metrics)),
        "" if redact else section("Answers", _answers(report)),
        "" if redact else section("One prompt, asked at each evaluation", _watched(report)),
        "" if redact else section("Tokens: the mask, and the loss of each", _masks(report)),
        section("Unusual rows", _unusual(report)),
        section("Lengths", lengths(report.lengths, report.limit)),
        section("Rows left out", _listed(report.dropped)),
        section("Settings", facts_list(report.facts)),
    ]
    return document(report.title, "".join(parts))


def document(title: str, body: str) -> str:
    """A whole page around some HTML; the title is text."""
    here = files("biddable.display")
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
    advice = f"<p>Next: {escape(verdict.suggestion)}.</p>" if verdict.suggestion else ""
    evidence = escape(verdict.evidence.replace("->", "→"))
    return (
        f'<section class="verdict {verdict.outcome}"><p class="sentence">'
        f"{escape(verdict.sentence)}</p><p>{evidence}</p>{advice}</section>\n"
    )


def _scorecard(report: Report, redact: bool) -> str:
    metrics = report.card.metrics
    rival = any(m.few_shot is not None for m in metrics.values())
    heads = ["", "base", *(["few-shot baseline"] if rival else []), "tuned", "no model"]
    heads += ["change (95 % CI)", "rows"]
    rows = []
    for name, metric in metrics.items():
        values = [metric.base, *([metric.few_shot] if rival else []), metric.tuned, metric.baseline]
        cells = [_with_interval(metric, value) for value in values]
        rows.append([title(name), *cells, difference(metric), str(metric.n)])
    rule = report.card.format
    shown = f"<p>Format rule: <code>{escape(rule)}</code></p>" if rule and not redact else ""
    return _table(heads, rows) + shown


def _with_interval(metric: Metric, value: float | None) -> str:
    """A figure, for rates with its own 95 % interval."""
    if value is None or metric.kind != "rate":
        return number(metric, value) or "-"
    low, high = wilson(value * metric.n, metric.n)
    return f"{number(metric, value)} ({100 * low:.0f} to {100 * high:.0f})"


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
    judgements = {"base": report.base, "few-shot baseline": report.few_shot, "tuned": report.tuned}
    shown = {name: judgement for name, judgement in judgements.items() if judgement}
    return answer_table(report.questions, shown, report.training_answers)


def _watched(report: Report) -> str:
    """How the answer to one prompt changed while the model was trained."""
    seen = [e for e in report.events if e["event"] == "eval" and e.get("answer")]
    if not seen or not report.questions:
        return ""
    rows = [
        [str(e["step"] or "0, base"), f"{e['held_out_loss']:.3f}", _short(e["answer"])]
        for e in seen
    ]
    asked, wanted = _short(report.questions[0].text), _short(report.questions[0].reference)
    return f"<p>Asked: {escape(asked)}<br>Reference: {escape(wanted)}</p>" + _table(
        ["step", "held-out loss", "answer"], rows
    )


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_WATCHED else f"{text[:LONGEST_WATCHED]} …"


def _masks(report: Report) -> str:
    """Sample rows token by token: what is trained, or how unexpected it was to base or tuned."""
    shown = []
    for i, tokens in enumerate(report.tokens[: len(report.tuned.token_losses)]):
        losses = iter(zip(report.base.token_losses[i], report.tuned.token_losses[i], strict=True))
        spans = "".join(_token(token, losses) for token in tokens)
        example = report.examples[i]
        shown.append(
            f"<details{' open' if i == 0 else ''}><summary>{escape(heading(example))}</summary>"
            f'<p class="tokens">{spans}</p></details>'
        )
    if not shown:
        return ""
    return (
        '<p class="sides">Marked: <label><input type="radio" name="side" value="tuned" checked> '
        'loss of tuned</label> <label><input type="radio" name="side" value="base"> loss of base'
        '</label> <label><input type="radio" name="side" value="mask"> what is trained</label></p>'
        '<p>Grey is context, boxed the stop token. Losses: <span class="tokens legend">'
        + "".join(
            f'<span class="t{i} b{i}" title="">{text}</span> ' for i, text in enumerate(LOSSES)
        )
        + "</span></p>"
        + "".join(shown)
    )


def _token(token: Token, losses: Any) -> str:
    text = escape(marked(token.text))
    if token.weight <= 0:
        return f"<span>{text}</span>"
    found = [next(losses, (0.0, 0.0)) for _ in token.ids]
    base, tuned = (sum(pair[side] for pair in found) for side in (0, 1))
    return (
        f'<span class="t{_shade(tuned)} b{_shade(base)}{" stop" if token.stop else ""}" '
        f'title="tuned {tuned:.2f}, base {base:.2f}">{text}</span>'
    )


def _shade(loss: float) -> int:
    """0 to 4: expected to wholly unexpected."""
    return sum(loss > limit for limit in SHADES)


def _unusual(report: Report) -> str:
    """The rows with the highest and the lowest loss of tuned, with their places."""
    places = [place(e.file, e.line) for e in report.examples]
    losses = [[(s / w if w else 0.0) for s, w in j.losses] for j in (report.base, report.tuned)]
    held_out = list(zip(places, *losses, strict=False))
    trained = [(where, None, loss) for where, loss in report.trained]
    rows = []
    for side, known in (("training", trained), ("held out", held_out)):
        for end, some in zip(ENDS, unusual([loss for *_, loss in known]), strict=True):
            for where, base, tuned in (known[i] for i in some):
                told = "-" if base is None else f"{base:.3f}"
                rows.append([where, side, end, told, f"{tuned:.3f}"])
    return _table(["row", "side", "", "base", "tuned"], rows) if rows else ""


def _listed(sentences: Sequence[str]) -> str:
    return (
        "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>" if sentences else ""
    )


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and values as HTML."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>" if rows else ""
