"""TRL's side of a workload: `PYTHON benchmarks/peer_trl.py WORKLOAD.json DTYPE BATCH [free]`.

Runs in an environment of its own and knows nothing of biddable. Tokenised rows go in, so that ids,
labels and order are ours; the learning rates are ours too. Gradient checkpointing is off, AdamW
fused; `free` flattens a device batch instead of padding it (TRL's padding_free).
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Tell(TrainerCallback):  # type: ignore[misc]
    """Prints each step's seconds and loss."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        self.seconds = time.perf_counter() - self.start

    def on_log(self, _: Any, state: Any, __: Any, logs: Any = None, **___: Any) -> None:
        if "loss" in logs:
            told = {"step": state.global_step, "loss": float(logs["loss"]), "seconds": self.seconds}
            print(json.dumps({**told, "learning_rate": float(logs["learning_rate"])}), flush=True)


def adapted(model: Any, rank: int) -> Any:
    """The model under PEFT, with an adapter that starts from the numbers that ours starts from."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    draws = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.kaiming_uniform_(parameter.data, a=math.sqrt(5), generator=draws)
    return model


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dtype, batch, free = sys.argv[2], int(sys.argv[3]), "free" in sys.argv[4:]
    rows = [
        work["rows"][i]
        for step in work["order"]
        for i in sorted(step, key=lambda i: len(work["rows"][i]["input_ids"]))
    ]
    size, steps = len(work["order"][0]), len(work["order"])
    model = AutoModelForCausalLM.from_pretrained(work["base"], dtype=torch.float32)
    if work["lora"]:
        model = adapted(model, work["lora"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=1.0, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, fused=True
    )
    rates = [*work["rates"], work["rates"][-1]]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[step])
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=batch,
            gradient_accumulation_steps=size // batch, max_steps=steps, bf16=dtype == "bf16",
            gradient_checkpointing=False, padding_free=free, packing=False, max_length=None,
            use_cpu=not torch.cuda.is_available(), report_to="none", save_strategy="no",
            logging_steps=1, train_sampling_strategy="sequential", disable_tqdm=True,
            max_grad_norm=1.0, seed=0,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(work["base"]),
            optimizers=(optimizer, schedule), callbacks=[Tell()],
        )  # fmt: skip
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main()
