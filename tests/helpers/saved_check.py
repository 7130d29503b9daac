"""`saved_check.py OUT`: the folders of saved_write.py in whichever transformers runs.

Needs no biddable: run with the Python of another environment (`make compat`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

# fp32 sums in another order; a rotary angle that is wrong changes logits by more than 1e-2.
TOLERANCE = 1e-4


def check(folder: Path) -> dict[str, float]:
    """Holds a folder against what is expected of it.

    Raises:
        AssertionError: the version of transformers reads it otherwise.
    """
    want = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    model_folder = str(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model, loading = AutoModelForCausalLM.from_pretrained(
        model_folder, attn_implementation="eager", output_loading_info=True
    )
    assert not any(loading[name] for name in ("missing_keys", "unexpected_keys")), loading
    check_tokenizer(tokenizer, want)
    check_settings(model, tokenizer, want)
    ids = torch.tensor([want["prompt_ids"]])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, use_cache=False).logits[0, -1]
    error = (logits - torch.tensor(want["logits"])).abs().max().item()
    assert error <= TOLERANCE, f"logits differ by {error}"
    check_answers(model, tokenizer, want)
    return {"logits": error}


def check_tokenizer(tokenizer: Any, want: dict[str, Any]) -> None:
    """Ids, the rendered template, and the two together."""
    for text, ids in want["texts"].items():
        assert tokenizer(text).input_ids == ids, f"other ids for {text!r}"
    chat = {"conversation": want["messages"], "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(**chat, tokenize=False) == want["prompt"]
    encoded = tokenizer.apply_chat_template(**chat, return_dict=True)
    assert encoded["input_ids"] == want["prompt_ids"], "other ids for the prompt"


def check_settings(model: Any, tokenizer: Any, want: dict[str, Any]) -> None:
    """The end of turn is the EOS everywhere; nothing samples; there is a pad token."""
    settings = model.generation_config
    assert settings.eos_token_id == want["stop_ids"], settings.eos_token_id
    assert model.config.eos_token_id == want["end_of_turn"], model.config.eos_token_id
    assert tokenizer.eos_token_id == want["end_of_turn"], tokenizer.eos_token
    assert tokenizer.bos_token_id == model.config.bos_token_id == want["bos"]
    assert settings.pad_token_id == tokenizer.pad_token_id not in (None, want["end_of_turn"])
    assert not settings.do_sample
    defaults = {"temperature": (None, 1.0), "repetition_penalty": (None, 1.0)}
    for name, neutral in defaults.items():
        assert getattr(settings, name) in neutral, f"{name} is {getattr(settings, name)}"
    assert not getattr(model.config, "task_specific_params", None)
    assert not hasattr(model.config, "auto_map")


def check_answers(model: Any, tokenizer: Any, want: dict[str, Any]) -> None:
    """The greedy answer by `generate` with its cache, alone and padded beside a longer prompt."""
    ids = want["prompt_ids"]
    chat = {"conversation": want["messages"], "add_generation_prompt": True}
    alone = tokenizer.apply_chat_template(**chat, return_dict=True, return_tensors="pt")
    longest = {"max_new_tokens": 12}
    answer = model.generate(**alone, **longest)
    assert answer[0, len(ids) :].tolist() == want["answer"], "another greedy answer"
    text = tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True)
    assert text == want["answer_text"], f"{text!r}, not {want['answer_text']!r}"
    tokenizer.padding_side = "left"
    beside = tokenizer.pad({"input_ids": [ids, [*ids, *ids[1:4]]]}, return_tensors="pt")
    batch = model.generate(**beside, **longest)[0, beside["input_ids"].shape[1] :].tolist()
    assert batch[: len(want["answer"])] == want["answer"], "another answer beside a longer prompt"


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    failed = 0
    for place in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
        try:
            print(f"{place.name:16} same; logits within {check(place)['logits']:.1e}")
        except Exception as fault:
            failed += 1
            print(f"{place.name:16} FAILED: {type(fault).__name__}: {fault}")
    sys.exit(bool(failed))
