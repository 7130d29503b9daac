"""W1 to W3 in three sizes, of random token ids: what both sides read, and what they measured."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import median
from typing import Any


def llama(width: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, Any]:
    """A configuration; small families tie their embeddings."""
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": groups, "vocab_size": 128_256, "max_position_embeddings": 8192,
        "tie_word_embeddings": width < 4096, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


# Those of SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B.
SHAPES = {
    "135M": {**llama(576, 1536, 30, 9, 3), "vocab_size": 49_152},
    "1B": llama(2048, 8192, 16, 32, 8),
    "8B": llama(4096, 14_336, 32, 32, 8),
}
TINY = {"tiny": {**llama(64, 96, 2, 4, 2), "vocab_size": 512}}
# All weights of 8 billion would take 144 GB with gradients and moments: an adapter of this rank.
RANKS = {"8B": 16}
# Tokens of the peer's device batch with its padding; it halves them where memory ends.
PEER_TOKENS = {"135M": 32_768, "1B": 16_384, "8B": 8192, "tiny": 512}
# Rows of a step, tokens that all begin with, and the fewest and most of each row's own.
WORK = {"W1": (64, 0, 60, 400), "W2": (64, 600, 12, 40), "W3": (32, 1500, 60, 400)}
TINY_WORK = {"W1": (8, 0, 6, 40), "W2": (8, 60, 4, 9), "W3": (4, 150, 6, 40)}
WARM, COUNTED = 2, 3


def write_workload(name: str, shape: str, folder: Path) -> Path:
    """The file that both sides read; of a row's own tokens the second half is trained."""
    config = {**SHAPES, **TINY}[shape]
    count, shared, least, most = (TINY_WORK if shape in TINY else WORK)[name]
    draw = random.Random(0)

    def tokens(number: int) -> list[int]:
        return [draw.randrange(3, config["vocab_size"]) for _ in range(number)]

    common, rows, steps = tokens(shared), [], WARM + COUNTED
    for _ in range(count * steps):
        question, answer = (tokens(draw.randint(least, most) // 2) for _ in range(2))
        labels = [-100] * (shared + len(question)) + answer
        rows.append({"input_ids": common + question + answer, "labels": labels})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    work = {
        "name": name, "base": str(folder), "rows": rows, "rates": [1e-4] * steps,
        "order": [list(range(s * count, (s + 1) * count)) for s in range(steps)],
        "counted": COUNTED, "lora": RANKS.get(shape, 0),
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(work), encoding="utf-8")
    return path


def result_of(path: Path, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds and speed of the counted steps, and what the side said last: its peak, or a fault.

    `tokens_per_second` counts the tokens of all rows, however many of them a side has to feed.
    """
    work = json.loads(path.read_text(encoding="utf-8"))
    steps = [line for line in lines if "step" in line]
    last = {k: v for line in lines if "step" not in line for k, v in line.items()}
    last.pop("workload", None)
    if len(steps) < WARM + COUNTED:
        return {"fault": "it did not come to its last step", **last}
    counted = steps[-COUNTED:]
    seconds = median(line["seconds"] for line in counted)
    tokens = sum(len(work["rows"][i]["input_ids"]) for s in work["order"][WARM:] for i in s)
    result = {
        "seconds": seconds, "tokens_per_second": tokens / COUNTED / seconds,
        "losses": [line["loss"] for line in steps[-WARM - COUNTED :]], **last,
    }  # fmt: skip
    if "product_rate" in last:
        use = [line["flops"] / line["seconds"] / last["product_rate"] for line in counted]
        result |= {"flop_use": median(use), "fed_tokens": counted[-1]["tokens"]}
    return result
