"""`train --lora` the whole way: folder, verdict, chat, compare, resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import biddable
from biddable.cli import main, read_arguments
from biddable.command_table import COMMANDS
from biddable.errors import BiddableError
from biddable.options import read_config, with_values, write_config
from biddable.settings import FULL_LR, LORA_LR, TOP_LR, Settings
from biddable.training import schedule
from biddable.training.ranks import ALONE
from biddable.training.resume import start
from biddable.training.schedule import MEASURED_WIDTH, peak_rate
from folders import base_folder, rows, write_jsonl
from interrupted import interrupt

EXACT = ["--device", "cpu", "--precision", "fp32", "--answers", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    base_folder(folder / "base")
    write_jsonl(folder / "data.jsonl", rows())
    return folder


def train_args(place: Path, out: str, *more: str) -> list[str]:
    files = [str(place / "data.jsonl"), "--base", str(place / "base"), "--out", str(place / out)]
    return ["train", *files, "--lora", "8", "--lr", "1e-2", *EXACT, "--json", *more]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    assert main(train_args(place, "run", "--steps", "24", "--save-every", "9")) == 0
    return place / "run"


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] == "step"]


def test_a_run_leaves_an_adapter_instead_of_a_model(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"adapter", "scorecard.json", "report.html", "samples.jsonl"} <= names
    assert "model" not in names
    files = {p.name for p in (run / "adapter").iterdir()}
    texts = {"README.md", "tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert texts | {"adapter_config.json", "adapter_model.safetensors", "system_prompt.txt"} < files
    assert "config.json" not in files
    card = json.loads((run / "scorecard.json").read_text())["held_out_loss"]
    assert card["tuned"] < card["base"]
    assert "library_name: peft" in (run / "adapter" / "README.md").read_text()


def test_a_checkpoint_holds_the_adapter_alone(place: Path, run: Path) -> None:
    (checkpoint, *_) = (run / "checkpoints").glob("step-*")
    tensors = load_file(checkpoint / "weights.safetensors")
    assert {name.rpartition(".")[2] for name in tensors} == {"lora_A", "lora_B"}
    saved = load_file(run / "adapter" / "adapter_model.safetensors")
    assert len(saved) == len(tensors) == 2 * 7 * 2
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())


def test_chat_answers_as_the_run_was_judged(run: Path) -> None:
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    speaker = biddable.load(run, device="cpu")
    assert speaker.answer(sample["question"], temperature=0) == sample["tuned"]
    assert speaker.trained_system == rows()[0]["system"]


def test_compare_gives_the_figures_of_the_run(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["compare", str(place / "base"), str(run), "--device", "cpu", "--answers", "2", "--json"]
    assert main(args) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((run / "scorecard.json").read_text())
    for side in ("base", "tuned"):
        expected = pytest.approx(first["held_out_loss"][side], rel=1e-5)
        assert again["held_out_loss"][side] == expected


def test_an_interrupted_run_goes_on_to_the_very_same_adapter(place: Path) -> None:
    assert main(train_args(place, "whole", "--steps", "8")) == 0
    interrupt(train_args(place, "cut", "--steps", "8"), 3)
    assert main(["train", "--resume", str(place / "cut")]) == 0
    assert steps_of(place / "cut") == steps_of(place / "whole")
    name = Path("adapter") / "adapter_model.safetensors"
    assert (place / "cut" / name).read_bytes() == (place / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lora": 8}, LORA_LR), ({"lora": 8, "lr": 1e-4}, 1e-4), ({}, FULL_LR),
        ({"top_layers": 2}, TOP_LR), ({"top_layers": 2, "lr": 1e-4}, 1e-4),
    ],
)  # fmt: skip
def test_the_learning_rate_has_a_default_of_its_own(
    options: dict[str, Any], expected: float
) -> None:
    settings, _ = start("rows.jsonl", "auto", {**options, "out": "no-such-run"}, ALONE)
    assert peak_rate(settings, 64) == peak_rate(settings, MEASURED_WIDTH) == expected
    wide = peak_rate(settings, 4 * MEASURED_WIDTH)
    assert wide == expected if "lr" in options else 0.3 < wide / expected < 0.4


def test_a_wider_base_is_trained_at_a_lower_rate_also_with_the_config_of_a_narrow_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = json.loads((place / "base" / "config.json").read_text())["hidden_size"]
    files = [str(place / "data.jsonl"), "--base", str(place / "base"), "--steps", "1", *EXACT]
    monkeypatch.setattr(schedule, "MEASURED_WIDTH", 2 * width)
    assert main(["train", *files, "--out", str(place / "narrow")]) == 0
    monkeypatch.setattr(schedule, "MEASURED_WIDTH", width / 2)
    config = ["--config", str(place / "narrow" / "config.toml")]
    assert main(["train", *config, "--out", str(place / "wide")]) == 0
    for out, rate in (("narrow", FULL_LR), ("wide", 1.2e-4)):
        record = json.loads((place / out / "data.json").read_text())
        assert record["settings"]["lr"] == rate
        assert [step["learning_rate"] for step in steps_of(place / out)] == [rate]


def test_a_resumed_run_keeps_the_rate_that_it_chose(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", str(place / "data.jsonl"), "--base", str(place / "base"), *EXACT]
    args += ["--steps", "4"]
    assert main([*args, "--out", str(place / "at-once")]) == 0
    for how in ("run", "auto"):
        out = place / f"kept-{how}"
        with monkeypatch.context() as patch:
            interrupt([*args, "--out", str(out)], 2)
            patch.setattr(schedule, "MEASURED_WIDTH", 1)
            more = ["train", "--resume", str(out)] if how == "run" else []
            assert main(more or [*args, "--out", str(out), "--resume", "auto"]) == 0
        assert steps_of(out) == steps_of(place / "at-once")


def test_the_config_of_a_run_names_rank_and_rate(run: Path) -> None:
    settings = with_values(Settings(), read_config(str(run / "config.toml")))
    assert (settings.lora, settings.lr) == (8, 1e-2)


@pytest.mark.parametrize(
    ("before", "after", "rate"), [("", "16", None), ("4", "0", None), ("", "8", "1e-3")]
)
def test_the_rate_of_a_config_is_not_taken_for_the_other_kind(
    place: Path, before: str, after: str, rate: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = place / "other.toml"
    settings = {"data": place / "data.jsonl", "base": place / "base", "lora": int(before or 0)}
    settings |= {"lr": 2e-3 if before else 2e-4}
    write_config(with_values(Settings(), settings), config)
    args = ["--config", str(config), "--lora", after, *(["--lr", rate] if rate else [])]
    if rate is None:
        assert main(["train", *args, "--out", str(place / "no")]) == 2
        assert "give --lr too" in capsys.readouterr().err
        assert not (place / "no").exists()
        return
    values, _ = read_arguments("train", COMMANDS["train"], args)
    assert (values["lora"], values["lr"]) == (int(after), float(rate))


def test_the_rate_of_all_weights_is_not_taken_for_top_layers(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = place / "all.toml"
    settings = {"data": place / "data.jsonl", "base": place / "base", "lr": 2e-4}
    write_config(with_values(Settings(), settings), config)
    args = ["--config", str(config), "--top-layers", "1", "--out", str(place / "no")]
    assert main(["train", *args]) == 2
    assert "give --lr too; --lr 0 takes the default for the top layers" in capsys.readouterr().err


def test_the_rate_of_a_config_of_the_same_kind_is_taken(run: Path) -> None:
    args = ["--config", str(run / "config.toml"), "--lora", "4", "--out", "x"]
    values, _ = read_arguments("train", COMMANDS["train"], args)
    assert (values["lora"], values["lr"]) == (4, 1e-2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--lora", "-1"], "--lora"),
        (["--lora", "2000"], "from 0 to 1024"),
        (["--shard", "on"], "each rank holds the whole base"),
    ],
)
def test_a_wrong_combination_is_refused(
    place: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_args(place, "no", *more)) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (place / "no").exists()


def test_training_on_top_of_an_adapter_is_refused(place: Path, run: Path) -> None:
    for lora in (0, 4):
        with pytest.raises(BiddableError, match="is an adapter"):
            biddable.train(place / "data.jsonl", base=run, lora=lora, out=place / "no")


def test_another_base_under_the_name_is_refused_by_chat(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "base" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["chat", str(run), "-p", "Which?", "--device", "cpu"]) == 1
    path.write_bytes(content)
    assert "[other_base]" in capsys.readouterr().err
