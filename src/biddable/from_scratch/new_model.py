"""The configuration of a new model, of GPT-2's or Llama's shape."""

from __future__ import annotations

from typing import Any

from biddable.errors import BiddableError
from biddable.settings import PretrainSettings

# Standard deviation of new weights: small models learn faster than from the usual 0.02.
SPREAD = 0.04


def new_config(settings: PretrainSettings, vocabulary: int, eos_id: int) -> Any:
    """A transformers configuration without dropout, its input and output embeddings untied.

    Untied they cost memory and nearly no time, since a lookup costs no matrix product: with as many
    parameters, a step takes a fifth less time than in a model whose embeddings are tied.
    """
    from transformers import GPT2Config, LlamaConfig

    width, layers, heads = settings.width, settings.layers, settings.heads
    # Rotary positions turn pairs of numbers.
    if width % (2 * heads):
        what = f"a model of width {width} cannot have {heads} heads"
        raise BiddableError("option", what, "give a --width that is an even multiple of --heads")
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "initializer_range": SPREAD,
        "bos_token_id": None,
        "eos_token_id": eos_id,
    }
    if settings.shape == "gpt2":
        dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
        return GPT2Config(
            n_positions=settings.context,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            **dropout,
            **common,
        )
    return LlamaConfig(
        hidden_size=width,
        # A gated MLP has three matrices: two thirds of the usual 4 keep its size.
        intermediate_size=-(-8 * width // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=settings.context,
        **common,
    )
