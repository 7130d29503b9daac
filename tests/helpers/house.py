"""Measures the source: `house.py` prints the figures that test_house.py bounds.

Lines are those of files, with blank ones and docstrings. The way from the command to the gradient
is counted by running it: a tiny model is trained for one step, and every function of this package
that is entered on the way, in any thread of this process, counts with all its lines.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import biddable

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


def way_to_gradient() -> list[Part]:
    """The functions that a training run enters until its first gradient is formed."""
    from biddable.commands.train import train
    from folders import base_folder, rows, write_jsonl

    entered: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.setdefault(frame.f_code)

    with tempfile.TemporaryDirectory() as folder:
        base = base_folder(Path(folder) / "base")
        data = write_jsonl(Path(folder) / "data.jsonl", rows(24))
        sys.setprofile(note)
        try:
            train(str(data), base=str(base), out=f"{folder}/run", steps=1, answers=1)
        finally:
            sys.setprofile(None)
    codes = list(entered)
    last = next(i for i, code in enumerate(codes) if code.co_name == "backward_step")
    return [part for code in codes[: last + 1] if (part := _part_of(code))]


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
    way = way_to_gradient()
    homes = {part.name.partition(":")[0] for part in way}
    lines = sum(part.lines for part in way)
    print(f"way to the gradient: {lines:,} lines, {len(way)} functions, {len(homes)} files")
