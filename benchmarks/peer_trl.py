"""TRL's side of workloads: `PYTHON benchmarks/peer_trl.py WORKLOAD.json... DTYPE BATCH [free]`.

Runs in an environment of its own and knows nothing of biddable. Tokenised rows go in, so that ids,
labels and order are ours; the learning rates are ours too. Gradient checkpointing is off, AdamW
fused; `free` flattens a device batch instead of padding it (TRL's padding_free). BATCH is a number
of rows, or `tokens=N`: as many as stay within N tokens with padding, halved where memory ends. On
CUDA a workload without weights flattens its batches, through FlashAttention 2: the package where it
is installed, else the kernel that PyTorch brings. With liger-kernel installed it takes its kernels.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer


class Tell(TrainerCallback):  # type: ignore[misc]
    """Prints each step's seconds and loss."""

    def __init__(self, name: str) -> None:
        self.name = name

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = self.now()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        self.seconds = self.now() - self.start

    def on_log(self, _: Any, state: Any, __: Any, logs: Any = None, **___: Any) -> None:
        if "loss" in logs:
            rate, loss = float(logs["learning_rate"]), float(logs["loss"])
            step = {"step": state.global_step, "loss": loss, "seconds": self.seconds}
            line = {"workload": self.name, **step, "learning_rate": rate}
            print(json.dumps(line), flush=True)


def rows_per_batch(work: dict[str, Any], tokens: int) -> int:
    """As many rows as divide a step and stay within so many tokens with padding; one at least."""
    longest = max(len(row["input_ids"]) for row in work["rows"])
    rows = len(work["order"][0])
    while rows > 1 and rows * longest > tokens:
        rows //= 2
    return rows


def flash(
    module: Any, query: Any, key: Any, value: Any, _mask: Any, scaling: float, **batch: Any
) -> tuple[Any, None]:
    """PyTorch's own FlashAttention 2 on a flattened batch: (1, H, T, E) to (1, T, H, E)."""
    from torch.nn.attention.varlen import varlen_attn

    # As transformers does before its own call of the kernel: rotary positions leave fp32.
    half = torch.get_autocast_dtype("cuda") if query.dtype == torch.float32 else query.dtype
    q, k, v = (t[0].transpose(0, 1).to(half).contiguous() for t in (query, key, value))
    gqa = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
    ends, longest = batch["cu_seq_lens_q"], batch["max_length_q"]
    out: Any = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), **gqa
    )
    return out[None], None


def model_of(work: dict[str, Any], attention: str) -> Any:
    """The workload's model; at random, and drawn on the device, where its folder has no weights."""
    dtype = torch.bfloat16 if work.get("lora") and torch.cuda.is_available() else torch.float32
    if any(Path(work["base"]).glob("*.safetensors")):
        return AutoModelForCausalLM.from_pretrained(work["base"], dtype=dtype)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(work["base"])
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def tokenizer_of(folder: str) -> Any:
    """The folder's, or one that only has what the trainer asks for."""
    if (Path(folder) / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def liger() -> bool:
    return torch.cuda.is_available() and find_spec("liger_kernel") is not None


def adapter_of(work: dict[str, Any]) -> Any:
    """PEFT's settings for the adapter that ours trains."""
    from peft import LoraConfig

    return LoraConfig(
        r=work["lora"], lora_alpha=2 * work["lora"], target_modules="all-linear",
        lora_dropout=0.0, task_type="CAUSAL_LM",
    )  # fmt: skip


def train(work: dict[str, Any], dtype: str, batch: int, *, free: bool, attention: str) -> None:
    """Trains the steps of a workload, with ours AdamW and rates; those of an adapter are TRL's."""
    rows = [
        work["rows"][i]
        for step in work["order"]
        for i in sorted(step, key=lambda i: len(work["rows"][i]["input_ids"]))
    ]
    size, steps = len(work["order"][0]), len(work["order"])
    model, optimizers, adapter = model_of(work, attention), (None, None), None
    if work.get("lora"):
        adapter = adapter_of(work)
    else:
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=1.0, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, fused=True
        )
        rates = [*work["rates"], work["rates"][-1]]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[step])
        optimizers = (optimizer, schedule)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=batch,
            gradient_accumulation_steps=size // batch, max_steps=steps, bf16=dtype == "bf16",
            gradient_checkpointing=False, padding_free=free, packing=False, max_length=None,
            use_cpu=not torch.cuda.is_available(), report_to="none", save_strategy="no",
            logging_steps=1, train_sampling_strategy="sequential", disable_tqdm=True,
            max_grad_norm=1.0, seed=0, learning_rate=work["rates"][-1],
            optim="adamw_torch_fused", use_liger_kernel=liger(),
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer_of(work["base"]), peft_config=adapter,
            optimizers=optimizers, callbacks=[Tell(work["name"])],
        )  # fmt: skip
        trainer.train()


def measure(path: str, dtype: str, batch: str, *, free: bool) -> None:
    """One workload; a last line has the peak of memory and what was chosen."""
    work = json.loads(Path(path).read_text(encoding="utf-8"))
    attention = "sdpa"
    if torch.cuda.is_available() and not any(Path(work["base"]).glob("*.safetensors")):
        attention, free = "flash_attention_2" if find_spec("flash_attn") else "torch_varlen", True
        AttentionInterface.register("torch_varlen", flash)
    tokens = int(batch.removeprefix("tokens=")) if batch.startswith("tokens=") else 0
    rows = rows_per_batch(work, tokens) if tokens else int(batch)
    while True:
        try:
            train(work, dtype, rows, free=free, attention=attention)
            break
        except torch.OutOfMemoryError:
            if not tokens or rows == 1:
                raise
            rows //= 2
        gc.collect()
        torch.cuda.empty_cache()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    also = ["flattened"] * free + ["liger"] * liger()
    setting = ", ".join([dtype, f"{rows} rows a pass", attention, *also])
    print(json.dumps({"workload": work["name"], "peak": peak, "setting": setting}), flush=True)


def main() -> None:
    paths = [argument for argument in sys.argv[1:] if argument.endswith(".json")]
    dtype, batch, *others = [argument for argument in sys.argv[1:] if argument not in paths]
    for path in paths:
        measure(path, dtype, batch, free="free" in others)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
