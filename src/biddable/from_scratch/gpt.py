"""The state dict of a nanoGPT-like GPT to that of transformers' GPT-2.

Letters: V vocabulary, D width, C context. Which GPT is meant: learned positions, layer norms before
attention and MLP and at the end, queries, keys and values in one matrix or in three, an MLP of two
matrices. What no state dict says (heads, the activation) is a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from biddable.errors import BiddableError

# Names in use, as regular expressions, and GPT-2's name for the same.
_OUTER = {
    r"(transformer\.)?(wte|tok_emb|token_embedding(_table)?|tok_embeddings)": "transformer.wte",
    r"(transformer\.)?(wpe|pos_emb|position_embedding(_table)?)": "transformer.wpe",
    r"(transformer\.)?(ln_f|norm|norm_f|final_norm)": "transformer.ln_f",
    r"(lm_head|head)": "lm_head",
}
_LAYER = r"(?:transformer\.)?(?:h|blocks|layers)\.(\d+)\."
_INNER = {
    r"(ln_1|ln1|norm1)": "ln_1",
    r"(ln_2|ln2|norm2)": "ln_2",
    r"(attn|sa)\.(c_attn|qkv|qkv_proj)": "attn.c_attn",
    r"(attn|sa)\.(q|q_proj|query)": "attn.q",
    r"(attn|sa)\.(k|k_proj|key)": "attn.k",
    r"(attn|sa)\.(v|v_proj|value)": "attn.v",
    r"(attn|sa)\.(c_proj|proj|out_proj|o_proj)": "attn.c_proj",
    r"(mlp|ffwd|ff)\.(c_fc|fc1|0|net\.0)": "mlp.c_fc",
    r"(mlp|ffwd|ff)\.(c_proj|fc2|2|net\.2)": "mlp.c_proj",
}
# Causal masks, kept as buffers.
_MASK = r".*\.(attn|sa)\.(bias|masked_bias|tril|mask)"
_TOKENS, _POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"
_MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True, slots=True)
class Gpt:
    """A GPT-2 configuration, and the tensors by GPT-2's names."""

    config: Any
    tensors: dict[str, Tensor]


def read_gpt(state: Mapping[str, Tensor], heads: int, activation: str) -> Gpt:
    """Reads a state dict as a GPT.

    Args:
        state: tensors by name, without the prefixes of torch.compile and DDP.
        heads: attention heads.
        activation: of the MLP: `gelu`, `gelu_new` (the tanh form) or `relu`.

    Raises:
        BiddableError: `checkpoint_refused`, with the names and shapes of what does not fit.
    """
    named: dict[str, Tensor] = {}
    unfit = []
    for name, tensor in state.items():
        known = _known_name(name)
        if known and known not in named and tensor.is_floating_point():
            named[known] = tensor.float()
        elif known or tensor.ndim == 1 or not re.fullmatch(_MASK, name):
            unfit.append(f"{name} {tuple(tensor.shape)}")
    missing = [f"no {name}" for name in (_TOKENS, _POSITIONS) if name not in named]
    missing += [
        f"{n} with values that are not finite" for n, t in named.items() if not t.isfinite().all()
    ]
    if unfit or missing:
        raise _does_not_fit([*missing, *unfit])
    _join_projections(named)
    _turn_to_conv1d(named)
    return _fitted(named, heads, activation)


def _known_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return ""
    layer = re.match(_LAYER, stem)
    table = _INNER if layer else _OUTER
    rest = stem[layer.end() :] if layer else stem
    known = next((name for pattern, name in table.items() if re.fullmatch(pattern, rest)), "")
    before = f"transformer.h.{int(layer[1])}." if layer else ""
    return f"{before}{known}.{kind}" if known else ""


def _join_projections(named: dict[str, Tensor]) -> None:
    """Puts three matrices for queries, keys and values into one; all are (out, in) then."""
    for name in [n for n in named if ".attn.q." in n]:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        shapes = {named[part].shape for part in parts if part in named}
        # Where they do not go together they keep their names, and so are refused.
        if all(part in named for part in parts) and len(shapes) == 1 and named[name].ndim:
            joined = torch.cat([named.pop(part) for part in parts])
            named[name.replace(".attn.q.", ".attn.c_attn.")] = joined


def _fitted(named: dict[str, Tensor], heads: int, activation: str) -> Gpt:
    """The configuration that the shapes tell, and every tensor that it asks for."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens, positions = named[_TOKENS], named[_POSITIONS]
    inner = named.get("transformer.h.0.mlp.c_fc.weight", tokens)
    if flat := [str(tuple(t.shape)) for t in (tokens, positions, inner) if t.ndim != 2]:
        raise _does_not_fit([f"a matrix of shape {shape}" for shape in flat])
    width = tokens.shape[1]
    layers = 1 + max((int(n.split(".")[2]) for n in named if ".h." in n), default=-1)
    if not 0 < layers <= len(named):
        raise refused(f"it has {len(named)} tensors for {layers:,} layers")
    if heads < 1 or not width or width % heads:
        raise refused(f"a width of {width} does not divide into {heads} heads")
    head = named.get("lm_head.weight")
    tied = head is None or torch.equal(head, tokens)
    config = GPT2Config(
        vocab_size=len(tokens),
        n_positions=len(positions),
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_inner=inner.shape[1],
        activation_function=activation,
        tie_word_embeddings=tied,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in GPT2LMHeadModel(config).state_dict().items()}
    if tied:
        named["lm_head.weight"] = tokens
    # A GPT may be trained without biases; adding none is adding zeros.
    for name, shape in wanted.items():
        if name.endswith(".bias") and name not in named:
            named[name] = torch.zeros(shape)
    wrong = [f"no {n} {s}" for n, s in wanted.items() if n not in named]
    wrong += [f"{n} {tuple(t.shape)}" for n, t in named.items() if wanted.get(n) != tuple(t.shape)]
    if wrong:
        raise _does_not_fit(wrong)
    return Gpt(config, named)


def _turn_to_conv1d(named: dict[str, Tensor]) -> None:
    """GPT-2 keeps matrices as (in, out), nn.Linear as (out, in): turned where c_attn is so.

    Only c_attn's shape, (D, 3D) or (3D, D), shows it; c_proj is square.
    """
    first = named.get("transformer.h.0.attn.c_attn.weight")
    if first is None or first.ndim != 2 or first.shape[0] != 3 * first.shape[1]:
        return
    for name, tensor in named.items():
        if name.removesuffix(".weight").endswith(_MATRICES) and tensor.ndim == 2:
            named[name] = tensor.T.contiguous()


def _does_not_fit(names: Sequence[str]) -> BiddableError:
    return refused("what does not fit: " + ", ".join(names[:20]))


def refused(why: str) -> BiddableError:
    """The error that says why a checkpoint is not taken."""
    return BiddableError(
        "checkpoint_refused",
        f"the checkpoint is no GPT that can be converted: {why}",
        "give the state dict of a GPT with learned positions, as nanoGPT saves it",
    )
