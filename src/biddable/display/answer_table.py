"""The answers side by side: a table of the report, with what its filters need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape

from rapidfuzz import fuzz, process

from biddable.errors import place
from biddable.judging.judge import Judgement, Question
from biddable.judging.text_measures import copier, normalized, similarity

# Characters of all texts in the table, so that 200 rows stay below half a megabyte.
TABLE_CHARACTERS = 200_000
LONGEST_CELL = 1500
SHORTEST_CELL = 80
# A row is called worse or copied from here on.
WORSE = 0.05
COPIED = 0.5
# What a row can be, and how its filter is called.
KINDS = {
    "changed": "changed", "worse": "worse", "copied": "copied", "unstopped": "did not stop"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and whether the model ended it by itself."""

    text: str
    stopped: bool


def answer_table(
    questions: Sequence[Question],
    judgements: Mapping[str, Judgement],
    training_answers: Sequence[str],
) -> str:
    """Prompt, reference and the answer of each model, a row each, with filters; empty without
    questions.

    Args:
        judgements: by the name of the model; `base` and `tuned` among them, tuned last.
    """
    if not questions:
        return ""
    longest = TABLE_CHARACTERS // (5 * len(questions))
    longest = max(SHORTEST_CELL, min(LONGEST_CELL, longest))
    copied = copier(training_answers)
    rows = []
    for i, question in enumerate(questions):
        given = {name: Answered(j.answers[i], j.stopped[i]) for name, j in judgements.items()}
        before, after = given["base"], given["tuned"]
        near = process.extractOne(after.text, training_answers, scorer=fuzz.ratio)
        which = _kinds(question.reference, before, after, copied if training_answers else None)
        rows.append((which, _cells(question, list(given.values()), near, longest)))
    boxes = "".join(
        f'<label><input type="checkbox" value="{kind}"> {name}'
        f" ({sum(kind in which for which, _ in rows)})</label> "
        for kind, name in KINDS.items()
    )
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("prompt", "reference", *judgements))
    body = "".join(f'<tr class="{" ".join(which)}">{cells}</tr>' for which, cells in rows)
    return (
        f'<p class="filters">Show only: {boxes}<output></output></p><p>In answers, words that the '
        "reference does not have are <ins>marked</ins>.</p>"
        f'<table class="answers"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    )


def _kinds(
    reference: str,
    base: Answered,
    tuned: Answered,
    copied: Callable[[str], tuple[int, int, int]] | None,
) -> list[str]:
    """What a row is: some of the names in `KINDS`."""
    fell = similarity(tuned.text, reference) < similarity(base.text, reference) - WORSE
    kinds = {
        "changed": normalized(base.text) != normalized(tuned.text),
        "worse": fell or (base.stopped and not tuned.stopped),
        "copied": copied is not None
        and _share(copied(tuned.text)) - _share(copied(reference)) >= COPIED,
        "unstopped": not tuned.stopped,
    }
    return [kind for kind, there in kinds.items() if there]


def _cells(
    question: Question,
    answers: Sequence[Answered],
    near: tuple[str, float, int] | None,
    longest: int,
) -> str:
    where = escape(place(question.file, question.line))
    nearest = (
        f"<details><summary>nearest training answer, {near[1]:.0f} % alike</summary>"
        f"{_text(near[0], longest)}</details>"
        if near
        else ""
    )
    cells = [
        f'{_text(question.text, longest)}<p class="place">{where}</p>',
        _text(question.reference, longest),
        *(_marked(a.text, question.reference, longest) + _end(a.stopped) for a in answers),
    ]
    cells[-1] += nearest
    return "".join(f"<td>{text}</td>" for text in cells)


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
