"""The main job on a tiny model: train, judge, save, resume; and what bad input says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from biddable.cli import main
from biddable.data.conversation import Conversation, Message
from biddable.dataset.prepared import shared_system_prompt
from biddable.models.base import SYSTEM_PROMPT_FILE, Base, trained_system_prompt
from biddable.models.save import save_model
from folders import base_folder, rows, write_jsonl


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    base_folder(folder / "base")
    write_jsonl(folder / "data.jsonl", rows())
    return folder


# The same on any machine: what the processor has may not decide how a test ends.
EXACT = ["--device", "cpu", "--precision", "fp32"]


def train_args(place: Path, out: str, *more: str) -> list[str]:
    files = [str(place / "data.jsonl"), "--base", str(place / "base"), "--out", str(place / out)]
    return ["train", *files, "--lr", "3e-3", *EXACT, "--json", *more]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    assert main(train_args(place, "run", "--epochs", "8")) == 0
    return place / "run"


def test_a_run_learns_and_leaves_everything_that_the_design_names(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    records = {"config.toml", "data.json", "log.jsonl", "scorecard.json", "samples.jsonl"}
    assert records | {"model", "report.html"} <= names
    card = json.loads((run / "scorecard.json").read_text())
    loss = card["held_out_loss"]
    assert loss["tuned"] < 0.3 * loss["base"]
    assert card["stops_by_itself"]["tuned"] == 1.0


def test_the_log_has_the_keys_of_the_design(run: Path) -> None:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [e for e in events if e["event"] == "step"]
    keys = {"step", "epoch", "loss", "learning_rate", "grad_norm", "trained_tokens", "tokens"}
    assert keys | {"seconds"} <= set(steps[0])
    assert [s["step"] for s in steps] == list(range(1, len(steps) + 1))
    evals = [e for e in events if e["event"] == "eval"]
    assert evals[0]["step"] == 0
    assert "held_out_loss" in evals[0]


def test_one_prompt_is_answered_at_each_evaluation(run: Path) -> None:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    evals = [e for e in events if e["event"] == "eval"]
    first, *_ = map(json.loads, (run / "samples.jsonl").read_text().splitlines())
    assert evals[0]["prompt"] == first["question"]
    assert evals[0]["answer"].removesuffix(" …") == first["base"]
    best = [e for e in evals if e.get("best")][-1]
    assert best["answer"] == first["tuned"]


def test_a_wrong_label_is_named_among_the_unusual_rows(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rows()
    data[7]["assistant"] = "Weather: sunny and warm."
    file = write_jsonl(tmp_path / "data.jsonl", data)
    out = tmp_path / "run"
    args = ["train", file, "--base", str(place / "base"), "--out", str(out), "--answers", "2"]
    args += EXACT
    assert main([*args, "--lr", "6e-3", "--epochs", "4", "--report-to", "tensorboard"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    # The bars of other packages stay off the screen.
    assert not [word for word in ("it/s", "shards", "Loading weights") if word in captured.err]
    assert f"a wrong or odd answer?  {file}:8 " in captured.err
    assert f'<tr><th scope="row">{file}:8</th><td>training</td>' in (out / "report.html").read_text(
        encoding="utf-8"
    )
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))


def test_the_model_folder_answers_in_plain_transformers_with_its_own_template(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    for sample in map(json.loads, (run / "samples.jsonl").read_text().splitlines()):
        row = rows()[sample["line"] - 1]
        messages = [{"role": role, "content": row[role]} for role in ("system", "user")]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        whole = model.generate(**ids, max_new_tokens=20, do_sample=False)[0]
        answer = whole[ids["input_ids"].shape[1] :]
        assert answer[-1] in model.generation_config.eos_token_id
        assert tokenizer.decode(answer[:-1]) == sample["tuned"]


def test_chat_sends_the_system_prompt_of_training_unless_told_otherwise(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    system = rows()[0]["system"]
    assert (run / "model" / "system_prompt.txt").read_text() == system
    assert "system_prompt.txt" in (run / "model" / "README.md").read_text()
    ask = ["chat", str(run), "-p", sample["question"], "-t", "0", "--max-new-tokens", "20"]
    assert main(ask) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == sample["tuned"].strip()
    assert f"system prompt, as in training: {system}" in captured.err
    assert main([*ask, "-s", ""]) == 0
    assert "as in training" not in capsys.readouterr().err


def test_a_system_prompt_comes_back_from_the_model_folder_to_the_letter(tmp_path: Path) -> None:
    system = "Be brief.\r\nBe kind.\r \u2028é\n"
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1, n_positions=4))
    texts = {SYSTEM_PROMPT_FILE: system}
    save_model(model, dict(model.named_parameters()), texts, tmp_path / "model")
    assert trained_system_prompt(Base("it", tmp_path / "model")) == system
    assert trained_system_prompt(Base("it", tmp_path)) is None


def test_a_system_prompt_that_not_all_rows_share_is_not_sent_for_them() -> None:
    question, one, other = Message("user", "Two?"), Message("system", "A"), Message("system", "B")
    same, without = Conversation([one, question]), Conversation([question])
    assert shared_system_prompt([same, same]) == "A"
    for mixed in ([same, Conversation([other, question])], [without, same], [same, without]):
        assert shared_system_prompt(mixed) is None
    assert shared_system_prompt([without]) is None
    empty = Conversation([Message("system", ""), question])
    assert shared_system_prompt([empty, empty]) == ""
    assert shared_system_prompt([empty, without]) is None


def test_the_saved_weights_are_those_that_were_judged(run: Path, place: Path) -> None:
    from biddable.dataset.prepare import prepare
    from biddable.engine.precision import load_model
    from biddable.models.base import resolve_base
    from biddable.settings import Settings
    from biddable.training.evaluate import held_out_loss

    base = resolve_base(str(run))
    model = load_model(base, torch.device("cpu"))
    settings = Settings(data=(str(place / "data.jsonl"),), base=str(place / "base"))
    loss = held_out_loss(model, prepare(settings).held_out.examples, 500)
    card = json.loads((run / "scorecard.json").read_text())
    assert loss == pytest.approx(card["held_out_loss"]["tuned"], rel=1e-5)


def test_an_existing_output_folder_is_refused_and_left_alone(run: Path, place: Path) -> None:
    before = sorted(p.name for p in run.rglob("*"))
    assert main(train_args(place, "run")) == 1
    assert sorted(p.name for p in run.rglob("*")) == before


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] == "step"]


def test_an_interrupted_run_goes_on_to_the_very_same_weights(place: Path) -> None:
    whole = train_args(place, "whole", "--steps", "24", "--answers", "2")
    assert main(whole) == 0
    # A real signal, in the third step however fast the machine is.
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
    args = train_args(place, "cut", "--steps", "24", "--answers", "2")
    done = subprocess.run(
        [sys.executable, "-c", code, *args], check=False, capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert "--resume" in done.stderr
    record = json.loads(done.stdout.splitlines()[-1], parse_constant=pytest.fail)
    assert record["verdict"]["outcome"] == "interrupted"
    assert len(steps_of(place / "cut")) == 3
    assert main(["train", "--resume", str(place / "cut")]) == 0
    assert steps_of(place / "cut") == steps_of(place / "whole")
    a, b = tensors(place / "whole"), tensors(place / "cut")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_whose_data_changed_is_not_resumed(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (run / "config.toml").read_text()
    other = write_jsonl(place / "other.jsonl", rows())
    copy = place / "changed"
    copy.mkdir()
    (copy / "config.toml").write_text(config.replace(str(place / "data.jsonl"), other))
    (copy / "data.json").write_text((run / "data.json").read_text())
    write_jsonl(place / "other.jsonl", rows(1))
    assert main(["train", "--resume", str(copy)]) == 1
    err = capsys.readouterr().err
    assert "[run_changed]" in err
    assert "data.jsonl, which is gone" in err


def test_a_run_begun_before_an_option_was_there_is_resumed(place: Path, run: Path) -> None:
    older = place / "older"
    older.mkdir()
    config = (run / "config.toml").read_text().splitlines()
    kept = [line for line in config if not line.startswith("top_layers")]
    (older / "config.toml").write_text("\n".join(kept))
    record = json.loads((run / "data.json").read_text())
    del record["settings"]["top_layers"]
    (older / "data.json").write_text(json.dumps(record))
    assert main(["train", "--resume", str(older)]) == 0
    assert steps_of(older) == steps_of(run)


def test_a_loss_that_is_not_finite_names_the_rows(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No rate that the settings let pass blows so small a model up.
    monkeypatch.setattr("biddable.training.loop.learning_rate", lambda *_: 1e30)
    assert main(train_args(place, "blown", "--steps", "30", "--clip", "0")) == 1
    err = capsys.readouterr().err
    assert "data.jsonl:" in err
    assert "loss_not_finite" in err


BAD = {
    "missing": (None, "missing.jsonl"),
    "empty": ("", "empty"),
    "no JSON": ('{"user": "a", "assistant": ', "bad.jsonl:1"),
    "no object": ('["a", "b"]\n', "bad.jsonl:1"),
    "empty answer": ('{"user": "a", "assistant": ""}\n', "bad.jsonl:1"),
    "unknown role": ('{"messages": [{"role": "bot", "content": "x"}]}\n', "bad.jsonl:1"),
    "content no text": ('{"user": "a", "assistant": 7}\n', "bad.jsonl:1"),
    "few rows": ('{"user": "a", "assistant": "b"}\n', "too_few_examples"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_data_gives_a_message_with_its_place_and_no_run_folder(
    place: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = BAD[name]
    path = tmp_path / ("missing.jsonl" if text is None else "bad.jsonl")
    if text is not None:
        path.write_text(text)
    out = tmp_path / "out"
    args = ["train", str(path), "--base", str(place / "base"), "--out", str(out), *EXACT]
    assert main(args) == 1
    err = capsys.readouterr().err
    assert "error" in err
    assert "fix:" in err
    assert message in err
    assert "Traceback" not in err
    assert not out.exists()


def test_rows_that_are_all_too_long_are_refused_with_the_length_that_would_do(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_args(place, "short", "--max-length", "8")) == 1
    err = capsys.readouterr().err
    assert "keeps 99 %" in err
    assert not (place / "short").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user to lose the right to write")
def test_a_folder_that_may_not_be_written_is_an_error_with_its_name(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(place / "data.jsonl"), "--base", str(place / "base"),
                 "--out", "/proc/none/run"]) == 1  # fmt: skip
    assert "cannot be created" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_load_neither_torch_nor_transformers(flag: str) -> None:
    code = (
        "import sys\nfrom biddable.cli import main\n"
        f"try:\n    main(['{flag}'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0


def test_an_unknown_option_is_a_usage_error() -> None:
    assert main(["train", "x.jsonl", "--epoch-count", "3"]) == 2


def test_the_python_function_refuses_unknown_options() -> None:
    from biddable import BiddableError, train

    with pytest.raises(BiddableError, match="no option epoch"):
        train("x.jsonl", epoch=3)
