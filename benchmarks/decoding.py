"""Greedy answers to held-out prompts: ours against transformers' `generate`.

    python benchmarks/decoding.py MODEL [MODEL ...] --data examples/tool-library/heldout.jsonl \
        examples/tool-library/train.jsonl --count 64

Prints seconds of ours, of transformers at each batch size, and how many answers are equal.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from biddable.data.readers import read
from biddable.dialogue.encode import stop_token_ids
from biddable.dialogue.template import Template
from biddable.engine.precision import choose_device, load_model
from biddable.judging.generate import generate
from biddable.judging.judge import answer_limit, ask
from biddable.models.base import load_tokenizer, resolve_base


def theirs(
    model: Any, prompts: list[list[int]], stops: list[int], limit: int, batch: int
) -> list[list[int]]:
    """transformers' greedy answers without stop tokens; equal lengths side by side, as is best."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        width = max(len(prompts[i]) for i in some)
        ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in some])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in some])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device),
                do_sample=False, max_new_tokens=limit, eos_token_id=stops, pad_token_id=stops[0],
            )  # fmt: skip
        for i, row in zip(some, out[:, width:].tolist(), strict=True):
            end = next((n for n, token in enumerate(row) if token in stops), len(row))
            answers[i] = row[:end]
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = choose_device(args.device)
    total, best = 0.0, dict.fromkeys(args.batches, 0.0)
    for name in args.models:
        base = resolve_base(name)
        tokenizer = load_tokenizer(base)
        template = Template.of(tokenizer)
        conversations = read(args.data).conversations
        questions = ask(conversations, tokenizer, template, most=args.count)
        prompts = [list(q.prompt) for q in questions]
        stops, limit = list(stop_token_ids(tokenizer, template)), answer_limit(questions)
        model = load_model(base, device)
        start = time.perf_counter()
        ours = generate(model, prompts, stop_ids=stops, max_new_tokens=limit)
        total += (seconds := time.perf_counter() - start)
        print(f"{name}: {len(prompts)} prompts, at most {limit} tokens: ours {seconds:.1f} s")
        del model
        other = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).to(device)
        for batch in args.batches:
            start = time.perf_counter()
            found = theirs(other, prompts, stops, limit, batch)
            best[batch] += (seconds := time.perf_counter() - start)
            equal = sum(list(a.ids) == b for a, b in zip(ours, found, strict=True))
            print(f"  transformers, batch {batch:3d}: {seconds:.1f} s, {equal} answers equal")
        del other
    batch = min(best, key=best.__getitem__)
    print(f"all: ours {total:.1f} s, transformers {best[batch]:.1f} s (batch {batch}): "
          f"{total / best[batch]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
