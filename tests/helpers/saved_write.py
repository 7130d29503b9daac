"""`saved_write.py OUT`: a tiny tuned folder of every architecture, and its answers.

Each folder is written by the product's own code and stands beside EXPECTED, a JSON of ids, rendered
prompt, stop tokens, logits and greedy answer as the model in memory gives them; saved_check.py
holds any version of transformers against it. The settings that version 5 renamed have values here
that are nobody's default, so that a reader who passes over them gives other logits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from biddable.data.conversation import Message
from biddable.encoding.encode import encode_prompt
from biddable.models.model_files import model_files, stop_ids_of
from biddable.models.save import save_model
from biddable.template.template import Template
from folders import rows
from tiny import CONFIGS

EXPECTED = "expected.json"
STEPS = 12
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which colour has the  red cup?\n\n 12 naïve 漢字 🙂"},
]
TEXTS = ["a  b", " leading", "line\n\nbreaks\t", "12345 <|im_end|> x", MESSAGES[1]["content"]]
# Real ones of the families' own: a base whose EOS is not the end of turn, turns that BOS opens.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_EOS = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PRINTS_EOS = "{{ eos_token }}" + CHATML
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 3e4}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "rope_theta": 2e4, "original_max_position_embeddings": 32,
}  # fmt: skip


def plain_rope(theta: float, **more: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **more}


# Name: architecture, template, and what differs from tests/helpers/tiny.py.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", CHATML, {"rope_parameters": plain_rope(77.0)}),
    "llama-llama3": ("llama", WITH_EOS, {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": ("llama", PRINTS_EOS, {"rope_parameters": LINEAR}),
    "llama-yarn": ("llama", CHATML, {"rope_parameters": YARN}),
    "mistral": ("mistral", WITH_EOS, {"rope_parameters": plain_rope(77.0)}),
    "qwen2": ("qwen2", CHATML, {"rope_parameters": plain_rope(77.0)}),
    "qwen3": ("qwen3", CHATML, {"rope_parameters": plain_rope(77.0), "tie_word_embeddings": True}),
    "qwen3-yarn": ("qwen3", CHATML, {"rope_parameters": YARN}),
    "gemma2": ("gemma2", WITH_EOS, {"rope_parameters": plain_rope(77.0)}),
    "gemma3_text": (
        "gemma3_text",
        CHATML,
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 555.0},
                "sliding_attention": plain_rope(77.0),
            }
        },
    ),
    "phi3": ("phi3", CHATML, {"rope_parameters": plain_rope(77.0, partial_rotary_factor=0.5)}),
    "gpt2": ("gpt2", WITH_EOS, {}),
    "gpt_neox": (
        "gpt_neox",
        WITH_EOS,
        {"rope_parameters": plain_rope(77.0, partial_rotary_factor=0.5)},
    ),
    "smollm3": ("smollm3", CHATML, {"rope_parameters": plain_rope(77.0)}),
    "olmo2": ("olmo2", CHATML, {"rope_parameters": LINEAR}),
    "granite": ("granite", CHATML, {"rope_parameters": plain_rope(77.0)}),
}


def a_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE as the family has it: Qwen cuts words its own way, Gemma writes a BOS."""
    special = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>"]
    cut = pre_tokenizers.ByteLevel(add_prefix_space=kind == "gpt_neox")
    if kind == "qwen2":
        split = pre_tokenizers.Split(Regex(QWEN), behavior="isolated", invert=False)
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        cut = pre_tokenizers.Sequence([split, whole])
    core = Tokenizer(models.BPE())
    if kind == "qwen2":
        core.normalizer = normalizers.NFC()
    core.pre_tokenizer, core.decoder = cut, decoders.ByteLevel()
    core.train_from_iterator(
        [" ".join(row.values()) for row in rows()],
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.add_tokens([AddedToken("<tool>", special=False)])
    if kind in ("gemma2", "llama"):
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    pad = {} if kind in ("llama", "gpt2") else {"pad_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_specific_special_tokens={"image_token": "<image>"},
        **pad,
    )


def a_model(kind: str, changes: dict[str, Any], vocabulary: int) -> Any:
    torch.manual_seed(0)
    settings = {**CONFIGS[kind], "eos_token_id": 1, **changes, "vocab_size": vocabulary}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **settings), attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    # What bases bring along, and what must not come back.
    model.generation_config.temperature = 0.3
    model.generation_config.repetition_penalty = 1.5
    model.config.task_specific_params = {"text-generation": {"do_sample": True, "max_length": 9}}
    model.config.auto_map = {"AutoModelForCausalLM": "theirs.Model"}
    return model.eval()


@torch.no_grad()
def greedy(model: Any, ids: list[int], stop_ids: tuple[int, ...]) -> tuple[list[float], list[int]]:
    """Logits after a prompt, and STEPS tokens by whole passes without a cache."""
    first: list[float] = []
    answer: list[int] = []
    while len(answer) < STEPS and not (answer and answer[-1] in stop_ids):
        logits = model(input_ids=torch.tensor([[*ids, *answer]]), use_cache=False).logits[0, -1]
        first = first or logits.tolist()
        answer.append(int(logits.argmax()))
    return first, answer


def write_case(name: str, out: Path) -> None:
    """The folder OUT/NAME/model and what is expected of it."""
    kind, text, changes = CASES[name]
    tokenizer = a_tokenizer(kind)
    model = a_model(kind, changes, len(tokenizer))
    template = Template(text).bound(tokenizer)
    stop_ids = stop_ids_of(model, tokenizer, template)
    files = model_files(model, tokenizer, chat_template=template.text, stop_ids=stop_ids)
    ids = encode_prompt([Message(m["role"], m["content"]) for m in MESSAGES], tokenizer, template)
    logits, answer = greedy(model, ids, stop_ids)
    save_model(model, dict(model.named_parameters()), files, out / name / "model")
    expected = {
        "messages": MESSAGES,
        "prompt": template.render(
            [Message(m["role"], m["content"]) for m in MESSAGES], add_generation_prompt=True
        ),
        "prompt_ids": ids,
        "texts": {text: tokenizer(text).input_ids for text in TEXTS},
        "stop_ids": list(stop_ids),
        "end_of_turn": stop_ids[0],
        "bos": tokenizer.bos_token_id,
        "logits": logits,
        "answer": answer,
        "answer_text": tokenizer.decode(answer, skip_special_tokens=True),
    }
    (out / name / EXPECTED).write_text(json.dumps(expected), encoding="utf-8")


if __name__ == "__main__":
    for case in CASES:
        write_case(case, Path(sys.argv[1]))
