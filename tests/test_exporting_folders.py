"""Folders for transformers, PEFT and Ollama, adapters apart, and what does not go together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from biddable import Message, Template
from biddable.commands.export import _folder, _load, _name, export
from biddable.commands.train import train
from biddable.encoding.encode import encode_prompt
from biddable.errors import BiddableError
from biddable.exporting import targets
from biddable.exporting.round_trip import prompts_of
from biddable.models.adapter_files import CONFIG, WEIGHTS
from biddable.models.adapters import add_adapter
from biddable.models.base import SYSTEM_PROMPT_FILE
from biddable.settings import ExportSettings
from folders import SYSTEM, base_folder, rows, write_jsonl
from test_exporting_gguf import saved
from test_exporting_go_template import in_go

NAMES = ("gguf", "ollama", "hf", "peft")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of all weights and one of an adapter."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    data = write_jsonl(folder / "rows.jsonl", rows())
    options = {"base": base_folder(folder / "base"), "steps": 2, "answers": 2, "precision": "fp32"}
    for name, rank in (("whole", 0), ("adapter", 4)):
        train(data, out=folder / name, lora=rank, **options)
    patch.undo()
    return {name: folder / name for name in ("whole", "adapter")}


@pytest.mark.parametrize("name", ["llama-llama3", "qwen2"])
def test_transformers_reads_the_folder_as_the_model_was_judged(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path / "model")
    (folder / SYSTEM_PROMPT_FILE).write_text("Be brief.")
    exported = export(folder, to="hf", out=tmp_path / "out")
    assert exported.record["round_trip"]["prompts"] == 5
    assert exported.record["round_trip"]["stops"] >= 1
    assert exported.record["reader"].startswith("transformers ")
    settings = GenerationConfig.from_pretrained(exported.folder)
    # What vLLM and SGLang take from it, and what transformers lets a model be saved with.
    assert settings.top_k == 1
    settings.validate(strict=True)
    tokenizer = AutoTokenizer.from_pretrained(exported.folder)
    question = [{"role": "user", "content": "Q?"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert "Be brief." in text
    assert (exported.folder / SYSTEM_PROMPT_FILE).read_text() == "Be brief."
    assert "vllm serve . --dtype float32" in (exported.folder / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(exported.folder)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    greedy = model.generate(ids, do_sample=False, top_k=50, max_new_tokens=8)
    assert torch.equal(model.generate(ids, max_new_tokens=8), greedy)


def test_control_text_in_a_held_out_row_is_proven_as_a_program_reads_it(tmp_path: Path) -> None:
    tuned, _ = _load(ExportSettings(run=str(saved("llama-llama3", tmp_path / "model"))))
    token = tuned.tokenizer.eos_token
    chat = [Message("user", f"What is {token}?")]
    prompt, *_ = prompts_of(tuned.tokenizer, tuned.template, None, [chat])
    plain = encode_prompt(chat, tuned.tokenizer, tuned.template)
    as_text = tuned.tokenizer(prompt.text, add_special_tokens=False).input_ids
    assert prompt.ids == as_text != plain


def test_control_text_in_the_trained_system_prompt_is_refused(tmp_path: Path) -> None:
    folder = saved("llama-llama3", tmp_path / "model")
    (folder / SYSTEM_PROMPT_FILE).write_text("Never write </s>.")
    for system in ("bake", "keep"):
        with pytest.raises(BiddableError, match="prompt holds </s>, which is a control token"):
            export(folder, to="hf", system=system, out=tmp_path / "out")


def test_prompts_that_fill_a_short_context_are_left_out_of_the_proof(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    # The longest prompt has 89 tokens: it has room for one, then for none.
    for context, count in ((90, 5), (89, 4)):
        folder = saved("llama", tmp_path / str(context), max_position_embeddings=context)
        for to in ("hf", "gguf"):
            assert export(folder, to=to).record["round_trip"]["prompts"] == count


@pytest.mark.parametrize(
    ("run", "name"), [("-v1.5", "v1.5"), ("a b é.gguf", "a-b"), ("漢字", "run"), ("..hid", "hid")]
)
def test_a_name_is_one_for_files_and_ollama(run: str, name: str, tmp_path: Path) -> None:
    assert _name(str(tmp_path / run)) == name
    folder = _folder(ExportSettings(run=str(tmp_path / run), to="hf"))
    assert folder == tmp_path / f"{run.removesuffix('.gguf')}-hf"


def test_peft_reads_an_adapter_with_tokenizer_and_template(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    exported = export(runs["adapter"], to="peft", out=tmp_path / "out")
    trip, folder = exported.record["round_trip"], exported.folder
    assert exported.record["reader"].startswith("peft ")
    assert trip["prompts"] > 5
    assert trip["stops"] == 1
    own = runs["adapter"] / "adapter"
    assert (folder / WEIGHTS).read_bytes() == (own / WEIGHTS).read_bytes()
    assert (folder / CONFIG).read_bytes() == (own / CONFIG).read_bytes()
    assert not (folder / "config.json").exists()
    assert SYSTEM in (folder / "chat_template.jinja").read_text()


def test_ollama_gets_the_trained_template_system_prompt_and_stops(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    exported = export(runs["whole"], to="ollama", type="f32", answers=2)
    folder, record = exported.folder, exported.record
    assert folder == runs["whole"] / "ollama-f32"
    assert sorted(p.suffix for p in folder.iterdir()) == ["", ".gguf", ".json", ".md"]
    assert record["round_trip"]["prompts"] > 5
    assert record["cost"]["answers_changed"] == 0
    text = (folder / "Modelfile").read_text()
    assert text.startswith('FROM ./whole-f32.gguf\nTEMPLATE """')
    assert f'SYSTEM """{SYSTEM}"""' in text
    assert 'PARAMETER stop """</s>"""' in text
    assert "PARAMETER num_ctx 256\n" in text
    if shutil.which("go"):
        go = text.split('"""')[1]
        chat = [Message("user", "Which color?")]
        trained = Template.of(AutoTokenizer.from_pretrained(runs["whole"] / "model"))
        want = trained.render([Message("system", SYSTEM), *chat], add_generation_prompt=True)
        assert in_go([go], [chat]) == [[want]]


