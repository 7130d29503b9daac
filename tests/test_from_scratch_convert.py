"""A learner's checkpoint: logits equal to those of a GPT written here; what does not fit is named.

The GPT below stands alone: plain torch, every formula written out, no line of the package.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from biddable.cli import main
from biddable.errors import BiddableError
from biddable.from_scratch.gpt import read_gpt
from biddable.from_scratch.tokenizer import train_tokenizer
from biddable.from_scratch.unpickle import unpack

HEADS, WIDTH, LAYERS, CONTEXT, VOCABULARY = 4, 24, 3, 20, 320


class Attention(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.c_proj = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.register_buffer("bias", torch.ones(CONTEXT, CONTEXT).tril()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        parts = self.c_attn(x).split(WIDTH, dim=2)
        q, k, v = (p.view(n, t, HEADS, WIDTH // HEADS).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(self.bias[:, :, :t, :t] == 0, -math.inf)
        return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, WIDTH))


class Norm(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(WIDTH))
        self.bias = nn.Parameter(torch.randn(WIDTH)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, (WIDTH,), self.weight, self.bias)


class Mlp(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH, bias=bias)
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(nn.functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = Norm(bias), Attention(bias), Norm(bias)
        self.mlp = Mlp(bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class MinimalGpt(nn.Module):
    def __init__(self, *, bias: bool = True, tied: bool = True) -> None:
        super().__init__()
        parts = {
            "wte": nn.Embedding(VOCABULARY, WIDTH),
            "wpe": nn.Embedding(CONTEXT, WIDTH),
            "h": nn.ModuleList(Block(bias) for _ in range(LAYERS)),
            "ln_f": Norm(bias),
        }
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor) -> Tensor:
        t = self.transformer
        x = t["wte"](ids) + t["wpe"](torch.arange(ids.shape[1]))
        for block in t["h"]:
            x = block(x)
        return self.lm_head(t["ln_f"](x))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["to be or not to be, that is the question " * 20], 300).save_pretrained(folder)
    return str(folder)


def make(seed: int = 0, **kind: bool) -> MinimalGpt:
    torch.manual_seed(seed)
    return MinimalGpt(**kind).eval()


def conv1d(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as GPT-2 itself keeps them: matrices of layers as (in, out)."""
    ends = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {k: v.T.contiguous() if k.endswith(ends) else v for k, v in state.items()}


def three_matrices(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other names, and queries, keys and values apart, as other courses have them."""
    renamed: dict[str, Tensor] = {}
    words = {
        "transformer.wte": "token_embedding_table", "transformer.wpe": "position_embedding_table",
        "transformer.h.": "blocks.", "transformer.ln_f": "ln_f", "ln_1": "ln1", "ln_2": "ln2",
        ".attn.": ".sa.", "sa.c_proj": "sa.proj", "mlp.c_fc": "ffwd.net.0",
        "mlp.c_proj": "ffwd.net.2",
    }  # fmt: skip
    for known, tensor in state.items():
        name = known
        for old, new in words.items():
            name = name.replace(old, new)
        if "c_attn" in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[name.replace("c_attn", part)] = piece.clone()
        else:
            renamed[name.replace("sa.bias", "sa.tril")] = tensor
    return renamed


CASES: dict[str, tuple[dict[str, bool], Any]] = {
    "as nanoGPT saves it": (
        {},
        lambda state: {"model": state, "model_args": {"n_head": HEADS}, "iter_num": 7},
    ),
    "compiled, in parallel": (
        {},
        lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
    ),
    "no biases": ({"bias": False}, lambda state: state),
    "untied": ({"tied": False}, lambda state: state),
    "conv1d": ({}, conv1d),
    "three matrices": ({}, three_matrices),
    "half precision": ({}, lambda state: {k: v.half() for k, v in state.items()}),
    "no head": ({}, lambda state: {k: v for k, v in state.items() if "lm_head" not in k}),
}


def by_command(folder: Path, tokenizer: str) -> Any:
    """What transformers makes of the folder that the command wrote."""
    args = [str(folder / "model.pt"), "--out", str(folder / "base"), "--tokenizer", tokenizer]
    assert main(["convert", *args]) == 0
    return AutoModelForCausalLM.from_pretrained(folder / "base").eval()


def by_parts(folder: Path) -> Any:
    """The same without a process of its own and without files in between."""
    unpack(str(folder / "model.pt"), str(folder))
    gpt = read_gpt(load_file(folder / "weights.safetensors"), HEADS, "gelu")
    model = GPT2LMHeadModel(gpt.config)
    model.load_state_dict(gpt.tensors)
    return model.eval()


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_logits_are_those_of_the_original(name: str, tmp_path: Path, tokenizer: str) -> None:
    kind, saved_as = CASES[name]
    model = make(**kind)
    if name == "half precision":
        model = model.half().float()
    torch.save(saved_as(model.state_dict()), tmp_path / "model.pt")
    converted = by_command(tmp_path, tokenizer) if "nanoGPT" in name else by_parts(tmp_path)
    ids = torch.randint(0, VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(ids), converted(ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert converted.config.tie_word_embeddings is (name != "untied")


RAN = Path(tempfile.gettempdir()) / "biddable-test-ran"


class Evil:
    """Writes a file when a plain unpickler reads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, (f"open({str(RAN)!r}, 'w').close()",))


