"""Checkpoints and the best weights so far: folders that are whole or not there, and are checked.

    checkpoints/step-000120/   fp32 weights, AdamW's moments, what the loop knows, a manifest
    checkpoints/best-000080/   the weights of the evaluation that was best by then

No name is ever used for two different contents that something still needs: a checkpoint says which
best weights belong to it, and those are deleted only when no checkpoint names them any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from biddable.errors import BiddableError
from biddable.storage import AtomicFolder, is_sound, need_space, remove, write_tensors, write_text
from biddable.training.weights import WeightStore

# Room for the JSON files and safetensors headers beside the tensors.
_SLACK = 2**20


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of the loop after a step, beside weights and moments.

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


def moments_of(weights: WeightStore, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's full moments by name, on the CPU of the first rank; a collective of all ranks.

    Raises:
        BiddableError: `rank_lost`.
    """
    moments: dict[str, Tensor] = {}
    for i, (name, piece) in enumerate(zip(weights.names, weights.pieces, strict=True)):
        for key, value in optimizer.state[piece].items():
            full = value.reshape(-1) if key == "step" else weights.full_tensor(i, value)
            if weights.ranks.first:
                moments[f"{key}/{name}"] = full.cpu()
    return moments


def save_checkpoint(
    folder: Path,
    progress: Progress,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    keep: int,
) -> Path:
    """Writes `folder/step-NNNNNN`, and then deletes all but the newest `keep`.

    Raises:
        BiddableError: `no_space`; what was there before is untouched.
    """
    need_space(folder, 3 * _bytes(weights) + _SLACK)
    target = folder / f"step-{progress.step:06d}"
    with AtomicFolder(target) as aside:
        write_tensors(weights, aside / "weights.safetensors")
        write_tensors(moments, aside / "optimizer.safetensors")
        write_text(aside / "progress.json", json.dumps(asdict(progress)))
    for old in _newest_first(folder)[max(1, keep) :]:
        remove(old)
    _delete_unnamed_best(folder, progress.best_step)
    return target


def save_best(folder: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Writes `folder/best-NNNNNN`, and then deletes those that no checkpoint names.

    Raises:
        BiddableError: `no_space`; what was there before is untouched.
    """
    need_space(folder, _bytes(weights) + _SLACK)
    with AtomicFolder(_best(folder, step)) as aside:
        write_tensors(weights, aside / "weights.safetensors")
    _delete_unnamed_best(folder, step)


def read_best(folder: Path, step: int) -> dict[str, Tensor]:
    """The weights that `save_best` kept at a step.

    Raises:
        BiddableError: `best_damaged`.
    """
    path = _best(folder, step)
    if not is_sound(path):
        raise BiddableError(
            "best_damaged",
            f"the best weights {path} are damaged",
            "`biddable train --resume RUN` goes on from a checkpoint before them",
        )
    weights: dict[str, Tensor] = load_file(path / "weights.safetensors")
    return weights


def clear_best(folder: Path) -> None:
    """Deletes all best weights: the run is finished, and the tuned model stands elsewhere."""
    for path in folder.glob("best-*"):
        remove(path)


def load_checkpoint(
    folder: Path, weights: WeightStore, optimizer: torch.optim.Optimizer
) -> tuple[Progress, list[str]]:
    """Loads the newest sound checkpoint into weights and optimizer.

    Returns:
        Its progress, and the names of newer checkpoints that were damaged and passed over.

    Raises:
        BiddableError: `no_checkpoint`, there is no sound one.
    """
    damaged: list[str] = []
    for path in _newest_first(folder):
        progress = _progress(path) if is_sound(path) else None
        best = progress and progress.best_step
        if progress is None or (best and not is_sound(_best(folder, best))):
            damaged.append(path.name)
            continue
        weights.load(load_file(path / "weights.safetensors"))
        moments = load_file(path / "optimizer.safetensors")
        for i, (name, piece) in enumerate(zip(weights.names, weights.pieces, strict=True)):
            if f"step/{name}" not in moments:
                continue  # Nothing of it is used, so that it never had a gradient.
            state = optimizer.state[piece]
            # Fused AdamW reads it on the device of the parameter.
            state["step"] = moments[f"step/{name}"].reshape(()).to(piece.device)
            for key in ("exp_avg", "exp_avg_sq"):
                # A copy, so that the memory of the rest is freed.
                part = weights.local_part(i, moments[f"{key}/{name}"])
                state[key] = part.to(piece.device, copy=True)
        return progress, damaged
    names = f" (damaged: {', '.join(damaged)})" if damaged else ""
    what = f"{folder} holds no sound checkpoint{names}"
    raise BiddableError("no_checkpoint", what, "start the run again into another folder")


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint is there, sound or not."""
    return bool(_newest_first(folder))


def weight_bytes(weights: WeightStore) -> int:
    """Bytes of one fp32 copy of all parameters; a checkpoint holds three."""
    return sum(shape.numel() * 4 for shape in weights.shapes)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _best(folder: Path, step: int) -> Path:
    return folder / f"best-{step:06d}"


def _progress(path: Path) -> Progress | None:
    """The loop's state in a checkpoint; None where it cannot be read."""
    try:
        return Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _delete_unnamed_best(folder: Path, step: int) -> None:
    """Deletes the best weights that neither `step` nor a checkpoint names."""
    progresses = [_progress(path) for path in _newest_first(folder)]
    named = {_best(folder, s) for s in (step, *(p.best_step for p in progresses if p))}
    for path in sorted(set(folder.glob("best-*")) - named):
        remove(path)
