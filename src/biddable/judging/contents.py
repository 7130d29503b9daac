"""Whether answers are right: ways to compare them with references, each with the best rival that
needs no model.

A rival is the most frequent training answer (or label, choice, value of a field), given to every
row; for free text, other rows' references. What does not beat it is no content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from statistics import median

import numpy as np

from biddable.judging.format import AnswerFormat
from biddable.judging.intervals import Clusters, Floats, cluster_array, relation
from biddable.judging.judge import Judgement, Question
from biddable.judging.measures import Measure
from biddable.judging.metric import FIELD
from biddable.judging.own_metric import UserMetric, metric_value
from biddable.judging.parts import FieldPath, field_name, learn_parts
from biddable.judging.text_measures import normalized, similarity, words

Texts = Sequence[str]
Questions = Sequence[Question]
# From a text to what is compared; None is never right.
KeyOf = Callable[[str], Hashable]

# References of at most this many tokens are compared as a whole.
SHORT_ANSWER = 8
# A field or last line of at most this many words is compared as a whole, a longer one as prose.
SHORT_LINE = 8
# References that are tried as another row's answer.
MOST_OTHERS = 64
# The share of references that have to have parts.
FITTING = 0.5


def contents(
    questions: Questions,
    known: Texts,
    form: AnswerFormat | None,
    structure: AnswerFormat | None,
    user_metric: UserMetric | None,
    fits: Callable[[Judgement], float],
) -> list[Measure]:
    """Every way that these rows allow to say which answers are right.

    Args:
        known: the training answers, or without them the references: a hard rival.
        form: the format rule, for its labels.
        structure: the format that has the parts of answers.
        fits: the p-value of answers that are as likely after other prompts.
    """
    listed = [_user(user_metric, questions, known)] if user_metric else []
    parts = _parts(structure, questions, known) if structure else []
    listed += parts
    if structure and structure.is_json and parts:
        return listed
    if form and form.labels:
        listed.append(_keyed("accuracy", normalized, questions, known))
    if median(q.reference_tokens for q in questions) <= SHORT_ANSWER:
        return [*listed, _keyed("exact_match", normalized, questions, known)]
    if _short_last_lines([q.reference for q in questions]):
        listed.append(_keyed("last_line_match", _last_line, questions, known))
    return [*listed, replace(_prose("similarity", str, questions), p_relation=fits)]


def clusters_of(questions: Questions) -> list[int | None]:
    """The cluster of each row."""
    return [q.cluster for q in questions]


def _keyed(name: str, key_of: KeyOf, questions: Questions, known: Texts) -> Measure:
    """Answers that are right where they have the key of their reference."""
    wanted = [key_of(q.reference) for q in questions]
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
    rival = goal == best
    clusters = clusters_of(questions)

    def related(judgement: Judgement) -> float:
        rows = cluster_array(clusters, len(clusters))
        return relation(codes(judgement.answers), goal, rows)

    return Measure(
        name, "rate", lambda j: codes(j.answers) == goal, clusters, lambda _: rival, related
    )


def _prose(name: str, text_of: Callable[[str], str], questions: Questions) -> Measure:
    """Free text by ROUGE-L, beside the mean over the references of other rows."""
    wanted = [text_of(q.reference) for q in questions]
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

    return Measure(
        name, "mean", lambda j: values(j.answers), clusters_of(questions),
        lambda j: rival(j.answers),
    )  # fmt: skip


def _parts(form: AnswerFormat, questions: Questions, known: Texts) -> list[Measure]:
    """All parts together, and part by part; prose is no part of all together but in JSON."""
    parts = learn_parts(cache(form.read), known, loose=form.is_json) if form.read else None
    if parts is None or (not form.is_json and not parts.fields):
        return []
    value_of = cache(parts.value)
    fitting = sum(value_of(q.reference) is not None for q in questions)
    if fitting < FITTING * len(questions):
        return []
    keys = {path: cache(lambda text, path=path: parts.field(text, path)) for path in parts.fields}
    fields = {path: _field(path, keys[path], questions, known) for path in parts.fields}
    judged = [field for field in fields.values() if field is not None]
    if form.is_json:
        return [_keyed("json_match", value_of, questions, known), *judged]
    prose = [path for path, field in fields.items() if field and field.kind == "mean"]
    if len(prose) == len(judged):
        return judged
    right = _keyed("choices_match", lambda text: parts.value(text, prose), questions, known)
    # A single part is the whole already.
    return [right] if len(judged) == 1 else [right, *judged]


def _field(path: FieldPath, key_of: KeyOf, questions: Questions, known: Texts) -> Measure | None:
    """A field, compared as prose where it is long; None where it says nothing."""
    name = FIELD + field_name(path)
    wanted = {key_of(q.reference) for q in questions} - {None}
    if len(wanted) < 2:
        return None
    texts = [key[1] for key in wanted if isinstance(key, tuple) and key[0] == "text"]
    if len(texts) > len(wanted) / 2 and median(len(words(t)) for t in texts) > SHORT_LINE:
        return _prose(name, lambda text: _text_of(key_of(text)), questions)
    return _keyed(name, key_of, questions, known)


def _text_of(key: Hashable) -> str:
    return str(key[1]) if isinstance(key, tuple) and len(key) > 1 and key[1] is not None else ""


def _user(metric: UserMetric, questions: Questions, known: Texts) -> Measure:
    """A user's own metric; its rival is the most frequent training answer."""
    counts = Counter(known)
    constant = min(counts, key=lambda text: (-counts[text], text))

    def values(answers: Texts) -> Floats:
        return np.array(
            [metric_value(metric, q, a) for q, a in zip(questions, answers, strict=True)]
        )

    rival = values([constant] * len(questions))
    return Measure(
        "user_metric", "mean", lambda j: values(j.answers), clusters_of(questions), lambda _: rival
    )


def _short_last_lines(references: Texts) -> bool:
    """Whether the references end in a short line of their own that says something."""
    lasts = [_last_line(r) for r in references]
    several = sum("\n" in r.strip() for r in references) > 0.9 * len(references)
    short = median(len(words(last)) for last in lasts) <= SHORT_LINE
    return several and short and len(set(lasts)) > len(lasts) / 3


def _last_line(text: str) -> str:
    return normalized(text.strip().rpartition("\n")[2])
