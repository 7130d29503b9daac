"""Models that cannot be fed flat: proven beside each other, and decoded as transformers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import folders
from biddable.commands.train import train
from biddable.engine.beside import is_flat, relies_on_kept
from biddable.engine.proof import prove
from biddable.engine.step import backward_step, plan_for
from biddable.errors import BiddableError
from biddable.generation.batch import Batch
from biddable.generation.generate import generate
from biddable.generation.speaker import load
from biddable.training.evaluate import token_losses
from tiny import LFM2, Row, reference_step, small_model

ROWS = [
    Row([5, 9, 11, 3, 40, 22, 8], [0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 1.0]),
    Row([7, 9, 11], [0.0, 0.0, 2.0]),
    Row([50, 51, 52, 53, 54, 4, 4, 4, 4, 6, 90], [0.0] * 9 + [1.0, 1.0]),
]


@pytest.mark.parametrize(("kind", "changes"), [("lfm2", LFM2), ("qwen3_5_text", {}), ("bloom", {})])
def test_a_model_that_mixes_outside_of_our_attention_is_fed_beside(
    kind: str, changes: dict[str, Any]
) -> None:
    model = small_model(kind, **changes)
    proof = prove(model, "x")
    assert (proof.name, proof.prefixes, is_flat(model)) == ("beside", False, False)
    loss, weight, grads = reference_step(model, ROWS)
    for budget in (8, 1000):
        model.zero_grad()
        plan = plan_for(model, ROWS, budget)
        assert not plan.prefixes
        got_loss, got_weight, _ = backward_step(model, ROWS, plan)
        assert got_loss == pytest.approx(loss, rel=1e-5)
        assert got_weight == pytest.approx(weight)
        for name, grad in grads.items():
            own = model.get_parameter(name).grad
            assert (own - grad).abs().max() <= 1e-3 * grad.abs().max() + 1e-6, name


# What they keep of earlier tokens has another name, is not enough to go on from, or is nothing.
KEPT = {"lfm2": True, "mamba": True, "rwkv": False, "openai-gpt": False}


@pytest.mark.parametrize("kind", KEPT)
def test_its_answers_are_those_of_transformers(kind: str) -> None:
    model = small_model(kind, **(LFM2 if kind == "lfm2" else {}))
    assert prove(model, "x").name == "beside"
    assert relies_on_kept(model) == KEPT[kind]
    prompts = [[5, 9, 11], [7, 8, 3], [4, 4, 6, 90, 12, 13], [5, 9, 11, 60]]
    answers = generate(model, prompts, stop_ids={2}, max_new_tokens=12)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert list(answer.ids) == greedy(model, prompt, 12)
    # Each behind two of its own tokens, which the losses tell where the head is sure of them.
    with torch.no_grad():
        model.get_output_embeddings().weight *= 30
    answers = generate(model, prompts, stop_ids={2}, max_new_tokens=12)
    rows = [
        Row([*p, *a.ids[:2], 9], [0.0] * len(p) + [1.0] * (len(a.ids[:2]) + 1))
        for p, a in zip(prompts, answers, strict=True)
    ]
    again = generate(model, prompts, stop_ids={2}, max_new_tokens=12, references=rows)
    assert again == answers
    for answer, (losses, _) in zip(again, token_losses(model, rows, 64), strict=True):
        assert answer.losses == pytest.approx(losses.tolist(), abs=1e-4)
    known = Batch(model).join(prompts, range(4), rows)
    assert sum(len(what.start) for what in known) > 2


class _Forgetful(LlamaForCausalLM):
    """It takes no positions, and what it keeps of earlier tokens is not what they were."""

    def forward(self, input_ids: Any, past_key_values: Any = None, use_cache: Any = None) -> Any:
        embeddings = self.get_input_embeddings()(input_ids)
        if past_key_values is not None:
            embeddings = 1.5 * embeddings
        fed = {"past_key_values": past_key_values, "use_cache": use_cache}
        return super().forward(inputs_embeds=embeddings, **fed)


def test_what_a_model_keeps_is_relied_on_only_where_it_stands_for_the_tokens() -> None:
    plain = small_model("llama")
    model = _Forgetful(plain.config)
    model.load_state_dict(plain.state_dict())
    assert prove(model.eval(), "x").name == "beside"
    prompt = [5, 9, 11]
    (answer,) = generate(model, [prompt], stop_ids={2}, max_new_tokens=12)
    assert list(answer.ids) == greedy(model, prompt, 12)


def greedy(model: Any, prompt: list[int], most: int) -> list[int]:
    """The answer to a prompt, all of which is fed anew for each token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + most:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        if (token := int(logits.argmax())) == 2:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_what_is_not_causal_is_refused() -> None:
    with pytest.raises(BiddableError) as caught:
        prove(small_model("bert", is_decoder=False), "x")
    assert caught.value.finding.code == "not_proven"


def test_such_a_base_goes_from_train_to_answers(tmp_path: Path) -> None:
    words = folders.tokenizer()
    model = small_model("lfm2", **LFM2, vocab_size=len(words), max_position_embeddings=256)
    model.save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    data = folders.write_jsonl(tmp_path / "data.jsonl", folders.rows(40))
    trained = train(data, base=str(tmp_path / "base"), out=str(tmp_path / "run"), steps=3)
    assert trained.as_json()["path"]["name"] == "beside"
    path = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))["path"]
    assert (path["name"], path["prefixes"]) == ("beside", False)
    assert isinstance(load(tmp_path / "run").answer("Which color?", max_new_tokens=4), str)
