"""Judging and scoring: figures from answers made up by hand, and a tiny model judged."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from biddable.data.conversation import Conversation, Message
from biddable.display.scorecard_lines import card_lines
from biddable.encoding.encode import encode
from biddable.judging.format import given_format
from biddable.judging.judge import (
    Judgement,
    Question,
    answer_limit,
    judge,
    loss_rows,
    make_questions,
    summed_losses,
    swapped,
)
from biddable.judging.scorecard import Terms, score
from biddable.template.template import Template
from biddable.training.evaluate import held_out_loss
from letters import letters
from tiny import tiny


def question(reference: str, tokens: int = 20) -> Question:
    return Question([1, 2], "?", reference, tokens, "f.jsonl", 1)


def judgement(
    answers: list[str], stopped: list[bool] | None = None, loss: float = 2.0
) -> Judgement:
    n = len(answers)
    return Judgement(
        losses=[(loss * 3, 3.0)] * n,
        swapped_losses=[(loss * 3 + 1.5, 3.0)] * n,
        train_losses=[(loss * 2, 4.0)],
        general=[(6.0, 2.0), (2.0, 2.0)],
        token_losses=[],
        answers=answers,
        stopped=stopped or [True] * n,
        tokens=[len(a.split()) for a in answers],
    )


QUESTIONS = [
    question("Shelf: Wood\nBorrow a saw from us today."),
    question("Shelf: Metal\nBorrow a file from us today."),
    question("Shelf: Wood\nBorrow a plane from us today."),
    question("Shelf: Paint\nBorrow a brush from us today."),
]
BASE = judgement(
    ["A saw.", "A file.", "I don't know", "a b c d a b c d a b c d"], [True, True, True, False]
)
TUNED = judgement(
    [
        QUESTIONS[0].reference,
        "Shelf: Metal\nBorrow a saw from us today.",
        QUESTIONS[2].reference,
        "no",
    ],
    loss=1.0,
)


def test_figures_by_hand() -> None:
    card = score(BASE, TUNED, QUESTIONS, terms=Terms(form=given_format(r"Shelf: \w+\n.+")))
    metrics = card.metrics
    assert (metrics["held_out_loss"].base, metrics["held_out_loss"].tuned) == (2.0, 1.0)
    assert metrics["relevance"].tuned == pytest.approx(0.5)
    assert (metrics["stops_by_itself"].base, metrics["stops_by_itself"].tuned) == (0.75, 1.0)
    assert (metrics["follows_format"].base, metrics["follows_format"].tuned) == (0.0, 0.75)
    assert (metrics["repeats"].base, metrics["repeats"].tuned) == (0.25, 0.0)
    # The answers' tokens (words here) over twenty for each reference.
    assert metrics["length_ratio"].base == pytest.approx((2 + 2 + 3 + 12) / 80)
    assert metrics["train_loss"].base == 1.0
    assert metrics["general_loss"].base == 2.0
    assert metrics["held_out_loss"].n == 4
    # Of ten words each: three answers equal their references but one word of the second.
    second = 2 * 9 / 20
    assert metrics["similarity"].tuned == pytest.approx((1 + second + 1 + 0) / 4)
    assert "exact_match" not in metrics
    assert "copied" not in metrics


def test_copies_stand_beside_the_same_figure_of_the_references() -> None:
    training = ["Shelf: Wood\nBorrow a saw from us today."]
    card = score(BASE, TUNED, QUESTIONS, training, terms=Terms(form=given_format(".+")))
    copied = card.metrics["copied"]
    # Ten words have three runs of eight. Of the three long answers the first shares all three; the
    # second has "borrow a saw from us today .", seven words, and "wood" or "metal" before them.
    assert copied.tuned == pytest.approx(3 / 9)
    assert copied.baseline == pytest.approx(3 / 12)
    assert card.metrics["longest_copied"].baseline == pytest.approx((10 + 4 + 5 + 4) / 4)


def test_short_answers_are_compared_as_a_whole_and_labels_too() -> None:
    questions = [question(label, 1) for label in ("yes", "no", "no", "maybe")]
    base = judgement(["I say yes", "yes", "no idea, or yes", "no"])
    tuned = judgement(["Yes.", "no", "yes", "no"])
    card = score(base, tuned, questions, terms=Terms(form=given_format("labels:yes,no")))
    assert card.metrics["exact_match"].base == 0.0
    assert card.metrics["exact_match"].tuned == 0.5
    # Only the whole answer is a label: "I say yes" is none, nor is "no idea, or yes".
    assert card.metrics["accuracy"].base == 0.0
    assert card.metrics["accuracy"].tuned == 0.5
    # Tuned: yes 1 of 1 wanted, 2 given: 2/3; no: 1 hit, 2 wanted, 2 given: 1/2; maybe 0.
    assert card.metrics["macro_f1"].tuned == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert "similarity" not in card.metrics


def test_a_short_last_line_that_changes_is_compared() -> None:
    questions = [question(f"Two and two\nis four\n#### {i}") for i in range(4)]
    base = judgement(["4", "#### 1", "x\n#### 3", "x\n#### 3"])
    card = score(base, base, questions)
    assert card.metrics["last_line_match"].tuned == 0.5


def test_the_choices_of_a_format_are_compared_where_they_vary() -> None:
    card = score(BASE, TUNED, QUESTIONS, terms=Terms(form=given_format(r"Shelf: (\w+)\n.+")))
    # The first three keep the form and name their reference's shelf; the fourth does not.
    assert card.metrics["choices_match"].tuned == 0.75
    card = score(BASE, TUNED, QUESTIONS, terms=Terms(form=given_format(r"(Shelf): \w+\n.+")))
    assert "choices_match" not in card.metrics


def test_the_few_shot_rival_gets_its_own_interval() -> None:
    card = score(BASE, TUNED, QUESTIONS, few_shot=TUNED, terms=Terms(form=given_format(".+")))
    stops = card.metrics["stops_by_itself"]
    assert stops.few_shot == 1.0
    assert stops.few_shot_low is not None
    assert stops.few_shot_low < 0 < (stops.few_shot_high or 0)
    assert "few-shot" in card_lines(card)[0]
    narrow = card_lines(card, 60)
    assert max(map(len, narrow)) <= 60
    assert "ends with a stop token" in narrow


def test_the_card_as_json_and_as_text() -> None:
    card = score(BASE, TUNED, QUESTIONS, terms=Terms(form=given_format(".+")))
    figures = json.loads(json.dumps(card.as_json()))
    assert {"base", "tuned", "n", "low", "high"} <= set(figures["held_out_loss"])
    assert set(figures["stops_by_itself"]) == {
        "base", "tuned", "n", "low", "high", "baseline", "gained", "lost", "p"
    }  # fmt: skip
    assert card.record() == {**card.as_json(), "verdict": asdict(card.verdict)}
    assert set(asdict(card.verdict)) == {"outcome", "sentence", "evidence", "suggestion"}
    text = "\n".join(card_lines(card))
    assert max(map(len, text.splitlines())) <= 80
    assert "75 %" in text
    assert "format rule: .+" in text


def test_a_judgement_goes_through_json() -> None:
    again = Judgement(**json.loads(json.dumps(asdict(TUNED))))
    assert score(BASE, again, QUESTIONS).metrics == score(BASE, TUNED, QUESTIONS).metrics


def conversations(count: int) -> list[Conversation]:
    return [
        Conversation(
            [Message("user", f"q{i}?"), Message("assistant", f"a{'bcde'[i % 4]} {i}.")], "f", i + 1
        )
        for i in range(count)
    ]


def test_a_tiny_model_is_judged() -> None:
    tokenizer, template = letters(), Template.frame("plain")
    rows = conversations(5)
    examples = [
        replace(e, weights=[(n + 1) / 2 * w for w in e.weights])
        for n, c in enumerate(rows)
        for e in encode(c, tokenizer, template)
    ]
    questions = make_questions(rows, tokenizer, template, most=3)
    assert [q.reference for q in questions] == ["ab 0.", "ac 1.", "ad 2."]
    assert answer_limit(questions) == 16
    model = tiny("llama", ours=True)
    result = judge(
        model,
        tokenizer,
        template,
        questions,
        loss_rows(model, tokenizer, examples, examples[:2]),
        max_new_tokens=4,
    )
    assert len(result.answers) == len(result.stopped) == len(result.tokens) == 3
    assert result.mean_loss() == pytest.approx(held_out_loss(model, examples, 64))
    # By transformers itself, each example alone.
    plain = tiny("llama", ours=False)
    for example, (total, weight) in zip(examples, result.losses, strict=True):
        ids = torch.tensor([list(example.input_ids)])
        logits = plain(input_ids=ids, use_cache=False).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        wanted = (losses * torch.tensor(example.weights[1:])).sum()
        assert total == pytest.approx(wanted.item())
        assert weight == sum(example.weights)
    for one, again in zip(result.train_losses, result.losses[:2], strict=True):
        assert one == pytest.approx(again)
    for sums, again in zip(
        result.swapped_losses, summed_losses(model, swapped(examples)), strict=True
    ):
        assert sums == pytest.approx(again)


def test_only_the_first_rows_are_fed_with_another_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, template = letters(), Template.frame("plain")
    examples = [e for c in conversations(5) for e in encode(c, tokenizer, template)]
    model = tiny("llama", ours=True)
    judgements = []
    for most in (5, 3):
        monkeypatch.setattr("biddable.judging.judge.MOST_SWAPPED", most)
        judgements.append(
            judge(model, tokenizer, template, [], loss_rows(model, tokenizer, examples))
        )
    whole, partial = judgements
    assert (len(whole.swapped_losses), len(partial.swapped_losses)) == (5, 3)
    for one, other in zip(whole.losses, partial.losses, strict=True):
        assert one == pytest.approx(other)
    # The third takes the answer of the first, where it is the last.
    for one, other in zip(whole.swapped_losses[:2], partial.swapped_losses[:2], strict=True):
        assert one == pytest.approx(other)


def test_swapped_examples_keep_the_prompt_and_take_another_answer() -> None:
    rows = conversations(3)
    examples = [e for c in rows for e in encode(c, letters(), Template.frame("plain"))]
    for i, other in enumerate(swapped(examples)):
        own, donor = examples[i], examples[(i + 1) % 3]
        cut = list(own.weights).index(1.0)
        assert list(other.input_ids[:cut]) == list(own.input_ids[:cut])
        assert list(other.input_ids[cut:]) == list(
            donor.input_ids[list(donor.weights).index(1.0) :]
        )
        assert [w > 0 for w in other.weights].index(True) == cut
    same = [replace(examples[0]), replace(examples[0])]
    assert swapped(same) == []
