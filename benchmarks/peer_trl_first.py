"""TRL's side of `first`: from raw rows to the end of step 1, tokenised by TRL itself.

`PYTHON benchmarks/peer_trl_first.py ROWS.jsonl BASE_FOLDER`
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Tell(TrainerCallback):  # type: ignore[misc]
    """Prints a line at the end of the step."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        print(json.dumps({"step": 1}), flush=True)


def main() -> None:
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    rows = [
        {
            "prompt": [{"role": "user", "content": r["user"]}],
            "completion": [{"role": "assistant", "content": r["assistant"]}],
        }
        for r in map(json.loads, lines)
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=2, gradient_accumulation_steps=4,
            max_steps=1, bf16=False, gradient_checkpointing=False, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
            train_sampling_strategy="group_by_length",
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype="float32")
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(sys.argv[2]), callbacks=[Tell()],
        )  # fmt: skip
        trainer.train()


if __name__ == "__main__":
    main()
