"""Supervised fine-tuning on one page: read, encode, plan, gradient, update, save, ask.

    python examples/minimal_sft.py examples/inbox/train.jsonl runs/minimal

It trains the very weights that `biddable train` trains with the same settings (a test holds that);
the command adds what makes a run safe: checks of the data, held-out rows, a verdict, checkpoints.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from biddable import Conversation, Message, Template, encode, load
from biddable.engine.plan import plan_step
from biddable.engine.precision import load_model
from biddable.engine.step import backward_step
from biddable.models.base import load_tokenizer, resolve_base
from biddable.models.model_files import model_files, stop_ids_of
from biddable.models.save import save_model
from biddable.training.schedule import learning_rate, rows_of_step

ROLES = ("system", "user", "assistant")
EPOCHS, BATCH_SIZE, BATCH_TOKENS, PEAK_RATE, WARMUP, CLIP, SEED = 3, 8, 4096, 2e-4, 0.1, 1.0, 0


def read(path: str) -> list[Conversation]:
    """One conversation a line: {"system": ..., "user": ..., "assistant": ...}."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [Conversation([Message(r, row[r]) for r in ROLES if r in row]) for row in rows]


def minimal_sft(data: str, out: str, base_name: str = "smollm2") -> None:
    """Tunes all weights of the base on the rows and saves an ordinary Hugging Face folder."""
    base = resolve_base(base_name)
    tokenizer = load_tokenizer(base)
    template = Template.of(tokenizer)

    # An example is `input_ids` and `weights`: 1 for the tokens of an answer and its end, else 0.
    examples = [e for row in read(data) for e in encode(row, tokenizer, template)]

    model = load_model(base, torch.device("cpu"))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    steps = -(-len(examples) * EPOCHS // BATCH_SIZE)
    for step in range(1, steps + 1):
        batch = [examples[i] for i in rows_of_step(step, len(examples), BATCH_SIZE, SEED)]
        # The plan feeds a prefix that several examples share once, and no padding.
        plan = plan_step(batch, BATCH_TOKENS)
        # The gradient of sum(weight * cross-entropy), divided once by the weights of the step.
        loss, weight, _ = backward_step(model, batch, plan)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / weight
        torch._foreach_mul_(gradients, min(1.0, CLIP / (norm + 1e-6)) / weight)
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, PEAK_RATE, WARMUP)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} of {steps}: loss {loss / weight:.3f}")

    # The folder carries the template and the stop tokens of training.
    stops = stop_ids_of(model, tokenizer, template)
    files = model_files(model, tokenizer, chat_template=template.text, stop_ids=stops)
    save_model(model, dict(model.named_parameters()), files, Path(out))


if __name__ == "__main__":
    minimal_sft(*sys.argv[1:])
    first = read(sys.argv[1])[0].messages[:-1]
    print(load(sys.argv[2]).answer(first, temperature=0))
