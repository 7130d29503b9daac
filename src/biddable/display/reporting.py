"""What `train` and `compare` tell the report beside the comparison itself."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from biddable.data.conversation import Conversation
from biddable.display.masks import Token, tokens_of
from biddable.encoding.encode import Example, make_encoder
from biddable.judging.judge import MOST_SHOWN
from biddable.template.template import Template

# Rows of training whose answers are looked through for copies: with 90 words each about 100 MB.
MOST_COMPARED = 10_000
PACKAGES = ("biddable", "torch", "transformers", "tokenizers")


def shown_tokens(
    examples: Sequence[Example], tokenizer: Any, template: Template
) -> list[list[Token]]:
    """The first held-out examples token by token, as many as judgements keep losses of."""
    encoder = make_encoder(tokenizer, template)
    return [tokens_of(example, tokenizer, encoder) for example in examples[:MOST_SHOWN]]


def training_answers(conversations: Sequence[Conversation]) -> list[str]:
    """The answers that are not empty of the training rows, or of so many spread evenly over them.

    Every answer of base and tuned is compared with each of them, cut into runs of words.
    """
    some = conversations[:: -(-len(conversations) // MOST_COMPARED) or 1]
    return [m.content for c in some for m in c.messages if m.role == "assistant" and m.content]


def versions() -> dict[str, str]:
    """Of Python and of the packages that the result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
