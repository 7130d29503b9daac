"""What --base takes, and what it says to the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from biddable.errors import BiddableError
from biddable.models.base import resolve_base
from biddable.models.support import context_of


def folder_with(tmp_path: Path, config: dict[str, object]) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_a_base_that_does_not_exist_names_what_may_be_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BiddableError) as caught:
        resolve_base("nobody/nothing")
    assert "hub id, a Hugging Face folder" in caught.value.finding.fix


@pytest.mark.parametrize("name", ["missing.gguf", "no such base!"])
def test_names_that_are_no_base_are_refused(name: str) -> None:
    with pytest.raises(BiddableError, match="cannot be used"):
        resolve_base(name)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BiddableError, match=r"no config\.json"):
        resolve_base(str(tmp_path))


def test_a_damaged_gguf_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(BiddableError, match="GGUF file cannot be read"):
        resolve_base(str(path))
    assert [p.name for p in (tmp_path / "cache" / "biddable" / "bases").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"model_type": "t5"}, "not_causal_lm"),
        ({"model_type": "vit"}, "not_causal_lm"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "not_causal_lm"),
        # One of its parts reads text, another writes.
        (
            {
                "model_type": "musicgen",
                "text_encoder": {"model_type": "t5"},
                "audio_encoder": {"model_type": "encodec"},
                "decoder": {"model_type": "musicgen_decoder"},
            },
            "not_causal_lm",
        ),
        ({"model_type": "nothing_known"}, "unsupported_architecture"),
    ],
)
def test_what_is_no_causal_language_model_is_refused_by_its_configuration(
    tmp_path: Path, config: dict[str, object], code: str
) -> None:
    with pytest.raises(BiddableError) as caught:
        resolve_base(folder_with(tmp_path, config))
    assert caught.value.finding.code == code
    assert str(config["model_type"]) in caught.value.finding.message


@pytest.mark.parametrize(
    ("kind", "rope", "context"),
    [
        (
            "llama",
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
            256,
        ),
        ("llama", {"rope_type": "dynamic", "factor": 2.0}, 256),
        (
            "llama",
            {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64},
            64,
        ),
        (
            "hunyuan_v1_dense",
            {
                "rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0,
                "original_max_position_embeddings": 64,
            },
            256,
        ),
        (
            "phi3",
            {
                "rope_type": "longrope", "original_max_position_embeddings": 128,
                "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
            },
            128,
        ),
    ],
)  # fmt: skip
def test_no_row_is_longer_than_where_the_rotary_angles_change(
    kind: str, rope: dict[str, object], context: int
) -> None:
    config = AutoConfig.for_model(
        kind, rope_parameters={**rope, "rope_theta": 1e4}, max_position_embeddings=256,
        hidden_size=32, num_attention_heads=4, pad_token_id=0,
        original_max_position_embeddings=rope.get("original_max_position_embeddings", 256),
    )  # fmt: skip
    assert context_of(config) == context
