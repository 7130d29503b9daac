"""The verdict's rules: each on both sides of its boundary, and the table that users read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from biddable.judging.metric import Metric
from biddable.judging.rules import RULES, table
from biddable.judging.standings import Examined, with_standings
from biddable.judging.verdict import INTERRUPTED, Verdict, decide

DOC = Path(__file__).parents[1] / "docs" / "verdict.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end of rules -->\n"

LOSS = Metric(3.0, 1.5, 32, -1.7, -1.3)
FLAT = Metric(2.0, 2.0, 32, -0.01, 0.01)
FORMAT = Metric(0.0, 0.9, 32, kind="rate", p=0.0001)
NOTHING = Metric(0.0, 0.0, 32, kind="rate", p=1.0)
WRONG = Metric(0.0, 0.2, 32, kind="rate", p=0.03, baseline=0.2, standing="chance")
AT_CHANCE = replace(NOTHING, standing="chance")
RIGHT = Metric(0.0, 0.8, 32, kind="rate", p=0.0001, baseline=0.2, standing="learned")
LOST = Metric(1.0, 0.6, 32, kind="rate", p=0.01, baseline=0.2, standing="lost")
KEPT = Metric(1.0, 0.95, 32, kind="rate", p=0.5, baseline=0.2, standing="kept")


def verdict(leaked: bool = False, fixed: bool = False, **metrics: Metric) -> Verdict:
    named = {name.replace("field_", "field:"): metric for name, metric in metrics.items()}
    return decide({"held_out_loss": LOSS, **named}, leaked=leaked, fixed=fixed)


def outcome(leaked: bool = False, **metrics: Metric) -> str:
    return verdict(leaked, **metrics).outcome


def test_the_table_in_the_docs_is_the_one_that_decides() -> None:
    """`UPDATE_DOCS=1 pytest tests/test_judging_verdict.py` writes it anew."""
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    shown, after = rest.split(END)
    if os.environ.get("UPDATE_DOCS"):
        DOC.write_text(f"{before}{BEGIN}{table()}\n{END}{after}", encoding="utf-8")
    else:
        assert shown == table() + "\n"


def test_every_outcome_but_interrupted_has_a_rule() -> None:
    assert {rule.outcome for rule in RULES} == {
        "learned", "partly", "format_only", "loss_only", "overfit", "worse", "no_change",
        "too_few", "leaked",
    }  # fmt: skip
    assert INTERRUPTED.outcome == "interrupted"


def test_a_broken_model_is_worse_whatever_else_holds() -> None:
    for loss in (float("nan"), float("inf")):
        broken = Metric(3.0, loss, 5)
        assert outcome(leaked=True, held_out_loss=broken, accuracy=RIGHT) == "worse"
    # The base may be broken.
    assert outcome(held_out_loss=replace(LOSS, base=float("nan")), accuracy=RIGHT) == "learned"


def test_known_rows_say_nothing() -> None:
    assert outcome(leaked=True, accuracy=RIGHT) == "leaked"
    assert outcome(leaked=True, accuracy=LOST, held_out_loss=replace(LOSS, n=2)) == "leaked"
    assert outcome(leaked=False, accuracy=RIGHT) == "learned"


def test_few_rows_cannot_tell() -> None:
    assert outcome(held_out_loss=replace(LOSS, n=7)) == "too_few"
    assert outcome(held_out_loss=replace(LOSS, n=8), accuracy=replace(RIGHT, n=8)) == "learned"
    assert outcome(held_out_loss=replace(LOSS, clusters=7), accuracy=RIGHT) == "too_few"
    assert outcome(accuracy=replace(RIGHT, n=4)) == "too_few"
    assert decide({}).outcome == "too_few"


FORM_NAMES = ["stops_by_itself", "follows_format", "json_valid"]


@pytest.mark.parametrize("name", FORM_NAMES)
def test_a_form_that_is_lost_while_content_is_gained_is_partly(name: str) -> None:
    lost = Metric(0.9, 0.8, 64, kind="rate", p=0.04)
    partly = verdict(accuracy=RIGHT, **{name: lost})
    assert partly.outcome == "partly"
    # Both are named.
    assert "label accuracy 0 % -> 80 %" in partly.sentence
    assert partly.sentence.endswith("90 % -> 80 %.")
    assert partly.suggestion.startswith("more epochs")
    assert outcome(accuracy=RIGHT, **{name: replace(lost, p=0.05)}) == "learned"
    assert outcome(accuracy=RIGHT, **{name: replace(lost, tuned=0.81)}) == "learned"
    assert outcome(accuracy=LOST, field_day=RIGHT, **{name: lost}) == "worse"


@pytest.mark.parametrize("name", FORM_NAMES)
def test_a_form_that_base_had_and_tuned_lost_is_worse_whatever_the_loss(name: str) -> None:
    lost = Metric(0.5, 0.3, 64, kind="rate", p=0.04)
    assert outcome(accuracy=AT_CHANCE, **{name: lost}) == "worse"
    assert outcome(accuracy=AT_CHANCE, **{name: replace(lost, p=0.05)}) == "loss_only"
    assert outcome(accuracy=AT_CHANCE, **{name: replace(lost, tuned=0.41)}) == "loss_only"
    # What fewer than half of base's answers had is only named, unless there is more to lose.
    never = replace(lost, base=0.49)
    improved = verdict(accuracy=AT_CHANCE, **{name: never})
    assert improved.outcome == "loss_only"
    assert improved.sentence.endswith("49 % -> 30 %.")
    assert improved.suggestion.startswith("more steps")
    assert outcome(accuracy=AT_CHANCE, held_out_loss=FLAT, **{name: never}) == "worse"
    for standing in ("held", "kept"):
        right = replace(AT_CHANCE, standing=standing)
        assert outcome(accuracy=right, **{name: never}) == "worse"


def test_content_that_is_surely_lost_is_worse_whatever_the_loss() -> None:
    assert outcome(exact_match=LOST) == "worse"
    assert outcome(json_match=RIGHT, field_day=LOST) == "worse"
    assert outcome(exact_match=KEPT) == "no_change"


def test_advice_for_worse_answers_looks_at_the_loss() -> None:
    stops = Metric(0.6, 0.0, 32, kind="rate", p=0.001)
    unfinished = verdict(stops_by_itself=stops)
    assert (unfinished.outcome, unfinished.suggestion[:10]) == ("worse", "more steps")
    for harmed in (verdict(stops_by_itself=stops, held_out_loss=FLAT), verdict(exact_match=LOST)):
        assert (harmed.outcome, harmed.suggestion[:7]) == ("worse", "a small")


@pytest.mark.parametrize(
    "name", ["accuracy", "exact_match", "last_line_match", "similarity", "user_metric"]
)
def test_a_whole_that_is_learned_is_learned(name: str) -> None:
    assert outcome(follows_format=FORMAT, **{name: RIGHT}) == "learned"
    assert outcome(follows_format=FORMAT, **{name: WRONG}) == "format_only"
    # Without parts, how many are right is no matter.
    assert outcome(**{name: replace(RIGHT, tuned=0.3)}) == "learned"


def test_parts_at_chance_make_it_partly() -> None:
    fields = {"field_intent": RIGHT, "field_tool": RIGHT, "field_day": WRONG}
    partly = verdict(json_match=replace(RIGHT, tuned=0.2), **fields)
    assert partly.outcome == "partly"
    assert "Partly learned: intent, tool; at chance: day;" in partly.sentence
    assert outcome(json_match=RIGHT, **fields) == "partly"
    assert outcome(json_match=RIGHT, **(fields | {"field_day": RIGHT})) == "learned"
    unsure = replace(WRONG, standing="unsure")
    assert outcome(json_match=RIGHT, **(fields | {"field_day": unsure})) == "partly"
    # What no answer could show, and what base had, is no fault.
    for standing in ("closed", "kept", "held"):
        fine = fields | {"field_day": replace(WRONG, standing=standing)}
        assert outcome(json_match=RIGHT, **fine) == "learned"


def test_an_object_has_to_be_right_as_a_whole_in_half_of_the_rows() -> None:
    half = replace(RIGHT, tuned=0.5)
    assert outcome(json_match=half, field_a=RIGHT, field_b=RIGHT) == "learned"
    assert outcome(json_match=replace(half, tuned=0.49), field_a=RIGHT, field_b=RIGHT) == "partly"
    assert outcome(json_match=replace(WRONG, tuned=0.1), field_a=RIGHT, field_b=RIGHT) == "partly"
    # Prose in it is never right to the letter.
    prose = replace(RIGHT, kind="mean")
    assert outcome(json_match=NOTHING, field_a=RIGHT, field_b=prose) == "learned"
    weak = replace(prose, standing="chance")
    assert outcome(json_match=NOTHING, field_a=RIGHT, field_b=weak) == "partly"


def test_overfit_needs_a_ratio_and_a_gap_and_no_right_answers() -> None:
    train = Metric(3.0, 0.75, 32)
    assert outcome(train_loss=train, accuracy=WRONG) == "overfit"
    assert outcome(train_loss=replace(train, tuned=0.76), accuracy=WRONG) != "overfit"
    small = replace(LOSS, tuned=0.4)
    assert outcome(held_out_loss=small, train_loss=replace(train, tuned=0.1)) == "overfit"
    assert outcome(held_out_loss=small, train_loss=replace(train, tuned=0.11)) != "overfit"
    for standing in ("learned", "kept", "held"):
        right = replace(RIGHT, standing=standing)
        assert outcome(train_loss=train, accuracy=right) != "overfit"
        assert outcome(train_loss=train, json_match=WRONG, field_a=right) != "overfit"


def test_a_certain_rise_of_loss_is_worse() -> None:
    rise = Metric(2.0, 2.1, 32, 0.05, 0.15)
    assert outcome(held_out_loss=rise, follows_format=FORMAT) == "worse"
    assert outcome(held_out_loss=replace(rise, tuned=2.03)) != "worse"
    assert outcome(held_out_loss=replace(rise, low=-0.01)) != "worse"


def test_format_without_content() -> None:
    for name in ("stops_by_itself", "follows_format", "json_valid", "similarity"):
        gained = replace(FORMAT, tuned=0.1, standing="chance" if name == "similarity" else "")
        assert outcome(**{name: gained}) == "format_only"
        assert outcome(**{name: replace(gained, tuned=0.09)}) == "loss_only"
        assert outcome(**{name: replace(gained, p=0.05)}) == "loss_only"
    # A format that was there, or that is not known, is none that was learned.
    there = replace(FORMAT, base=0.9, tuned=0.95, p=0.5)
    assert outcome(follows_format=there, exact_match=NOTHING) == "loss_only"
    assert outcome() == "loss_only"


def test_what_base_knew_is_no_gain() -> None:
    assert outcome(exact_match=KEPT, follows_format=FORMAT) == "format_only"
    assert outcome(exact_match=KEPT) == "no_change"
    assert outcome(exact_match=replace(KEPT, standing="held")) == "loss_only"


def test_loss_alone() -> None:
    assert outcome(held_out_loss=replace(LOSS, base=1.53), exact_match=NOTHING) != "loss_only"
    assert outcome(held_out_loss=replace(LOSS, base=1.54), exact_match=NOTHING) == "loss_only"
    assert outcome(held_out_loss=replace(LOSS, high=0.1), exact_match=NOTHING) == "too_few"


def test_nothing_moved() -> None:
    assert outcome(held_out_loss=FLAT) == "no_change"
    # An interval as wide as that may hide a change.
    assert outcome(held_out_loss=replace(FLAT, low=-0.08, high=0.079)) == "no_change"
    assert outcome(held_out_loss=replace(FLAT, low=-0.08, high=0.081)) == "too_few"


def standing(test: Examined, others: int = 0) -> str:
    rivals = {f"field:{i}": Examined(NOTHING, 1.0) for i in range(others)}
    return with_standings({"whole": test, **rivals})["whole"].standing


def test_content_has_to_beat_base_and_baseline_and_to_follow_the_prompt() -> None:
    sure = Examined(replace(RIGHT, standing="", tuned=0.5), 0.01, 0.01)
    assert standing(sure) == "learned"
    assert standing(replace(sure, p_baseline=0.05)) == "unsure"
    assert standing(replace(sure, p_relation=0.05)) == "unsure"
    assert standing(replace(sure, metric=replace(sure.metric, p=0.05))) == "held"
    # Below the baseline, nothing is learned however sure that is.
    assert standing(replace(sure, metric=replace(sure.metric, tuned=0.1))) != "learned"
    # A tenth of what the baseline has wrong has to be right: 0.2 + 0.08.
    assert standing(replace(sure, metric=replace(sure.metric, tuned=0.281))) == "learned"
    assert standing(replace(sure, metric=replace(sure.metric, tuned=0.279))) != "learned"
    assert standing(replace(sure, metric=replace(sure.metric, base=0.45))) != "learned"


def test_several_contents_are_corrected_together() -> None:
    sure = Examined(replace(RIGHT, standing=""), 0.02, 0.0)
    assert standing(sure, others=1) == "learned"
    assert standing(sure, others=2) == "unsure"


def test_where_a_baseline_is_nearly_always_right_no_answers_could_show_more() -> None:
    near = Examined(replace(WRONG, standing="", tuned=0.95, baseline=0.9), 0.5, 0.5, room=5)
    assert standing(near) == "closed"
    assert standing(replace(near, room=6)) == "unsure"
    low = replace(near.metric, tuned=0.92)
    assert standing(replace(near, room=6, metric=low)) == "chance"


def test_few_shot_is_as_good_by_content_alone() -> None:
    assert "not needed" in verdict(accuracy=replace(RIGHT, few_shot=0.76)).suggestion
    assert "not needed" not in verdict(accuracy=replace(RIGHT, few_shot=0.74)).suggestion
    form = replace(FORMAT, few_shot=0.9)
    assert outcome(follows_format=form) == "format_only"
    assert "not needed" not in verdict(follows_format=form).suggestion


def test_the_sentence_carries_the_figure_that_proves_it() -> None:
    assert verdict(accuracy=RIGHT).sentence == (
        "Learned: label accuracy 0 % -> 80 % on 32 eval rows; most frequent answer 20 %."
    )
    prose = Metric(0.2, 0.6, 32, kind="mean", p=0.01, baseline=0.3, standing="learned")
    assert "ROUGE-L 0.20 -> 0.60" in verdict(similarity=prose).sentence
    assert "another row's answer 0.30" in verdict(similarity=prose).sentence
    assert verdict(exact_match=LOST).sentence == "Worse: exact match 100 % -> 60 % on 32 eval rows."
    assert "the base was right already" in verdict(exact_match=KEPT).sentence
    fixed = verdict(
        fixed=True, follows_format=FORMAT, exact_match=replace(RIGHT, standing="closed")
    )
    assert fixed.sentence.startswith("Learned the fixed answer")
    doubt = replace(RIGHT, standing="closed", tuned=1.0, baseline=0.9)
    assert "cannot show content" in verdict(follows_format=FORMAT, accuracy=doubt).sentence
    assert "not the content" in verdict(follows_format=FORMAT, accuracy=WRONG).sentence
