"""Values for the records of settings.py: checked by name, kind and range, from config.toml too."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import Field, asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tomli_w

from biddable.errors import BiddableError, did_you_mean
from biddable.settings import (
    FULL_LR,
    LORA_LR,
    MOST,
    MOST_SEED,
    TOP_LR,
    TRACKERS,
    FitSettings,
    Settings,
)
from biddable.storage import write_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)

# An option of one name has the same values, names and place in the help in every command.
CHOICES = {
    "too_long": ("drop", "error"),
    "loss_on": ("assistant", "last", "all"),
    "header": ("prompt", "history"),
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cuda", "mps", "cpu"),
    "shard": ("auto", "on", "off"),
    "report_to": ("none", *TRACKERS),
    "shape": ("llama", "gpt2"),
    "activation": ("gelu", "gelu_new", "relu"),
    "to": ("gguf", "ollama", "hf", "peft"),
    "type": ("f32", "f16", "q8_0", "q4_0"),
}
# The smallest and the largest accepted number; an option without an entry takes any count.
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (0, 1e5), "batch_size": (1, MOST), "lr": (0, 1), "warmup": (0, 1),
    "weight_decay": (0, 100), "beta1": (0, 0.999999), "beta2": (0, 0.999999), "eps": (1e-30, 1),
    "seed": (0, MOST_SEED), "keep": (1, MOST), "minutes": (0, 1e6), "vocab": (1, 2**20),
    "width": (1, 2**16), "layers": (1, 1000), "context": (2, 2**20), "temperature": (0, 100),
    "top_p": (1e-6, 1), "port": (0, 65535),
}  # fmt: skip
ALIASES = {
    "base": ("--model", "--model-name-or-path"),
    "eval": ("--eval-file", "--validation-file"),
    "max_length": ("--max-seq-length", "--max-seq-len"),
    "template": ("--chat-template",),
    "epochs": ("--num-train-epochs", "--num-epochs"),
    "steps": ("--max-steps",),
    "batch_size": ("--train-batch-size",),
    "lr": ("--learning-rate",),
    "warmup": ("--warmup-ratio",),
    "clip": ("--max-grad-norm",),
    "beta1": ("--adam-beta1",),
    "beta2": ("--adam-beta2",),
    "eps": ("--adam-epsilon",),
    "early_stop": ("--early-stopping-patience",),
    "precision": ("--dtype",),
    "out": ("--output-dir", "--output"),
    "save_every": ("--save-steps",),
    "keep": ("--save-total-limit",),
    "system": ("-s", "--system-prompt"),
    "prompt": ("-p",),
    "temperature": ("-t",),
    "max_new_tokens": ("--max-tokens",),
}
# The headings of the help, each with its options; all others stand under "training".
GROUPS = {
    "data": (
        "data", "eval", "train", "checkpoint", "prompt", "map", "system", "encoding", "group_by",
        "max_length", "too_long", "loss_on", "paths", "kind", "staff", "mask", "max_chars",
        "commits",
    ),
    "model": (
        "base", "tuned", "model", "run", "runs", "template", "template_arg", "header", "tokenizer",
        "vocab", "shape", "width", "layers", "heads", "context", "activation", "weights",
    ),
    "training": (),
    "answers": ("temperature", "top_p", "max_new_tokens", "stop"),
    "judging": ("answers", "few_shot", "probe_frame", "format", "metric", "fail_under"),
    "machine": ("device", "precision", "batch_tokens", "shard", "host", "port", "seed"),
    "output": (
        "out", "to", "type", "apart", "save_every", "keep", "report_to", "dump", "fix",
        "html", "redact", "show", "line", "worst", "strict", "json",
    ),
}  # fmt: skip


# Options that each say how long to train; the first that is not 0 decides.
LENGTHS = ("steps", "epochs", "minutes")


def refuse_two_lengths(options: Mapping[str, Any]) -> None:
    """Refuses options that each say how long to train; a config.toml holds them all."""
    lengths = [f"--{name}" for name in LENGTHS if options.get(name)]
    if len(lengths) > 1:
        what = f"{' and '.join(lengths)} each say how long to train"
        raise BiddableError("option", what, "give one of them")


def with_values(settings: Record, values: Mapping[str, Any]) -> Record:
    """The settings with these values, each checked against its field's type and range.

    Raises:
        BiddableError: `option`, there is no such setting, or a value is of another kind, out of
            range, or contradicts another.
    """
    changed = replace(settings, **checked_values(type(settings), values))
    if isinstance(changed, Settings):
        _refuse_contradictions(changed)
    return changed


def _refuse_contradictions(settings: Settings) -> None:
    """Raises `option` where two settings of `train` exclude each other."""
    # `pretrain` may leave both 0: then --minutes says how long the run is.
    if settings.steps == 0 and settings.epochs == 0:
        raise _bad_value("epochs", 0, "more than 0, or give --steps")
    if settings.lora and settings.shard == "on":
        raise _bad_value("shard", "on", "auto or off with --lora: each rank holds the whole base")
    if settings.lora and settings.top_layers:
        wanted = "0 with --top-layers, which trains the layers themselves"
        raise _bad_value("lora", settings.lora, wanted)
    if settings.top_layers and settings.shard == "on":
        raise _bad_value("shard", "on", "auto or off with --top-layers")
    if settings.base_bits not in (0, 4):
        raise _bad_value("base_bits", settings.base_bits, "4, or left out")
    if settings.base_bits and not settings.lora:
        wanted = "given with --lora RANK: such weights are not trained"
        raise _bad_value("base_bits", settings.base_bits, wanted)


def checked_values(kind: type[DataclassInstance], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in the types of a record's fields: a path becomes a text, one text a tuple."""
    known = {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            hint = did_you_mean(name, names_of(kind))
            fix = f"the options are {', '.join(known)}"
            raise BiddableError("option", f"there is no option {name}{hint}", fix)
    return {name: _checked(known[name], value) for name, value in values.items()}


def names_of(kind: type[DataclassInstance]) -> dict[str, str]:
    """The field behind each name of an option, aliases included."""
    names = {f.name: f.name for f in fields(kind)}
    also = {n.lstrip("-").replace("-", "_"): f for f in names for n in ALIASES.get(f, ())}
    return also | names


def choices_of(f: Field[Any]) -> tuple[str, ...]:
    """The accepted values of an option that has a fixed set of them."""
    values: tuple[str, ...] = f.metadata.get("choices") or CHOICES.get(f.name, ())
    return values


def range_of(f: Field[Any]) -> tuple[float, float]:
    """The smallest and the largest accepted number of an option."""
    bounds: tuple[float, float] = f.metadata.get("within") or RANGES.get(f.name, (0, MOST))
    return bounds


def read_config(path: str, kind: type[DataclassInstance] = Settings) -> dict[str, Any]:
    """The settings in a TOML file, checked as those of a command.

    Raises:
        BiddableError: `config`, the file is missing, is no TOML, or has an unknown or bad value.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return checked_values(kind, values)
    except OSError as error:
        raise _bad_config(path, f"it cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad_config(path, f"it is not TOML: {error}") from error
    except BiddableError as error:
        raise _bad_config(path, f"{error.finding.message}; {error.finding.fix}") from error


def what_learns(options: Mapping[str, Any]) -> tuple[str, float]:
    """What a run with these options trains, and its peak learning rate on the packaged base."""
    if options.get("lora"):
        return "an adapter", LORA_LR
    if options.get("top_layers"):
        return "the top layers", TOP_LR
    return "all weights", FULL_LR


def refuse_other_rate(config: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Refuses to take the learning rate of a run that trains something else.

    An adapter learns almost nothing at the rate of all weights, and its rate breaks them.

    Args:
        config: the settings of a file; chosen: those beside it.

    Raises:
        BiddableError: `option`.
    """
    both = [k for k in ("lora", "top_layers") if k in config and k in chosen]
    if "lr" in chosen or not config.get("lr") or not both:
        return
    (before, _), (now, _) = what_learns(config), what_learns({**config, **chosen})
    if before != now:
        what = f"the --config has --lr {config['lr']:g} for {before}, and this is {now}"
        fix = f"give --lr too; --lr 0 takes the default for {now}"
        raise BiddableError("option", what, fix)


def write_config(settings: FitSettings, path: Path) -> None:
    """Writes the settings as TOML that `train --config` reads back to the same settings; without
    the learning rate, where none is chosen."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    if not settings.lr:
        del values["lr"]
    write_whole(path, tomli_w.dumps(values))


def _checked(f: Field[Any], value: Any) -> Any:
    kind, choices = type(f.default), choices_of(f)
    if kind is tuple:
        return tuple(_place(f, text) for text in _texts(f.name, value))
    if kind is bool and not isinstance(value, bool):
        raise _bad_value(f.name, value, "true or false")
    if kind in (int, float):
        return _number(f, value)
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if kind is not bool and not isinstance(text, str) and text is not f.default:
        raise _bad_value(f.name, value, "a text")
    if choices and text not in choices:
        hint = did_you_mean(text, choices)
        raise _bad_value(f.name, value, f"one of {', '.join(choices)}{hint}")
    return _place(f, text) if isinstance(text, str) else text


def _place(f: Field[Any], text: str) -> str:
    """A path with its ~ written out: a shell leaves that of `--base=~/model` as it is."""
    home = f.metadata.get("file") and text.startswith("~/")
    return str(Path(text).expanduser()) if home else text


def _texts(name: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else (value,)
    texts = tuple(os.fspath(v) if isinstance(v, os.PathLike) else v for v in values)
    if not all(isinstance(text, str) for text in texts):
        raise _bad_value(name, value, "a text or a list of texts")
    return texts


def _number(f: Field[Any], value: Any) -> int | float:
    """A number within the field's range; a whole one where its default is one."""
    low, high = range_of(f)
    is_count = isinstance(f.default, int)
    number = isinstance(value, int if is_count else int | float) and not isinstance(value, bool)
    # NaN is within no bounds.
    if not (number and low <= value <= high):
        wanted = "a whole number" if is_count else "a number"
        raise _bad_value(f.name, value, f"{wanted} from {low:g} to {high:g}")
    return int(value) if is_count else float(value)


def _bad_config(path: str, why: str) -> BiddableError:
    fix = "compare it with the config.toml of a run folder"
    return BiddableError("config", f"the config {path} cannot be used: {why}", fix)


def _bad_value(name: str, value: Any, wanted: str) -> BiddableError:
    option = "--" + name.replace("_", "-")
    return BiddableError("option", f"{option} is {value!r}", f"it has to be {wanted}")
