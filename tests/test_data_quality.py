"""Findings about rows that are well formed: each kind found, and clean data left alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.data.conversation import Conversation, Message
from biddable.data.private import iban, luhn, private_findings
from biddable.data.quality import inspect, known_rows, leaks, too_few
from biddable.data.readers import read
from biddable.errors import capped


def talk(user: str, assistant: str, line: int = 0, system: str = "") -> Conversation:
    first = [Message("system", system)] if system else []
    messages = [*first, Message("user", user), Message("assistant", assistant)]
    return Conversation(messages, "f.jsonl", line)


def clean(count: int) -> list[Conversation]:
    rng = random.Random(0)

    def text() -> str:
        return " ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(12))

    return [talk(text(), text(), line) for line in range(1, count + 1)]


def code_counts(rows: list[Conversation]) -> Counter[str]:
    return Counter(finding.code for finding in inspect(rows))


def test_clean_rows_have_no_findings() -> None:
    assert inspect(clean(60)) == []


def test_the_demo_data_is_clean_and_does_not_leak() -> None:
    folder = Path(__file__).parents[1] / "examples" / "tool-library"
    train, held_out = (
        read([str(folder / f"{name}.jsonl")]).conversations for name in ("train", "heldout")
    )
    assert inspect(train) == []
    assert known_rows(train, held_out) == {}


@pytest.mark.parametrize(
    ("rows", "severity"), [(0, "error"), (9, "error"), (10, "warning"), (49, "warning")]
)
def test_too_few_examples_are_an_error_below_ten_and_a_warning_below_fifty(
    rows: int, severity: str
) -> None:
    [finding] = too_few(rows)
    assert (finding.code, finding.severity) == ("too_few_examples", severity)
    assert too_few(50) == []


def test_duplicates_and_contradictions_are_told_with_both_places() -> None:
    rows = clean(60)
    near = rows[3].messages[1].content + " addendum"
    user = rows[7].messages[0].content
    rows += [talk(*(m.content for m in rows[2].messages), line=61)]
    rows += [talk(rows[3].messages[0].content, near, 62), talk(user, "Quite another answer.", 63)]
    findings = {finding.code: finding for finding in inspect(rows)}
    assert set(findings) == {"duplicate_exact", "duplicate_near", "same_prompt_different_answer"}
    assert findings["duplicate_exact"].line == 61
    assert "f.jsonl:3" in findings["duplicate_exact"].message
    assert findings["duplicate_near"].line == 62
    assert findings["same_prompt_different_answer"].line in (62, 63)


def test_turns_out_of_order_are_told_at_their_place() -> None:
    rows = clean(60)
    user, answer = rows[4].messages
    rows[4] = Conversation([user, answer, user, user], "f.jsonl", 5)
    rows[6] = Conversation([*rows[6].messages, answer], "f.jsonl", 7)
    called = Message("assistant", "", None, {"tool_calls": [{"function": {"name": "f"}}]})
    rows[8] = Conversation(
        [rows[8].messages[0], called, Message("tool", "1"), answer], "f.jsonl", 9
    )
    assert [(f.code, f.line, f.turn) for f in inspect(rows)] == [
        ("ends_without_answer", 5, 3),
        ("roles_do_not_alternate", 5, 3),
        ("roles_do_not_alternate", 7, 2),
    ]


def test_one_answer_to_many_questions_is_told_but_labels_are_not() -> None:
    rows = clean(60)
    macro = [talk(c.messages[0].content, "Please call us.", c.line) for c in rows[:30]]
    assert code_counts(macro + rows[30:])["one_answer_dominates"] == 1
    labels = [talk(c.messages[0].content, f"label {c.line % 3}", c.line) for c in rows]
    assert code_counts(labels)["one_answer_dominates"] == 0


SECRET = [
    "-----BEGIN RSA PRIVATE KEY-----",
    "AKIA" + "IOSFODNN7ABCDEFG",
    "ghp_" + "a1B2" * 9,
    "dop_v1_" + "a1b2" * 16,
    "hooks.slack.com/services/T00/B00/" + "a1B2" * 6,
    "Authorization: Bearer " + "a1B2" * 9,
    "postgres://bob:a1B2c3@localhost:5432/prod",
    "aws_secret_access_key = " + "a1B2" * 10,
    "AccountKey=" + "a1B2" * 21,
    "-----BEGIN PGP PRIVATE KEY " + "BLOCK-----\n\nlQdGBF",
    "glpat-" + "x1y2z3" * 4,
    "xoxb-" + "1234567890-abc",
    "AIza" + "Sy0" * 11 + "ab",
    "sk_live_" + "4eC39HqLyjWDarjt",
    "sk-proj-" + "abc123def456ghi789",
    "hf_" + "abcdefghij" * 4,
    "npm_" + "a1B2" * 9,
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",
    "password: hunter2hunter2",
    'API_KEY="9f8e7d6c5b4a"',
]
PERSONAL = [
    "write to ada.lovelace@analytical.co.uk today",
    "card 4539 1488 0343 6467 please",
    "4539148803436467",
    "IBAN GB82 WEST 1234 5698 7654 32",
]
HARMLESS = [
    "someone@example.com",
    "an order number 1234567890123456",
    "call sk-learn or scikit-learn-contrib-package",
    "the password: it is a word you choose",
    "token = tokenizer.tokenize",
    "pi is 3.14159265358979323846",
    "2024-01-01 12:00:00, 2025-01-01 13:00:00",
    "0000 0000 0000 0000",
    "é, ü, ñ, “quotes” — dashes … and 日本語, Â, Ã and â as letters",
]
BROKEN = ["cafÃ© au lait", "itâ€™s", "Â£ 10", "ï»¿first", "caf\ufffd"]


@pytest.mark.parametrize(
    ("texts", "code"), [(SECRET, "secret_found"), (PERSONAL, "pii_found"), (BROKEN, "mojibake")]
)
def test_each_kind_of_private_or_broken_text_is_found_at_its_turn(
    texts: list[str], code: str
) -> None:
    for text in texts:
        findings = list(private_findings([talk("u", f"Here: {text}", 5, system="s")]))
        assert [(f.code, f.line, f.turn) for f in findings] == [(code, 5, 2)], text
        assert text not in findings[0].message


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_are_left_alone(text: str) -> None:
    assert list(private_findings([talk(text, text)])) == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=12, max_size=18).filter(lambda d: len(set(d)) > 1))
def test_exactly_one_check_digit_completes_a_card_number(digits: list[int]) -> None:
    text = "".join(map(str, digits))
    assert sum(luhn(text + str(check)) for check in range(10)) == 1


@settings(deadline=None)
@given(
    st.sampled_from(["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000"]), st.integers(4, 15)
)
def test_a_changed_digit_spoils_an_iban(code: str, place: int) -> None:
    assert iban(code)
    letter = code[place]
    if letter.isdigit():
        assert not iban(code[:place] + str((int(letter) + 1) % 10) + code[place + 1 :])


def test_a_flood_of_findings_is_counted_not_listed() -> None:
    rows = clean(30)
    findings = capped(inspect([*rows, *rows, *rows]))
    repeats = [f for f in findings if f.code == "duplicate_exact"]
    assert len(repeats) == 21
    assert sum(f.count for f in repeats) == 60


def test_a_held_out_row_that_training_knows_leaks() -> None:
    rows = clean(60)
    held_out = [
        talk(*(m.content for m in rows[0].messages), line=1),
        talk(rows[1].messages[0].content, "Another answer to it.", 2),
        talk(rows[2].messages[0].content + "!", rows[2].messages[1].content.upper(), 3),
        *clean(70)[60:],
    ]
    known = known_rows(rows, held_out)
    assert known == {
        0: ("is equal to", 0),
        1: ("asks the same as", 1),
        2: ("is nearly the same as", 2),
    }
    [finding] = leaks(rows, held_out, known, all_known=False)
    assert finding.code == "leak_train_heldout"
    assert finding.severity == "warning"
    assert "Training knows 3 of 13 held-out rows; they are left out" in finding.message
    assert "f.jsonl:3 is nearly the same as f.jsonl:3" in finding.message


def test_a_fixed_prompt_is_no_leak() -> None:
    train = [talk("Tell me a joke.", c.messages[1].content) for c in clean(40)]
    held_out = [talk("Tell me a joke.", c.messages[1].content) for c in clean(50)[40:]]
    assert known_rows(train, held_out) == {}
