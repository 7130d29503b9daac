"""Checkpoints come back bit for bit; damaged ones are passed over and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from biddable.errors import BiddableError
from biddable.settings import Settings
from biddable.storage import AtomicFolder, is_sound
from biddable.training.checkpoint import (
    Progress,
    load_checkpoint,
    moments_of,
    save_best,
    save_checkpoint,
)
from biddable.training.loop import make_optimizer
from biddable.training.weights import Replicas
from tiny import tiny


def trained_state(seed: int) -> tuple[Replicas, torch.optim.AdamW]:
    weights = Replicas(tiny("llama", ours=True, dtype=torch.float32), torch.float32)
    optimizer = make_optimizer(weights, Settings(lr=1e-2))
    torch.manual_seed(seed)
    for _ in range(3):
        for master in weights.pieces:
            master.grad = torch.randn_like(master)
        optimizer.step()
    return weights, optimizer


def save(
    folder: Path, progress: Progress, weights: Replicas, optimizer: torch.optim.AdamW, keep: int
) -> Path:
    moments = moments_of(weights, optimizer)
    return save_checkpoint(folder, progress, weights.gather(), moments, keep)


def test_a_checkpoint_gives_back_weights_moments_and_progress(tmp_path: Path) -> None:
    weights, optimizer = trained_state(1)
    progress = Progress(step=3, best_step=2, best_loss=1.5, tokens=99)
    save_best(tmp_path, 2, weights.gather())
    save(tmp_path, progress, weights, optimizer, 2)
    others, other_optimizer = trained_state(2)
    loaded, damaged = load_checkpoint(tmp_path, others, other_optimizer)
    assert (loaded, damaged) == (progress, [])
    for a, b in zip(weights.pieces, others.pieces, strict=True):
        assert torch.equal(a, b)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[a][key], other_optimizer.state[b][key])


def test_a_parameter_that_nothing_uses_has_no_moments(tmp_path: Path) -> None:
    weights, optimizer = trained_state(1)
    del optimizer.state[weights.pieces[0]]
    save(tmp_path, Progress(step=3), weights, optimizer, 2)
    others, _ = trained_state(2)
    load_checkpoint(tmp_path, others, make_optimizer(others, Settings(lr=1e-2)))
    assert all(torch.equal(a, b) for a, b in zip(weights.pieces, others.pieces, strict=True))


def test_what_adamw_keeps_lies_where_its_parameter_lies(tmp_path: Path) -> None:
    """On CUDA the fused step reads it there; `meta` stands for any device but the CPU."""
    weights, optimizer = trained_state(1)
    save(tmp_path, Progress(step=3), weights, optimizer, 2)
    others = Replicas(tiny("llama", ours=True, dtype=torch.float32).to("meta"), torch.float32)
    other_optimizer = make_optimizer(others, Settings(lr=1e-2))
    load_checkpoint(tmp_path, others, other_optimizer)
    kept = [other_optimizer.state[piece] for piece in others.pieces]
    assert {value.device.type for state in kept for value in state.values()} == {"meta"}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    weights, optimizer = trained_state(1)
    for step in (3, 6, 9):
        save(tmp_path, Progress(step=step), weights, optimizer, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000006", "step-000009"]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "progress.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    tmp_path: Path, name: str, harm: str
) -> None:
    weights, optimizer = trained_state(1)
    save(tmp_path, Progress(step=3), weights, optimizer, 2)
    newest = save(tmp_path, Progress(step=6), weights, optimizer, 2)
    content = bytearray((newest / name).read_bytes())
    if harm == "remove":
        (newest / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (newest / name).write_bytes(content if harm == "flip" else content[:-1])
    assert not is_sound(newest)
    loaded, damaged = load_checkpoint(tmp_path, weights, optimizer)
    assert loaded.step == 3
    assert damaged == ["step-000006"]


def test_no_sound_checkpoint_is_an_error(tmp_path: Path) -> None:
    weights, optimizer = trained_state(1)
    with pytest.raises(BiddableError, match="no sound checkpoint"):
        load_checkpoint(tmp_path, weights, optimizer)


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with AtomicFolder(tmp_path / "best") as aside:
        (aside / "a.txt").write_text("old")

    def half_a_save() -> None:
        with AtomicFolder(tmp_path / "best") as aside:
            (aside / "a.txt").write_text("new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        half_a_save()
    assert (tmp_path / "best" / "a.txt").read_text() == "old"
    assert is_sound(tmp_path / "best")
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
