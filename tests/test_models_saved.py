"""What stands in a model folder: it loads and answers as it was trained, and hides nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Emu3ForCausalLM, Emu3TextConfig

from biddable.cli import main
from biddable.dataset.prepared import Counts, Prepared, SplitPart
from biddable.display.model_card import hub_id, model_card
from biddable.engine.precision import load_model
from biddable.engine.twin import small_settings, twin_of
from biddable.errors import BiddableError
from biddable.judging.metric import Metric
from biddable.judging.scorecard import Scorecard
from biddable.judging.verdict import Verdict
from biddable.models.base import Base, load_tokenizer, resolve_base
from biddable.models.completeness import load_pretrained, refuse_unlike
from biddable.models.model_files import model_files, stop_ids_of
from biddable.models.save import save_model
from biddable.settings import Settings
from biddable.storage import MANIFEST, sha256
from biddable.template.template import Template
from folders import base_folder, rows, write_jsonl
from saved_check import check
from saved_write import CASES, CHATML, a_model, a_tokenizer, write_case
from tiny import small_model


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_loads_in_transformers_as_it_was_saved(
    case: str, tmp_path: Path
) -> None:
    write_case(case, tmp_path)
    assert check(tmp_path / case)["logits"] <= 1e-6
    # And in biddable itself, which stops where the judged model stopped.
    base = resolve_base(str(tmp_path / case / "model"))
    words = load_tokenizer(base)
    stops = stop_ids_of(load_model(base, torch.device("cpu")), words, Template.of(words))
    want = json.loads((tmp_path / case / "expected.json").read_text(encoding="utf-8"))
    assert stops == tuple(want["stop_ids"])
    assert 1 in stops


FACTORS = st.floats(1.0, 64.0).map(float)
THETAS = st.floats(10.0, 1e7)


@st.composite
def rotary(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An architecture and rotary settings that it takes."""
    kind = draw(
        st.sampled_from(["llama", "mistral", "qwen2", "gemma2", "olmo2", "gpt_neox", "phi3"])
    )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": draw(THETAS)}
    if kind in ("gpt_neox", "phi3"):
        return kind, rope | {"partial_rotary_factor": draw(st.sampled_from([0.25, 0.5, 1.0]))}
    if draw(st.booleans()):
        rope |= {"rope_type": "linear", "factor": draw(FACTORS)}
    return kind, rope


kept_tokenizer = cache(a_tokenizer)


@settings(max_examples=25)
@given(rotary())
def test_the_older_names_of_rotary_settings_say_the_same(law: tuple[str, dict[str, Any]]) -> None:
    """Version 5 still reads a config of version 4: without the newer name it finds the same."""
    kind, rope = law
    words = kept_tokenizer(kind)
    model = a_model(kind, {"rope_parameters": dict(rope)}, len(words))
    config = json.loads(model_files(model, words, chat_template=None, stop_ids=[1])["config.json"])
    del config["rope_parameters"]
    older = AutoConfig.for_model(config.pop("model_type"), **config).rope_parameters
    older.pop("type", None)
    assert older == model.config.rope_parameters


def test_tensors_have_their_published_names_and_tied_ones_stand_once(tmp_path: Path) -> None:
    for case in ("llama", "llama-llama3", "gpt_neox"):
        write_case(case, tmp_path)
    heads = {
        case: {n for n in names_of(tmp_path / case / "model") if re.search("head|embed", n)}
        for case in ("llama", "llama-llama3", "gpt_neox")
    }
    assert heads["llama"] == {"model.embed_tokens.weight", "lm_head.weight"}
    assert heads["llama-llama3"] == {"model.embed_tokens.weight"}
    assert heads["gpt_neox"] == {"gpt_neox.embed_in.weight", "embed_out.weight"}


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("joined", [False, True])
def test_experts_are_saved_as_the_base_has_them_and_load_again(
    kind: str, joined: bool, tmp_path: Path
) -> None:
    """Published files name each expert; transformers joins them as it loads, and its own are so."""
    first = small_model(kind)
    first.save_pretrained(tmp_path / "base")
    if joined:
        save_file(first.state_dict(), tmp_path / "base" / "model.safetensors", {"format": "pt"})
    shapes = []
    for folder, after in (("base", "model"), ("model", "again")):
        config = AutoConfig.from_pretrained(tmp_path / folder)
        model, report = load_pretrained(tmp_path / folder, config, attention="eager")
        refuse_unlike(report, folder)
        assert all(torch.equal(p, model.get_parameter(n)) for n, p in first.named_parameters())
        files = {"config.json": model.config.to_json_string()}
        save_model(model, dict(model.named_parameters()), files, tmp_path / after)
        tensors = load_file(tmp_path / folder / "model.safetensors")
        shapes.append({name: tensor.shape for name, tensor in tensors.items()})
    assert shapes[0] == shapes[1]
    assert any("experts.0." in name for name in shapes[0]) == (kind != "gpt_oss" and not joined)