def bad_states() -> dict[str, tuple[dict[str, Tensor], int, str]]:
    state = make().state_dict()
    qk_norm = {**state, "transformer.h.0.attn.q_norm.weight": torch.ones(6)}
    wide = {**state, "transformer.h.1.mlp.c_fc.weight": torch.ones(7, 5)}
    no_positions = {k: v for k, v in state.items() if "wpe" not in k}
    no_layer = {k: v for k, v in state.items() if ".h.1." not in k}
    norm, tokens = "transformer.h.0.ln_1.weight", "transformer.wte.weight"
    ragged = {**three_matrices(state), "blocks.0.sa.key.weight": torch.ones(3, 4)}
    narrow = {
        "wte.weight": torch.ones(5, 0),
        "wpe.weight": torch.ones(5, 0),
        "h.0.ln1.bias": torch.ones(0),
    }
    return {
        "another name": (qk_norm, HEADS, "attn.q_norm.weight (6,)"),
        "another shape": (wide, HEADS, "transformer.h.1.mlp.c_fc.weight (5, 7)"),
        "a head with a bias": ({**state, "lm_head.bias": torch.ones(320)}, HEADS, "lm_head.bias"),
        "no positions": (no_positions, HEADS, "no transformer.wpe.weight"),
        "a layer is missing": (no_layer, HEADS, "no transformer.h.1.ln_1"),
        "heads do not divide": (state, 5, "does not divide into 5 heads"),
        "no heads": (state, -4, "does not divide into -4 heads"),
        "no width": (narrow, HEADS, "a width of 0"),
        "a billion layers": (
            {**state, "transformer.h.999999999.ln_1.bias": torch.ones(WIDTH)}, HEADS,
            "tensors for 1,000,000,000 layers",
        ),
        "two of a name": ({**state, "blocks.0.ln1.weight": state[norm]}, HEADS, "blocks.0.ln1"),
        "whole numbers": ({**state, norm: state[norm].to(torch.int8)}, HEADS, norm),
        "not a number": ({**state, norm: state[norm] * torch.nan}, HEADS, "not finite"),
        "no matrix": ({**state, tokens: torch.tensor(1.0)}, HEADS, "a matrix of shape ()"),
        "projections that differ": (ragged, HEADS, "attn.k.weight (3, 4)"),
        "nothing": ({}, HEADS, "no transformer.wte.weight"),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(bad_states()))
def test_what_does_not_fit_is_named(name: str) -> None:
    state, heads, message = bad_states()[name]
    with pytest.raises(BiddableError) as caught:
        read_gpt(state, heads, "gelu")
    assert message in caught.value.finding.message


def bad_files() -> dict[str, tuple[Any, list[str], str]]:
    state, heads = make().state_dict(), ["--heads", str(HEADS)]
    return {
        "heads unknown": (state, [], "give --heads"),
        "heads contradict": ({"model": state, "n_head": 2}, heads, "the checkpoint says 2"),
        "a program": ({"model": Evil()}, heads, "holds a program (exec), which is never run"),
        "no tensors": ({"epoch": 3}, heads, "no state dict"),
        "a list": ([torch.ones(3)], heads, "no state dict"),
        "numbers for names": ({1: torch.ones(3)}, heads, "no state dict"),
    }


