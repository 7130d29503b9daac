"""The public face. tests/helpers/stub.py writes it from settings.py."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from biddable.commands.check import Checked
from biddable.commands.compare import Comparison
from biddable.commands.each import Adapters
from biddable.commands.export import Exported
from biddable.commands.mine import MinedRows
from biddable.commands.train import Trained
from biddable.data.conversation import Conversation as Conversation
from biddable.data.conversation import Message as Message
from biddable.encoding.encode import Example as Example
from biddable.encoding.encode import encode as encode
from biddable.encoding.encode import encode_prompt as encode_prompt
from biddable.errors import BiddableError as BiddableError
from biddable.errors import Finding as Finding
from biddable.from_scratch.convert import Converted
from biddable.from_scratch.pretrained import Pretrained
from biddable.judging.scorecard import Scorecard as Scorecard
from biddable.judging.verdict import Verdict as Verdict
from biddable.template.template import Template as Template

__version__: str
__all__ = [
    "BiddableError",
    "Conversation",
    "Example",
    "Finding",
    "Message",
    "Scorecard",
    "Speaker",
    "Template",
    "Verdict",
    "chat",
    "check",
    "compare",
    "convert",
    "encode",
    "encode_prompt",
    "export",
    "load",
    "mine",
    "pretrain",
    "serve",
    "train",
    "train_each",
]

# A file or folder, or several; of rows also those in memory.
Paths = str | PathLike[str] | Sequence[str | PathLike[str]]
Rows = str | PathLike[str] | Iterable[str | PathLike[str] | Mapping[str, Any] | Conversation]

class Speaker:
    name: str
    context: int
    trained_system: str | None
    def answer(
        self,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        *,
        system: str | None = None,
        temperature: float = 0.7,
        top_p: float = 1.0,
        max_new_tokens: int = 512,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> str: ...

def load(model: str | PathLike[str], *, device: str = "auto") -> Speaker: ...
def check(
    data: Rows = (),
    *,
    eval: Rows = "",
    map: str = "",
    system: str = "",
    encoding: str = "",
    group_by: str = "",
    max_length: int = 0,
    too_long: Literal["drop", "error"] = "drop",
    loss_on: Literal["assistant", "last", "all"] = "assistant",
    base: str | PathLike[str] = "smollm2",
    template: str | PathLike[str] = "",
    template_arg: str | Sequence[str] = (),
    header: Literal["prompt", "history"] = "prompt",
    seed: int = 0,
    dump: str | PathLike[str] = "",
    fix: str | PathLike[str] = "",
    html: str | PathLike[str] = "",
) -> Checked: ...
def train(
    data: Rows = (),
    *,
    resume: str = "",
    epochs: float = 3.0,
    steps: int = 0,
    batch_size: int = 8,
    batch_tokens: int = 0,
    lr: float = 0.0,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-08,
    early_stop: int = 0,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    seed: int = 0,
    out: str | PathLike[str] = "",
    save_every: int = 0,
    keep: int = 2,
    eval: Rows = "",
    map: str = "",
    system: str = "",
    encoding: str = "",
    group_by: str = "",
    max_length: int = 0,
    too_long: Literal["drop", "error"] = "drop",
    loss_on: Literal["assistant", "last", "all"] = "assistant",
    base: str | PathLike[str] = "smollm2",
    template: str | PathLike[str] = "",
    template_arg: str | Sequence[str] = (),
    header: Literal["prompt", "history"] = "prompt",
    answers: int = 32,
    metric: str = "",
    shard: Literal["auto", "on", "off"] = "auto",
    lora: int = 0,
    top_layers: int = 0,
    base_bits: int = 0,
    report_to: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none",
) -> Trained: ...
def compare(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    *,
    data: Rows = "",
    train: Rows = "",
    map: str = "",
    encoding: str = "",
    system: str = "",
    template: str | PathLike[str] = "",
    answers: int = 32,
    max_new_tokens: int = 0,
    few_shot: int = 0,
    probe_frame: bool = False,
    format: str = "",
    metric: str = "",
    fail_under: str | Sequence[str] = (),
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    html: str | PathLike[str] = "",
    redact: bool = False,
) -> Comparison: ...
def chat(
    model: str | PathLike[str],
    *,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    prompt: str | None = None,
    system: str | None = None,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
) -> None: ...
def convert(
    checkpoint: str | PathLike[str],
    *,
    heads: int = 0,
    tokenizer: str = "gpt2",
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu",
    out: str | PathLike[str] = "",
) -> Converted: ...
def pretrain(
    data: Rows = (),
    *,
    resume: str = "",
    epochs: float = 0.0,
    steps: int = 0,
    batch_size: int = 4,
    batch_tokens: int = 0,
    lr: float = 0.003,
    warmup: float = 0.1,
    weight_decay: float = 0.1,
    clip: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-08,
    early_stop: int = 0,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    seed: int = 0,
    out: str | PathLike[str] = "",
    save_every: int = 0,
    keep: int = 2,
    minutes: float = 3.0,
    tokenizer: str = "",
    vocab: int = 4096,
    shape: Literal["llama", "gpt2"] = "llama",
    width: int = 320,
    layers: int = 2,
    heads: int = 5,
    context: int = 256,
) -> Pretrained: ...
def mine(
    paths: Paths = (),
    *,
    out: str | PathLike[str] = "rows.jsonl",
    kind: str | Sequence[str] = (),
    system: str = "",
    staff: str | Sequence[str] = (),
    mask: bool = False,
    encoding: str = "",
    max_chars: int = 8000,
    commits: int = 1000,
) -> MinedRows: ...
def serve(
    runs: Paths,
    *,
    base: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
) -> None: ...
def train_each(
    data: Rows = (),
    *,
    resume: str = "",
    epochs: float = 3.0,
    steps: int = 0,
    batch_size: int = 8,
    batch_tokens: int = 0,
    lr: float = 0.0,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-08,
    early_stop: int = 0,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto",
    seed: int = 0,
    out: str | PathLike[str] = "",
    save_every: int = 0,
    keep: int = 2,
    eval: str | PathLike[str] = "",
    map: str = "",
    system: str = "",
    encoding: str = "",
    group_by: str = "",
    max_length: int = 0,
    too_long: Literal["drop", "error"] = "drop",
    loss_on: Literal["assistant", "last", "all"] = "assistant",
    base: str | PathLike[str] = "smollm2",
    template: str | PathLike[str] = "",
    template_arg: str | Sequence[str] = (),
    header: Literal["prompt", "history"] = "prompt",
    answers: int = 32,
    metric: str = "",
    shard: Literal["auto", "on", "off"] = "auto",
    lora: int = 0,
    top_layers: int = 0,
    base_bits: int = 0,
    report_to: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none",
) -> Adapters: ...
def export(
    run: str | PathLike[str],
    *,
    to: Literal["gguf", "ollama", "hf", "peft"] = "gguf",
    type: Literal["f32", "f16", "q8_0", "q4_0", ""] = "",
    apart: bool = False,
    system: Literal["bake", "keep"] = "bake",
    answers: int = 32,
    out: str | PathLike[str] = "",
) -> Exported: ...
