"""Whether answers are right: ways to hold them against references, each with its best rival that
needs no model.

A rival is the most frequent training answer (or label, choice, value of a field), given to every
row; for free text, other rows' references. What does not beat it is no content.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from statistics import median
from typing import Any

import numpy as np

from biddable.judging.format import Format
from biddable.judging.intervals import Clusters, Floats
from biddable.judging.json_values import field_name, json_shape
from biddable.judging.judge import Question
from biddable.judging.metric import FIELD
from biddable.judging.own_metric import UserMetric, metric_value
from biddable.judging.text_measures import label_in, normalized, similarity, words

Texts = Sequence[str]
# From a text to what is compared; None is never right.
Reader = Callable[[str], Hashable]

# References of at most this many tokens are compared as a whole.
SHORT_ANSWER = 8
# A slot or a last line of at most so many words is compared as a whole, a longer one as prose.
SHORT_LINE = 8
# References that stand for all others as another row's answer.
MOST_OTHERS = 64
# Commas part thousands; 3,5 is another number.
WHOLE_NUMBER = re.compile(r"-?[1-9](?:[0-9]*|[0-9]{0,2}(?:,[0-9]{3})+)")
# The share of references that a form with parts has to fit.
FITTING = 0.5


@dataclass(frozen=True, slots=True)
class Content:
    """One way to say which answers are right.

    Args:
        name: the key of the metric.
        kind: `rate` where an answer is right or wrong, else `mean`.
        values: from the answers of all rows to a number for each.
        rival: the same numbers for the best answers without a model, given tuned's answers.
        codes: from answers to numbers that are equal for equal answers, -1 for none; None where
            answers are more or less right.
        wanted: those numbers for the references.
    """

    name: str
    kind: str
    values: Callable[[Texts], Floats]
    rival: Callable[[Texts], Floats]
    codes: Callable[[Texts], Clusters] | None = None
    wanted: Clusters | None = None


def contents(
    questions: Sequence[Question],
    training: Texts,
    form: Format | None,
    user_metric: UserMetric | None,
) -> list[Content]:
    """Every way that these rows allow, the one that decides first, then its parts."""
    references = [q.reference for q in questions]
    # Without training answers the references stand for them, and the rival is a hard one.
    known = training or references
    shape = json_shape(known)
    listed = [_user(user_metric, questions, known)] if user_metric else []
    if shape:
        listed.append(_keyed("json_match", shape.whole, references, known))
        for path in shape.fields:
            read = cache(lambda text, path=path: shape.field(text, path))
            listed += _field(field_name(path), read, references, known)
        return listed
    if form and form.labels:
        labels = form.labels
        listed.append(
            _keyed("accuracy", lambda a: label_in(a, labels), references, known, normalized)
        )
    elif form:
        listed += _slots(form, references, known)
    if median(q.reference_tokens for q in questions) <= SHORT_ANSWER:
        return [*listed, _keyed("exact_match", lambda a: normalized(a) or None, references, known)]
    if _short_last_lines(references):
        listed.append(_keyed("last_line_match", _last, references, known))
    return [*listed, _prose("similarity", str, references)]


def _keyed(
    name: str, read: Reader, references: Texts, known: Texts, read_reference: Reader | None = None
) -> Content:
    """Answers that are right where they read as the reference does."""
    wanted = [(read_reference or read)(text) for text in references]
    number = {key: i for i, key in enumerate(sorted(set(wanted) - {None}, key=repr))}

    def codes(answers: Texts) -> Clusters:
        keys = [read(a) for a in answers]
        return np.array([-1 if k is None else number.get(k, len(number)) for k in keys], np.int64)

    goal = np.array([len(number) + 1 if key is None else number[key] for key in wanted], np.int64)
    counts = Counter(key for text in known if (key := (read_reference or read)(text)) is not None)
    most = max(counts.values(), default=0)
    # Where several are the most frequent, the best of them.
    rivals = [number.get(key, -1) for key, count in counts.items() if count == most] or [-1]
    best = max(rivals, key=lambda code: int((goal == code).sum()))
    rival = (goal == best).astype(float)
    return Content(
        name, "rate", lambda a: (codes(a) == goal).astype(float), lambda _: rival, codes, goal
    )


def _prose(name: str, read: Callable[[str], Any], references: Texts) -> Content:
    """Free text by ROUGE-L, beside the mean over the references of other rows."""
    wanted = [str(read(text) or "") for text in references]
    distinct = sorted(set(wanted))
    others = distinct[:: -(-len(distinct) // MOST_OTHERS) or 1]

    def values(answers: Texts) -> Floats:
        pairs = zip(answers, wanted, strict=True)
        return np.array([similarity(str(read(a) or ""), w) for a, w in pairs])

    def rival(answers: Texts) -> Floats:
        rows = []
        for answer, own in zip(answers, wanted, strict=True):
            text = str(read(answer) or "")
            scores = [similarity(text, other) for other in others if other != own]
            rows.append(sum(scores) / len(scores) if scores else similarity(text, own))
        return np.array(rows)

    return Content(name, "mean", values, rival)


def _field(name: str, read: Reader, references: Texts, known: Texts) -> list[Content]:
    """A field or slot, compared as prose where it is long; none where it says nothing."""
    wanted = {read(text) for text in references} - {None}
    if len(wanted) < 2:
        return []
    texts = [key[1] for key in wanted if isinstance(key, tuple) and key[0] == "text"]
    if len(texts) > len(wanted) / 2 and median(len(words(t)) for t in texts) > SHORT_LINE:
        return [_prose(FIELD + name, lambda text: _text_of(read(text)), references)]
    return [_keyed(FIELD + name, read, references, known)]


def _text_of(key: Hashable) -> str:
    return str(key[1]) if isinstance(key, tuple) and len(key) > 1 else ""


def _slots(form: Format, references: Texts, known: Texts) -> list[Content]:
    """What stands in the capture groups of a regular expression: all of it, and part by part."""
    parts = cache(form.parts)
    fitting = [parts(text) for text in references]
    varying = len(set(fitting) - {None}) > 1
    if not varying or sum(bool(p) for p in fitting) < FITTING * len(references):
        return []

    def slot(i: int) -> Reader:
        def read(text: str) -> Hashable:
            found = parts(text)
            return _slot_value(found[i]) if found else None

        return read

    fields = [
        field
        for i, name in enumerate(form.names)
        for field in _field(name, slot(i), references, known)
    ]
    prose = {field.name for field in fields if field.kind == "mean"}
    kept = [i for i, name in enumerate(form.names) if FIELD + name not in prose]

    def whole(text: str) -> Hashable:
        found = parts(text)
        return tuple(_slot_value(found[i]) for i in kept) if found else None

    rates = [field for field in fields if field.kind == "rate"]
    right = [_keyed("choices_match", whole, references, known)] if rates else []
    # A single slot is the whole already.
    return right if len(fields) == 1 and rates else [*right, *fields]


def _slot_value(text: str) -> Hashable:
    """Numbers by their value, but with zeros before them as they are; texts without their space."""
    plain = text.rstrip(".")
    if WHOLE_NUMBER.fullmatch(plain):
        return "number", Decimal(plain.replace(",", ""))
    return "text", normalized(text)


def _user(metric: UserMetric, questions: Sequence[Question], known: Texts) -> Content:
    """A user's own metric; its rival is the most frequent training answer."""
    counts = Counter(known)
    constant = min(counts, key=lambda text: (-counts[text], text))

    def values(answers: Texts) -> Floats:
        return np.array(
            [metric_value(metric, q, a) for q, a in zip(questions, answers, strict=True)]
        )

    rival = values([constant] * len(questions))
    return Content("user_metric", "mean", values, lambda _: rival)


def _short_last_lines(references: Texts) -> bool:
    """Whether the references end in a short line of their own that says something."""
    lasts = [_last(r) for r in references]
    several = sum("\n" in r.strip() for r in references) > 0.9 * len(references)
    short = median(len(words(last)) for last in lasts) <= SHORT_LINE
    return several and short and len(set(lasts)) > len(lasts) / 3


def _last(text: str) -> str:
    return normalized(text.strip().rpartition("\n")[2])
