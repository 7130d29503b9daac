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


# What every checkpoint of a type names and the defaults of its configuration leave out or in.
SETTINGS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "logit_scale": 0.25,
    },
    "xmod": {"default_language": "en_XX"},
    # Without it the class itself refuses to be built.
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 48]},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
}
# The same for sizes, under whichever type.
MISSING = {"head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}


class NotBuilt(Exception):
    """The type has no tiny model by the rules of twin.py."""


def tiny_of(kind: str, **changes: Any) -> Any:
    """A tiny random model of a type, from the defaults of its configuration."""
    register()
    try:
        config = CONFIG_MAPPING[kind]()
        model_class = AutoModelForCausalLM._model_mapping[type(config)]
        model_class = model_class[0] if isinstance(model_class, (tuple, list)) else model_class
        if model_class.config_class is config.sub_configs.get("text_config"):
            # As AutoModelForCausalLM does: the text model of the checkpoint, without the rest.
            config = config.get_text_config()
        return _tiny(model_class, config, {**SETTINGS.get(kind, {}), **changes})
    except Exception as error:
        raise NotBuilt(f"{type(error).__name__}") from error


def _tiny(model_class: Any, config: Any, changes: dict[str, Any]) -> Any:
    """The tiny model; where its configuration lacks sizes, with those."""
    settings = {**small_settings(config), **changes}
    missing = {key: size for key, size in MISSING.items() if settings.get(key, 0) is None}
    for added in ({}, missing):
        try:
            small = type(config).from_dict({**settings, **added})
            with torch.device("meta"):
                laid_out = model_class._from_config(small, attn_implementation=STOCK)
            if sum(p.numel() for p in laid_out.parameters()) > MOST_PARAMETERS:
                raise NotBuilt("it stays large")
            model = twin_of(model_class, small, STOCK)
            model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
            return model
        except Exception:
            if added or not missing:
                raise
    raise AssertionError


def row_of(kind: str) -> str:
    """A row of the table; a type that is no decoder by default is tried as one too."""
    path, remark = path_of(kind)
    if path == "refused":
        decoder, error = path_of(kind, is_decoder=True)
        if decoder in ("flat", "beside"):
            path, remark = decoder, f"{error}, where its config.json has `is_decoder: true`"
    return f"| {kind} | {path} | {remark} |"


def path_of(kind: str, **changes: Any) -> tuple[str, str]:
    """The path of a type, and the error, or why there is none."""
    try:
        with at_most(SECONDS):
            proof = prove(tiny_of(kind, **changes), kind)
    except NotBuilt:
        return "not tried", "its tiny model cannot be built"
    except BiddableError as error:
        why = error.finding.message.split("; ", 1)[1].replace("|", " ")
        return "refused", " ".join(why.split())[:160]
    except TimeoutError:
        return "not tried", f"it takes more than {SECONDS} s of the processor"
    return proof.name, f"{proof.error:.0e}"


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what takes more seconds of the processor."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main(path: Path) -> None:
    """Writes what stands behind the mark anew."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    for kind in sorted(NAMES):
        rows.append(row_of(kind))
        print(rows[-1], flush=True)
    counts = {name: sum(f"| {name} |" in row for row in rows) for name in ("flat", "beside")}
    head = (
        f"Of {len(rows)} causal types of transformers {transformers.__version__}, tiny and random, "
        f"{counts['flat']} are fed flat and {counts['beside']} beside. The others are refused, or "
        "were not tried.\n\n"
        "| `model_type` | path | error, or why not |\n|---|---|---|\n"
    )
    text = path.read_text(encoding="utf-8").split(MARK)[0]
    write_text(path, text + MARK + "\n" + head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