@pytest.mark.parametrize("name", sorted(bad_files()))
def test_a_bad_file_is_refused_runs_nothing_and_leaves_nothing(
    name: str, tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, options, message = bad_files()[name]
    torch.save(saved, tmp_path / "model.pt")
    args = [str(tmp_path / "model.pt"), "--out", str(tmp_path / "base"), "--tokenizer", tokenizer]
    assert main(["convert", *args, *options]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "fix:" in err
    assert "Traceback" not in err
    assert not (tmp_path / "base").exists()
    assert not RAN.exists()


def views(path: Path) -> None:
    shared = torch.zeros(1000)
    torch.save({f"a{i}": shared for i in range(5_000)}, path)


def packed(path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def lying_count(path: Path) -> None:
    """An older file whose storage of 7 numbers claims 4 billion."""
    torch.save({"a": torch.zeros(7)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x07", b"\x8a\x05\0\0\0\0\x01"))


def cut(path: Path) -> None:
    torch.save(make().state_dict(), path)
    os.truncate(path, path.stat().st_size // 2)


BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a stride of 0": (
        lambda p: torch.save({"a": torch.zeros(1).expand(600_000_000)}, p), "more numbers than",
    ),
    "many names of one tensor": (views, "more numbers than"),
    "a packed archive": (packed, "compressed"),
    "a count that lies": (lying_count, "more memory than"),
    "a large empty value": (
        lambda p: p.write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x02\x85R."),
        "more memory than",
    ),
    "no numbers": (
        lambda p: torch.save({"a": torch.zeros(2, device="meta")}, p), "not a plain tensor",
    ),
    "cut off": (cut, "damaged"),
    "empty": (lambda p: p.write_bytes(b""), "damaged"),
    "plain values": (lambda p: p.write_bytes(pickle.dumps({"a": {1, 2}}, 2)), "no PyTorch file"),
}  # fmt: skip


def test_small_files_that_stand_for_much_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    """All in one process of the reader's own, one after another; the largest is what counts."""
    for name, (write, _) in BOMBS.items():
        write(tmp_path / f"{name}.pt")
    code = (
        "import re, sys; from biddable.from_scratch import unpickle as u\n"
        "u._hold_memory(100_000)\n"
        "for path in sys.argv[2:]:\n"
        "    try:\n"
        "        u.unpack(path, sys.argv[1])\n"
        "        print('read')\n"
        "    except Exception as error:\n"
        "        print(u._why(error))\n"
        # Of this program alone; getrusage counts what forked it too.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    paths = [str(tmp_path / f"{name}.pt") for name in BOMBS]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *paths],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *said, most = done.stdout.splitlines()
    for line, (name, (_, reason)) in zip(said, BOMBS.items(), strict=True):
        assert reason in line, name
        assert "weights_only" not in line
    assert int(most) < 600_000


def test_a_tokenizer_with_more_tokens_than_the_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(f"word{i} other{i * 7}" for i in range(900))
    train_tokenizer([words], 700).save_pretrained(tmp_path / "large")
    torch.save(make().state_dict(), tmp_path / "model.pt")
    args = ["--out", str(tmp_path / "b"), "--heads", "4", "--tokenizer", str(tmp_path / "large")]
    assert main(["convert", str(tmp_path / "model.pt"), *args]) == 1
    assert "tokenizer_refused" in capsys.readouterr().err


def test_a_file_that_is_not_there_or_no_checkpoint_is_an_error(
    tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.pt").write_text("no zip")
    more = ["--out", str(tmp_path / "b"), "--heads", "4", "--tokenizer", tokenizer, "--json"]
    (tmp_path / "folder.pt").mkdir()
    codes = {"none": "missing_file", "folder": "missing_file", "text": "checkpoint_refused"}
    for name, code in codes.items():
        assert main(["convert", str(tmp_path / f"{name}.pt"), *more]) == 1
        out = capsys.readouterr().out
        assert json.loads(out.splitlines()[-1])["error"]["code"] == code
