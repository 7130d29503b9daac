"""Adapters: the gradient is PEFT's, merging changes nothing, and no other base takes one."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration

from biddable.engine.head import Head
from biddable.engine.loss import loss_sum
from biddable.engine.memory import needs_of
from biddable.engine.plan import plan_step
from biddable.engine.precision import load_model
from biddable.engine.proof import STOCK, prove
from biddable.engine.step import backward_step, plan_for
from biddable.engine.twin import small_settings, twin_of
from biddable.errors import BiddableError
from biddable.models.adapter_files import base_text, weight_sums
from biddable.models.adapters import (
    Lora,
    add_adapter,
    decoder_layers,
    load_adapter,
    merge_adapter,
    remove_adapter,
    save_adapter,
)
from biddable.models.base import load_tokenizer, resolve_base
from biddable.models.four_bits import quantize_linears
from biddable.models.model_files import model_files
from biddable.models.text_part import freeze_other_parts, refuse_shards
from biddable.training.weights import Replicas
from folders import base_folder
from test_engine_beside import LFM2, ROWS, small_model
from tiny import ALL_FP64, CONFIGS, VOCABULARY, reference_step, rows_of, tiny

# PEFT asks transformers for a property under its former name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
KINDS = sorted(CONFIGS)
RANK = 4
IDS = torch.tensor([[5, 9, 11, 3, 20, 7, 30, 31]])


def adapted(kind: str, *, ours: bool = True, seed: int = 1) -> Any:
    """A tiny model with an adapter that changes what it computes."""
    model = add_adapter(tiny(kind, ours=ours), RANK, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model.double()


def by_peft(kind: str, ours: Any) -> Any:
    """The same model and adapter, computed by transformers and PEFT alone."""
    layers = {n.rpartition(".")[2] for n, m in ours.named_modules() if isinstance(m, Lora)}
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=sorted(layers), task_type="CAUSAL_LM",
        fan_in_fan_out=kind == "gpt2",
    )  # fmt: skip
    model = get_peft_model(tiny(kind, ours=False), config).double().eval()
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in trained(ours).items():
            theirs[f"base_model.model.{name}.default.weight"].copy_(parameter)
    assert sum(p.requires_grad for p in theirs.values()) == len(trained(ours))
    return model


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_peft_in_any_split(kind: str) -> None:
    model, rows = adapted(kind), rows_of(7)
    loss, weight, grads = reference_step(by_peft(kind, model), rows)
    bound = 1e-10 if kind in ALL_FP64 else 2e-6
    for share in (True, False):
        for budget in (10_000, 40):
            model.zero_grad()
            step = backward_step(model, rows, plan_step(rows, budget, share=share))
            assert step[:2] == (pytest.approx(loss, rel=bound), pytest.approx(weight))
            for name, parameter in trained(model).items():
                expected = grads[f"base_model.model.{name}.default.weight"]
                assert parameter.grad is not None
                difference = (parameter.grad - expected).abs().max() / expected.abs().max()
                assert difference < bound, (name, share, budget)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize(("kind", "changes"), [("lfm2", LFM2), ("qwen3_5_text", {}), ("bloom", {})])
def test_beside_each_other_the_gradient_is_that_of_each_row_alone(
    kind: str, changes: dict[str, Any], bits: int
) -> None:
    model = small_model(kind, **changes)
    if bits:
        quantize_linears(decoder_layers(model), torch.device("cpu"), torch.float32)
    assert prove(model, "x").name == "beside"
    add_adapter(model, RANK, 1)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    loss, _, grads = reference_step(model, ROWS)
    assert set(grads) == set(trained(model))
    for budget in (8, 1000):
        model.zero_grad()
        own_loss, _, _ = backward_step(model, ROWS, plan_for(model, ROWS, budget))
        assert own_loss == pytest.approx(loss, rel=1e-5)
        for name, grad in grads.items():
            own = model.get_parameter(name).grad
            assert (own - grad).abs().max() <= 1e-3 * grad.abs().max() + 1e-6, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_computes_the_same_and_removing_gives_the_base_back(kind: str) -> None:
    base, model = tiny(kind, ours=False), adapted(kind, ours=False)
    before = logits(model)
    assert not torch.allclose(before, logits(base))
    merge_adapter(model)
    names = {name for name, _ in base.named_parameters()}
    assert {name for name, _ in model.named_parameters()} == names
    assert torch.allclose(logits(model), before, atol=1e-5)
    other = adapted(kind, ours=False)
    remove_adapter(other)
    assert torch.equal(logits(other), logits(base))


def test_a_new_adapter_changes_nothing_and_embeddings_and_head_stay_frozen() -> None:
    for kind in KINDS:
        base, model = tiny(kind, ours=False), add_adapter(tiny(kind, ours=False), RANK, 0)
        assert torch.equal(logits(base), logits(model.double()))
        assert {name.rpartition(".")[2] for name in trained(model)} == {"lora_A", "lora_B"}
        layers = base.config.num_hidden_layers
        assert len(trained(model)) % layers == 0


def test_the_base_stays_bit_for_bit_and_is_held_once_in_the_compute_dtype() -> None:
    model = add_adapter(tiny("llama", ours=True, dtype=torch.bfloat16), RANK, 0)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    weights = Replicas(model, torch.float32)
    assert all(piece.dtype == torch.float32 for piece in weights.pieces)
    assert set(weights.names) == set(trained(model))
    optimizer, rows = torch.optim.AdamW(weights.pieces, lr=1e-2), rows_of(3)
    for _ in range(2):
        backward_step(model, rows, plan_step(rows, 10_000))
        optimizer.step()
        optimizer.zero_grad()
        weights.publish()
    now = dict(model.named_parameters())
    assert all(now[n].dtype == torch.bfloat16 and torch.equal(now[n], p) for n, p in frozen.items())
    assert all(bool(p.any()) for p in trained(model).values())


def test_a_frozen_head_forms_no_gradient_of_its_weight() -> None:
    hidden = torch.randn(3, 32, requires_grad=True)
    for learns in (False, True):
        weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32), requires_grad=learns)
        targets, weights = torch.tensor([4, 5, 6]), torch.ones(3)
        total, _ = loss_sum(hidden, Head(weight, None), targets, weights)
        assert total.grad_fn is not None
        _, kept, _ = total.grad_fn.saved_tensors
        assert (kept is not None) == learns
    model = tiny("llama", ours=True, dtype=torch.float32)
    full = needs_of(model, list(model.parameters()), 0)
    add_adapter(model, RANK, 0)
    small = needs_of(model, list(trained(model).values()), 0)
    assert small.moments == 8 * sum(p.numel() for p in trained(model).values())
    head = 4 * VOCABULARY * 32
    frozen = replace(full, frozen_head=True)
    own, without = (
        (needs.peak(10, 5, several=False) - needs.resident) / needs.holes
        for needs in (full, frozen)
    )
    assert own - without == pytest.approx(head, abs=2)
    assert small.frozen_head
    assert not full.frozen_head


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A base folder and a random adapter of it."""
    base = resolve_base(base_folder(tmp_path / "base"))
    for seed in (1, 2):
        model = add_adapter(load_model(base, torch.device("cpu")), RANK, seed)
        torch.manual_seed(seed)
        tensors = {n: torch.randn_like(p) * 0.1 for n, p in trained(model).items()}
        tokens = load_tokenizer(base)
        files = model_files(model, tokens, chat_template="{{ messages }}", stop_ids=[1])
        origin = (str(base.folder), base_text(str(base.folder), weight_sums(base.folder)))
        save_adapter(model, tensors, files, origin, tmp_path / f"run{seed}" / "adapter")
    return tmp_path


