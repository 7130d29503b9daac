"""`python -m biddable.from_scratch.unpickle CHECKPOINT FOLDER`: PyTorch to safetensors.

Pickle is a program. It is read by torch's restricted unpickler only, and in a process of its own,
so that a file that crashes its reader does not crash the run. A few bytes can claim many
gigabytes (a stride of 0, packed archives, counts that lie): what is written is bounded by the size
of the file, and so is the reader's memory where the kernel can hold it to that.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile
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
        Exception: the file is no checkpoint of tensors and plain values alone, or stands for far
            more than its size.
    """
    _refuse_packed(path)
    loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        raise ValueError("it holds no state dict")
    facts = _plain_values(loaded)
    state = next((loaded[n] for n in _INSIDE if isinstance(loaded.get(n), Mapping)), loaded)
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError("it holds no state dict")
    _refuse_swollen(tensors, Path(path).stat().st_size)
    # Tied weights share memory, which safetensors refuses; each name gets a copy.
    copies = {_plain_name(k): v.detach().clone().contiguous() for k, v in tensors.items()}
    save_file(copies, Path(folder) / WEIGHTS)
    (Path(folder) / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _plain_values(loaded: Mapping[Any, Any]) -> dict[str, Any]:
    """The numbers and words by name, at the top and one level below."""
    values: dict[str, Any] = {}
    for part in (loaded, *loaded.values()):
        if isinstance(part, Mapping):
            plain = (bool, int, float, str)
            values |= {k: v for k, v in part.items() if isinstance(k, str) and type(v) in plain}
    return {k: v for k, v in values.items() if type(v) is not int or abs(v) < 1 << 63}


def _plain_name(name: str) -> str:
    for before in _BEFORE:
        name = name.removeprefix(before)
    return name


def _refuse_packed(path: str) -> None:
    """PyTorch stores its archives as they are; a packed one may unfold without bound."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("its archive is compressed, as no checkpoint of PyTorch is")
        if sum(part.file_size for part in parts) > Path(path).stat().st_size:
            raise ValueError("its archive claims more bytes than the file has")


def _refuse_swollen(tensors: Mapping[str, Tensor], size: int) -> None:
    """Each name gets a copy, so names that share few bytes could fill the memory.

    Twice the size leaves room for tied tensors.
    """
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{name[:80]} is not a plain tensor")
        held = tensor.untyped_storage().nbytes()
        total += tensor.numel() * tensor.element_size()
        if tensor.numel() * tensor.element_size() > held or total > 2 * size:
            raise ValueError(f"{name[:80]} stands for more numbers than the file holds")


def _hold_memory(size: int) -> None:
    """Lets the kernel end what takes far more memory than a file of this size can need."""
    try:
        import resource
    except ImportError:
        return  # Windows
    import psutil

    taken = getattr(psutil.Process().memory_info(), "data", 0)
    if taken:
        most = taken + 4 * size + (1 << 30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _why(error: BaseException) -> str:
    """What is wrong with the file, without PyTorch's advice to run the program in it."""
    lines = str(error).strip().splitlines() or [""]
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds a program ({named[1][:80]}), which is never run"
    if isinstance(error, MemoryError) or "allocate" in str(error):
        return "reading it takes far more memory than a file of its size can need"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds more than tensors and plain values, or is no PyTorch file"
    if type(error) is ValueError:
        return lines[0][:300]
    return f"it is damaged, or no PyTorch file ({type(error).__name__})"


if __name__ == "__main__":
    try:
        _hold_memory(Path(sys.argv[1]).stat().st_size)
        unpack(sys.argv[1], sys.argv[2])
    except Exception as error:
        # The parent shows the first line; a pickle may raise anything at all.
        sys.exit(_why(error))
