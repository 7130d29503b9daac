"""The verdict: each rule on both sides of its boundary."""

from __future__ import annotations

from dataclasses import replace

import pytest

from biddable.judging.series import Metric
from biddable.judging.verdict import decide

LOSS = Metric(3.0, 1.5, 32, -1.7, -1.3)
FORMAT = Metric(0.0, 0.9, 32, 0.7, 0.98, "rate")
RIGHT = Metric(0.0, 0.6, 32, 0.4, 0.75, "rate")
FITS = Metric(0.10, 0.30, 32, 0.1, 0.3, "mean")


def outcome(**metrics: Metric) -> str:
    return decide({"held_out_loss": LOSS, **metrics}).outcome


def test_few_rows_cannot_tell() -> None:
    assert outcome(held_out_loss=replace(LOSS, n=7)) == "too_few"
    assert outcome(held_out_loss=replace(LOSS, n=8), accuracy=RIGHT) == "learnt"
    assert decide({}).outcome == "too_few"


@pytest.mark.parametrize("name", ["accuracy", "exact_match", "last_line_match", "choices_match"])
def test_content_is_learnt_when_ten_points_more_are_right(name: str) -> None:
    enough = Metric(0.0, 0.1, 64, 0.01, 0.2, "rate")
    assert outcome(follows_format=FORMAT, **{name: enough}) == "learnt"
    assert outcome(follows_format=FORMAT, **{name: replace(enough, tuned=0.09)}) == "format_only"
    assert outcome(follows_format=FORMAT, **{name: replace(enough, low=-0.01)}) == "format_only"


def test_content_that_was_there_before_counts() -> None:
    there = Metric(0.95, 0.95, 64, -0.05, 0.05, "rate")
    assert outcome(accuracy=there) == "learnt"
    assert outcome(accuracy=replace(there, base=0.85, tuned=0.85)) == "format_only"


def test_long_answers_are_judged_by_how_they_fit_their_question() -> None:
    assert outcome(follows_format=FORMAT, relevance=FITS) == "learnt"
    assert outcome(relevance=replace(FITS, low=-0.01)) == "format_only"
    assert outcome(relevance=replace(FITS, tuned=0.11, low=0.005)) == "format_only"
    # Where answers can be right or wrong, that decides.
    assert outcome(relevance=FITS, accuracy=replace(RIGHT, tuned=0.0, low=-0.1)) == "format_only"


def test_a_certain_rise_of_loss_is_worse() -> None:
    rise = Metric(2.0, 2.1, 32, 0.05, 0.15)
    assert outcome(held_out_loss=rise, follows_format=FORMAT) == "worse"
    assert outcome(held_out_loss=replace(rise, tuned=2.03)) != "worse"
    assert outcome(held_out_loss=replace(rise, low=-0.01)) != "worse"
    assert outcome(held_out_loss=replace(rise, tuned=float("inf"), low=None, high=None)) == "worse"


def test_rates_that_fall_without_a_gain_in_loss_are_worse() -> None:
    flat = Metric(2.0, 2.0, 32, -0.01, 0.01)
    fallen = Metric(0.9, 0.5, 32, -0.5, -0.2, "rate")
    assert outcome(held_out_loss=flat, stops_by_itself=fallen) == "worse"
    assert outcome(held_out_loss=flat, stops_by_itself=replace(fallen, high=0.01)) == "no_change"


def test_nothing_moved() -> None:
    flat = Metric(2.0, 1.97, 32, -0.05, -0.01)
    assert outcome(held_out_loss=flat) == "no_change"
    assert outcome(held_out_loss=replace(flat, tuned=1.95)) == "format_only"
    # An interval as wide as that may hide a change.
    assert outcome(held_out_loss=replace(flat, low=-0.3, high=0.2)) == "too_few"


def test_a_loss_that_fell_is_no_format_that_the_answers_lack() -> None:
    never = Metric(0.0, 0.0, 32, -0.1, 0.1, "rate")
    stops = Metric(1.0, 1.0, 32, -0.1, 0.1, "rate")
    assert outcome(stops_by_itself=stops, follows_format=never, exact_match=never) == "begun"
    assert outcome(stops_by_itself=stops, follows_format=replace(never, base=0.9, tuned=0.91)) == (
        "format_only"
    )
    assert outcome(stops_by_itself=replace(stops, base=0.5, low=0.3), follows_format=never) == (
        "format_only"
    )
    assert outcome(stops_by_itself=stops, follows_format=never, exact_match=RIGHT) == "learnt"


def test_known_rows_and_no_better_others_are_memory() -> None:
    known = Metric(3.0, 0.5, 32, -2.6, -2.4)
    risen = Metric(2.0, 2.4, 32, 0.2, 0.6)
    assert outcome(held_out_loss=risen, train_loss=known) == "memorised"
    assert outcome(held_out_loss=risen, train_loss=replace(known, tuned=1.3)) == "worse"
    # A loss that fell does not excuse rows known by heart, where no answer can be counted as right.
    assert outcome(train_loss=known, relevance=FITS) == "memorised"
    assert outcome(train_loss=replace(known, tuned=0.76), relevance=FITS) == "learnt"
    wrong = Metric(0.0, 0.05, 32, -0.1, 0.1, "rate")
    assert outcome(train_loss=known, accuracy=wrong) == "memorised"
    # The others are better too, and nothing is copied: no memory.
    assert outcome(train_loss=known, accuracy=RIGHT) == "learnt"
    parrot = Metric(0.0, 0.5, 32, 0.4, 0.6, reference=0.2)
    assert outcome(train_loss=known, accuracy=RIGHT, copied=parrot) == "memorised"
    assert outcome(train_loss=known, accuracy=RIGHT, copied=replace(parrot, reference=0.3)) == (
        "learnt"
    )


def test_a_rival_that_is_as_good_is_told() -> None:
    rival = replace(RIGHT, few_shot=0.58)
    assert "not needed" in decide({"held_out_loss": LOSS, "accuracy": rival}).advice
    form = {"held_out_loss": LOSS, "follows_format": replace(FORMAT, few_shot=0.88)}
    assert decide(form).outcome == "format_only"
    assert "not needed" in decide(form).advice
    rival = replace(RIGHT, few_shot=0.5)
    assert "not needed" not in decide({"held_out_loss": LOSS, "accuracy": rival}).advice


def test_the_evidence_names_the_figures() -> None:
    verdict = decide({"held_out_loss": LOSS, "follows_format": FORMAT})
    assert verdict.evidence == "held-out loss 3.00 -> 1.50, format 0 % -> 90 %, 32 held-out rows"
