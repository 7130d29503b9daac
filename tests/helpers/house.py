"""Measures the source: `house.py` prints the figures that test_house.py bounds.

Lines are those of files, with blank ones and docstrings. The way from the command to the gradient
is counted by running it: a tiny model is trained for one step.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import biddable
from biddable import Conversation, Example

ROOT = Path(biddable.__file__).parent
# Results are named for what they are.
VAGUE = {"found", "told", "made", "some", "asked"}


@dataclass(frozen=True)
class Part:
    """A file or a function, and its lines."""

    name: str
    lines: int


def sources() -> list[Path]:
    """The package's Python files."""
    return sorted(ROOT.rglob("*.py"))


def files() -> list[Part]:
    """Each file with its lines, the longest first."""
    parts = [Part(_name(p), len(p.read_text("utf-8").splitlines())) for p in sources()]
    return sorted(parts, key=lambda part: -part.lines)


def functions() -> list[Part]:
    """Each function with its lines, the longest first."""
    parts = [
        Part(f"{_name(path)}:{node.name}", node.end_lineno - node.lineno + 1)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    return sorted(parts, key=lambda part: -part.lines)


def vague_names() -> list[str]:
    """`file:line name` of each use of a name that says nothing of its value."""
    return [
        f"{_name(path)}:{line} {name}"
        for path in sources()
        for line, name in _names(ast.parse(path.read_text("utf-8")))
        if name in VAGUE
    ]


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef):
            yield node.lineno, node.name


def traced_run() -> tuple[list[Part], list[Part]]:
    """One training step of a tiny model: the way to its gradient, and all that is entered before.

    The way is what a reader follows: the functions on the call stack when the first row becomes a
    conversation, the first example is made, and the step's plan, loss and learning rate are formed.
    """
    from biddable.commands.train import train
    from folders import base_folder, rows, write_jsonl

    way: dict[CodeType, None] = {}
    entered: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        entered.setdefault(frame.f_code)
        if name := _milestone(frame):
            if name not in milestones:
                return
            milestones.remove(name)
            way.update(dict.fromkeys(reversed(_stack(frame))))

    milestones = {"Conversation", "Example", "plan_step", "loss_sum", "learning_rate"}
    with tempfile.TemporaryDirectory() as folder:
        base = base_folder(Path(folder) / "base")
        data = write_jsonl(Path(folder) / "data.jsonl", rows(24))
        sys.setprofile(note)
        try:
            train(data, base=base, out=f"{folder}/run", steps=1, answers=1)
        finally:
            sys.setprofile(None)
    assert not milestones, milestones
    codes = list(entered)
    last = next(i for i, code in enumerate(codes) if code.co_name == "learning_rate")
    return _parts(way), _parts(codes[: last + 1])


def _milestone(frame: FrameType) -> str:
    """The name of the milestone that a call reaches, or nothing; judging plans and loses too."""
    records = {c.__init__.__code__: c.__name__ for c in (Conversation, Example)}
    name = records.get(frame.f_code, frame.f_code.co_name)
    if name in ("plan_step", "loss_sum"):
        return name if any(c.co_name == "_train_step" for c in _stack(frame)) else ""
    return name


def _stack(frame: FrameType) -> list[CodeType]:
    codes, caller = [], frame
    while caller:
        codes.append(caller.f_code)
        caller = caller.f_back
    return codes


def _parts(codes: Iterable[CodeType]) -> list[Part]:
    return [part for code in codes if (part := _part_of(code))]


def _part_of(code: CodeType) -> Part | None:
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT) or code.co_name.startswith("<"):
        return None
    lines = [line for _, _, line in code.co_lines() if line]
    return Part(f"{_name(path)}:{code.co_qualname}", max(lines) - code.co_firstlineno + 1)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    print(f"{sum(p.lines for p in files()):,} lines in {len(files())} files")
    for title, parts in (("longest files", files()[:5]), ("longest functions", functions()[:5])):
        print(f"{title}: " + ", ".join(f"{p.name} {p.lines}" for p in parts))
    print(f"{len(vague_names())} uses of {', '.join(sorted(VAGUE))} as names")
    for title, way in zip(("way to the gradient", "entered before it"), traced_run(), strict=True):
        homes = {part.name.partition(":")[0] for part in way}
        lines = sum(part.lines for part in way)
        print(f"{title}: {lines:,} lines, {len(way)} functions, {len(homes)} files")
