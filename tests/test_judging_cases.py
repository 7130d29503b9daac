"""Whole judgements with a known truth: no verdict is fooled, in either direction."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.display.scorecard_lines import card_lines
from biddable.errors import BiddableError
from biddable.judging.judge import Judgement, Question
from biddable.judging.scorecard import Scorecard, Terms, score

INTENTS, DAYS = ("borrow", "return", "renew", "ask"), ("mon", "tue", "wed", "thu", "fri")
TOOLS = ("saw", "drill", "file", "plane", "awl")
WORDS = [
    "quick",
    "saw",
    "drill",
    "plane",
    "wood",
    "metal",
    "garden",
    "tree",
    "red",
    "blue",
    "small",
]
WORDS += ["large", "near", "house", "roof"]


def question(reference: str, place: int, cluster: int | None = None) -> Question:
    return Question([1], f"q{place}", reference, len(reference) // 4 + 1, "f", place + 1, cluster)


def judged(
    answers: Sequence[str], loss: float, train: float | None = None, fits: float = 0.0
) -> Judgement:
    noise = random.Random(1)
    losses = [(3 * loss * (1 + 0.1 * noise.random()), 3.0) for _ in answers]
    swapped = [(s + 3 * (fits + 0.05 * noise.gauss(0, 1)), 3.0) for s, _ in losses]
    known = [(4 * (loss if train is None else train), 4.0)] * len(answers)
    sizes = [len(a) // 4 + 1 for a in answers]
    return Judgement(losses, swapped, known, [], [], list(answers), [True] * len(answers), sizes)


def card(
    tuned: Judgement, references: Sequence[str], training: Sequence[str], **terms: Any
) -> Scorecard:
    questions = [question(r, i) for i, r in enumerate(references)]
    base = terms.pop("base", judged(["Well, let me think about it"] * len(references), 3.0))
    return score(base, tuned, questions, training, terms=Terms(**terms))


def objects(dice: random.Random, count: int) -> list[dict[str, Any]]:
    return [
        {
            "intent": dice.choice(INTENTS), "tool": dice.choice(TOOLS), "day": dice.choice(DAYS),
            "member": dice.choice([None, dice.randint(100, 999)]),
        }
        for _ in range(count)
    ]  # fmt: skip


def as_json(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [json.dumps(row) for row in rows]


def sentence(dice: random.Random) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(14)) + "."


def never_learned(outcomes: Sequence[str], least: float = 0.05) -> None:
    """At most the nominal error rate, with what chance adds to it on so many cases."""
    false = sum(outcome in ("learned", "partly") for outcome in outcomes)
    assert false <= least * len(outcomes), outcomes


@pytest.mark.parametrize("labels", [2, 6, 8])
def test_answers_that_do_not_look_at_the_prompt_are_the_form_only(labels: int) -> None:
    outcomes = []
    for seed in range(36):
        dice = random.Random(seed)
        names = [f"label {chr(97 + i)}" for i in range(labels)]
        # As often as not the labels are skewed, and otherwise in the held-out rows.
        weights = [9 if i == 0 and seed % 2 else 1 for i in range(labels)]
        n = (8, 20, 64)[seed % 3]
        training = dice.choices(names, weights, k=100)
        references = dice.choices(names, weights[:: dice.choice([1, -1])], k=n)
        constant, guessed = [dice.choice(names)] * n, dice.choices(names, weights, k=n)
        outcomes.append(card(judged((constant, guessed)[seed % 2], 0.6), references, training))
    assert {c.verdict.outcome for c in outcomes} <= {"format_only", "learned"}
    never_learned([c.verdict.outcome for c in outcomes])


def test_the_majority_class_is_the_form_only_and_its_baseline_is_shown() -> None:
    references = ["low"] * 36 + ["high"] * 4
    scorecard = card(judged(["low"] * 40, 0.3), references, ["low"] * 90 + ["high"] * 10)
    assert scorecard.verdict.outcome == "format_only"
    assert scorecard.metrics["accuracy"].baseline == 0.9
    assert scorecard.as_json()["accuracy"]["baseline"] == 0.9
    assert "label accuracy 0 % -> 90 % on 40 eval rows; most frequent answer 90 %" in (
        scorecard.verdict.sentence
    )
    # All right cannot be told from it by four rows, and the sentence says no more than that.
    scorecard = card(judged(references, 0.1), references, ["low"] * 90 + ["high"] * 10)
    assert scorecard.verdict.outcome == "format_only"
    assert "cannot show content" in scorecard.verdict.sentence
    # By eight it can.
    references = ["low"] * 36 + ["high"] * 8
    scorecard = card(judged(references, 0.1), references, ["low"] * 90 + ["high"] * 10)
    assert scorecard.verdict.outcome == "learned"


def test_held_out_rows_with_other_shares_of_labels_fool_nobody() -> None:
    # Training says "low" nearly always, these rows are "high": its baseline is easily beaten.
    training, references = ["low"] * 90 + ["high"] * 10, ["high"] * 29 + ["low"] * 3
    for answers in (["high"] * 32, ["high", "low"] * 16):
        scorecard = card(judged(answers, 0.3), references, training)
        assert scorecard.metrics["accuracy"].baseline == pytest.approx(3 / 32)
        assert scorecard.verdict.outcome == "format_only"
    assert card(judged(references, 0.3), references, training).verdict.outcome == "learned"


def test_labels_that_are_right_are_learned() -> None:
    dice = random.Random(0)
    references = dice.choices(["approve", "reject"], k=32)
    answers = [r if i % 8 else "reject" for i, r in enumerate(references)]
    scorecard = card(judged(answers, 0.3, 0.001), references, dice.choices(references, k=100))
    assert scorecard.verdict.outcome == "learned"


def test_json_none_part_and_all() -> None:
    dice = random.Random(0)
    truth, training = objects(dice, 32), as_json(objects(dice, 100))
    references = as_json(truth)
    none = card(judged(as_json(objects(dice, 32)), 0.3), references, training)
    assert none.verdict.outcome == "format_only"
    part = [{**row, "day": dice.choice(DAYS)} for row in truth]
    partly = card(judged(as_json(part), 0.05, 0.006), references, training)
    assert partly.verdict.outcome == "partly"
    assert "intent, tool, member; at chance: day" in partly.verdict.sentence
    assert max(map(len, card_lines(partly))) <= 80
    learned = card(judged(references, 0.05, 0.006), references, training)
    assert learned.verdict.sentence == (
        "Learned: whole object right 0 % -> 100 % on 32 eval rows; most frequent answer 3 %."
    )
    assert learned.metrics["field:intent"].baseline == pytest.approx(
        sum(row["intent"] == _most([json.loads(t)["intent"] for t in training]) for row in truth)
        / 32
    )


STRUCTURES = {
    "xml": "<intent>{intent}</intent><tool>{tool}</tool><day>{day}</day>",
    "nested": "<ask>\n<intent>{intent}</intent>\n<x><tool>{tool}</tool><day>{day}</day></x></ask>",
    "lines": "Intent: {intent}\nTool: {tool}\nDay: {day}",
    "pairs": "intent={intent}; tool={tool}; day={day}",
    "list": '[{{"intent": "{intent}", "tool": "{tool}"}}, {{"tool": "none", "day": "{day}"}}]',
    "table": "| Intent | Tool | Day |\n|---|---|---|\n| {intent} | {tool} | {day} |",
    "row": "| {intent} | {tool} | {day} |",
    "csv": "{intent},{tool},{day}",
    "attributes": '<ask intent="{intent}" tool="{tool}" day="{day}"/>',
    "call": "ask(intent='{intent}', tool='{tool}', day='{day}')",
    "arrows": "{intent} -> {tool} -> {day}",
    "sentence": "You {intent} the {tool} until {day}, thanks.",
}


@pytest.mark.parametrize("form", STRUCTURES.values(), ids=STRUCTURES)
def test_parts_are_judged_one_by_one_however_they_are_written(form: str) -> None:
    dice = random.Random(5)
    truth, training = objects(dice, 32), [form.format(**row) for row in objects(dice, 100)]
    references = [form.format(**row) for row in truth]
    right = card(judged(references, 0.05, 0.006), references, training)
    assert right.verdict.outcome == "learned"
    part = [form.format(**{**row, "day": dice.choice(DAYS)}) for row in truth]
    partly = card(judged(part, 0.05, 0.006), references, training)
    assert partly.verdict.outcome == "partly"
    names = {n: m.standing for n, m in partly.metrics.items() if n.startswith("field:")}
    assert sorted(names.values()) == ["chance", "learned", "learned"]
    assert list(names.values())[-1] == "chance"
    none = [form.format(**row) for row in objects(dice, 32)]
    assert card(judged(none, 0.3), references, training).verdict.outcome == "format_only"


def test_a_label_counts_only_as_the_whole_answer() -> None:
    dice = random.Random(0)
    labels = ["billing", "delivery", "repair"]
    references, training = dice.choices(labels, k=30), dice.choices(labels, k=90)
    for wrapped, rate in (
        ("not {}", 0.0), ("It is {}", 0.0), ("{} or else", 0.0), ("{}s", 0.0),
        (" {}.\n", 1.0), ('"{}"', 1.0), ("{}!", 1.0),
    ):  # fmt: skip
        scorecard = card(judged([wrapped.format(r) for r in references], 0.1), references, training)
        assert scorecard.metrics["accuracy"].tuned == rate
        assert scorecard.metrics["macro_f1"].tuned == rate


def test_an_empty_answer_is_right_where_the_reference_is_empty() -> None:
    dice = random.Random(0)
    words = [f"{w} {i}" for i, w in enumerate(WORDS * 2)]
    references = [dice.choice(["", word]) for word in words]
    scorecard = card(judged(references, 0.1), references, references)
    assert scorecard.verdict.outcome == "learned"
    assert scorecard.metrics["exact_match"].tuned == 1.0
    silent = card(judged([" \n"] * len(references), 0.1), references, references)
    assert silent.metrics["exact_match"].tuned == silent.metrics["exact_match"].baseline
    assert silent.metrics["exact_match"].tuned == references.count("") / len(references)


def _most(values: Sequence[str]) -> str:
    return max(set(values), key=values.count)


def test_eleven_of_twenty_objects_are_no_overfitting() -> None:
    dice = random.Random(3)
    truth = objects(dice, 20)
    wrong = ("tool", "day", "intent")
    rows = [row if i < 11 else {**row, wrong[i % 3]: "other"} for i, row in enumerate(truth)]
    scorecard = card(judged(as_json(rows), 0.05, 0.006), as_json(truth), as_json(objects(dice, 60)))
    assert scorecard.verdict.outcome in ("learned", "partly")
    assert "whole object right 0 % -> 55 % on 20 eval rows" in scorecard.verdict.sentence


def test_key_order_and_white_space_do_not_matter() -> None:
    dice = random.Random(1)
    truth, training = objects(dice, 32), as_json(objects(dice, 60))
    mixed = [json.dumps(dict(reversed(row.items())), indent=2) for row in truth]
    straight = card(judged(as_json(truth), 0.1), as_json(truth), training)
    other = card(judged(mixed, 0.1), as_json(truth), training)
    for name in ("json_match", "field:member"):
        assert other.metrics[name] == straight.metrics[name]


def test_base_that_was_right() -> None:
    answers = [f"{WORDS[i % 15]} {chr(97 + i)}" for i in range(16)]
    base = judged(answers, 2.0)
    for right, outcome in ((16, "no_change"), (14, "no_change"), (10, "worse")):
        tuned = judged([*answers[:right], *["none"] * (16 - right)], 1.0, 0.01)
        assert card(tuned, answers, answers, base=base).verdict.outcome == outcome


def test_a_loss_that_fell_while_answers_are_white_space() -> None:
    references = [f"{WORDS[i % 15]} {chr(97 + i)}" for i in range(26)]
    scorecard = card(judged([" \n"] * 26, 1.5), references, references)
    assert scorecard.verdict.outcome == "loss_only"
    assert "the answers not" in scorecard.verdict.sentence


def test_rows_known_by_heart() -> None:
    dice = random.Random(0)
    references, training = ([sentence(dice) for _ in range(n)] for n in (32, 10))
    answers = [dice.choice(training) for _ in references]
    assert card(judged(answers, 2.3, 0.5), references, training).verdict.outcome == "overfit"


def test_free_text_has_to_be_nearer_to_its_own_reference_than_to_others() -> None:
    dice = random.Random(0)
    references, training = ([sentence(dice) for _ in range(n)] for n in (32, 90))
    echo = card(judged(references, 0.1, fits=2.0), references, training)
    assert echo.verdict.outcome == "learned"
    assert "another row's answer" in echo.verdict.sentence
    others = references[1:] + references[:1]
    style = card(judged(others, 1.9, fits=0.0), references, training)
    assert style.verdict.outcome == "format_only"
    metric = style.metrics["similarity"]
    assert metric.baseline == pytest.approx(metric.tuned, abs=0.05)


def test_a_slot_that_is_learned_and_prose_that_is_not() -> None:
    dice = random.Random(0)

    def rows(count: int) -> list[str]:
        shelves = dice.choices(["Wood", "Metal", "Paint"], k=count)
        return [f"Shelf: {shelf}\nDo: {sentence(dice)}\nBack by Saturday." for shelf in shelves]

    references, training = rows(32), rows(96)
    prose = [sentence(dice) for _ in references]
    answers = [f"{r.split(chr(10))[0]}\nDo: {p}\nBack by Saturday." for r, p in
               zip(references, prose, strict=True)]  # fmt: skip
    scorecard = card(judged(answers, 1.8), references, training)
    assert scorecard.verdict.outcome == "partly"
    assert "at chance: Do" in scorecard.verdict.sentence
    assert "all parts right 0 % -> 100 %" in scorecard.verdict.sentence


def test_numbers_in_a_line_are_judged_too() -> None:
    references = [f"Order {1000 + 37 * i} is on its way." for i in range(32)]
    right = card(judged(references, 0.2), references, references)
    assert right.verdict.outcome == "learned"
    wrong = [f"Order {2000 + i} is on its way." for i in range(32)]
    assert card(judged(wrong, 0.2), references, references).verdict.outcome == "format_only"


def test_one_answer_to_everything_has_no_content() -> None:
    answers = ["Passed on to a librarian."] * 32
    scorecard = card(judged(answers, 0.01), answers, answers)
    assert scorecard.verdict.outcome == "format_only"
    assert scorecard.verdict.sentence.startswith("Learned the fixed answer")


def test_rows_of_one_group_do_not_count_as_many() -> None:
    references = [f"{WORDS[i // 4]} {chr(97 + i // 4)}" for i in range(24)]
    base, tuned = judged(["?"] * 24, 3.0), judged(references, 1.0)
    clusters = [i // 4 for i in range(24)]
    for ids, outcome in (([None] * 24, "learned"), (clusters, "too_few")):
        questions = [
            question(r, i, c) for i, (r, c) in enumerate(zip(references, ids, strict=True))
        ]
        terms = Terms(clusters=clusters if ids is clusters else None)
        scorecard = score(base, tuned, questions, references, terms=terms)
        assert scorecard.verdict.outcome == outcome
        assert (
            scorecard.metrics["held_out_loss"].independent == len(set(clusters)) or ids[0] is None
        )


def test_known_rows_are_judged_and_called_leaked() -> None:
    references = [f"{WORDS[i % 15]} {chr(97 + i)}" for i in range(26)]
    scorecard = card(judged(references, 0.1), references, references, leaked=True)
    assert scorecard.verdict.outcome == "leaked"
    assert scorecard.metrics["exact_match"].tuned == 1.0


def test_a_metric_of_the_user_decides_and_its_faults_name_their_row() -> None:
    references = [sentence(random.Random(i)) for i in range(20)]

    def first_word(reference: str, answer: str) -> float:
        return float(reference.split()[:1] == answer.split()[:1])

    scorecard = card(judged(references, 0.1), references, references, user_metric=first_word)
    assert scorecard.verdict.outcome == "learned"
    assert scorecard.verdict.sentence.startswith("Learned: your metric 0.00 -> 1.00")
    for fault in (lambda r, a: "much", lambda r, a: float("nan"), lambda r: 1.0, lambda r, a: None):
        with pytest.raises(BiddableError, match="f:1") as raised:
            card(judged(references, 0.1), references, references, user_metric=fault)
        assert raised.value.finding.code == "metric"


def test_without_training_answers_the_references_are_the_rival() -> None:
    references = ["yes"] * 12 + ["no"] * 8
    scorecard = card(judged(["yes"] * 20, 0.3), references, [])
    assert scorecard.verdict.outcome == "format_only"
    assert scorecard.metrics["accuracy"].baseline == 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 40), st.sampled_from(["labels", "json", "prose"]))
def test_the_order_of_rows_changes_no_verdict(seed: int, n: int, kind: str) -> None:
    dice = random.Random(seed)
    make = {
        "labels": lambda k: dice.choices(["a", "b", "c"], k=k),
        "json": lambda k: as_json(objects(dice, k)),
        "prose": lambda k: [sentence(dice) for _ in range(k)],
    }[kind]
    references, training = make(n), make(60)
    share = dice.random()
    answers = [r if dice.random() < share else o for r, o in zip(references, make(n), strict=True)]
    order = dice.sample(range(n), n)
    tuned = judged(answers, 0.5)
    mixed = replace(
        tuned,
        losses=[tuned.losses[i] for i in order],
        swapped_losses=[tuned.swapped_losses[i] for i in order],
        answers=[answers[i] for i in order],
        tokens=[tuned.tokens[i] for i in order],
    )
    straight = card(tuned, references, training)
    other = card(mixed, [references[i] for i in order], training)
    assert other.verdict.outcome == straight.verdict.outcome
    for name, metric in straight.metrics.items():
        assert other.metrics[name].standing == metric.standing
        assert other.metrics[name].tuned == pytest.approx(metric.tuned)


@pytest.mark.parametrize("kind", ["json", "prose", "slots"])
def test_right_answers_dealt_to_other_rows_are_never_learned(kind: str) -> None:
    outcomes = []
    for seed in range(20):
        dice = random.Random(seed)
        make = {
            "json": lambda k, d=dice: as_json(objects(d, k)),
            "prose": lambda k, d=dice: [sentence(d) for _ in range(k)],
            "slots": lambda k, d=dice: [
                f"Order {d.randint(1, 9)} on {d.choice(DAYS)} with care." for _ in range(k)
            ],
        }[kind]
        references = make(24)
        answers = dice.sample(references, len(references))
        outcomes.append(card(judged(answers, 0.5), references, make(80)).verdict.outcome)
    never_learned(outcomes)


def test_what_is_below_the_baseline_or_always_the_same_is_at_chance() -> None:
    dice = random.Random(0)
    truth, training = objects(dice, 32), as_json(objects(dice, 100))
    missed = as_json([{**row, "day": "never"} for row in truth])
    skewed = [
        json.dumps({**json.loads(text), "day": "tue" if n % 10 == 0 else "mon"})
        for n, text in enumerate(training)
    ]
    days = ["mon", "mon", "tue", "wed"] * 8
    references = as_json([{**row, "day": day} for row, day in zip(truth, days, strict=True)])
    assert "at chance: day" in card(judged(missed, 0.1), references, skewed).verdict.sentence
    # The rarest label of training is half of these rows: beaten, but without a look at them.
    known, wanted = ["a"] * 40 + ["b"] * 30 + ["c"] * 30, ["c"] * 16 + ["a", "b"] * 8
    scorecard = card(judged(["c"] * 32, 0.3), wanted, known)
    assert scorecard.verdict.sentence.startswith("Learned the format, not the content")


def test_marks_accents_and_decimal_commas_are_told_apart_as_readers_do() -> None:
    dice = random.Random(0)
    for labels, spelled in (
        (["!", "?"], ["!", "?"]),
        (["café", "thé"], ["cafe\u0301", "the\u0301"]),
    ):
        order = [dice.randrange(2) for _ in range(132)]
        right = [spelled[i] for i in order[:32]]
        wanted, known = ([labels[i] for i in part] for part in (order[:32], order[32:]))
        assert card(judged(right, 0.3), wanted, known).verdict.outcome == "learned"
    prices = [f"Price: {dice.randint(10, 99)},{dice.randint(1, 9)}" for _ in range(132)]
    lost = [text.replace(",", "") for text in prices[:32]]
    scorecard = card(judged(lost, 0.3), prices[:32], prices[32:])
    assert scorecard.metrics["choices_match"].tuned == 0.0


@pytest.mark.filterwarnings("error")
def test_a_base_without_a_finite_loss_is_compared_without_a_warning() -> None:
    labels = ["a", "b"] * 16
    broken = replace(judged(["?"] * 32, 1.0), losses=[(float("inf"), 3.0)] * 32)
    assert card(judged(labels, 0.3), labels, labels, base=broken).verdict.outcome == "learned"
