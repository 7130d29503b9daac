"""Whether answers are right: ways to hold them against references, each with its best rival that
needs no model.

A rival is the most frequent training answer (or label, choice, value of a field), given to every
row; for free text, other rows' references. What does not beat it is no content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

import numpy as np

from biddable.judging.format import AnswerFormat
from biddable.judging.intervals import Clusters, Floats
from biddable.judging.judge import Question
from biddable.judging.metric import FIELD
from biddable.judging.own_metric import UserMetric, metric_value
from biddable.judging.parts import FieldPath, field_name, learn_parts
from biddable.judging.text_measures import normalized, similarity, words

Texts = Sequence[str]
# From a text to what is compared; None is never right.
KeyOf = Callable[[str], Hashable]

# References of at most this many tokens are compared as a whole.
SHORT_ANSWER = 8
# A field or a last line of at most so many words is compared as a whole, a longer one as prose.
SHORT_LINE = 8
# References that stand for all others as another row's answer.
MOST_OTHERS = 64
# The share of references that have to have parts.
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
    known: Texts,
    form: AnswerFormat | None,
    structure: AnswerFormat | None,
    user_metric: UserMetric | None,
) -> list[Content]:
    """Every way that these rows allow, the one that decides first, then its parts.

    Args:
        known: the training answers, or without them the references: a hard rival.
        form: the format rule, for its labels.
        structure: the format that has the parts of answers.
    """
    references = [q.reference for q in questions]
    listed = [_user(user_metric, questions, known)] if user_metric else []
    parts = _parts(structure, references, known) if structure else []
    listed += parts
    if structure and structure.is_json and parts:
        return listed
    if form and form.labels:
        listed.append(_keyed("accuracy", normalized, references, known))
    if median(q.reference_tokens for q in questions) <= SHORT_ANSWER:
        return [*listed, _keyed("exact_match", normalized, references, known)]
    if _short_last_lines(references):
        listed.append(_keyed("last_line_match", _last_line, references, known))
    return [*listed, _prose("similarity", str, references)]


def _keyed(name: str, key_of: KeyOf, references: Texts, known: Texts) -> Content:
    """Answers that are right where they have the key of their reference."""
    wanted = [key_of(text) for text in references]
    number = {key: i for i, key in enumerate(sorted(set(wanted) - {None}, key=repr))}

    def codes(answers: Texts) -> Clusters:
        keys = [key_of(a) for a in answers]
        return np.array([-1 if k is None else number.get(k, len(number)) for k in keys], np.int64)

    goal = np.array([len(number) + 1 if key is None else number[key] for key in wanted], np.int64)
    counts = Counter(key for text in known if (key := key_of(text)) is not None)
    most = max(counts.values(), default=0)
    # Where several are the most frequent, the best of them.
    rivals = [number.get(key, -1) for key, count in counts.items() if count == most] or [-1]
    best = max(rivals, key=lambda code: int((goal == code).sum()))
    rival = (goal == best).astype(float)
    return Content(
        name, "rate", lambda a: (codes(a) == goal).astype(float), lambda _: rival, codes, goal
    )


def _prose(name: str, text_of: Callable[[str], str], references: Texts) -> Content:
    """Free text by ROUGE-L, beside the mean over the references of other rows."""
    wanted = list(map(text_of, references))
    distinct = sorted(set(wanted))
    others = distinct[:: -(-len(distinct) // MOST_OTHERS) or 1]

    def values(answers: Texts) -> Floats:
        pairs = zip(map(text_of, answers), wanted, strict=True)
        return np.array([similarity(text, reference) for text, reference in pairs])

    def rival(answers: Texts) -> Floats:
        rows = []
        for text, own in zip(map(text_of, answers), wanted, strict=True):
            scores = [similarity(text, other) for other in others if other != own]
            rows.append(sum(scores) / len(scores) if scores else similarity(text, own))
        return np.array(rows)

    return Content(name, "mean", values, rival)


def _parts(form: AnswerFormat, references: Texts, known: Texts) -> list[Content]:
    """All parts together, and part by part; prose is no part of all together but in JSON."""
    parts = learn_parts(cache(form.read), known, loose=form.is_json) if form.read else None
    if parts is None or (not form.is_json and not parts.fields):
        return []
    whole = cache(parts.whole)
    fitting = sum(whole(text) is not None for text in references)
    if fitting < FITTING * len(references):
        return []
    keys = {path: cache(lambda text, path=path: parts.field(text, path)) for path in parts.fields}
    fields = {path: _field(path, keys[path], references, known) for path in parts.fields}
    judged = [field for field in fields.values() if field is not None]
    if form.is_json:
        return [_keyed("json_match", whole, references, known), *judged]
    prose = [path for path, field in fields.items() if field and field.kind == "mean"]
    if len(prose) == len(judged):
        return judged
    right = _keyed("choices_match", lambda text: parts.whole(text, prose), references, known)
    # A single part is the whole already.
    return [right] if len(judged) == 1 else [right, *judged]


def _field(path: FieldPath, key_of: KeyOf, references: Texts, known: Texts) -> Content | None:
    """A field, compared as prose where it is long; None where it says nothing."""
    name = FIELD + field_name(path)
    wanted = {key_of(text) for text in references} - {None}
    if len(wanted) < 2:
        return None
    texts = [key[1] for key in wanted if isinstance(key, tuple) and key[0] == "text"]
    if len(texts) > len(wanted) / 2 and median(len(words(t)) for t in texts) > SHORT_LINE:
        return _prose(name, lambda text: _text_of(key_of(text)), references)
    return _keyed(name, key_of, references, known)


def _text_of(key: Hashable) -> str:
    return str(key[1]) if isinstance(key, tuple) and len(key) > 1 and key[1] is not None else ""


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
    lasts = [_last_line(r) for r in references]
    several = sum("\n" in r.strip() for r in references) > 0.9 * len(references)
    short = median(len(words(last)) for last in lasts) <= SHORT_LINE
    return several and short and len(set(lasts)) > len(lasts) / 3


def _last_line(text: str) -> str:
    return normalized(text.strip().rpartition("\n")[2])
