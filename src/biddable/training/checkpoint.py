"""Checkpoints: written aside, flushed, renamed, summed; safetensors and JSON only.

A checkpoint is a folder `step-000123/` with the fp32 weights, AdamW's moments, what the loop knows,
and a manifest. The newest whose sums hold is the one that counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from biddable.data.findings import BiddableError
from biddable.engine.precision import Weights

_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the loop knows after a step, beside weights and moments.

    Args:
        step: steps done.
        best_step, best_loss: the evaluation with the lowest held-out loss; 0 and inf before one.
        since_best: evaluations after it.
        trained_tokens, tokens: fed so far.
        seconds: spent in steps so far.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float = float("inf")
    since_best: int = 0
    trained_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


def save_checkpoint(
    folder: Path, progress: Progress, weights: Weights, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Writes `folder/step-NNNNNN` atomically and deletes all but the newest `keep`."""
    target = folder / f"step-{progress.step:06d}"
    moments: dict[str, Tensor] = {}
    for name, master in weights.named():
        for key, value in optimizer.state[master].items():
            moments[f"{key}/{name}"] = value.detach().reshape(-1) if value.ndim == 0 else value
    with Aside(target) as aside:
        save_tensors({n: m.detach() for n, m in weights.named()}, aside / "weights.safetensors")
        save_tensors(moments, aside / "optimizer.safetensors")
        (aside / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for old in sorted(folder.glob("step-*"))[: -max(1, keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(
    folder: Path, weights: Weights, optimizer: torch.optim.Optimizer
) -> tuple[Progress, list[str]]:
    """Loads the newest sound checkpoint into weights and optimizer.

    Returns:
        Its progress, and the names of newer checkpoints that were damaged and passed over.

    Raises:
        BiddableError: there is none.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        if not is_sound(path):
            damaged.append(path.name)
            continue
        weights.load(load_file(path / "weights.safetensors"))
        _load_moments(load_file(path / "optimizer.safetensors"), weights, optimizer)
        state = json.loads((path / "progress.json").read_text(encoding="utf-8"))
        return Progress(**state), damaged
    told = f" (damaged: {', '.join(damaged)})" if damaged else ""
    raise BiddableError(
        f"{folder} holds no sound checkpoint{told}",
        code="no_checkpoint",
        fix="start the run again into another folder",
    )


def _load_moments(
    moments: Mapping[str, Tensor], weights: Weights, optimizer: torch.optim.Optimizer
) -> None:
    for name, master in weights.named():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = moments[f"{key}/{name}"]
            kept = value.reshape(()) if key == "step" else value.to(master.device)
            optimizer.state[master][key] = kept


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors."""
    save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, path)


class Aside:
    """A folder that is written beside its place and appears there whole or not at all.

    On leaving without an error every file is summed, the sums listed in a manifest, all flushed to
    disk, and the folder renamed into place; with an error it is removed.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._aside = target.with_name(f".{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        return self._aside

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._aside, ignore_errors=True)
            return
        sums = {p.name: _sha256(p) for p in sorted(self._aside.iterdir())}
        (self._aside / _MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")
        for path in self._aside.iterdir():
            _flush(path)
        _flush(self._aside)
        if self._target.exists():
            shutil.rmtree(self._target)
        self._aside.rename(self._target)
        _flush(self._target.parent)


def is_sound(folder: Path) -> bool:
    """Whether every file that `Aside` listed is there with its sum."""
    try:
        sums: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return all(_sha256(folder / name) == want for name, want in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
