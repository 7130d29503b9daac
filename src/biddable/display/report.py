"""report.html: one file that shows whether the tuning worked, and what went into it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from biddable.data.conversation import Conversation
from biddable.data.fields import origin_place
from biddable.display.answer_table import answer_table
from biddable.display.masks import Shown, Token, heading, page_token, tokens_of
from biddable.display.outcome import COLORS
from biddable.display.pages import render
from biddable.display.plots import histogram, loss_curve
from biddable.display.scorecard_lines import difference, number
from biddable.encoding.encode import Example, make_encoder
from biddable.errors import place
from biddable.judging.intervals import wilson
from biddable.judging.judge import MOST_SHOWN, Judgement, Question
from biddable.judging.metric import Metric, title
from biddable.judging.outliers import ENDS, outliers
from biddable.judging.scorecard import Scorecard
from biddable.template.template import Template

# Characters of the answer that each evaluation shows.
LONGEST_WATCHED = 300
# The losses of a token that part the five shades, and the names of the shades.
SHADES = (0.25, 1.0, 2.5, 5.0)
SHADE_NAMES = ("below 0.25", "to 1", "to 2.5", "to 5", "above")
# Training rows whose answers are searched for copies: with 90 words each about 100 MB.
MOST_COMPARED = 10_000
LENGTH_BINS = 30
PACKAGES = ("biddable", "torch", "transformers", "tokenizers")
CHANGE = "change (95 % CI)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the page shows; empty parts are left out.

    Args:
        title: of the page.
        card, questions, base, tuned: the comparison.
        few_shot: base with training examples in its prompts, where it was measured.
        examples: the held-out examples, as in the judgements' losses.
        tokens: the tokens of the first of them.
        training_answers: (answer, place), for the nearest training answer of each row.
        sources: where mined rows stand, by file and line of the row.
        trained: (place, loss) of training rows when they were last trained on.
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
    training_answers: Sequence[tuple[str, str]] = ()
    sources: Mapping[tuple[str, int], str] = field(default_factory=dict)
    trained: Sequence[tuple[str, float]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    lengths: Sequence[int] = ()
    limit: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()


def page(report: Report, *, redact: bool = False) -> str:
    """The page as HTML.

    Args:
        redact: leave out every text of prompts, references and answers, and what was learned from
            them; figures and places stay.
    """
    card = report.card
    texts = None if redact else report
    return render(
        "display/report.html",
        title=report.title,
        verdict=card.verdict,
        color=COLORS.get(card.verdict.outcome, "caution"),
        scorecard=_scorecard(card, redact),
        loss_curve=loss_curve(report.events),
        rates=list(_rates(card.metrics)),
        answers=texts and _answers(texts),
        watched=texts and _watched(texts),
        masks=texts and list(_masks(texts)),
        shades=SHADE_NAMES,
        outliers=list(_outliers(report)),
        lengths=histogram(report.lengths, LENGTH_BINS) if report.lengths else (),
        longest=max(report.lengths, default=0),
        limit=report.limit,
        dropped=report.dropped,
        settings=report.facts,
    )


def card_table(card: Scorecard) -> str:
    """The verdict and the scorecard as HTML, for a notebook."""
    return render("display/scorecard.html", verdict=card.verdict, scorecard=_scorecard(card, False))


def shown_tokens(
    examples: Sequence[Example], tokenizer: Any, template: Template
) -> list[list[Token]]:
    """The tokens of the first held-out examples, as many as judgements keep losses of."""
    encoder = make_encoder(tokenizer, template)
    return [tokens_of(example, tokenizer, encoder) for example in examples[:MOST_SHOWN]]


def training_answers(conversations: Sequence[Conversation]) -> list[tuple[str, str]]:
    """(answer, place) of each training answer that is not empty, of at most `MOST_COMPARED` rows.

    Every answer of base and tuned is compared with each of them, cut into runs of words.
    """
    spread = conversations[:: -(-len(conversations) // MOST_COMPARED) or 1]
    return [
        (m.content, origin_place(c)[0] or place(c.file, c.line))
        for c in spread
        for m in c.messages
        if m.role == "assistant" and m.content
    ]


def sources_of(conversations: Sequence[Conversation]) -> dict[tuple[str, int], str]:
    """Where rows that `mine` wrote stand, by file and line of the row."""
    return {(c.file, c.line): origin_place(c)[0] for c in conversations if c.origin}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _scorecard(card: Scorecard, redact: bool) -> dict[str, Any]:
    with_few_shot = any(m.few_shot is not None for m in card.metrics.values())
    few_shot = ["few-shot baseline"] if with_few_shot else []
    rows = []
    for name, metric in card.metrics.items():
        figures = [metric.base, *([metric.few_shot] if few_shot else []), metric.tuned]
        cells = [_with_interval(metric, value) for value in (*figures, metric.baseline)]
        rows.append([title(name), *cells, difference(metric), metric.n])
    heads = ["", "base", *few_shot, "tuned", "no model", CHANGE, "rows"]
    return {"heads": heads, "rows": rows, "rule": "" if redact else card.format}


def _with_interval(metric: Metric, value: float | None) -> str:
    """A figure; a rate with its own 95 % interval."""
    if value is None or metric.kind != "rate":
        return number(metric, value) or "-"
    low, high = wilson(value * metric.n, metric.n)
    return f"{number(metric, value)} ({100 * low:.0f} to {100 * high:.0f})"


def _rates(metrics: Mapping[str, Metric]) -> Iterator[tuple[str, list[tuple[float, ...]]]]:
    """Each rate's name, and of base and tuned the value and its 95 % interval, in percent."""
    for name, metric in metrics.items():
        if metric.kind == "rate":
            sides = [(v, *wilson(v * metric.n, metric.n)) for v in (metric.base, metric.tuned)]
            yield title(name), [tuple(round(100 * x, 1) for x in side) for side in sides]


