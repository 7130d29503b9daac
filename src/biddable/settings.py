"""The settings of a run: one frozen record a verb, from which command line and config.toml come.

Every default is measured; docs/defaults.md says on what.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from biddable.errors import BiddableError
from biddable.storage import write_whole

# Held-out prompts that are answered; each costs as many passes as its answer has tokens.
ANSWERS = 32
# Their own packages do the work: training/trackers.py.
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


# No count that anyone needs is larger; and what both TOML and the generators of numbers can hold.
MOST, MOST_SEED = 10**9, 2**63 - 1
Range = tuple[float, float]


def _option(
    default: Any, help_text: str, choices: tuple[str, ...] = (), within: Range = (0, MOST)
) -> Any:
    return field(
        default=default, metadata={"help": help_text, "choices": choices, "within": within}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """What the loop is told, whatever it trains on; each field is an option of the same name."""

    data: tuple[str, ...] = _option((), "files or folders to train on")
    out: str = _option("", "run folder; by default runs/NAME with a free number")
    epochs: float = _option(3.0, "passes over the training rows", within=(0, 1e5))
    steps: int = _option(0, "optimizer steps; 0 follows from epochs")
    batch_size: int = _option(8, "rows per optimizer step", within=(1, MOST))
    batch_tokens: int = _option(0, "tokens per micro-batch; 0 chooses")
    lr: float = _option(2e-4, "peak learning rate", within=(0, 1))
    warmup: float = _option(
        0.1, "share of the steps in which the learning rate rises", within=(0, 1)
    )
    weight_decay: float = _option(0.0, "AdamW weight decay of matrices", within=(0, 100))
    clip: float = _option(1.0, "largest gradient norm; 0 turns clipping off")
    beta1: float = _option(0.9, "AdamW beta1", within=(0, 0.999999))
    beta2: float = _option(0.99, "AdamW beta2", within=(0, 0.999999))
    eps: float = _option(1e-8, "AdamW eps", within=(1e-30, 1))
    precision: str = _option("auto", "compute precision", choices=("auto", "fp32", "bf16"))
    device: str = _option("auto", "where to compute", choices=("auto", "cuda", "mps", "cpu"))
    seed: int = _option(0, "seed of the split and of the order of rows", within=(0, MOST_SEED))
    early_stop: int = _option(
        0, "stop after N evaluations without a lower held-out loss; 0 never stops early"
    )
    save_every: int = _option(0, "steps between checkpoints; 0 saves every ten minutes")
    keep: int = _option(2, "checkpoints to keep", within=(1, MOST))


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(FitSettings):
    """What `train` can be told."""

    base: str = _option("smollm2", "hub id, Hugging Face folder, .gguf file, or smollm2")
    template: str = _option("", "plain, chatml, llama2, llama3 or a Jinja file; else the base's")
    header: str = _option(
        "prompt", "where the answer's header comes from", choices=("prompt", "history")
    )
    template_arg: tuple[str, ...] = _option((), "NAME=VALUE for the chat template, repeatable")
    map: str = _option("", "build messages from columns: user=text,assistant=label")
    system: str = _option("", "system prompt for rows without one: TEXT or @FILE")
    encoding: str = _option("", "of text files, e.g. cp1252; by default UTF-8 or as marked")
    group_by: str = _option("", "column whose equal values stay on one side of the split")
    eval: str = _option("", "file with held-out rows, instead of a tenth of the data")
    max_length: int = _option(0, "longest row in tokens; 0 takes the base's context")
    too_long: str = _option("drop", "what happens to longer rows", choices=("drop", "error"))
    loss_on: str = _option(
        "assistant", "which messages are trained", choices=("assistant", "last", "all")
    )
    answers: int = _option(ANSWERS, "held-out prompts that base and tuned answer at the end")
    metric: str = _option("", "FILE.py:FUNCTION of (reference, answer) that gives a number")
    shard: str = _option(
        "auto",
        "of several ranks, each holds a part of the weights; auto: where the whole does not fit",
        choices=("auto", "on", "off"),
    )
    report_to: str = _option(
        "none", "also hand every step and evaluation to this tracker", choices=("none", *TRACKERS)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainSettings(FitSettings):
    """What `pretrain` can be told; the shape is that of a model of about 5 million parameters."""

    minutes: float = _option(
        3.0, "time to train; a few steps are timed to choose --steps", within=(0, 1e6)
    )
    epochs: float = _option(0.0, "passes over the text; 0 takes --minutes", within=(0, 1e5))
    tokenizer: str = _option("", "hub id, folder, tokenizer.json or .tiktoken; else one is trained")
    vocab: int = _option(4096, "tokens of the tokenizer that is trained", within=(1, 2**20))
    shape: str = _option("llama", "architecture of the model", choices=("llama", "gpt2"))
    width: int = _option(320, "width of the model", within=(1, 2**16))
    layers: int = _option(2, "layers", within=(1, 1000))
    heads: int = _option(5, "attention heads", within=(1, 1000))
    context: int = _option(
        256, "tokens that the model sees at once, and of a training row", within=(2, 2**20)
    )
    batch_size: int = _option(4, "rows of --context tokens per optimizer step", within=(1, MOST))
    lr: float = _option(3e-3, "peak learning rate", within=(0, 1))
    weight_decay: float = _option(0.1, "AdamW weight decay of matrices", within=(0, 100))


Given = TypeVar("Given", bound=FitSettings)


def read_config(path: str, kind: type[FitSettings] = Settings) -> dict[str, Any]:
    """The settings in a TOML file, checked by name and type against those of a verb.

    Raises:
        BiddableError: the file is missing, is no TOML, or has an unknown or ill-typed key.
    """
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _bad_config(path, f"it cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad_config(path, f"it is not TOML: {error}") from error
    known = {f.name: type(f.default) for f in fields(kind)}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise _bad_config(path, f"unknown key {name}{hint}")
        checked[name] = _typed(path, name, value, known[name])
    return checked


def write_config(settings: FitSettings, path: Path) -> None:
    """Writes the settings as TOML that `train --config` reads back to the same settings."""
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    write_whole(path, tomli_w.dumps(given))


def with_values(settings: Given, values: Mapping[str, Any]) -> Given:
    """The settings with some values replaced, and the ranges checked.

    Raises:
        BiddableError: there is no such setting, or a value is out of range.
    """
    unknown = [name for name in values if name not in {f.name for f in fields(settings)}]
    if unknown:
        raise BiddableError(
            "option",
            f"there is no option {unknown[0]}",
            f"the options are {', '.join(f.name for f in fields(settings))}",
        )
    changed = replace(settings, **values)
    for f in fields(settings):
        value, choices = getattr(changed, f.name), f.metadata["choices"]
        if choices and value not in choices:
            raise _bad_value(f.name, value, f"one of {', '.join(choices)}")
        if isinstance(f.default, int | float):
            refuse_out_of_range(f.name, value, f.metadata["within"], whole=type(f.default) is int)
    # Where no epochs are the default, something else says how long the run is.
    if changed.steps == 0 and changed.epochs == 0 and type(settings)().epochs:
        raise _bad_value("epochs", 0, "more than 0, or give --steps")
    return changed


def refuse_out_of_range(name: str, value: Any, within: Range, *, whole: bool = False) -> None:
    """Refuses what is no number, no whole one where one is needed, or not within these bounds.

    Args:
        name: of the option, as a field of the settings.
        within: the smallest and the largest good value.

    Raises:
        BiddableError: `option`.
    """
    low, high = within
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    # NaN is within no bounds.
    if not (number and low <= value <= high):
        kind = "a whole number" if whole else "a number"
        raise _bad_value(name, value, f"{kind} from {low:g} to {high:g}")


def _typed(path: str, name: str, value: Any, kind: type) -> Any:
    if kind is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _bad_config(path, f"{name} must be of type {kind.__name__}, not {value!r}")
    return value


def _bad_config(path: str, why: str) -> BiddableError:
    return BiddableError(
        "config",
        f"the config {path} cannot be used: {why}",
        "compare it with the config.toml of a run folder",
    )


def _bad_value(name: str, value: Any, wanted: str) -> BiddableError:
    option = "--" + name.replace("_", "-")
    return BiddableError("option", f"{option} is {value!r}", f"it has to be {wanted}")
