"""Compare, end to end on two tiny random models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from biddable.commands.compare import compare
from biddable.errors import BiddableError
from biddable.models.base import SYSTEM_PROMPT_FILE
from letters import letters, tiny_folder
from tiny import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_folder(folder / "base", 0), tiny_folder(folder / "tuned", 1)


def data(folder: Path, name: str, rows: int) -> str:
    lines = [{"user": f"q{i}?", "assistant": f"a{'bcde'[i % 4]} {i}."} for i in range(rows)]
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def test_two_models_are_compared(models: tuple[str, str], tmp_path: Path) -> None:
    result = compare(
        *models,
        data=data(tmp_path, "held.jsonl", 9),
        train=data(tmp_path, "train.jsonl", 12),
        format=r"a. \d+\.",
        few_shot=2,
        probe_frame=True,
        answers=4,
        max_new_tokens=5,
        html=str(tmp_path / "page.html"),
        fail_under=("follows_format=0.5", "held_out_loss=0.1", "accuracy=0.5"),
    )
    figures = json.loads(json.dumps(result.as_json()))
    assert figures["held_out_loss"]["n"] == 9
    assert figures["stops_by_itself"]["n"] == 4
    assert figures["follows_format"]["tuned"] == 0.0
    assert "few_shot" in figures["follows_format"]
    assert "renamed_roles" in figures["follows_format"]
    assert "no_system" not in figures["follows_format"]
    assert len(result.rows) == 4
    assert [f.split()[0] for f in result.failures] == [
        "follows_format",
        "held_out_loss",
        "accuracy",
    ]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert result.verdict.sentence in text
    assert "held.jsonl:9" in text


def test_a_model_against_itself_has_not_changed(models: tuple[str, str], tmp_path: Path) -> None:
    result = compare(models[0], models[0], data=data(tmp_path, "h.jsonl", 9), max_new_tokens=3)
    assert result.verdict.outcome == "no_change"
    loss = result.scorecard.metrics["held_out_loss"]
    assert (loss.low, loss.high) == (0.0, 0.0)


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_rows_without_the_system_prompt_of_training_are_told_of(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], system: str
) -> None:
    base, held = models[0], data(tmp_path, "h.jsonl", 9)
    tuned = Path(tiny_folder(tmp_path / "tuned", 1))
    (tuned / SYSTEM_PROMPT_FILE).write_text("Be brief.")
    compare(base, str(tuned), data=held, system=system, max_new_tokens=3)
    notices = " ".join(capsys.readouterr().err.split())
    assert ("which not all of these rows begin with" in notices) == (system == "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no held-out rows are given"),
        ({"colour": "red"}, "there is no option colour"),
        ({"few_shot": -1}, "--few-shot is -1"),
        ({"answers": 10**12}, "--answers is"),
        ({"data": "HELD", "html": "no/such/folder/x.html", "answers": 1}, "cannot be written"),
        ({"fail_under": ("nothing=1",)}, "--fail-under 'nothing=1'"),
        ({"fail_under": ("accuracy=much",)}, "--fail-under 'accuracy=much'"),
        ({"fail_under": ("accuracy=nan",)}, "--fail-under 'accuracy=nan'"),
        ({"data": "no-such-file.jsonl"}, "no-such-file"),
        ({"few_shot": 3, "data": "HELD"}, "--few-shot 3 needs"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    models: tuple[str, str], tmp_path: Path, options: dict[str, object], message: str
) -> None:
    held = data(tmp_path, "held.jsonl", 3)
    given = {k: held if v == "HELD" else v for k, v in options.items()}
    with pytest.raises(BiddableError, match=message):
        compare(*models, **given)


@pytest.mark.parametrize("option", [{"precision": "foo"}, {"device": "tpu"}, {"precision": ""}])
def test_an_unknown_precision_or_device_is_refused(option: dict[str, str]) -> None:
    with pytest.raises(BiddableError, match=r"tpu|--precision is"):
        compare("no-base", "no-tuned", **option)


def test_models_with_other_tokenizers_are_refused(models: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny("llama", ours=False).save_pretrained(other)
    letters().save_pretrained(other)
    file = other / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"z"', '"Z"'), encoding="utf-8")
    with pytest.raises(BiddableError, match="another tokenizer"):
        compare(str(other), models[1], data=data(tmp_path, "held.jsonl", 3))
