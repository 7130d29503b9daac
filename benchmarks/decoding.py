"""Greedy answers to held-out prompts: ours, as judging makes them, against `generate`.

    python benchmarks/decoding.py MODEL [MODEL ...] --data examples/inbox/heldout.jsonl --count 64

Ours feeds each row once, for the losses on its reference answer, which judging needs in any case,
and for the answer; these losses alone are measured too. Prints the wall and processor seconds of
ours and of transformers' `generate` at each batch size, and how many answers are equal, and adds a
line to benchmarks/results. With OMP_NUM_THREADS=1 the processor seconds can be compared on a busy
machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from biddable.data.readers import read
from biddable.encoding.encode import encode, stop_token_ids
from biddable.engine.precision import choose_device, load_model
from biddable.generation.batch import BATCH_TOKENS
from biddable.generation.generate import generate
from biddable.judging.judge import answer_limit, make_questions, reference_places
from biddable.models.base import load_tokenizer, resolve_base
from biddable.template.template import Template
from biddable.training.evaluate import token_losses


def theirs(
    model: Any, prompts: list[list[int]], stops: list[int], limit: int, batch: int
) -> list[list[int]]:
    """transformers' greedy answers without stop tokens; equal lengths side by side, as is best."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        width = max(len(prompts[i]) for i in indices)
        ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in indices])
        mask = torch.tensor(
            [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in indices]
        )
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device),
                do_sample=False, max_new_tokens=limit, eos_token_id=stops, pad_token_id=stops[0],
            )  # fmt: skip
        for i, row in zip(indices, out[:, width:].tolist(), strict=True):
            end = next((n for n, token in enumerate(row) if token in stops), len(row))
            answers[i] = row[:end]
    return answers


def clocks() -> tuple[float, float]:
    """(wall, processor) seconds; of the second, other work on the machine takes little."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> list[float]:
    """Wall and processor seconds since then."""
    return [b - a for a, b in zip(start, clocks(), strict=True)]


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One model: the seconds of each repeat, ours and the peer's in turn, and how many agree."""
    base = resolve_base(name)
    tokenizer = load_tokenizer(base)
    template = Template.of(tokenizer)
    conversations = read(args.data).conversations[: args.count]
    questions = make_questions(conversations, tokenizer, template, most=args.count)
    rows = [example for c in conversations for example in encode(c, tokenizer, template)]
    places = reference_places(questions, rows, [row.input_ids for row in rows])
    references = [None if i is None else rows[i] for i in places]
    prompts = [list(q.prompt) for q in questions]
    stops, limit = list(stop_token_ids(tokenizer, template)), answer_limit(questions)
    device = choose_device(args.device)
    model = load_model(base, device)
    other = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).to(device)
    times: dict[str, Any] = {"losses": [], "ours": [], **{str(b): [] for b in args.batches}}
    equal = len(prompts)
    for _ in range(args.repeat):
        start = clocks()
        token_losses(model, rows, BATCH_TOKENS)
        times["losses"].append(since(start))
        start = clocks()
        ours = generate(model, prompts, stop_ids=stops, max_new_tokens=limit, references=references)
        times["ours"].append(since(start))
        print(f"{name}: {len(prompts)} prompts, at most {limit} tokens: ours {times['ours'][-1]}")
        print(f"  losses alone {times['losses'][-1]}")
        for batch in args.batches:
            start = clocks()
            given = theirs(other, prompts, stops, limit, batch)
            times[str(batch)].append(since(start))
            same = sum(list(a.ids) == b for a, b in zip(ours, given, strict=True))
            equal = min(equal, same)
            print(
                f"  transformers, batch {batch}: {times[str(batch)][-1]}, {same} equal", flush=True
            )
    return {"seconds": times, "prompts": len(prompts), "equal": equal}


def summary(models: list[dict[str, Any]], clock: int) -> dict[str, Any]:
    """All models together by one clock: medians, and the ratio to the peer's best batch."""
    total = {
        side: sum(median(s[clock] for s in m["seconds"][side]) for m in models)
        for side in models[0]["seconds"]
    }
    losses, ours = total.pop("losses"), total.pop("ours")
    best = min(total, key=total.__getitem__)
    return {
        "ratio": ours / total[best], "ratio_beyond_losses": (ours - losses) / total[best],
        "our_seconds": ours, "loss_seconds": losses, "peer_seconds": total[best],
        "peer_batch": int(best),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    models = [compare(name, args) for name in args.models]
    line = {
        "workload": "decoding", **{k: sum(m[k] for m in models) for k in ("prompts", "equal")},
        "wall": summary(models, 0), "processor": summary(models, 1),
        "repeats": args.repeat, "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0], "peer_tried": [m["seconds"] for m in models],
        "date": f"{date.today():%Y-%m-%d}", "torch": torch.__version__,
        "transformers": transformers.__version__, "command": " ".join(sys.argv),
    }  # fmt: skip
    print(json.dumps(line))
    with (args.results / f"{line['date']}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
