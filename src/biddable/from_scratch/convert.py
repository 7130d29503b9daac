"""`convert`: a PyTorch checkpoint of a nanoGPT-like GPT to a Hugging Face folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from biddable.dataset.early import refuse_early
from biddable.display.model_card import as_code
from biddable.engine.precision import new_model
from biddable.errors import BiddableError
from biddable.from_scratch.gpt import read_gpt, refused
from biddable.from_scratch.tokenizer import open_tokenizer
from biddable.from_scratch.unpickle import FACTS, WEIGHTS
from biddable.models.model_files import model_files, own_template
from biddable.models.save import save_model
from biddable.options import with_values
from biddable.settings import ConvertSettings

# Time to read a checkpoint: to start, and for its bytes from a slow disk.
_START_SECONDS, _BYTES_A_SECOND = 60, 10_000_000


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of `convert`."""

    folder: Path
    parameters: int
    layers: int
    heads: int
    width: int
    context: int


def convert(checkpoint: str | Path, **options: Any) -> Converted:
    """Writes a Hugging Face folder whose logits are those of the checkpoint's model.

    Args:
        checkpoint: a .pt or .pth file with a state dict, plain or inside a checkpoint.
        options: fields of `biddable.settings.ConvertSettings`, by name; `out` has to be given.

    Raises:
        BiddableError: `missing_file`, `checkpoint_refused`, `tokenizer_refused`, `output_exists` or
            `option`.
    """
    settings = with_values(ConvertSettings(), {"checkpoint": checkpoint, **options})
    if not settings.out:
        raise BiddableError("option", "no folder is named", "give --out, the folder to make")
    refuse_early(settings)
    tensors, facts = _load(Path(settings.checkpoint))
    gpt = read_gpt(tensors, _heads(settings.heads, facts), settings.activation)
    config, tokenizer = gpt.config, open_tokenizer(settings.tokenizer)
    # It may have fewer tokens than are embedded (nanoGPT pads), never more.
    if len(tokenizer) > config.vocab_size:
        raise BiddableError(
            "tokenizer_refused",
            f"the tokenizer {settings.tokenizer} has {len(tokenizer):,} tokens, the checkpoint "
            f"embeds {config.vocab_size:,}",
            "give the tokenizer of the checkpoint with --tokenizer",
        )
    end = config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    model = new_model(config, torch.device("cpu"), seed=0)
    model.load_state_dict(gpt.tensors)
    files = model_files(model, tokenizer, chat_template=own_template(tokenizer), stop_ids=[end])
    source = as_code(Path(settings.checkpoint).name)
    files["README.md"] = f"# Converted from {source}\n\nBy biddable.\n"
    out = Path(settings.out)
    save_model(model, dict(model.named_parameters()), files, out)
    parameters = sum(p.numel() for p in model.parameters())
    c = config
    return Converted(out, parameters, c.n_layer, c.n_head, c.n_embd, c.n_positions)


def _load(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and the plain values beside them, read by a process of its own."""
    if not checkpoint.is_file():
        what = "It is a folder." if checkpoint.is_dir() else "There is no such file."
        raise BiddableError("missing_file", what, "Check the path.", file=str(checkpoint))
    seconds = _START_SECONDS + checkpoint.stat().st_size // _BYTES_A_SECOND
    with tempfile.TemporaryDirectory() as folder:
        reader = [sys.executable, "-m", "biddable.from_scratch.unpickle"]
        command = [*reader, str(checkpoint.absolute()), folder]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise refused(f"it was not read in {seconds} seconds") from error
        if done.returncode:
            reasons = done.stderr.strip().splitlines() or ["the process that read it crashed"]
            raise refused(reasons[-1][:300])
        facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
        return load_file(Path(folder) / WEIGHTS), facts


def _heads(option: int, facts: dict[str, Any]) -> int:
    """The number of the option, or of the checkpoint; where there are both they have to agree."""
    names = ("n_head", "n_heads", "num_heads", "num_attention_heads")
    stored = next((facts[n] for n in names if isinstance(facts.get(n), int)), 0)
    if option and stored and option != stored:
        raise BiddableError(
            "option", f"--heads is {option}, the checkpoint says {stored}", "leave it out"
        )
    if not (option or stored):
        what = "the checkpoint does not say how many attention heads it has"
        fix = "give --heads N, the n_head that the model was made with"
        raise BiddableError("option", what, fix)
    return option or stored
