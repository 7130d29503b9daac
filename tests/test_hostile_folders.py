"""No model folder, however it was damaged or made, ends otherwise than in an error with a name.

Nothing in it runs, nothing is fetched, memory stays bounded; most is refused from the headers, by
what `check` does too.
"""

from __future__ import annotations

import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from biddable.engine.precision import load_model
from biddable.errors import BiddableError
from biddable.models.base import load_tokenizer, resolve_base
from biddable.template.template import Template
from folders import base_folder, rows, write_jsonl
from hostile import CANARY, CASES, config, edit, put, set_all, tensors, words
from tiny import CONFIGS, tiny

# KiB that reading a folder of 300 kB may add to the most that the process ever held.
MOST_MEMORY = 200_000
# What only the weights themselves show; the rest is known before they are loaded.
FROM_WEIGHTS = {
    ("tensors", name)
    for name in ("NaN", "infinity", "zeros", "an embedding of ones", "a head of zeros")
}
NAMES = [(kind, name) for kind, cases in CASES.items() for name in cases]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    base_folder(folder)
    use(str(folder))
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "base"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    calls: list[Any] = []
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda _, *a: calls.append(a))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: calls.append(a) or [])
    yield
    assert not calls


def read(name: str) -> Any:
    """What `check` does with a base."""
    base = resolve_base(name)
    Template.of(load_tokenizer(base))
    return base


def use(name: str) -> Any:
    """What `train` and `chat` do with a base."""
    return load_model(read(name), torch.device("cpu"))


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_hostile_folder_is_refused_by_name(
    kind: str, name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, code = CASES[kind][name]
    damage(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BiddableError) as caught:
        (use if (kind, name) in FROM_WEIGHTS else read)(str(folder))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    assert caught.value.finding.code == code
    assert caught.value.finding.fix
    assert str(folder) in caught.value.finding.message
    assert not (folder / CANARY).exists()
    assert capfd.readouterr() == ("", "")


def test_there_are_many_folders_of_many_kinds() -> None:
    assert len(NAMES) >= 100
    assert len(CASES) >= 12


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("code", "auto_map of config.json, with its module"),
        ("config.json", "nested 100,000 deep"),
        ("tokenizer", "a normalizer cut off"),
    ],
)
def test_the_command_ends_with_one_error_and_asks_nothing(
    kind: str, name: str, folder: Path, tmp_path: Path
) -> None:
    CASES[kind][name][0](folder)
    data = write_jsonl(tmp_path / "data.jsonl", rows()[:8])
    command = [sys.executable, "-m", "biddable", "check", data, "--base", str(folder)]
    done = subprocess.run(command, input="y\n" * 9, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"[{CASES[kind][name][1]}]" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "panicked" not in done.stderr
    assert not (folder / CANARY).exists()


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"hidden_act": "boom"}, "hidden_act of its config.json is 'boom'"),
        (
            {"rope_parameters": {"rope_type": "weird", "rope_theta": 1e4}},
            "rope_parameters.rope_type of its config.json is 'weird'",
        ),
        ({"dtype": "float99"}, "dtype of its config.json is 'float99'"),
    ],
)
def test_a_setting_that_no_library_knows_is_named(
    settings: dict[str, Any], path: str, folder: Path
) -> None:
    config(**settings)(folder)
    with pytest.raises(BiddableError) as caught:
        use(str(folder))
    assert path in caught.value.finding.message