def test_ollama_writes_the_bos_that_the_template_prints_once(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = saved("llama-llama3", tmp_path / "model")
    exported = export(folder, to="ollama", type="f32", out=tmp_path / "out")
    assert exported.record["round_trip"]["prompts"] == 5
    assert '"<s>' not in (exported.folder / "Modelfile").read_text()


def test_a_template_that_ollama_cannot_have_is_refused_before_weights_are_written(
    tmp_path: Path,
) -> None:
    folder = saved("llama", tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("m.content", "m.content.split('</think>')[-1]")
    )
    with pytest.raises(BiddableError, match=r"changes contents|other texts") as error:
        export(folder, to="ollama", out=tmp_path / "out")
    assert "--to gguf" in error.value.finding.fix
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_an_adapter_apart_answers_as_the_merged_one(
    kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    exported = export(runs["adapter"], apart=True, type=kind, answers=2, out=tmp_path / "out")
    names = sorted(p.name for p in exported.folder.glob("*.gguf"))
    assert names == ["adapter-adapter.gguf", f"base-{kind}.gguf"]
    assert exported.record["round_trip"]["prompts"] > 5
    assert "--lora adapter-adapter.gguf" in (exported.folder / "README.md").read_text()


def test_an_adapter_of_a_base_in_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart beside the dequantized base; as PEFT's, with the setting that loads it."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("xllamacpp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, base = write_jsonl(tmp_path / "rows.jsonl", rows()), base_folder(tmp_path / "base")
    options = {"steps": 1, "answers": 1, "precision": "fp32", "lora": 4, "base_bits": 4}
    train(data, out=tmp_path / "run", base=base, **options)
    exported = export(tmp_path / "run", apart=True, type="f32", answers=1)
    assert exported.record["round_trip"]["prompts"] > 5
    exported = export(tmp_path / "run", to="peft")
    assert exported.record["round_trip"] is None
    assert "load_in_4bit=True" in (exported.folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_an_adapter_of_other_layers_is_proven_apart(name: str, tmp_path: Path) -> None:
    """Turned heads, transposed weights, fused layers; an adapter that changes every answer."""
    pytest.importorskip("xllamacpp")
    folder = saved(name, tmp_path / "model")
    loaded, _ = _load(ExportSettings(run=str(folder)))
    model = add_adapter(loaded.model, 3, 0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("lora_B"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    settings = ExportSettings(apart=True, type="f32")
    (tmp_path / "out").mkdir()
    record = targets.write_gguf_folder(settings, loaded, tmp_path / "out")
    assert record["round_trip"]["prompts"] == 5


def unfinished(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("model", "adapter", "report.html"))
    return folder


@pytest.mark.parametrize(
    ("which", "options", "code", "fix"),
    [
        ("whole", {"to": "peft"}, "option", "--to hf"),
        ("whole", {"apart": True}, "option", "--to hf"),
        ("adapter", {"apart": True, "to": "hf"}, "option", "--to gguf --apart"),
        ("adapter", {"apart": True, "to": "ollama"}, "option", "--to gguf --apart"),
        ("whole", {"to": "hf", "type": "q8_0"}, "option", "leave --type out"),
        ("adapter", {"to": "peft", "type": "f32"}, "option", "leave --type out"),
        ("whole", {"to": "olama"}, "option", "did you mean ollama"),
        ("whole", {"type": "q4_k_m"}, "option", "f32, f16, q8_0, q4_0"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(
    which: str, options: dict[str, Any], code: str, fix: str, runs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("biddable.commands.export._load", _never)
    with pytest.raises(BiddableError) as error:
        export(runs[which], **options)
    assert error.value.finding.code == code
    assert fix in error.value.finding.fix


def test_a_run_in_training_and_a_folder_that_is_there_are_refused(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biddable.commands.export._load", _never)
    for to in ("gguf", "ollama", "hf"):
        run = unfinished(runs["whole"], tmp_path / to)
        with pytest.raises(BiddableError, match="has no model yet"):
            export(run, to=to)
    for to in NAMES:
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(BiddableError) as error:
            export(runs["adapter"], to=to, out=tmp_path / "there")
        assert error.value.finding.code == "output_exists"
    (tmp_path / "file").touch()
    for out in ("file/x", "file/x/y"):
        with pytest.raises(BiddableError) as error:
            export(runs["whole"], to="hf", out=tmp_path / out)
        assert error.value.finding.code == "output_not_writable"


def test_without_room_nothing_is_left_behind(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    for to in ("hf", "gguf"):
        with pytest.raises(BiddableError) as error:
            export(runs["whole"], to=to, out=tmp_path / "out")
        assert error.value.finding.code == "no_space"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_reads_otherwise_is_not_written(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof in transformers sees another template, and other weights."""
    write: Callable[..., None] = targets.save_model

    def other_template(model: Any, tensors: Any, texts: dict[str, str], folder: Path) -> None:
        template = texts["chat_template.jinja"]
        write(model, tensors, {**texts, "chat_template.jinja": template + "!"}, folder)

    def other_weights(model: Any, tensors: Any, texts: dict[str, str], folder: Path) -> None:
        norm = model.model.norm.weight
        with torch.no_grad():
            norm[:8] += 3
        write(model, tensors, texts, folder)
        with torch.no_grad():
            norm[:8] -= 3

    for change, what in ((other_template, "renders"), (other_weights, "answers")):
        monkeypatch.setattr(targets, "save_model", change)
        with pytest.raises(BiddableError, match=f"transformers {what}"):
            export(runs["whole"], to="hf", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()


def _never(*_: object) -> None:
    raise AssertionError("it was loaded")
