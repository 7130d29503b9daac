"""biddable gives a language model instructions. The public face, loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biddable.commands.chat import chat
    from biddable.commands.check import check
    from biddable.commands.compare import compare
    from biddable.commands.train import train
    from biddable.data.conversation import Conversation, Message
    from biddable.encoding.encode import Example, encode, encode_prompt
    from biddable.errors import BiddableError
    from biddable.from_scratch.convert import convert
    from biddable.from_scratch.pretrain import pretrain
    from biddable.template.template import Template

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
    "BiddableError": "errors",
    "Conversation": "data.conversation",
    "Message": "data.conversation",
    "Template": "template.template",
    "Example": "encoding.encode",
    "encode": "encoding.encode",
    "encode_prompt": "encoding.encode",
    "check": "commands.check",
    "train": "commands.train",
    "chat": "commands.chat",
    "compare": "commands.compare",
    "convert": "from_scratch.convert",
    "pretrain": "from_scratch.pretrain",
}


def __getattr__(name: str) -> Any:
    """Loads a public name from its room (PEP 562): `import biddable` must not load torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'biddable' has no attribute {name!r}")
    return getattr(import_module(f"biddable.{_HOME[name]}"), name)
