"""biddable gives a language model instructions. The public face, loaded on first use.

Its names and signatures stand in `__init__.pyi`, which tests/helpers/stub.py writes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "BiddableError": "errors",
    "Finding": "errors",
    "Conversation": "data.conversation",
    "Message": "data.conversation",
    "Template": "template.template",
    "Example": "encoding.encode",
    "encode": "encoding.encode",
    "encode_prompt": "encoding.encode",
    "Speaker": "generation.speaker",
    "load": "generation.speaker",
    "Scorecard": "judging.scorecard",
    "Verdict": "judging.verdict",
    "check": "commands.check",
    "train": "commands.train",
    "train_each": "commands.train",
    "chat": "commands.chat",
    "compare": "commands.compare",
    "serve": "commands.serve",
    "export": "commands.export",
    "convert": "from_scratch.convert",
    "pretrain": "from_scratch.pretrain",
    "mine": "commands.mine",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """Loads a public name from its room (PEP 562): `import biddable` must not load torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'biddable' has no attribute {name!r}")
    return getattr(import_module(f"biddable.{_HOME[name]}"), name)