def test_peft_and_transformers_load_what_is_saved(saved: Path) -> None:
    folder = saved / "run1" / "adapter"
    ours = load_model(resolve_base(str(saved / "run1")), torch.device("cpu"))
    plain = load_model(resolve_base(str(saved / "base")), torch.device("cpu"))
    plain.set_attn_implementation("sdpa")
    ours.set_attn_implementation("sdpa")
    assert not torch.allclose(logits(plain), logits(ours), atol=1e-3)
    theirs = PeftModel.from_pretrained(plain, folder).eval()
    assert torch.allclose(logits(theirs), logits(ours), atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ messages }}"
    assert not (folder / "config.json").exists()


# Weights that are handed on, a router that is no plain layer, dense layers that are called as
# experts are, a tower whose layers are called as those of the text.
ODD = ("mamba", "jamba", "llama4_text", "deepseek_v3", "qwen3_next", "gemma3")


@pytest.mark.parametrize("kind", ODD)
def test_peft_computes_the_same_on_odd_models(kind: str, tmp_path: Path) -> None:
    model = small_model(kind) if kind != "gemma3" else a_vision_model()
    plain = deepcopy(model)
    add_adapter(model, RANK, 1)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    save_adapter(model, trained(model), {}, ("x", "{}"), tmp_path / "adapter")
    before = logits(plain)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert sum("lora_" in name for name, _ in theirs.named_parameters()) == len(trained(model))
    assert torch.allclose(logits(theirs), logits(model), atol=1e-4)
    assert not torch.allclose(before, logits(model), atol=1e-2)


