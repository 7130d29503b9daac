"""Trains a tiny model on some numbers of ranks: `python tests/helpers/rank_fit.py FOLDER 1 2 3`.

Writes FOLDER/N with the log, the checkpoints and the weights that N gloo ranks came to in 10 steps.
The ranks are forks of this process, which has imported everything and computed nothing. A+B means
that the last of A ranks gets a signal in step 1, and that B ranks then go on; As is A ranks that
share the weights too.
"""

from __future__ import annotations

import os

# Before torch is loaded: a fork of a process with threads would hang.
os.environ["OMP_NUM_THREADS"] = "1"

import random
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaForCausalLM  # noqa: F401

from biddable.encoding.encode import Example
from biddable.settings import Settings
from biddable.storage import write_tensors
from biddable.training.checkpoint import Progress, has_checkpoint, load_checkpoint
from biddable.training.evaluate import mean_loss
from biddable.training.interrupt import Interrupt
from biddable.training.log import json_log, silent
from biddable.training.loop import TrainerParts, fit, make_optimizer
from biddable.training.ranks import Ranks, joined_ranks
from biddable.training.shards import Shards
from biddable.training.weights import Replicas, WeightStore
from tiny import VOCABULARY, tiny

# Fewer rows than three ranks in every step, so that at least one rank has none.
SETTINGS = Settings(steps=10, batch_size=2, batch_tokens=40, lr=1e-3, save_every=5, seed=3)


def examples() -> list[Example]:
    """Eleven ragged rows with float weights; seven share a prefix of 20 tokens."""
    draw = random.Random(5)
    common = [draw.randrange(3, VOCABULARY) for _ in range(20)]
    rows = []
    for n in range(11):
        prompt = (common if n < 7 else []) + [
            draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(2, 9))
        ]
        answer = [draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(1, 12))]
        weights = [0.0] * len(prompt) + [draw.choice([1.0, 0.25, 2.0]) for _ in answer]
        rows.append(Example(prompt + answer, weights))
    return rows


def held(ranks: Ranks, *, sharded: bool) -> WeightStore:
    """The weights of a tiny model as these ranks hold them."""
    model = tiny("llama", ours=True, dtype=torch.float32)
    if sharded:
        return Shards(model, torch.device("cpu"), torch.float32, ranks)
    return Replicas(model, torch.float32, ranks)


def train(folder: Path, *, sharded: bool, signalled: bool) -> None:
    """Trains on the ranks of the environment; with a signal that only the last of them gets."""
    with joined_ranks() as ranks:
        weights = held(ranks, sharded=sharded)
        rows = examples()
        parts = TrainerParts(
            weights=weights,
            optimizer=make_optimizer(weights, SETTINGS),
            examples=rows[:8],
            evaluate=lambda: mean_loss(weights, rows, 99),
            answer=lambda: "",
            log=json_log(folder / "log.jsonl") if ranks.first else silent,
            folder=folder / "checkpoints",
            settings=SETTINGS,
        )
        progress, interrupt = Progress(), Interrupt()
        if has_checkpoint(parts.folder):
            # What a pass has gathered must not outlive the load.
            parts.evaluate()
            progress, _ = load_checkpoint(parts.folder, weights, parts.optimizer)
        if signalled and ranks.index == ranks.count - 1:
            interrupt.exit_code = 143
        progress = fit(parts, progress, interrupt)
        assert interrupt.exit_code == (143 if signalled else 0)
        assert progress.step == (1 if signalled else SETTINGS.steps)
        # Each rank holds the moments of its own part only.
        moments = sum(state["exp_avg"].numel() for state in parts.optimizer.state.values())
        total = sum(shape.numel() for shape in weights.shapes)
        rows_of_shards = sum(shape[1:].numel() for shape in weights.shapes)
        assert moments <= total / ranks.count + rows_of_shards
        tensors = weights.gather()
        if ranks.first and not signalled:
            write_tensors(tensors, folder / "weights.safetensors")


def on_ranks(count: int, work: Callable[[], None]) -> None:
    """Runs a function in `count` forks that know each other; raises unless all end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            names = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "MASTER_PORT": port}
            os.environ.update({k: str(v) for k, v in names.items()}, MASTER_ADDR="127.0.0.1")
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), codes


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in sys.argv[2:]:
        place = root / name
        place.mkdir()
        parts = name.split("+")
        for i, part in enumerate(parts):
            work = partial(train, place, sharded=part.endswith("s"), signalled=i < len(parts) - 1)
            on_ranks(int(part.rstrip("s")), work)
