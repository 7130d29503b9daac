"""Writes src/biddable/__init__.pyi: the public names with every option as a typed argument.

    python tests/helpers/stub.py

Editors and type checkers read it; tests/test_public_face.py holds it to the code.
"""

from __future__ import annotations

from dataclasses import Field, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import biddable
from biddable.command_table import COMMANDS
from biddable.options import choices_of
from biddable.settings import Sampling

HEAD = '''"""The public face. tests/helpers/stub.py writes it from settings.py."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

{imports}

__version__: str
__all__ = {names}

# A file or folder, or several; of rows also those in memory.
Paths = str | PathLike[str] | Sequence[str | PathLike[str]]
Rows = str | PathLike[str] | Iterable[str | PathLike[str] | Mapping[str, Any] | Conversation]
'''
RESULT_IMPORTS = (
    "from biddable.commands.check import Checked",
    "from biddable.commands.compare import Comparison",
    "from biddable.commands.each import Adapters",
    "from biddable.commands.mine import MinedRows",
    "from biddable.commands.export import Exported",
    "from biddable.commands.train import Trained",
    "from biddable.from_scratch.convert import Converted",
    "from biddable.from_scratch.pretrained import Pretrained",
)
ROWS = ("data", "eval", "train")
RESULTS = {"check": "Checked", "train": "Trained", "compare": "Comparison", "chat": "None"}
RESULTS |= {"convert": "Converted", "pretrain": "Pretrained", "mine": "MinedRows"}
RESULTS |= {"serve": "None"}
RESULTS |= {"train_each": "Adapters"}
RESULTS |= {"export": "Exported"}


def option(f: Field[Any], in_memory: bool) -> str:
    """An option as a typed keyword argument."""
    name, default = f.name, f.default
    kind = type(default).__name__
    if name in ROWS and in_memory:
        kind = "Rows"
    elif choices := choices_of(f):
        values = dict.fromkeys((*choices, default))
        kind = f"Literal[{', '.join(map(repr, values))}]"
    elif kind == "tuple":
        kind = "str | Sequence[str]"
    elif f.metadata.get("file") or name in ("template", "html"):
        kind = "str | PathLike[str]"
    elif default is None:
        kind = "str | None"
    return f"{name}: {kind} = {default!r}"


def function(name: str, record: type[Any], result: str, kind: Any, indent: str = "") -> str:
    """A function or method whose `**options` are the fields of a record."""
    before, after = [], []
    for p in signature(kind).parameters.values():
        if p.name in ("data", "paths", "runs", "run", "checkpoint", "model", "base", "tuned"):
            special = {"data": "Rows", "paths": "Paths", "runs": "Paths"}
            typed = special.get(p.name, "str | PathLike[str]")
            before.append(f"{p.name}: {typed}" + ("" if p.default is Parameter.empty else " = ()"))
        elif p.kind is Parameter.KEYWORD_ONLY:
            after.append(f"{p.name}: {p.annotation} = {p.default!r}")
        elif p.kind is not Parameter.VAR_KEYWORD:
            before.append(p.name if p.name == "self" else f"{p.name}: {p.annotation}")
    memory = name in ("check", "train", "compare")
    given = {p.partition(":")[0] for p in before}
    after += [option(f, memory) for f in fields(record) if f.name not in given]
    lines = "".join(f"{indent}    {text},\n" for text in [*before, "*", *after])
    return f"{indent}def {name}(\n{lines}{indent}) -> {result}: ...\n"


def stub() -> str:
    """The whole file."""
    plain = {n: m for n, m in biddable._HOME.items() if n not in RESULTS and n != "Speaker"}
    del plain["load"]
    imports = [f"from biddable.{m} import {n} as {n}" for n, m in plain.items()]
    lines = "\n".join(sorted([*RESULT_IMPORTS, *imports]))
    names = "[\n" + "".join(f'    "{n}",\n' for n in biddable.__all__) + "]"
    text = HEAD.format(imports=lines, names=names)
    answer = function("answer", Sampling, "str", biddable.Speaker.answer, "    ")
    text += "\nclass Speaker:\n    name: str\n    context: int\n    trained_system: str | None\n"
    text += answer + "\n"
    text += f"def load{signature(biddable.load)}: ...\n"
    for name, result in RESULTS.items():
        text += function(
            name, COMMANDS[name.removesuffix("_each")].options, result, getattr(biddable, name)
        )
    for word in ("str | PathLike[str]", "str", "Speaker"):
        text = text.replace(f"'{word}'", word)
    return text.replace("'", '"')


if __name__ == "__main__":
    target = Path(biddable.__file__).with_suffix(".pyi")
    target.write_text(stub(), encoding="utf-8")
