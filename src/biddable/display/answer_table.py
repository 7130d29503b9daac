"""The answers side by side: the rows of the report's table, and what its filters need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from rapidfuzz import fuzz, process

from biddable.errors import place
from biddable.judging.judge import Judgement, Question
from biddable.judging.text_measures import copier, normalized, similarity

# Characters of all texts in the table, so that 200 rows stay below half a megabyte.
TABLE_CHARACTERS = 200_000
LONGEST_CELL = 1500
SHORTEST_CELL = 80
# A row is called worse or copied from these differences on.
WORSE = 0.05
COPIED = 0.5
# The kinds of rows, and the names of their filters.
KINDS = {"changed": "changed", "worse": "worse", "copied": "copied", "unstopped": "did not stop"}
WORD = re.compile(r"\s*\S+")

Copied = Callable[[str], tuple[int, int, int]]


def answer_table(
    questions: Sequence[Question],
    judgements: Mapping[str, Judgement],
    training_answers: Sequence[tuple[str, str]],
) -> dict[str, Any] | None:
    """Prompt, reference and the answer of each model, a row each; None without questions.

    Args:
        judgements: by the name of the model, `base` first and `tuned` last.
        training_answers: each with its place.
    """
    if not questions:
        return None
    longest = TABLE_CHARACTERS // (5 * len(questions))
    longest = max(SHORTEST_CELL, min(LONGEST_CELL, longest))
    known = [answer for answer, _ in training_answers]
    copied = copier(known) if known else None
    rows = []
    for i, question in enumerate(questions):
        row = {
            "kinds": " ".join(_kinds(question.reference, judgements, i, copied)),
            "prompt": _cut(question.text, longest),
            "place": question.source or place(question.file, question.line),
            "url": question.url if question.url.startswith("https://") else "",
            "reference": _cut(question.reference, longest),
            "answers": [
                _answer(name, judgement.answers[i], question.reference, longest)
                | {"stopped": judgement.stopped[i]}
                for name, judgement in judgements.items()
            ],
            "nearest": None,
        }
        tuned = judgements["tuned"].answers[i]
        if near := process.extractOne(tuned, known, scorer=fuzz.ratio):
            where = training_answers[near[2]][1]
            row |= {"nearest": _cut(near[0], longest), "alike": f"{near[1]:.0f}", "where": where}
        rows.append(row)
    counts = {kind: sum(kind in str(row["kinds"]).split() for row in rows) for kind in KINDS}
    return {
        "heads": ["prompt", "reference", *judgements],
        "kinds": [(kind, name, counts[kind]) for kind, name in KINDS.items()],
        "rows": rows,
    }


def _kinds(
    reference: str, judgements: Mapping[str, Judgement], i: int, copied: Copied | None
) -> Iterator[str]:
    """Those names in `KINDS` that row `i` has."""
    base, tuned = judgements["base"], judgements["tuned"]
    before, after = base.answers[i], tuned.answers[i]
    if normalized(before) != normalized(after):
        yield "changed"
    fell = similarity(after, reference) < similarity(before, reference) - WORSE
    if fell or (base.stopped[i] and not tuned.stopped[i]):
        yield "worse"
    if copied and _share(copied(after)) - _share(copied(reference)) >= COPIED:
        yield "copied"
    if not tuned.stopped[i]:
        yield "unstopped"


def _share(copy: tuple[int, int, int]) -> float:
    seen, runs, _ = copy
    return seen / runs if runs else 0.0


def _cut(text: str, longest: int) -> dict[str, str]:
    """The beginning of a text, and a note on the rest."""
    text = text.strip()
    more = len(text) - longest
    rest = f" … {more:,} characters more" if more > 0 else ""
    return {"start": text[:longest], "rest": rest}


def _answer(name: str, answer: str, reference: str, longest: int) -> dict[str, Any]:
    """An answer as (space, words, whether the reference lacks these words in their place)."""
    cut = _cut(answer, longest)
    pieces = WORD.findall(cut["start"])
    wanted = reference.strip()[: 2 * longest].split()
    matcher = SequenceMatcher(None, [piece.strip() for piece in pieces], wanted, autojunk=False)
    words = []
    for kind, start, end, _, _ in matcher.get_opcodes():
        run = "".join(pieces[start:end])
        space = run[: len(run) - len(run.lstrip())]
        if run:
            words.append((space, run.lstrip(), kind != "equal"))
    return {"name": name, "words": words, "rest": cut["rest"]}
