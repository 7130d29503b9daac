"""biddable gives a language model instructions. The public face, loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biddable.data.conversation import Conversation, Message
    from biddable.data.findings import BiddableError
    from biddable.dialogue.encode import Example, encode, encode_prompt
    from biddable.dialogue.template import Template
    from biddable.verbs.chat import chat
    from biddable.verbs.check import check
    from biddable.verbs.compare import compare
    from biddable.verbs.convert import convert
    from biddable.verbs.pretrain import pretrain
    from biddable.verbs.train import train

__version__ = "0.1.0"

__all__ = [
    "BiddableError",
    "Conversation",
    "Example",
    "Message",
    "Template",
    "chat",
    "check",
    "compare",
    "convert",
    "encode",
    "encode_prompt",
    "pretrain",
    "train",
]

_HOME = {
    "BiddableError": "data.findings",
    "Conversation": "data.conversation",
    "Message": "data.conversation",
    "Template": "dialogue.template",
    "Example": "dialogue.encode",
    "encode": "dialogue.encode",
    "encode_prompt": "dialogue.encode",
    "check": "verbs.check",
    "train": "verbs.train",
    "chat": "verbs.chat",
    "compare": "verbs.compare",
    "convert": "verbs.convert",
    "pretrain": "verbs.pretrain",
}


def __getattr__(name: str) -> Any:
    """Loads a public name from its room (PEP 562): `import biddable` must not load torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'biddable' has no attribute {name!r}")
    return getattr(import_module(f"biddable.{_HOME[name]}"), name)
