"""`train --lora --base-bits 4` the whole way: folder, chat, resume, export, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import biddable
from biddable.cli import main
from biddable.commands.export import export
from biddable.data.conversation import Message
from biddable.engine.precision import choose_device
from biddable.models.four_bits import FourBits
from biddable.serving.served import load_served
from folders import base_folder, rows, write_jsonl
from interrupted import interrupt

ADAPTER = Path("adapter") / "adapter_model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bits")
    base_folder(folder / "base")
    write_jsonl(folder / "data.jsonl", rows())
    return folder


def train_args(place: Path, out: str, *more: str) -> list[str]:
    files = [str(place / "data.jsonl"), "--base", str(place / "base"), "--out", str(place / out)]
    exact = ["--device", "cpu", "--precision", "fp32", "--answers", "2", "--batch-tokens", "4096"]
    return ["train", *files, "--lora", "8", "--base-bits", "4", "--lr", "1e-2", *exact, *more]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    assert main(train_args(place, "run", "--steps", "12")) == 0
    return place / "run"


def test_a_run_learns_and_its_adapter_names_the_bits(run: Path) -> None:
    loss = json.loads((run / "scorecard.json").read_text())["held_out_loss"]
    assert loss["tuned"] < loss["base"] - 0.3
    assert json.loads((run / "adapter" / "adapter_base.json").read_text())["bits"] == 4
    assert "held in 4 bits" in (run / "adapter" / "README.md").read_text()


def test_chat_and_compare_take_the_base_in_four_bits(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    assert (
        biddable.load(run, device="cpu").answer(sample["question"], temperature=0)
        == (sample["tuned"])
    )
    args = ["compare", str(place / "base"), str(run), "--device", "cpu", "--answers", "2", "--json"]
    assert main(args) == 0
    again = json.loads(capsys.readouterr().out)["held_out_loss"]
    first = json.loads((run / "scorecard.json").read_text())["held_out_loss"]
    assert again["tuned"] == pytest.approx(first["tuned"], rel=1e-5)
    # BASE is judged as it is named there: not in four bits.
    assert again["base"] != pytest.approx(first["base"], rel=1e-5)


def test_an_interrupted_run_goes_on_to_the_very_same_adapter(place: Path) -> None:
    assert main(train_args(place, "whole", "--steps", "8")) == 0
    interrupt(train_args(place, "cut", "--steps", "8"), 3)
    assert main(["train", "--resume", str(place / "cut")]) == 0
    assert (place / "cut" / ADAPTER).read_bytes() == (place / "whole" / ADAPTER).read_bytes()


def test_each_is_the_run_alone(place: Path) -> None:
    (place / "again.jsonl").write_text((place / "data.jsonl").read_text())
    args = train_args(place, "each", "--steps", "2", "--each")
    args.insert(2, str(place / "again.jsonl"))
    assert main(args) == 0
    first, second = ((place / "each" / n / ADAPTER).read_bytes() for n in ("data", "again"))
    assert first == second


def test_served_models_share_the_base_in_four_bits(place: Path, run: Path) -> None:
    models = load_served([str(run), str(place / "base")], False, choose_device("cpu"))
    tuned, base = (served.model for served in models)
    assert sum(isinstance(m, FourBits) for m in tuned.modules()) == 14
    assert not any(isinstance(m, FourBits) for m in base.modules())
    assert models[0].prompt([Message("user", "Which?")])


def test_export_merges_and_judges_the_merged_model(run: Path) -> None:
    exported = export(run, type="f16", answers=2)
    loss = exported.record["cost"]["metrics"]["held_out_loss"]
    judged = json.loads((run / "scorecard.json").read_text())["held_out_loss"]["tuned"]
    assert loss["tuned"] == pytest.approx(judged, rel=1e-4)
    assert loss["exported"] == pytest.approx(judged, rel=1e-2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--base-bits", "8"], "--base-bits is 8"),
        (["--base-bits", "3"], "4, or left out"),
        (["--base-bits", "64"], "--base-bits"),
        (["--lora", "0"], "given with --lora RANK"),
    ],
)
def test_a_wrong_combination_is_refused(
    place: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_args(place, "no", *more)) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (place / "no").exists()


@pytest.mark.parametrize("each", [[], ["--each"]])
def test_without_the_package_nothing_is_read(
    place: Path,
    each: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert main(train_args(place, "no", *each)) == 1
    error = capsys.readouterr().err
    assert "pip install 'biddable[bits]'" in error
    assert "reading" not in error
    assert not (place / "no").exists()


@pytest.mark.parametrize("bits", [8, "4", 4.0, True, None, [4]])
def test_other_bits_in_an_adapter_are_refused(
    run: Path, bits: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "adapter" / "adapter_base.json"
    content = path.read_text()
    path.write_text(json.dumps({**json.loads(content), "bits": bits}))
    assert main(["chat", str(run), "-p", "Which?", "--device", "cpu"]) == 1
    path.write_text(content)
    assert "has bits" in capsys.readouterr().err
