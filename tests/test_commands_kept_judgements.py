"""The base's judgement is measured once for the same rows, and for nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biddable.commands import kept_judgements
from biddable.commands.train import Trained, train
from folders import base_folder, rows, write_jsonl

KNOWN = "known from an earlier run"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base and rows, an empty cache, and every judgement worth keeping."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_judgements, "SHORTEST", 0.0)
    base_folder(tmp_path / "base")
    write_jsonl(tmp_path / "data.jsonl", rows()[:64])
    write_jsonl(tmp_path / "held.jsonl", rows(72))
    return tmp_path


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Trained, bool]]:
    """Trains, and says whether the base's judgement was known."""
    numbers = iter(range(100))

    def once(**options: Any) -> tuple[Trained, bool]:
        usual = {
            "data": str(place / "data.jsonl"),
            "eval": str(place / "held.jsonl"),
            "epochs": 0.2,
        }
        usual |= {"base": str(place / "base"), "device": "cpu", "precision": "fp32"}
        out = str(place / f"run{next(numbers)}")
        trained = train(**{**usual, **options, "out": out})
        return trained, KNOWN in " ".join(capsys.readouterr().err.split())

    return once


def kept_of(place: Path) -> list[Path]:
    return sorted((place / "cache" / "biddable" / "judgements").glob("[!.]*"))


def base_of(trained: Trained) -> Any:
    return json.loads((trained.run / "base.json").read_text(encoding="utf-8"))


def test_other_settings_on_the_same_rows_find_the_same_judgement(
    place: Path, run: Callable[..., tuple[Trained, bool]]
) -> None:
    first, known = run()
    assert not known
    for options in ({"lr": 1e-3, "epochs": 2.0, "seed": 7}, {"batch_size": 3}, {"lora": 2}):
        again, known = run(**options)
        assert known
        assert base_of(again) == base_of(first)
        assert again.scorecard is not None
        assert first.scorecard is not None
        theirs, ours = again.scorecard.metrics, first.scorecard.metrics
        assert {n: m.base for n, m in theirs.items()} == {n: m.base for n, m in ours.items()}
    assert len(kept_of(place)) == 1


def other_rows(place: Path) -> dict[str, Any]:
    return {"data": write_jsonl(place / "other.jsonl", rows()[8:64])}


def other_questions(place: Path) -> dict[str, Any]:
    return {"eval": write_jsonl(place / "other.jsonl", rows(64)[:8])}


def other_base(place: Path) -> dict[str, Any]:
    shutil.copytree(place / "base", place / "other")
    config = json.loads((place / "other" / "config.json").read_text(encoding="utf-8"))
    (place / "other" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    return {"base": str(place / "other")}


def other_stop_tokens(place: Path) -> dict[str, Any]:
    shutil.copytree(place / "base", place / "other")
    file = place / "other" / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    eos = config.get("eos_token_id", 1)
    file.write_text(json.dumps(config | {"eos_token_id": [*([eos] if eos != 5 else []), 5]}))
    return {"base": str(place / "other")}


def other_decoder(place: Path) -> dict[str, Any]:
    """The rows keep their ids, and answers read otherwise."""
    shutil.copytree(place / "base", place / "other")
    file = place / "other" / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(tokenizer, indent=3))
    return {"base": str(place / "other")}


def other_source(place: Path) -> dict[str, Any]:
    return {}


CHANGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "training rows": other_rows,
    "held-out rows": other_questions,
    "base": other_base,
    "stop tokens": other_stop_tokens,
    "tokenizer": other_decoder,
    "fewer answers": lambda place: {"answers": 3},
    "precision": lambda place: {"precision": "bf16"},
    "this package": other_source,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_a_judgement_is_in_its_key(
    place: Path,
    run: Callable[..., tuple[Trained, bool]],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    run()
    if change == "this package":
        monkeypatch.setattr(kept_judgements, "own_source", lambda: "another version")
    _, known = run(**CHANGES[change](place))
    assert not known
    assert len(kept_of(place)) == 2


def test_a_damaged_judgement_is_measured_again(
    place: Path, run: Callable[..., tuple[Trained, bool]]
) -> None:
    first, _ = run()
    (kept,) = kept_of(place)
    text = (kept / "judgement.json").read_bytes()
    (kept / "judgement.json").write_bytes(text.replace(b"0", b"1", 1))
    again, known = run()
    assert not known
    assert base_of(again) == base_of(first)
    assert run()[1]


def test_a_judgement_that_another_run_deletes_meanwhile_is_measured_again(
    place: Path, run: Callable[..., tuple[Trained, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run()
    check = kept_judgements.is_sound

    def gone(path: Path) -> bool:
        sound = check(path)
        shutil.rmtree(path, ignore_errors=True)
        return sound

    monkeypatch.setattr(kept_judgements, "is_sound", gone)
    again, known = run()
    assert not known
    assert base_of(again) == base_of(first)


def test_a_cache_that_cannot_be_written_stops_nothing(
    place: Path, run: Callable[..., tuple[Trained, bool]]
) -> None:
    (place / "cache" / "biddable").mkdir(parents=True)
    (place / "cache" / "biddable" / "judgements").write_text("no folder")
    assert run()[0].scorecard is not None
    assert not run()[1]


def test_what_was_measured_at_once_is_not_kept(
    place: Path, run: Callable[..., tuple[Trained, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_judgements, "SHORTEST", 60.0)
    run()
    assert kept_of(place) == []


def test_only_the_last_used_are_kept(
    place: Path, run: Callable[..., tuple[Trained, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_judgements, "MOST", 1)
    run()
    (first,) = kept_of(place)
    run(**other_questions(place))
    assert len(kept_of(place)) == 1
    assert kept_of(place) != [first]
