"""A tiny GGUF file that converts, and ways to damage it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from safetensors.torch import load_file

# GGUF's names of what a layer of a Llama holds.
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
    "model.norm.weight": "output_norm.weight",
}  # fmt: skip


def write_gguf(base: Path, path: Path) -> None:
    """Writes the tiny Llama of tests/helpers/folders.py as a GGUF file."""
    settings = json.loads((base / "config.json").read_text())
    described = json.loads((base / "tokenizer.json").read_text())
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(settings["vocab_size"])
    vocabulary = sorted(described["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # transformers adds this token where a file has it not, and then the embedding lacks a row.
    writer.add_token_list(["<|endoftext|>", *(text for text, _ in vocabulary[1:])])
    kinds = [TokenType.CONTROL if i < 2 else TokenType.NORMAL for _, i in vocabulary]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in load_file(base / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name), np.ascontiguousarray(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def value(key: str, content: bytes) -> Callable[[bytes], bytes]:
    """Puts other bytes for the value of a plain key (its name, its type, its content)."""

    def do(raw: bytes) -> bytes:
        at = raw.index(key.encode()) + len(key) + 4
        return raw[:at] + content + raw[at + len(content) :]

    return do


def tensor(name: str, content: bytes, skipped: int) -> Callable[[bytes], bytes]:
    """Puts other bytes into a tensor's entry, so many behind its name."""

    def do(raw: bytes) -> bytes:
        at = raw.rindex(name.encode()) + len(name) + skipped
        return raw[:at] + content + raw[at + len(content) :]

    return do


def counts(tensors: int, values: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:8] + struct.pack("<QQ", tensors, values) + raw[24:]


Q = "blk.0.attn_q.weight"
HUGE = struct.pack("<Q", 2**62)
CASES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "43 bytes": lambda raw: raw[:43],
    "half of it": lambda raw: raw[: len(raw) // 2],
    "a byte short": lambda raw: raw[:-64],
    "another magic": lambda raw: b"GGML" + raw[4:],
    "version 99": lambda raw: raw[:4] + struct.pack("<I", 99) + raw[8:],
    "values without end": counts(21, 2**63),
    "tensors without end": counts(2**64 - 1, 20),
    "fewer tensors": lambda raw: counts(20, struct.unpack("<Q", raw[16:24])[0])(raw),
    "a text without end": lambda raw: raw[:24] + struct.pack("<Q", 2**40) + raw[32:],
    "a list without end": value("tokenizer.ggml.tokens", struct.pack("<IQ", 8, 2**50)),
    "a list of lists": value("tokenizer.ggml.merges", struct.pack("<I", 9)),
    "a type unknown": lambda raw: raw.replace(
        b"llama.block_count\x04", b"llama.block_count\x63", 1
    ),
    "layers without end": value("llama.block_count", struct.pack("<I", 2**31)),
    "a width of 2 billion": value("llama.embedding_length", struct.pack("<I", 2**31 - 64)),
    "a vocabulary of 4 billion": value("llama.vocab_size", struct.pack("<I", 2**32 - 1)),
    "no positions": value("llama.context_length", struct.pack("<I", 0)),
    "no heads": value("llama.attention.head_count", struct.pack("<I", 0)),
    "a tensor of 17 dimensions": tensor(Q, struct.pack("<I", 17), 0),
    "a tensor huge": tensor(Q, HUGE, 4),
    "a tensor of no rows": tensor(Q, struct.pack("<Q", 0), 4),
    "a tensor elsewhere": tensor(Q, HUGE, 24),
    "a tensor of a type unknown": tensor(Q, struct.pack("<I", 77), 20),
    "another architecture": lambda raw: raw.replace(
        b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1
    ),
}  # fmt: skip
