"""What --base takes, and what it says to the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from biddable.errors import BiddableError
from biddable.models.base import resolve_base
from biddable.models.support import check_supported


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
        ({"model_type": "mamba", "hidden_size": 32}, "unsupported_layers"),
        ({"model_type": "bloom"}, "unsupported_architecture"),
        ({"model_type": "t5"}, "not_causal_lm"),
        ({"model_type": "bert"}, "unsupported_architecture"),
    ],
)
def test_architectures_that_are_not_proven_are_refused_by_name(
    tmp_path: Path, config: dict[str, object], code: str
) -> None:
    with pytest.raises(BiddableError) as caught:
        resolve_base(folder_with(tmp_path, config))
    assert caught.value.finding.code == code
    assert str(config["model_type"]) in caught.value.finding.message


def test_rotary_scaling_that_depends_on_other_rows_is_refused() -> None:
    config = AutoConfig.for_model(
        "llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    )
    with pytest.raises(BiddableError, match="dynamic rotary"):
        check_supported(config, "x")
