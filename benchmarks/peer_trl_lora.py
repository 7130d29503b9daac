"""TRL's side of W6: from raw rows to a saved adapter, tokenised by TRL itself.

`PYTHON benchmarks/peer_trl_lora.py ROWS.jsonl BASE_FOLDER OUT RANK STEPS BATCH ACCUMULATE`
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    rows, base, out = sys.argv[1:4]
    rank, steps, batch, accumulate = map(int, sys.argv[4:8])
    examples = [
        {
            "prompt": [
                {"role": "system", "content": r["system"]},
                {"role": "user", "content": r["user"]},
            ],
            "completion": [{"role": "assistant", "content": r["assistant"]}],
        }
        for r in map(json.loads, Path(rows).read_text(encoding="utf-8").splitlines())
    ]
    cpu = not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate, max_steps=steps, bf16=not cpu, use_cpu=cpu,
            gradient_checkpointing=False, learning_rate=2e-3, warmup_steps=2,
            lr_scheduler_type="cosine", report_to="none", save_strategy="no", disable_tqdm=True,
            optim="adamw_torch_fused", train_sampling_strategy="group_by_length",
        )  # fmt: skip
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype="float32"), args=config,
            train_dataset=Dataset.from_list(examples),
            processing_class=AutoTokenizer.from_pretrained(base),
            peft_config=LoraConfig(
                r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )  # fmt: skip
        trainer.train()
        trainer.save_model(out)


if __name__ == "__main__":
    main()