def a_vision_model() -> Any:
    config = Gemma3Config()
    small = Gemma3Config.from_dict(small_settings(config))
    return twin_of(Gemma3ForConditionalGeneration, small, STOCK)


def test_of_a_vision_model_the_text_is_trained_and_it_is_not_shared_out() -> None:
    model = a_vision_model()
    with pytest.raises(BiddableError, match="of which a part is frozen"):
        refuse_shards(model, "x")
    refuse_shards(model.model.language_model, "x")
    freeze_other_parts(model)
    text = [name for name, _ in model.named_parameters() if "language_model" in name]
    assert list(trained(model)) == text
    assert len(text) < len(list(model.parameters()))


def test_two_adapters_take_turns_on_one_base_in_one_process(saved: Path) -> None:
    alone = [
        load_model(resolve_base(str(saved / run)), torch.device("cpu")) for run in ("run1", "run2")
    ]
    model = load_model(resolve_base(str(saved / "base")), torch.device("cpu"))
    for turn in (0, 1, 0):
        load_adapter(model, saved / f"run{turn + 1}" / "adapter", "it")
        for one in (model, *alone):
            one.set_attn_implementation("sdpa")
        assert torch.equal(logits(model), logits(alone[turn]))
        assert not torch.equal(logits(model), logits(alone[1 - turn]))


def test_an_adapter_is_loaded_on_its_own_base_alone(saved: Path) -> None:
    path = saved / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BiddableError, match=r"model\.safetensors changed") as caught:
        resolve_base(str(saved / "run1"))
    assert caught.value.finding.code == "other_base"
    (saved / "base").rename(saved / "elsewhere")
    with pytest.raises(BiddableError, match=r"of the adapter .* is not there") as caught:
        resolve_base(str(saved / "run1"))
    assert "adapter_base.json" in caught.value.finding.fix


@pytest.mark.parametrize(
    ("key", "value"), [("r", 0), ("r", 8), ("lora_alpha", 3), ("use_dora", True), ("r", "4")]
)
def test_a_changed_record_is_refused(saved: Path, key: str, value: Any) -> None:
    path = saved / "run1" / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(BiddableError, match="is damaged"):
        load_model(resolve_base(str(saved / "run1")), torch.device("cpu"))


@pytest.mark.parametrize("fault", ["missing", "nan", "shape", "cut"])
def test_damaged_tensors_are_refused(saved: Path, fault: str) -> None:
    path = saved / "run1" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if fault == "missing":
        del tensors[name]
    elif fault == "nan":
        tensors[name][0, 0] = float("nan")
    elif fault == "shape":
        tensors[name] = tensors[name][:, :1].clone()
    save_file(tensors, path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BiddableError, match="is damaged"):
        load_model(resolve_base(str(saved / "run1")), torch.device("cpu"))


def test_a_base_that_was_moved_is_named_with_the_place_to_say_where_it_is(saved: Path) -> None:
    (saved / "base").rename(saved / "other")
    with pytest.raises(BiddableError) as caught:
        resolve_base(str(saved / "run1"))
    record = saved / "run1" / "adapter" / "adapter_base.json"
    assert str(record) in caught.value.finding.fix
    text = record.read_text(encoding="utf-8")
    record.write_text(text.replace(str(saved / "base"), str(saved / "other")), encoding="utf-8")
    assert resolve_base(str(saved / "run1")).folder == saved / "other"


def test_an_adapter_that_names_code_or_no_base_is_refused(saved: Path) -> None:
    folder = saved / "run1" / "adapter"
    record = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**record, "auto_map": {"A": "b.C"}}))
    with pytest.raises(BiddableError, match="comes with code"):
        resolve_base(str(saved / "run1"))
    (saved / "run2" / "adapter" / "adapter_base.json").write_text('{"base": 3}')
    with pytest.raises(BiddableError, match="names no base"):
        resolve_base(str(saved / "run2"))
