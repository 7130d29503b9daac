"""The families that people tune, tiny: `train`, `chat`, `compare`, resume, and a naive loop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

import folders
from biddable import Conversation, Message, Template, encode
from biddable.cli import main
from biddable.engine.proof import STOCK
from biddable.engine.twin import small_settings, twin_of
from biddable.training import loop
from biddable.training.schedule import rows_of_step

STEPS, BATCH_SIZE = 4, 3
MAMBA = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
HYBRID = ["conv", "full_attention", "conv", "full_attention"]
LONG = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 192,
    "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
}  # fmt: skip
# What is published under each name, how its rows are fed, and what is said of its other parts.
FAMILIES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "Qwen3.5": ("qwen3_5", {}, "beside", "can no longer be loaded as qwen3_5"),
    "Gemma 3": ("gemma3", {}, "flat", "saved unchanged in Gemma3ForConditionalGeneration"),
    "Gemma 3 text": ("gemma3_text", {}, "flat", ""),
    "LFM2": ("lfm2", {"num_hidden_layers": 4, "layer_types": HYBRID}, "beside", ""),
    "Granite 4": ("granitemoehybrid", {"layer_types": MAMBA}, "beside", ""),
    "Ministral 3": ("mistral3", {}, "flat", "saved unchanged in Mistral3ForConditionalGeneration"),
    "gpt-oss": ("gpt_oss", {}, "flat", ""),
    "OLMo 3": ("olmo3", {}, "flat", ""),
    "Phi-4-mini": ("phi3", {"rope_parameters": LONG}, "flat", ""),
}


def fitted(settings: dict[str, Any], words: int) -> dict[str, Any]:
    """Small settings for a tokenizer of so many words, the last of which no text has."""
    for name, value in settings.items():
        if isinstance(value, dict) and "model_type" in value:
            settings[name] = fitted(value, words)
        elif name.endswith(("_token_id", "_token_index")) and type(value) is int:
            settings[name] = words - 1
    sizes = {"vocab_size": words, "max_position_embeddings": 256, "bos_token_id": 0}
    more = {**sizes, "vocab_size_per_layer_input": words, "eos_token_id": 1}
    return {**settings, **{name: value for name, value in more.items() if name in settings}}


def auto_of(kind: str) -> Any:
    return AutoModelForCausalLM if kind in CAUSAL else AutoModelForImageTextToText


def write_base(kind: str, changes: dict[str, Any], folder: Path) -> None:
    """A tiny random checkpoint with all of its parts, as it would be published."""
    tokens = folders.tokenizer()
    config = AutoConfig.for_model(kind)
    settings = small_settings(config)
    if kind == "mistral3":
        settings["text_config"] = small_settings(AutoConfig.for_model("ministral3"))
    config = type(config).from_dict(fitted({**settings, **changes}, len(tokens) + 8))
    whole = AutoModelForImageTextToText._model_mapping
    mapping = whole if type(config) in whole else AutoModelForCausalLM._model_mapping
    twin_of(mapping[type(config)], config, STOCK).save_pretrained(folder)
    tokens.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_resize": true}\n', "utf-8")


def naive_losses(kind: str, folder: Path, rows: list[dict[str, str]], run: Path) -> list[float]:
    """The losses of the steps by a plain loop: transformers' model, each row alone, AdamW."""
    tokens = folders.tokenizer()
    template = Template.of(tokens)
    roles = ("system", "user", "assistant")
    conversations = [Conversation([Message(r, row[r]) for r in roles]) for row in rows]
    examples = [e for c in conversations for e in encode(c, tokens, template)]
    model = auto_of(kind).from_pretrained(folder, attn_implementation=STOCK, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.eval().parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    losses = []
    for event in steps_of(run):
        batch = [examples[i] for i in rows_of_step(event["step"], len(examples), BATCH_SIZE, 0)]
        total, weight = torch.zeros(()), sum(sum(e.weights) for e in batch)
        for example in batch:
            ids = torch.tensor([example.input_ids])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            total = total + (each * torch.tensor(example.weights[1:])).sum() / weight
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = event["learning_rate"]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


def steps_of(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] == "step"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_of_each_family_goes_the_whole_way(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, changes, path, said = FAMILIES[family]
    base, run = tmp_path / "base", tmp_path / "run"
    write_base(kind, changes, base)
    rows = folders.rows()[60:]
    data = folders.write_jsonl(tmp_path / "data.jsonl", rows)
    eval_rows = folders.write_jsonl(tmp_path / "eval.jsonl", folders.rows()[:4])
    args = ["train", data, "--base", str(base), "--eval", eval_rows, "--steps", str(STEPS)]
    args += ["--batch-size", str(BATCH_SIZE), "--lr", "1e-3", "--answers", "1", "--template"]
    args += ["plain", "--device", "cpu", "--precision", "fp32", "--batch-tokens", "120", "--out"]

    def due(step: int, *_: Any) -> bool:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return False

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_save_is_due", due)
        assert main([*args, str(run)]) == 130
    assert main(["train", "--resume", str(run)]) == 0
    output = capsys.readouterr().err
    assert f"{path}, proven on this model" in output
    assert " ".join(said.split()) in " ".join(output.split())
    experts = family in ("gpt-oss", "Granite 4")
    assert ("without a loss of their router" in output) == experts
    # The plain loop is not interrupted.
    losses = [event["loss"] for event in steps_of(run)]
    assert losses == pytest.approx(naive_losses(kind, base, rows, run), rel=1e-4)

    before, after = (
        load_file(base / "model.safetensors"),
        load_file(run / "model/model.safetensors"),
    )
    if "unchanged" in said:
        assert set(before) == set(after)
        frozen = [name for name in before if "vision" in name or "projector" in name]
        assert frozen
        assert "trained; 0 other" not in output
        assert (run / "model" / "preprocessor_config.json").is_file()
        assert all(torch.equal(before[name], after[name]) for name in frozen)
        again = AutoModelForImageTextToText.from_pretrained(run / "model")
        assert type(again).__name__ == said.split()[-1]

    assert (
        main(["chat", str(run), "-p", "Which colour has the red cup?", "--max-new-tokens", "3"])
        == 0
    )
    capsys.readouterr()
    compared = ["compare", str(base), str(run), "--device", "cpu", "--answers", "1", "--json"]
    assert main(compared) == 0
    card = json.loads(capsys.readouterr().out)
    first = json.loads((run / "scorecard.json").read_text("utf-8"))
    for side in ("base", "tuned"):
        expected = pytest.approx(first["held_out_loss"][side], rel=1e-5)
        assert card["held_out_loss"][side] == expected