def _answers(report: Report) -> dict[str, Any] | None:
    models = {"base": report.base, "few-shot baseline": report.few_shot, "tuned": report.tuned}
    judgements = {name: judgement for name, judgement in models.items() if judgement}
    return answer_table(report.questions, judgements, report.training_answers)


def _watched(report: Report) -> dict[str, Any] | None:
    """How the answer to one prompt changed while the model was trained."""
    rows = [
        [e["step"] or "0, base", f"{e['held_out_loss']:.3f}", _short(e["answer"])]
        for e in report.events
        if e["event"] == "eval" and e.get("answer")
    ]
    if not rows or not report.questions:
        return None
    first = report.questions[0]
    return {"prompt": _short(first.text), "reference": _short(first.reference), "rows": rows}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_WATCHED else f"{text[:LONGEST_WATCHED]} …"


def _masks(report: Report) -> Iterator[dict[str, Any]]:
    """Sample rows token by token, with the loss of each trained token under base and tuned."""
    losses = zip(report.base.token_losses, report.tuned.token_losses, strict=True)
    for example, tokens, (base, tuned) in zip(report.examples, report.tokens, losses, strict=False):
        pairs = zip(base, tuned, strict=True)
        rows = [_with_losses(token, pairs) for token in tokens]
        yield {"heading": heading(example), "tokens": rows}


def _with_losses(token: Token, pairs: Iterator[tuple[float, float]]) -> Shown:
    """A token; a trained one takes its losses, one for each of its ids, from `pairs`."""
    if token.weight <= 0:
        return page_token(token, "")
    losses = [next(pairs, (0.0, 0.0)) for _ in token.ids]
    base, tuned = (sum(side) for side in zip(*losses, strict=True))
    plain = page_token(token, f"tuned {tuned:.2f}, base {base:.2f}")
    return plain._replace(kinds=f"{plain.kinds} t{_shade(tuned)} b{_shade(base)}")


def _shade(loss: float) -> int:
    """From 0 for an expected token to 4 for a wholly unexpected one."""
    return sum(loss > limit for limit in SHADES)


def _outliers(report: Report) -> Iterator[list[str]]:
    """The rows with the highest and the lowest losses: held-out ones, and training rows."""
    keys = [(example.file, example.line) for example in report.examples]
    places = [report.sources.get(key) or place(*key) for key in keys]
    means = [[s / w if w else 0.0 for s, w in j.losses] for j in (report.base, report.tuned)]
    held_out = [(where, f"{b:.3f}", t) for where, b, t in zip(places, *means, strict=False)]
    trained = [(where, "-", loss) for where, loss in report.trained]
    for side, rows in (("training", trained), ("held out", held_out)):
        for end, indices in zip(ENDS, outliers([loss for *_, loss in rows]), strict=True):
            for where, base, tuned in (rows[i] for i in indices):
                yield [where, side, end, base, f"{tuned:.3f}"]
