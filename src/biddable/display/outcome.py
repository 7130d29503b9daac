"""How a run ends: scorecard, answers side by side, and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from biddable.data.rows import number_of
from biddable.display.pages import PALETTE
from biddable.display.scorecard_lines import card_lines
from biddable.judging.intervals import smallest_difference
from biddable.judging.judge import Judgement, Question
from biddable.judging.outliers import ENDS, outliers
from biddable.judging.scorecard import Scorecard
from biddable.terminal import line

SIDE_BY_SIDE = 3
# The colors of verdicts, as in `PALETTE`; every other outcome is `caution`.
COLORS = {"learned": "good", "worse": "bad", "overfit": "bad", "leaked": "bad"}


def show_outcome(
    card: Scorecard,
    questions: Sequence[Question],
    judgements: Mapping[str, Judgement],
    out: Console,
) -> None:
    """The scorecard, three questions with the answers of each model, and the verdict."""
    out.print()
    for text in card_lines(card, out.width):
        out.print(Text(text))
    for i, question in enumerate(questions[:SIDE_BY_SIDE]):
        out.print()
        line(out, "prompt", question.text)
        line(out, "reference", question.reference)
        for name, judgement in judgements.items():
            end = "" if judgement.stopped[i] else "  (did not stop)"
            line(out, name, judgement.answers[i].rstrip() + end)
    style = f"bold {PALETTE[COLORS.get(card.verdict.outcome, 'caution')].terminal}"
    out.print()
    line(out, "verdict", Text(card.verdict.sentence, style))
    line(out, "", card.verdict.evidence)
    if card.verdict.suggestion:
        line(out, "try", card.verdict.suggestion)


def show_smallest_difference(questions: Sequence[Question], out: Console) -> None:
    """Shows, before training, the smallest change that the held-out rows could prove."""
    independent = len({i if q.cluster is None else -1 - q.cluster for i, q in enumerate(questions)})
    least = smallest_difference(independent)
    rows = number_of(len(questions), "held-out row")
    rows += "" if independent == len(questions) else f" ({independent} independent)"
    shown = (
        f"a rate has to change by {100 * least:.0f} points to be sure"
        if least <= 1
        else "too few to be sure of any change"
    )
    line(out, "judged on", f"{rows}: {shown}")


def show_outliers(trained: Sequence[tuple[str, float]], out: Console) -> None:
    """Shows the training rows, as (place, loss), with the highest and the lowest losses."""
    for end, rows in zip(ENDS, outliers([loss for _, loss in trained]), strict=True):
        places = ", ".join(f"{trained[i][0]} {trained[i][1]:.2f}" for i in rows[:SIDE_BY_SIDE])
        if places:
            line(out, "trained on", f"{end}  {places}")


def samples(
    questions: Sequence[Question], judgements: Mapping[str, Judgement]
) -> list[dict[str, Any]]:
    """One record a question, for samples.jsonl."""
    records: list[dict[str, Any]] = []
    for i, question in enumerate(questions):
        record: dict[str, Any] = {"file": question.file, "line": question.line}
        record |= {"source": question.source} if question.source else {}
        record |= {"question": question.text, "reference": question.reference}
        for name, judgement in judgements.items():
            key = name.replace("-", "_")
            record |= {key: judgement.answers[i], f"{key}_stopped": judgement.stopped[i]}
        records.append(record)
    return records
