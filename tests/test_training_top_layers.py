"""`train --top-layers` the whole way: folder, resume, states in a file, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import biddable
from biddable.cli import main
from folders import base_folder, rows, write_jsonl

EXACT = ["--device", "cpu", "--precision", "fp32", "--answers", "2"]
WEIGHTS = Path("model") / "model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("top")
    base_folder(folder / "base", layers=3)
    write_jsonl(folder / "data.jsonl", rows())
    return folder


def train_args(place: Path, out: str, *more: str) -> list[str]:
    files = [str(place / "data.jsonl"), "--base", str(place / "base"), "--out", str(place / out)]
    return ["train", *files, "--top-layers", "2", "--lr", "1e-2", *EXACT, "--json", *more]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    assert main(train_args(place, "run", "--steps", "12", "--save-every", "9")) == 0
    return place / "run"


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] == "step"]


def test_the_frozen_weights_are_those_of_the_base_and_the_others_have_learned(
    place: Path, run: Path
) -> None:
    base, tuned = load_file(place / "base" / "model.safetensors"), load_file(run / WEIGHTS)
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert base.keys() == tuned.keys()
    assert changed == {n for n in base if ".layers.1." in n or ".layers.2." in n or ".norm." in n}
    card = json.loads((run / "scorecard.json").read_text())["held_out_loss"]
    assert card["tuned"] < card["base"]
    assert "the top 2 layers and the norm above them" in (run / "model" / "README.md").read_text()


def test_the_evaluation_of_the_loop_is_that_of_the_whole_model(run: Path) -> None:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    best = min(e["held_out_loss"] for e in events if e["event"] == "eval")
    card = json.loads((run / "scorecard.json").read_text())["held_out_loss"]
    assert card["tuned"] == pytest.approx(best, rel=1e-5)


def test_compare_gives_the_figures_of_the_run(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["compare", str(place / "base"), str(run), "--device", "cpu", "--answers", "2", "--json"]
    assert main(args) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((run / "scorecard.json").read_text())
    for name in ("held_out_loss", "train_loss", "general_loss", "relevance"):
        for side in ("base", "tuned"):
            assert again[name][side] == pytest.approx(first[name][side], rel=1e-4, abs=1e-6), name


def test_a_checkpoint_holds_what_is_trained_alone(run: Path) -> None:
    (checkpoint, *_) = (run / "checkpoints").glob("step-*")
    names = set(load_file(checkpoint / "weights.safetensors"))
    assert not any(".layers.0." in name or "embed" in name for name in names)
    assert len(names) == 2 * 9 + 1


def test_chat_answers_as_the_run_was_judged(run: Path) -> None:
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    speaker = biddable.load(run, device="cpu")
    assert speaker.answer(sample["question"], temperature=0) == sample["tuned"]


def test_an_interrupted_run_goes_on_to_the_very_same_model(place: Path) -> None:
    assert main(train_args(place, "whole", "--steps", "6")) == 0
    code = (
        "import os, signal, sys\n"
        "from biddable.cli import main\n"
        "from biddable.training import loop\n"
        "def due(step, *_):\n"
        "    if step == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return False\n"
        "loop._save_is_due = due\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    args = train_args(place, "cut", "--steps", "6")
    done = subprocess.run(
        [sys.executable, "-c", code, *args], check=False, capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert main(["train", "--resume", str(place / "cut")]) == 0
    assert steps_of(place / "cut") == steps_of(place / "whole")
    assert (place / "cut" / WEIGHTS).read_bytes() == (place / "whole" / WEIGHTS).read_bytes()


def test_states_in_a_mapped_file_train_the_same_model(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("biddable.training.kept_rows._MOST_IN_MEMORY", 0.0)
    assert main(train_args(place, "mapped", "--steps", "12")) == 0
    assert f"in a file in {place / 'mapped'}" in capsys.readouterr().err.replace("\n", " ")
    assert (place / "mapped" / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert {p.name for p in (place / "mapped").iterdir()} == {p.name for p in run.iterdir()}


def test_in_half_precision_the_frozen_weights_are_saved_as_the_base_has_them(place: Path) -> None:
    args = [a if a != "fp32" else "bf16" for a in train_args(place, "half", "--steps", "2")]
    assert main(args) == 0
    base, tuned = (
        load_file(place / "base" / "model.safetensors"),
        load_file(place / "half" / WEIGHTS),
    )
    frozen = [name for name in base if ".layers.0." in name or "embed" in name]
    assert frozen
    assert all(torch.equal(base[name], tuned[name]) for name in frozen)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--top-layers", "3"], "leaves none of the 3 layers"),
        (["--top-layers", "-1"], "--top-layers"),
        (["--lora", "4"], "--lora is 4"),
        (["--shard", "on"], "auto or off with --top-layers"),
    ],
)
def test_a_wrong_combination_is_refused(
    place: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_args(place, "no", *more)) in (1, 2)
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (place / "no").exists(), "the name is free for another try"


def test_a_run_resumed_at_its_end_is_judged(place: Path) -> None:
    # 16 of 72 rows are fed, so that the states of most are not kept.
    assert main(train_args(place, "end", "--steps", "2", "--save-every", "1")) == 0
    first = load_file(place / "end" / WEIGHTS)
    (place / "end" / "report.html").unlink()
    assert main(["train", "--resume", str(place / "end")]) == 0
    assert all(torch.equal(t, first[n]) for n, t in load_file(place / "end" / WEIGHTS).items())
