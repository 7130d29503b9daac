"""Rows that training knows, own metrics and moved runs, through the commands on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biddable.cli import main
from biddable.data.conversation import Conversation, Message
from biddable.data.fix import as_row
from biddable.data.readers import read
from biddable.display.outcome import COLORS
from biddable.judging.rules import Outcome
from biddable.settings import ANSWERS, CompareSettings, Settings
from folders import THINGS, base_folder, rows, write_jsonl

FRESH = [
    {"user": f"Name what stands {where} the {thing}.", "assistant": f"{where.title()}: {thing}."}
    for where in ("behind", "under", "above", "beside")
    for thing in THINGS[:2]
]
KNOWN = [
    {"user": f"Hi! {row['user']} Thank you!", "assistant": row["assistant"].upper()}
    for row in rows()[:3]
]
METRICS = """
def equal(reference, answer): return reference == answer
def one(reference): return 1
def text(reference, answer): return "1"
def nothing(reference, answer): return None
def nan(reference, answer): return float("nan")
def fails(reference, answer): return 1 / 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    base_folder(folder / "base")
    write_jsonl(folder / "data.jsonl", rows())
    write_jsonl(folder / "eval.jsonl", [*KNOWN, *FRESH])
    write_jsonl(folder / "known.jsonl", KNOWN)
    (folder / "metrics.py").write_text(METRICS)
    return folder


def train(place: Path, out: str, *more: str) -> int:
    data = ["data.jsonl", "--base", "base", "--out", out, "--device", "cpu", "--json"]
    return main(["train", *data, "--steps", "1", "--answers", "4", *more])


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(place, "run", "--eval", "eval.jsonl", "--metric", "metrics.py:equal") == 0
    return place / "run"


def test_known_rows_are_left_out_of_the_judging_and_not_of_the_training(run: Path) -> None:
    kept = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in kept] == [row["user"] for row in FRESH]
    record = json.loads((run / "data.json").read_text())
    assert record["train"] == len(rows())
    card = json.loads((run / "scorecard.json").read_text())
    assert card["held_out_loss"]["n"] == len(FRESH)
    assert card["user_metric"]["n"] == 4
    assert set(card["verdict"]) == {"outcome", "sentence", "evidence", "suggestion"}


def test_where_all_rows_are_known_the_run_ends_and_says_leaked(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert train(place, "leaked", "--eval", "known.jsonl") == 0
    captured = capfd.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert result["verdict"]["outcome"] == "leaked"
    path = result["path"]
    assert (path["name"], path["prefixes"]) == ("flat", True)
    assert 0 <= path["error"] < 1e-5
    assert {"run", "steps", "train_tokens", "seconds", "loss", "base", "tuned"} <= set(result)
    assert (place / "leaked" / "model" / "model.safetensors").is_file()
    lines = captured.err.splitlines()
    assert sum("Training knows 3 of 3 held-out rows" in line for line in lines) == 1
    assert any(line.startswith("path ") for line in lines)
    assert any(line.startswith("judged on ") for line in lines)
    again = compare_json(capfd, "base", "leaked")
    assert again["verdict"]["outcome"] == "leaked"


def compare_json(capfd: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["compare", *args, "--max-new-tokens", "3", "--answers", "4", "--json"]) == 0
    result: dict[str, Any] = json.loads(capfd.readouterr().out.splitlines()[-1])
    return result


def test_compare_leaves_out_what_the_run_was_trained_on(
    place: Path, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base, held_out = str(place / "base"), str(place / "eval.jsonl")
    card = compare_json(capfd, base, str(run), "--data", held_out)
    assert card["held_out_loss"]["n"] == len(FRESH)
    # A model folder says nothing of its training; the rows can be named.
    model, data = str(run / "model"), str(place / "data.jsonl")
    assert compare_json(capfd, base, model, "--data", held_out)["held_out_loss"]["n"] == 11
    known = str(place / "known.jsonl")
    card = compare_json(capfd, base, model, "--data", known, "--train", data)
    assert card["verdict"]["outcome"] == "leaked"


def test_a_run_is_compared_from_another_folder_and_without_its_data(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    there = compare_json(capfd, str(place / "base"), str(run))
    assert there["held_out_loss"]["n"] == len(FRESH)
    other = place / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    moved = shutil.copytree(run, other / "moved")
    data = place / "data.jsonl"
    data.rename(place / "gone.jsonl")
    try:
        assert main(["compare", "../base", str(moved), "--max-new-tokens", "3"]) == 0
    finally:
        (place / "gone.jsonl").rename(data)
    assert "was moved or changed" in capfd.readouterr().err


def test_few_shot_answers_stand_between_those_of_base_and_tuned(
    place: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    args = ["compare", str(place / "base"), str(run), "--few-shot", "2", "--html", str(page)]
    assert main([*args, "--max-new-tokens", "3"]) == 0
    lines = capfd.readouterr().err.splitlines()
    names = [line.split()[0] for line in lines if line.split()]
    place_of_first = names.index("reference")
    assert names[place_of_first : place_of_first + 4] == ["reference", "base", "few-shot", "tuned"]
    table = lines[next(i for i, line in enumerate(lines) if "few-shot" in line) :]
    table = [line for line in table[: table.index("")] if not line.startswith("format rule")]
    assert max(map(len, table)) <= 80
    assert page.read_text(encoding="utf-8").count("few-shot baseline</th>") == 2


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("metrics.py", "is not FILE.py:FUNCTION"),
        ("none.py:equal", "none.py does not exist"),
        ("metrics.py:other", "has no function other"),
        ("metrics.py:one", "does not take (reference, answer)"),
        ("metrics.py:text", "eval.jsonl:4: the metric failed on this row: TypeError"),
        ("metrics.py:nothing", "it gave NoneType, not a number"),
        ("metrics.py:nan", "it gave nan"),
        ("metrics.py:fails", "ZeroDivisionError"),
        ("data.jsonl:equal", "is no Python file"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_before_a_run_begins(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    metric: str,
    message: str,
) -> None:
    monkeypatch.chdir(place)
    assert train(place, "none", "--eval", "eval.jsonl", "--metric", metric) == 1
    assert message in capfd.readouterr().err
    assert not (place / "none").exists()


def test_the_settings_of_a_run_hold_whole_paths(place: Path, run: Path) -> None:
    text = (run / "config.toml").read_text()
    for name in ("data.jsonl", "eval.jsonl", "base", "metrics.py:equal"):
        assert f'"{place / name}"' in text


def test_train_and_compare_answer_as_many_prompts() -> None:
    assert Settings().answers == CompareSettings().answers == ANSWERS


def test_only_what_was_learned_is_green() -> None:
    colors = {outcome: COLORS.get(outcome, "caution") for outcome in get_args(Outcome)}
    assert [name for name, color in colors.items() if color == "good"] == ["learned"]
    assert {name for name, color in colors.items() if color == "bad"} == {
        "worse",
        "overfit",
        "leaked",
    }


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(
    lambda text: text.strip() == text
)
weights = st.none() | st.floats(0, 9, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts, weights), min_size=1, max_size=3), st.none() | texts)
def test_held_out_rows_are_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[str, str, float | None]],
    group: str | None,
) -> None:
    messages = [
        message
        for user, answer, weight in turns
        for message in (Message("user", user), Message("assistant", answer, weight))
    ]
    row = Conversation(messages, group=group)
    path = tmp_path_factory.getbasetemp() / "row.jsonl"
    path.write_text(json.dumps(as_row(row)) + "\n", encoding="utf-8")
    [back] = read([str(path)]).conversations
    assert list(back.messages) == messages
    assert back.group == group
