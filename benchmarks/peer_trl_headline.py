"""TRL's side of the headline: how right its answers are on the way, from raw rows on.

`PYTHON benchmarks/peer_trl_headline.py TRAIN HELD BASE RATE STEPS EVERY BATCH SEED STARTED`

Eight rows a step, tokenised by TRL itself. After every EVERY steps a line of JSON: the share of
the held-out rows whose greedy answer is the reference, and the seconds since STARTED, the clock
when the process was started, without those that went into these answers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

ROWS_PER_STEP = 8


def rows_of(path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def prompt(row: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["user"]}]


class Watch(TrainerCallback):  # type: ignore[misc]
    """Answers the held-out rows after every so many steps."""

    def __init__(
        self, tokenizer: Any, held: list[dict[str, str]], every: int, started: float
    ) -> None:
        self.tokenizer, self.held, self.every, self.started = tokenizer, held, every, started
        self.answering = 0.0

    def on_step_end(self, _: Any, state: Any, __: Any, model: Any = None, **___: Any) -> None:
        seconds = time.time() - self.started - self.answering
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        start = time.perf_counter()
        line = {"step": state.global_step, "accuracy": self.accuracy(model), "seconds": seconds}
        print(json.dumps(line), flush=True)
        self.answering += time.perf_counter() - start

    @torch.no_grad()
    def accuracy(self, model: Any) -> float:
        texts = [
            self.tokenizer.apply_chat_template(
                prompt(row), tokenize=False, add_generation_prompt=True
            )
            for row in self.held
        ]
        self.tokenizer.padding_side = "left"
        fed = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        longest = max(len(self.tokenizer(r["assistant"])["input_ids"]) for r in self.held)
        model.eval()
        answers = model.generate(**fed, max_new_tokens=longest * 5 // 4 + 1, do_sample=False)
        model.train()
        new = answers[:, fed["input_ids"].shape[1] :]
        written = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        pairs = zip(written, self.held, strict=True)
        return sum(a.strip() == row["assistant"].strip() for a, row in pairs) / len(self.held)


def main() -> None:
    train, held, base, rate, *numbers = sys.argv[1:]
    steps, every, batch, seed = map(int, numbers[:4])
    torch.manual_seed(seed)
    rows = [
        {"prompt": prompt(r), "completion": [{"role": "assistant", "content": r["assistant"]}]}
        for r in rows_of(train)
    ]
    tokenizer = AutoTokenizer.from_pretrained(base)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=batch,
            gradient_accumulation_steps=ROWS_PER_STEP // batch, max_steps=steps, bf16=False,
            use_cpu=True, gradient_checkpointing=False, learning_rate=float(rate),
            warmup_steps=max(1, round(steps / 10)), lr_scheduler_type="cosine", adam_beta2=0.99,
            report_to="none", save_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
            seed=seed,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype="float32"), args=config,
            train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            callbacks=[Watch(tokenizer, rows_of(held), every, float(numbers[4]))],
        )  # fmt: skip
        trainer.train()


if __name__ == "__main__":
    main()