def test_a_layer_of_zeros_may_be_meant_and_is_said(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "model.layers.1.self_attn.o_proj.weight"
    tensors(lambda state: set_all(state, [name], 0.0))(folder)
    use(str(folder))
    assert f"every number is the same in {name}" in capfd.readouterr().err


def test_a_tied_head_may_be_there_or_not(tmp_path: Path, sound: Path) -> None:
    kinds = {"vocab_size": 400, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1}
    settings = LlamaConfig(**kinds, num_attention_heads=4, tie_word_embeddings=True)
    LlamaForCausalLM(settings).save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sound / file, tmp_path / file)
    use(str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in state
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    use(str(tmp_path))


def test_what_many_sound_folders_have_is_no_fault(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = load_file(folder / "model.safetensors")
    inverse = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(6) for i in (0, 1)}
    save_file({**state, **inverse}, folder / "model.safetensors", metadata={"format": "pt"})
    config(_attn_implementation="flash_attention_2", auto_map={}, quantization_config=None)(folder)
    words(name_or_path="somebody/else", vocab_file="/etc/passwd", trust_remote_code=False)(folder)
    put("handler.py", "1 / 0")(folder)
    put("pytorch_model.bin", b"never read")(folder)
    put("training_args.bin", b"never read")(folder)
    put("trainer_state.json", '{"loss": NaN}')(folder)
    edit(folder, "generation_config.json", temperature=0.6, pad_token_id=-1)
    config(pad_token_id=-1)(folder)
    capfd.readouterr()
    use(str(folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_tensor_that_is_missing_is_named_in_every_architecture(kind: str, tmp_path: Path) -> None:
    tiny(kind, ours=False).save_pretrained(tmp_path)
    resolve_base(str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    missing = sorted(state)[len(state) // 2]
    del state[missing]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BiddableError, match=re.escape(missing)):
        resolve_base(str(tmp_path))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_called_so(file: str, folder: Path) -> None:
    put(file, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")(folder)
    with pytest.raises(BiddableError, match=f"{file} is a pointer of git-lfs") as caught:
        read(str(folder))
    assert "git lfs pull" in str(caught.value.finding.fix)


def test_a_folder_that_holds_gguf_alone_says_what_to_give(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "q8.gguf")
    with pytest.raises(BiddableError) as caught:
        read(str(folder))
    assert f"--base {folder / 'q8.gguf'}" in str(caught.value.finding.fix)


def test_an_adapter_alone_is_called_so(folder: Path) -> None:
    (folder / "config.json").unlink()
    put("adapter_config.json", "{}")(folder)
    with pytest.raises(BiddableError) as caught:
        read(str(folder))
    assert caught.value.finding.code == "adapter_in_base"


def test_gpt2_as_the_hub_has_it_is_whole(tmp_path: Path) -> None:
    """Without the prefix of the head's model, and with the causal masks of its layers."""
    tiny("gpt2", ours=False).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 128, 128).tril() for i in range(3)}
    save_file(state | masks, tmp_path / "model.safetensors", metadata={"format": "pt"})
    resolve_base(str(tmp_path))


def test_a_snapshot_of_the_hub_links_to_its_own_store(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "models--a--b"
    snapshot = store / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (store / "blobs").mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(store / "blobs" / f"{i}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    use(str(snapshot))
    (tmp_path / "outside").write_text("{}")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../outside")
    with pytest.raises(BiddableError, match="link out of its folder"):
        use(str(snapshot))


@pytest.mark.parametrize(
    "kind", ["LlamaTokenizer", "Qwen2Tokenizer", "GemmaTokenizer", "GPT2Tokenizer"]
)
def test_the_ids_are_those_of_tokenizer_json_whatever_class_is_named(
    kind: str, folder: Path
) -> None:
    from tokenizers import Tokenizer

    words(tokenizer_class=kind, add_prefix_space=True, add_bos_token=True)(folder)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "Which colour, 12345?\n\n  It's naïve \u4f60\u597d</s>"
    opened = load_tokenizer(resolve_base(str(folder)))
    assert opened.encode(text) == own.encode(text).ids
    assert opened.decode(opened.encode(text)) == text
    assert (opened.bos_token, opened.eos_token) == ("<s>", "</s>")


def test_an_end_of_text_that_config_json_alone_names_is_known(folder: Path) -> None:
    words(bos_token=..., eos_token=...)(folder)
    opened = load_tokenizer(resolve_base(str(folder)))
    assert (opened.bos_token_id, opened.eos_token_id) == (0, 1)


def test_tensors_of_another_precision_are_read(folder: Path) -> None:
    def halved(state: dict[str, torch.Tensor]) -> None:
        for name in state:
            state[name] = state[name].bfloat16()

    tensors(halved)(folder)
    assert use(str(folder)).dtype == torch.float32
