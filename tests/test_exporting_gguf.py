"""Tiny models of every architecture in a real llama.cpp, and what is refused before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from biddable.commands.export import export
from biddable.commands.train import train
from biddable.data.conversation import Message
from biddable.errors import BiddableError
from biddable.exporting import targets
from biddable.exporting.baked import bake, served_template
from biddable.exporting.gguf_weights import family_of
from biddable.models.base import SYSTEM_PROMPT_FILE
from biddable.models.model_files import model_files, stop_ids_of
from biddable.models.save import save_model
from biddable.template.template import Template
from folders import base_folder, rows, write_jsonl
from saved_write import CASES, CHATML, a_model, a_tokenizer

pytest.importorskip("xllamacpp")
# Layer patterns that llama.cpp has built in.
AS_BUILT_IN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "gemma3_text": {"layer_types": ["sliding_attention"] * 3},
    "smollm3": {"no_rope_layers": [1, 1, 1]},
}
# In the prompts of the proof there are over 128 tokens of a tiny tokenizer.
ROOM = {"max_position_embeddings": 512}


def saved(name: str, folder: Path, **changes: Any) -> Path:
    """A tiny model of a case of saved_write.py as `train` would leave it."""
    kind, text, settings = CASES[name]
    # GPT-NeoX's puts a space before a text, which llama.cpp does not for this kind.
    tokenizer = a_tokenizer("qwen3" if kind == "gpt_neox" else kind)
    room = {"n_positions": 512} if kind == "gpt2" else ROOM
    settings = {**settings, **AS_BUILT_IN.get(kind, {}), **room, **changes}
    model = a_model(kind, settings, len(tokenizer))
    template = Template(text).bound(tokenizer)
    stop_ids = stop_ids_of(model, tokenizer, template)
    files = model_files(model, tokenizer, chat_template=template.text, stop_ids=stop_ids)
    save_model(model, dict(model.named_parameters()), files, folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_asks_encodes_and_answers_as_the_model_does(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path / "model")
    (folder / SYSTEM_PROMPT_FILE).write_text("Be brief:\n 'yes' \\ no\u00a0\u2028é")
    exported = export(folder, type="f32", out=tmp_path / "out")
    assert exported.record["round_trip"]["prompts"] == 5
    assert exported.record["round_trip"]["tokens"] > 20
    assert exported.record["round_trip"]["stops"] >= 1
    assert [p.name for p in exported.folder.glob("*.gguf")] == ["model-f32.gguf"]
    assert json.loads((exported.folder / "export.json").read_text()) == exported.record


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_a_rounded_file_is_proven_in_fp32_and_is_alone(kind: str, tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model", hidden_size=64)
    exported = export(folder, type=kind, out=tmp_path / "out", system="keep")
    assert exported.record["round_trip"]["prompts"] == 5
    assert [p.name for p in exported.folder.glob("*.gguf")] == [f"model-{kind}.gguf"]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_run_is_judged_beside_its_file(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all weights, and of an adapter, which is merged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_jsonl(tmp_path / "rows.jsonl", rows())
    base = base_folder(tmp_path / "base")
    options = {"base": base, "steps": 2, "answers": 4, "precision": "fp32", "lora": rank}
    train(data, out=tmp_path / "run", **options)
    exported = export(tmp_path / "run", type="q4_0", answers=4)
    cost = exported.record["cost"]
    assert exported.folder == tmp_path / "run" / "gguf-q4_0"
    assert cost["answers"] == 4
    loss = cost["metrics"]["held_out_loss"]
    assert 0 < abs(loss["tuned"] - loss["exported"]) < 0.5
    assert exported.record["system_prompt"] in (exported.folder / "README.md").read_text() or (
        exported.record["system"] == "bake"
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral", {"sliding_window": 7}),
        ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
        ("smollm3", {"no_rope_layers": [1, 0, 1]}),
        ("gemma2", {"query_pre_attn_scalar": 3}),
        ("llama", {"hidden_act": "relu"}),
        ("gpt2", {"activation_function": "relu"}),
        ("qwen3-yarn", {"attention_factor": 2.0}),
    ],
)
def test_what_llama_cpp_has_built_in_otherwise_is_refused(
    name: str, changes: dict[str, Any]
) -> None:
    kind, _, settings = CASES[name]
    settings = {**settings, **AS_BUILT_IN.get(kind, {}), **changes}
    if "attention_factor" in changes:
        settings["rope_parameters"] = {**settings["rope_parameters"], **changes}
    if kind == "gemma3_text":
        settings["num_hidden_layers"] = len(settings["layer_types"])
    with pytest.raises(BiddableError) as error:
        family_of(a_model(kind, settings, 61).config)
    assert error.value.finding.code == "not_expressible"


def test_a_tokenizer_that_cuts_in_its_own_way_is_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    described = json.loads((folder / "tokenizer.json").read_text())
    described["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(BiddableError, match="cuts text in a way of its own"):
        export(folder, type="f32", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fourth_stop_token_is_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    settings["eos_token_id"] = [*settings["eos_token_id"], 0, 5]
    path.write_text(json.dumps(settings))
    with pytest.raises(BiddableError, match="end at 4 tokens"):
        export(folder, type="f32", out=tmp_path / "out")


def test_a_system_prompt_in_the_template_renders_as_one_that_is_sent() -> None:
    trained = Template(CHATML)
    for system in ("Be brief.", "it's\n\t\\ {{ x }} {% y %}\r\n \u00a0\u2028é🙂"):
        chats = [[Message("user", "Q?")], [Message("system", "S."), Message("user", "R?")]]
        assert served_template(trained, trained, system, chats).text == bake(CHATML, system)
        other = Template(CHATML.replace("assistant", "model"))
        with pytest.raises(BiddableError, match="renders otherwise"):
            served_template(trained, other, system, chats)


def test_weights_that_are_not_the_models_are_not_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof sees one changed norm."""
    written = targets.write_gguf

    def damaged(path: Path, model: Any, words: Any, kind: str) -> None:
        norm = model.model.norm.weight
        with torch.no_grad():
            norm[:4] += 1
        written(path, model, words, kind)
        with torch.no_grad():
            norm[:4] -= 1

    monkeypatch.setattr(targets, "write_gguf", damaged)
    with pytest.raises(BiddableError, match="answers otherwise"):
        export(saved("llama", tmp_path / "model"), type="f32", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_llama_cpp_the_file_is_written_and_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biddable.exporting.targets.installed", lambda _: None)
    exported = export(saved("llama", tmp_path / "model"), out=tmp_path / "out")
    assert exported.record["round_trip"] is None
    assert "Not checked" in (tmp_path / "out" / "README.md").read_text()
