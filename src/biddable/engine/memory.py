"""How much memory a step will need, before step 1, and how many tokens a micro-batch may hold.

What a token keeps until the backward is not guessed from the architecture: a short pass is fed and
the tensors that autograd saves are counted.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from biddable.engine.beside import is_flat
from biddable.engine.layout import Layout, Prefix
from biddable.engine.loss import chunk_rows
from biddable.engine.plan import StepPlan
from biddable.engine.step import RunPass, directly, feed
from biddable.errors import BiddableError
from biddable.models.support import UNLIMITED, setting_of

# 1 GiB is 7 % slower on gsm8k, 4 GiB 6 % faster; 2 GiB leaves room for other programs.
_CPU_ACTIVATIONS = 2**31
# Beside frozen weights no pass goes over gradients of their size, so shorter ones cost less: W5
# with 0.5 GiB takes 15 % longer, and half the memory.
_CPU_ACTIVATIONS_FROZEN = 3 * 2**28
_FEWEST, _MOST = 256, 16_384
_PROBE = 32
# What a heap of large blocks holds beyond what is in use, as measured on benchmarks' workloads.
# Beside frozen weights activations are most of it. On CUDA nine workloads held up to 1.07 times as
# much; what its allocator loses between blocks was not measured.
_HOLES, _HOLES_FROZEN, _HOLES_CUDA = 1.2, 1.6, 1.15
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, slots=True)
class Needs:
    """What training a model takes, in bytes.

    Args:
        resident: already taken by the program, the weights and their copies.
        moments: AdamW's, of the parts of the fp32 masters that are this rank's.
        gradients: those that this rank keeps, what it gathers for a pass, and in bf16 that of the
            head once more.
        token: what one token of a pass keeps until the backward.
        vocabulary: rows of the vocabulary head.
        width: columns of the vocabulary head.
        chunk: rows whose logits exist together.
        holes: what the heap holds, in shares of what is in use.
        frozen_head: whether the head has no gradient.
        pair: the keys and values of one token in all layers, where a segment of a pass may keep a
            copy of those of its prefix, as on CUDA; else 0.
        uncopied: the longest rows, prefix included, without such copies: a sliding window hides
            nothing from them. 0 where FlashAttention cannot be called.
    """

    resident: int
    moments: int
    gradients: int
    token: int
    vocabulary: int
    width: int
    chunk: int
    holes: float
    frozen_head: bool = False
    pair: int = 0
    uncopied: int = 0

    def peak(self, tokens: int, rows: int, *, several: bool, kept: int = 0, copied: int = 0) -> int:
        """The most that a step holds at once.

        Args:
            tokens: those whose activations are alive together: of one pass and of its prefixes.
            rows: trained rows of the pass.
            several: whether the step has more passes, so that gradients of one are there already.
            kept: those of `tokens` whose activations outlive the pass: of prefixes fed before it.
            copied: prefix tokens of the pass, counted once for each segment that continues them.
        """
        chunk = min(rows, self.chunk) * self.vocabulary
        # Logits with the copy that their log-sum-exp makes; the head's own gradient.
        own = 0 if self.frozen_head else 4 * self.vocabulary * self.width
        head = 2 * 4 * chunk + own
        activations = self.token * tokens + self.pair * copied
        forward = activations + head + (self.gradients if several else 0)
        backward = self.gradients + 4 * self.width * tokens + self.token * kept
        return self.resident + round(self.holes * (self.moments + max(forward, backward)))


def needs_of(
    model: Any, pieces: Iterable[Tensor], working_bytes: int, run: RunPass = directly
) -> Needs:
    """Measures a loaded model, with a pass of a few tokens.

    Args:
        pieces: what this rank's optimizer changes.
        working_bytes: gradients, and what is gathered for a pass.
        run: calls a pass.
    """
    moments = 2 * sum(p.numel() * p.element_size() for p in pieces)
    token = (_saved_bytes(model, 2 * _PROBE, run) - _saved_bytes(model, _PROBE, run)) // _PROBE
    head = model.get_output_embeddings().weight
    frozen = not head.requires_grad
    copied = int(head.numel()) * 2 if head.dtype != torch.float32 and not frozen else 0
    holes = _HOLES_FROZEN if frozen else _HOLES
    resident = int(psutil.Process().memory_info().rss)
    if model.device.type == "cuda":
        holes, resident = _HOLES_CUDA, torch.cuda.memory_allocated(model.device)
    rows, width = map(int, head.shape)
    chunk = chunk_rows(model.device, rows)
    copies = model.device.type == "cuda" and is_flat(model)
    pair, uncopied = prefix_copies(model, run) if copies else (0, 0)
    gradients = working_bytes + copied
    return Needs(
        resident, moments, gradients, token, rows, width, chunk, holes, frozen, pair, uncopied
    )


def _saved_bytes(model: Any, tokens: int, run: RunPass) -> int:
    """Bytes that autograd saves in a forward of `tokens` tokens, without parameters.

    What was gathered of shards is gone after the forward, or stands among the parameters.
    """
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        # Cut off: a node that saves what it gave would keep itself, and the weights, for good.
        held.append(tensor.detach())
        return held[-1]

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run(lambda: _feed_zeros(model, Layout([tokens], [-1])).sum())
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    known = {p.untyped_storage().data_ptr() for p in model.parameters() if type(p) is nn.Parameter}
    return sum(size for place, size in storages.items() if place not in known)


@torch.no_grad()
def prefix_copies(model: Any, run: RunPass = directly) -> tuple[int, int]:
    """Bytes of the keys and values of one token in all layers, and the longest rows whose prefix is
    not copied for them (see `Needs`)."""
    prefix = Prefix(_PROBE)
    layout = Layout([_PROBE], [-1], keep=[prefix])
    run(lambda: _feed_zeros(model, layout))
    pair = sum(t.nbytes for t in (*prefix.keys.values(), *prefix.values.values())) // _PROBE
    window = setting_of(model.config.get_text_config(), "sliding_window")
    # What FlashAttention was called with is kept in the layout.
    longest = window if type(window) is int and window > 0 else UNLIMITED
    return pair, longest if layout.cuts else 0


def _feed_zeros(model: Any, layout: Layout) -> Tensor:
    tokens = sum(layout.lengths)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    hidden, _ = feed(model, ids, torch.arange(tokens, device=model.device)[None], layout)
    return hidden


def peak_of(needs: Needs, plans: Iterable[StepPlan], trained: Iterable[int]) -> int:
    """The peak of the largest of some steps; `trained` counts the trained tokens of each step."""
    peaks = []
    for plan, rows in zip(plans, trained, strict=True):
        shared = sum(map(len, plan.prefixes))
        longest = max(sum(map(len, batch)) for batch in plan.micro_batches)
        several, kept = len(plan.micro_batches) > 1, 0 if plan.joined else shared
        # One row that is longer has them copied for all of its pass.
        copied = max(
            sum(s.start for s in batch) if any(s.stop > needs.uncopied for s in batch) else 0
            for batch in plan.micro_batches
        )
        tokens = shared + longest
        peaks.append(needs.peak(tokens, rows, several=several, kept=kept, copied=copied))
    return max(peaks)


def choose_batch_tokens(needs: Needs, device: torch.device) -> int:
    """Tokens per micro-batch: 2 GiB of activations on a CPU, two fifths of what a GPU has free.

    Never more than two fifths of what is free once the optimizer has its memory.
    """
    left = free_bytes(device) - needs.moments - needs.gradients
    budget = left * 2 // 5
    if device.type != "cuda":
        budget = min(budget, _CPU_ACTIVATIONS_FROZEN if needs.frozen_head else _CPU_ACTIVATIONS)
    return max(_FEWEST, min(_MOST, budget // needs.token))


def free_bytes(device: torch.device) -> int:
    """Bytes that the process can still take, within the device, the machine and its container."""
    if device.type == "cuda":
        # PyTorch keeps memory that this process freed, and uses it again.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def refuse_too_much(needs: Needs, peak: int, batch_tokens: int, device: torch.device) -> None:
    """Refuses a run that the system would kill.

    Raises:
        BiddableError: `out_of_memory`, with what is needed, what is free, and what helps.
    """
    free = free_bytes(device) + needs.resident
    if peak <= free:
        return
    over = peak - free
    fits = batch_tokens - ceil(over / (needs.holes * needs.token)) - 1  # for rounding
    if fits >= _FEWEST:
        fix = f"--batch-tokens {fits} fits, if no single row is longer than that"
    else:
        fix = "take a smaller --base, shorter rows (--max-length), or a machine with more memory"
    raise BiddableError(
        "out_of_memory",
        f"training would need {_gib(peak)} of memory at its peak, and {_gib(free)} are free",
        fix,
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def keep_freed_memory() -> None:
    """Makes the C library keep freed blocks, whatever their size, for the next pass.

    By default glibc returns each large tensor to the system when it is freed and gets it again,
    zeroed page by page: 190,000 page faults and 1.5 seconds of system time in a step of 1,335
    tokens of SmolLM2-135M; with this setting 10,000 faults and 0.2 seconds. Peak memory is
    unchanged. Elsewhere than on Linux with glibc this does nothing.
    """
    _keep_blocks(2**30)


def give_back_freed_memory() -> None:
    """Makes the C library return large blocks to the system as soon as they are freed.

    For sharded weights on a CPU: gathering and freeing in turn leaves holes in the heap that were
    four times the memory in use (117 million parameters on two ranks).
    """
    _keep_blocks(2**20)


def _keep_blocks(size: int) -> None:
    """Freed blocks are kept up to this size, which is also what the heap keeps at its end."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size)
        mallopt(_M_TRIM_THRESHOLD, 2 * size - 1)
