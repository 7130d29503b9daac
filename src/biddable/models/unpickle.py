"""`python -m biddable.models.unpickle CHECKPOINT FOLDER`: a PyTorch file to safetensors and JSON.

Pickle is a program. It is read by torch's restricted unpickler only, and in a process of its own,
so that whatever a file does to its reader is not done to the run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS, FACTS = "weights.safetensors", "facts.json"
# What wraps the state dict in common checkpoints, and what torch.compile and DDP put before names.
_INSIDE = ("model", "state_dict", "model_state_dict")
_BEFORE = ("_orig_mod.", "module.")


def unpack(path: str, folder: str) -> None:
    """Writes the tensors of the state dict and the plain numbers and words beside it.

    Raises:
        Exception: the file cannot be loaded with weights_only, or holds no state dict.
    """
    loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    facts: dict[str, Any] = {}
    if isinstance(loaded, Mapping):
        for part in (loaded, *loaded.values()):
            if isinstance(part, Mapping):
                plain = (bool, int, float, str)
                facts |= {k: v for k, v in part.items() if isinstance(k, str) and type(v) in plain}
        inside = next((loaded[n] for n in _INSIDE if isinstance(loaded.get(n), Mapping)), None)
        loaded = loaded if inside is None else inside
    tensors = {k: v for k, v in dict(loaded).items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError("it holds no state dict")
    # Tied weights share memory, which safetensors refuses; each name gets a copy.
    copies = {_plain_name(k): v.detach().clone().contiguous() for k, v in tensors.items()}
    save_file(copies, Path(folder) / WEIGHTS)
    (Path(folder) / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _plain_name(name: str) -> str:
    for before in _BEFORE:
        name = name.removeprefix(before)
    return name


if __name__ == "__main__":
    try:
        unpack(sys.argv[1], sys.argv[2])
    except Exception as error:
        # The parent shows the first line; a pickle may raise anything at all.
        sys.exit(f"{type(error).__name__}: {error}")
