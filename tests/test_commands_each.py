"""`train --each`: adapters on one base in memory, each the very one that a run alone gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import biddable
from biddable.cli import main
from biddable.engine.precision import choose_device
from biddable.errors import BiddableError
from biddable.serving.served import load_served
from folders import base_folder, rows, write_jsonl

ADAPTER = Path("adapter") / "adapter_model.safetensors"
SMALL = ["--lora", "4", "--lr", "1e-2", "--steps", "4", "--answers", "2", "--device", "cpu"]
EXACT = [*SMALL, "--precision", "fp32", "--batch-tokens", "4096"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("each")
    base_folder(folder / "base")
    data = rows()
    write_jsonl(folder / "eval.jsonl", data[70:])
    write_jsonl(folder / "first.jsonl", data[:40])
    others = [{**row, "assistant": row["assistant"].upper()} for row in data[20:70]]
    write_jsonl(folder / "second.jsonl", others)
    return folder


def options(place: Path) -> list[str]:
    return ["--base", str(place / "base"), "--eval", str(place / "eval.jsonl"), *EXACT]


def files(place: Path) -> list[str]:
    return [str(place / "first.jsonl"), str(place / "second.jsonl")]


def test_each_adapter_is_that_of_a_run_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "all"
    args = ["train", *files(place), "--each", "--out", str(out), "--json", *options(place)]
    assert main(args) == 0
    printed = capsys.readouterr()
    adapters = json.loads(printed.out)["adapters"]
    assert [Path(a["run"]).name for a in adapters] == ["first", "second"]
    table = printed.err[printed.err.rindex("adapter ") :]
    for adapter in adapters:
        # The table breaks a long sentence into lines.
        sentence = adapter["verdict"]["sentence"]
        assert set(sentence.split()) <= set(table.split())
    for name in ("first", "second"):
        alone = place / f"alone-{name}"
        data = str(place / f"{name}.jsonl")
        assert main(["train", data, "--out", str(alone), *options(place)]) == 0
        assert (alone / ADAPTER).read_bytes() == (out / name / ADAPTER).read_bytes()
        for record in ("base.json", "scorecard.json"):
            assert (alone / record).read_text() == (out / name / record).read_text()
    assert (out / "first" / ADAPTER).read_bytes() != (out / "second" / ADAPTER).read_bytes()


def test_auto_goes_on_with_the_files_that_are_left(place: Path) -> None:
    out = place / "part"
    arguments = {
        "base": place / "base", "eval": place / "eval.jsonl", "lora": 4, "steps": 2, "answers": 1,
        "device": "cpu", "precision": "fp32", "out": out,
    }  # fmt: skip
    (first,) = biddable.train_each(files(place)[:1], **arguments).runs
    before = (first / ADAPTER).stat().st_mtime_ns
    result = biddable.train_each(files(place), resume="auto", **arguments)
    assert [run.name for run in result.runs] == ["first", "second"]
    assert (first / ADAPTER).stat().st_mtime_ns == before
    assert set(result.cards()) == {"first", "second"}
    with pytest.raises(BiddableError, match="exists already"):
        biddable.train_each(files(place), **arguments)


def test_a_finished_adapter_stands_only_for_the_rows_and_options_it_had(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = place / "kept.jsonl"
    content = (place / "first.jsonl").read_text()
    data.write_text(content)
    args = ["train", str(data), "--each", "--out", str(place / "kept"), *options(place)]
    assert main(args) == 0
    capsys.readouterr()
    assert main([*args, "--resume", "auto"]) == 0
    assert "kept stands already" in capsys.readouterr().err
    assert main([*args, "--resume", "auto", "--steps", "5"]) == 1
    assert "--steps (was 4, is 5)" in capsys.readouterr().err
    data.write_text(content + json.dumps(rows()[75]) + "\n")
    assert main([*args, "--resume", "auto"]) == 1
    assert "data file" in capsys.readouterr().err


def test_the_folder_of_adapters_is_answered_with_their_names(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "odd"
    odd = ["Ümläute (neu) 1.jsonl", "-dash.jsonl", "日本.jsonl"]
    for name in odd:
        write_jsonl(place / name, rows()[:12])
    args = ["train", "--each", *options(place), "--out", str(out), "--steps", "1"]
    assert main([*args, *[str(place / name) for name in odd]]) == 0
    names = sorted(run.name for run in out.iterdir())
    assert names == sorted(["Ümläute-neu-1", "dash", "日本"])
    for name in names:
        assert main(["chat", str(out / name), "-p", "Which?", "--max-new-tokens", "2"]) == 0
    capsys.readouterr()
    assert main(["chat", str(out), "-p", "Which?"]) == 1
    error = capsys.readouterr().err
    assert all(str(out / name) in error for name in names)
    served = load_served([str(out / name) for name in names], True, choose_device("cpu"))
    assert [model.name for model in served] == [*names, "base"]


def test_a_fault_in_the_last_file_shows_before_the_first_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = place / "bad.jsonl"
    bad.write_text('{"user": "a", "assistant": ""}\n' * 3)
    out = place / "none"
    args = ["train", *files(place), str(bad), "--each", "--out", str(out), *options(place)]
    assert main(args) == 1
    assert "bad.jsonl" in capsys.readouterr().err
    assert not out.exists()


def test_a_file_in_the_place_of_the_last_shows_before_the_first_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "blocked"
    out.mkdir()
    (out / "second").write_text("no folder")
    args = ["train", *files(place), "--each", "--out", str(out), *options(place)]
    assert main([*args, "--resume", "auto"]) == 1
    assert "[output_exists]" in capsys.readouterr().err
    assert not (out / "first").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["first.jsonl", "again/first.jsonl"], "would both be written to the folder first"),
        (["first.jsonl", "./first.jsonl"], "give it once"),
        (["first.jsonl", "again/First.jsonl"], "would both be written to the folder First"),
        (["first.jsonl", "--lora", "0"], "no --lora is given"),
        (["first.jsonl", "--resume", "auto"], "give --out DIR"),
        ([], "--each needs files"),
    ],
)
def test_what_cannot_work_is_refused(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(place)
    Path("again").mkdir(exist_ok=True)
    for name in ("first", "First"):
        write_jsonl(Path(f"again/{name}.jsonl"), rows())
    args = ["train", "--each", *options(place), *more]
    assert main(args) in (1, 2)
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()
