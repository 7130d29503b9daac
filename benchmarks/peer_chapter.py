"""The chapter's own script as W4's peer: `python benchmarks/peer_chapter.py WORKLOAD.json`.

A small GPT in plain PyTorch and the loop that courses teach: every row padded to the context, the
head and the cross-entropy over all positions and then masked, plain AdamW. Knows nothing of
biddable.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT, WIDTH, LAYERS, HEADS, VOCABULARY = 256, 384, 6, 6, 50_257


class Block(nn.Module):
    """Attention and MLP, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], HEADS, WIDTH // HEADS)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return cast(Tensor, x + self.down(functional.gelu(self.up(self.norm2(x)))))


class SmallGPT(nn.Module):
    """Token and position embeddings, blocks, and a head tied to the token embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.norm = (
            nn.Sequential(*(Block() for _ in range(LAYERS))),
            nn.LayerNorm(WIDTH),
        )
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.token.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position(torch.arange(ids.shape[1]))
        return cast(Tensor, self.head(self.norm(self.blocks(x))))


def padded(rows: list[dict[str, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, targets, mask), each (rows, CONTEXT)."""
    ids = torch.zeros(len(rows), CONTEXT + 1, dtype=torch.long)
    mask = torch.zeros(len(rows), CONTEXT + 1)
    for n, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[n, :length] = torch.tensor(row["input_ids"])
        mask[n, :length] = torch.tensor([float(i != -100) for i in row["labels"]])
    return ids[:, :-1], ids[:, 1:], mask[:, 1:]


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    model = SmallGPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step, (rows, rate) in enumerate(zip(work["order"], work["rates"], strict=True), 1):
        start = time.perf_counter()
        ids, targets, mask = padded([work["rows"][i] for i in rows])
        logits = model(ids)
        losses = functional.cross_entropy(
            logits.view(-1, VOCABULARY), targets.reshape(-1), reduction="none"
        )
        loss = (losses * mask.reshape(-1)).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        line = {"step": step, "loss": loss.item(), "seconds": time.perf_counter() - start}
        print(json.dumps(line), flush=True)
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
