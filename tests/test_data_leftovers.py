"""Texts that are well formed and hardly meant: said, mended where that is safe, else left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from biddable.data.conversation import Conversation, Message
from biddable.data.fix import write_fixed
from biddable.data.leftovers import leftovers
from biddable.data.readers import read


def talk(user: str, assistant: str) -> Conversation:
    return Conversation([Message("user", user), Message("assistant", assistant)], "f", 1)


@pytest.mark.parametrize(
    ("user", "assistant", "code", "kept"),
    [
        ("u", "nan", "no_value_as_answer", 0),
        ("u", " NaN\n", "no_value_as_answer", 0),
        ("#N/A", "a", "no_value_in_prompt", 0),
        ("Translate this.\nnan", "a", "no_value_in_prompt", 1),
        ("u", "one\r\ntwo", "carriage_return_in_answers", 1),
        ("one\rtwo", "a", "", 1),
        ("Who bakes naan?", "Nan does.", "", 1),
        ("u", "The sums are\nnan", "", 1),
        ("u", "none", "no_value_as_answer", 1),
        ("u", "on shelf\x004", "control_character_in_answers", 1),
        ("u", "\x1b[1myes", "control_character_in_answers", 1),
        ("u", "it\x92s there", "control_character_in_answers", 1),
        ("u", "a\tb\nc\u200d\u00a0\u0645", "", 1),
    ],
)
def test_marks_for_no_value_and_cr_are_told_and_mended(
    tmp_path: Path, user: str, assistant: str, code: str, kept: int
) -> None:
    rows = [talk(user, assistant)]
    assert [f.code for f in leftovers(rows)] == [code] * bool(code)
    path = tmp_path / "fixed.jsonl"
    assert write_fixed(rows, str(path))["written"] == kept
    for line in path.read_text(encoding="utf-8").splitlines():
        texts = [message["content"] for message in json.loads(line)["messages"]]
        plain = [text.replace("\r\n", "\n").replace("\r", "\n") for text in (user, assistant)]
        assert texts == plain


@pytest.mark.parametrize(
    ("row", "warned"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": "B"}, True),
        ({"question": "q", "option_a": "x", "option_b": "y", "answer": "(A)"}, True),
        ({"question": "q", "options": "x, y", "answer": "a"}, True),
        ({"question": "q", "source": "s", "answer": "B"}, False),
    ],
)
def test_choices_that_no_prompt_holds_are_a_warning(
    tmp_path: Path, row: dict[str, object], warned: bool
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({**row, "question": f"q{k}"}) for k in range(5)))
    codes = [(f.code, f.severity) for f in read([str(path)]).findings]
    assert (("unused_columns", "warning") in codes) is warned
