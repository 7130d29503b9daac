"""Writes the table of docs/guide/models.md: the proof on a tiny model of every causal type.

python tests/helpers/zoo.py docs/guide/models.md
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

from biddable.engine.attention import register
from biddable.engine.proof import STOCK, prove
from biddable.engine.twin import small_settings, twin_of
from biddable.errors import BiddableError
from biddable.storage import write_text

MARK = "<!-- written by make zoo -->\n"
SECONDS, MOST_PARAMETERS = 40, 30_000_000


class NotBuilt(Exception):
    """The type has no tiny model by the rules of twin.py."""


def tiny_of(kind: str) -> Any:
    """A tiny random model of a type, from the defaults of its configuration."""
    register()
    try:
        config_class = CONFIG_MAPPING[kind]
        config = config_class.from_dict(small_settings(config_class()))
        model_class = AutoModelForCausalLM._model_mapping[type(config)]
        model_class = model_class[0] if isinstance(model_class, (tuple, list)) else model_class
        with torch.device("meta"):
            laid_out = model_class._from_config(config, attn_implementation=STOCK)
        if sum(p.numel() for p in laid_out.parameters()) > MOST_PARAMETERS:
            raise NotBuilt("it stays large")
        return twin_of(model_class, config, STOCK)
    except Exception as error:
        raise NotBuilt(f"{type(error).__name__}") from error


def row_of(kind: str) -> str:
    """A row of the table."""
    try:
        with at_most(SECONDS):
            proof = prove(tiny_of(kind), kind)
    except NotBuilt:
        return f"| {kind} | not tried | its tiny model cannot be built |"
    except BiddableError as error:
        why = error.finding.message.split("; ", 1)[1].replace("|", " ")
        return f"| {kind} | refused | {' '.join(why.split())[:160]} |"
    except TimeoutError:
        return f"| {kind} | not tried | it takes more than {SECONDS} s |"
    return f"| {kind} | {proof.name} | {proof.error:.0e} |"


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what takes longer."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main(path: Path) -> None:
    """Writes what stands behind the mark anew."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = [row_of(kind) for kind in sorted(NAMES)]
    counts = {name: sum(f"| {name} |" in row for row in rows) for name in ("flat", "beside")}
    head = (
        f"Of {len(rows)} causal types of transformers {transformers.__version__}, tiny and random, "
        f"{counts['flat']} are fed flat and {counts['beside']} beside.\n\n"
        "| `model_type` | path | error, or why not |\n|---|---|---|\n"
    )
    text = path.read_text(encoding="utf-8").split(MARK)[0]
    write_text(path, text + MARK + "\n" + head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
