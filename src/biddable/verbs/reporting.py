"""What `train` and `compare` tell the report beside the comparison itself."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from biddable.data.conversation import Conversation
from biddable.dialogue.encode import Example, make_encoder
from biddable.dialogue.preview import Token, tokens_of
from biddable.dialogue.template import Template
from biddable.judging.judge import MOST_SHOWN

PACKAGES = ("biddable", "torch", "transformers", "tokenizers")


def shown_tokens(
    examples: Sequence[Example], tokenizer: Any, template: Template
) -> list[list[Token]]:
    """The first held-out examples token by token, as many as judgements keep losses of."""
    encoder = make_encoder(tokenizer, template)
    return [tokens_of(example, tokenizer, encoder) for example in examples[:MOST_SHOWN]]


def training_answers(conversations: Sequence[Conversation]) -> list[str]:
    """All answers of the training rows that are not empty."""
    return [
        m.content for c in conversations for m in c.messages if m.role == "assistant" and m.content
    ]


def versions() -> dict[str, str]:
    """Of Python and of the packages that the result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