def names_of(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_equal_models_give_equal_bytes_and_files_are_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_case("llama", tmp_path / "one")
        write_case("llama", tmp_path / "two")
    finally:
        os.umask(before)
    one, two = (sorted((tmp_path / n / "llama" / "model").iterdir()) for n in ("one", "two"))
    assert [p.name for p in one] == [p.name for p in two]
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
        assert a.stat().st_mode & 0o777 == 0o640, a.name


SPECIALS = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>"]


@pytest.mark.parametrize(
    ("changes", "pad"),
    [
        ({}, "<unk>"),
        ({"pad_token": "<|im_end|>"}, "<unk>"),
        ({"pad_token": "<image>"}, "<image>"),
        ({"pad_token": "<image>", "unk_token": None}, "<image>"),
        # Nothing fits: the base's own EOS, not the end of turn that was trained.
        ({"unk_token": None}, "</s>"),
    ],
)
def test_batches_are_padded_with_a_token_no_answer_ends_with_where_there_is_one(
    changes: dict[str, Any], pad: str
) -> None:
    words = a_tokenizer("gpt2")
    for name, token in changes.items():
        setattr(words, name, token)
    model = a_model("gpt2", {}, len(words))
    ends = stop_ids_of(model, words, Template(CHATML).bound(words))
    files = model_files(model, words, chat_template=CHATML, stop_ids=ends)
    named = json.loads(files["tokenizer_config.json"])
    id_of_pad = words.convert_tokens_to_ids(pad)
    assert (named["eos_token"], named["pad_token"]) == ("<|im_end|>", pad)
    assert json.loads(files["generation_config.json"])["pad_token_id"] == id_of_pad
    in_config = json.loads(files["config.json"])["pad_token_id"]
    assert in_config == (None if pad == "</s>" else id_of_pad)


def test_the_tokenizer_is_named_as_both_versions_know_it() -> None:
    """What `make compat` tries with the older version itself."""
    words = a_tokenizer("gpt_neox")
    model = a_model("gpt_neox", {}, len(words))
    files = model_files(model, words, chat_template=CHATML, stop_ids=[4, 1])
    named = json.loads(files["tokenizer_config.json"])
    assert named["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert named["model_input_names"] == ["input_ids", "attention_mask"]
    assert not isinstance(named.get("extra_special_tokens"), list)
    assert named["add_prefix_space"] is True
    assert named["chat_template"] == files["chat_template.jinja"] == CHATML
    assert not {"auto_map", "task_specific_params"} & set(json.loads(files["config.json"]))


def test_an_end_of_turn_of_plain_text_is_no_special_token() -> None:
    words = a_tokenizer("gpt2")
    newline = words.convert_tokens_to_ids("Ċ")
    model = a_model("gpt2", {}, len(words))
    files = model_files(model, words, chat_template=None, stop_ids=[newline, 1])
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "</s>"
    assert json.loads(files["config.json"])["eos_token_id"] == newline
    assert json.loads(files["generation_config.json"])["eos_token_id"] == [newline, 1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    base_folder(folder / "base")
    write_jsonl(folder / "data.jsonl", rows())
    return folder


def trained(place: Path, base: Path, out: Path) -> int:
    files = [str(place / "data.jsonl"), "--base", str(base), "--out", str(out)]
    return main(["train", *files, "--steps", "2", "--answers", "2", "--device", "cpu"])


@pytest.mark.parametrize(
    "theirs",
    [
        {"temperature": 0.9, "top_p": 0.6},
        {"do_sample": True, "top_k": 5, "repetition_penalty": 1.3, "suppress_tokens": [5]},
    ],
)
def test_sampling_defaults_of_the_base_neither_stop_a_run_nor_come_through(
    place: Path, tmp_path: Path, theirs: dict[str, Any]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(place / "base", base)
    (base / "generation_config.json").write_text(json.dumps(theirs))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_labels": 3}))
    assert trained(place, base, tmp_path / "run") == 0
    left = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    del left["transformers_version"]
    ends = {"bos_token_id": 0, "eos_token_id": [1], "pad_token_id": 1}
    assert left == {"do_sample": False, **ends}


def test_what_others_would_misread_is_refused() -> None:
    # transformers takes its own way to cut words for this architecture, whatever the files say.
    words = a_tokenizer("gpt2")
    with pytest.raises(BiddableError, match="Qwen2Tokenizer") as caught:
        model_files(a_model("qwen2", {}, len(words)), words, chat_template=None, stop_ids=[1])
    assert caught.value.finding.code == "model_not_savable"
    broken = a_model("llama", {}, len(words))
    broken.config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4}
    with pytest.raises(BiddableError, match="transformers refuses its files"):
        model_files(broken, words, chat_template=None, stop_ids=[1])
    # The text part of a kind of which transformers loads nothing but the whole by its name.
    settings = small_settings(Emu3TextConfig())
    part = twin_of(Emu3ForCausalLM, Emu3TextConfig.from_dict(settings), "eager")
    with pytest.raises(BiddableError, match="loads no model by the name emu3_text_model"):
        model_files(part, words, chat_template=None, stop_ids=[1])


def test_a_run_that_could_not_be_saved_ends_before_step_1(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nowhere to try the files out.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert trained(place, place / "base", tmp_path / "run") == 1
    assert "cannot be used elsewhere" in capsys.readouterr().err
    assert not (tmp_path / "run" / "log.jsonl").exists()


METRIC = Metric(1.0123456789012345, 0.3333333333333333, 10, -0.1, 0.2, "number", None)


def a_card(base: Base, system: bool = False) -> str:
    side = SplitPart([], [])
    prepared = Prepared(
        base, None, Template(CHATML), 64, "pairs", 9, {}, side, side, False, Counts(0, 0, ""), 0,
        (), True,
        (), (),
    )  # fmt: skip
    metrics = {"held_out_loss": METRIC, "exact_match": replace(METRIC, kind="rate", base=1 / 3)}
    card = Scorecard(metrics, "", Verdict("It learnt\n---\nit.", "\x1b[31mred", ""))
    return model_card(prepared, Settings(base=base.name, lr=1 / 3), card, "0", system)


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("org/model.v1-x", "org/model.v1-x"),
        ("123", "123"),
        ("null", "null"),
        ('/home/me/secret: client/my "base"\'s', None),
        ("models/a\nb: c\n---\n# d", None),
        ("bases/模型 🙂 `x` <b>", None),
        ("bad\udcff-name", None),
        ("weights/x.gguf", None),
    ],
)
def test_the_card_is_yaml_and_markdown_whatever_the_base_is_called(
    name: str, hub: str | None
) -> None:
    folder = Path("/cache/snapshots/1") if hub else Path(name)
    text = a_card(Base(name, folder), system=True)
    text.encode()
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts.get("base_model") == hub
    assert hub_id(Base(name, folder)) == hub
    assert facts["tags"] == ["sft", "biddable"]
    assert not re.search(r"\d\.\d{7}", body)
    assert body.split("## Use")[0].count("\n# ") == 1
    assert "secret" not in body
    assert "\x1b" not in body


def test_the_snippet_of_a_card_runs_and_asks_as_in_training(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(place, place / "base", tmp_path / "run") == 0
    folder = tmp_path / "run" / "model"
    code = (
        (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    )
    seen: dict[str, Any] = {}
    code = code.replace("PATH", str(folder)).replace('"..."', '"Which colour has the red cup?"')
    capsys.readouterr()
    exec(code.replace("max_new_tokens=256", "max_new_tokens=12"), seen)
    written = capsys.readouterr().out.rstrip("\n")
    assert [m["role"] for m in seen["messages"]] == ["system", "user"]
    ask = ["chat", str(tmp_path / "run"), "-p", "Which colour has the red cup?"]
    assert main([*ask, "-t", "0", "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == written


@pytest.fixture
def tiny_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Llama of one layer whose head is tied, as the packaged base is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words, path = a_tokenizer("gpt2"), tmp_path / "tiny.gguf"
    core = json.loads(words.backend_tokenizer.to_str())["model"]
    texts = [words.convert_ids_to_tokens(i) for i in range(len(words))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(77.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(texts)
    writer.add_token_types([3 if t in SPECIALS else 1 for t in texts])
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(4)
    writer.add_chat_template(CHATML)
    shapes = {"token_embd": (len(words), 32), "output_norm": (32,)}
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes |= {f"blk.0.{name}": (32, 32) for name in square}
    shapes |= {f"blk.0.{name}": (32,) for name in ("attn_norm", "ffn_norm")}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_converted_base_can_be_served_as_it_is_and_an_older_conversion_is_made_anew(
    tiny_gguf: Path,
) -> None:
    folder = resolve_base(str(tiny_gguf)).folder
    assert "model.embed_tokens.weight" in names_of(folder)
    assert "lm_head.weight" not in names_of(folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["eos_token_id"], config["rope_theta"]) == (4, 77.0)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [4]
    assert (folder / "chat_template.jinja").read_text() == CHATML
    mark = folder / "config.json"
    inode = mark.stat().st_ino
    assert resolve_base(str(tiny_gguf)).folder == folder
    assert mark.stat().st_ino == inode
    # As an older layout would have written it.
    source = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps([*source[:2], source[2] - 1]))
    sums = {p.name: sha256(p) for p in folder.iterdir() if p.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(sums))
    assert resolve_base(str(tiny_gguf)).folder == folder
    assert mark.stat().st_ino != inode
