"""Pairs of Python code: what a function says of itself, its body, and tests by their names."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence

from biddable.errors import Finding
from biddable.mining.pair import Mined, Pair, block

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_pairs(text: str) -> Mined:
    """`code`: docstring to function; `body`: signature and docstring to body; `test`: name to test.

    A body of one line is no answer to learn from, but for a test.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = f"The file is not Python of this version: {getattr(error, 'msg', None) or error}."
        yield Finding("not_python", "note", what, "", line=getattr(error, "lineno", 0) or 0)
        return
    lines = text.split("\n")
    for function in _functions(tree):
        yield from _of_function(function, lines)


def _functions(tree: ast.Module) -> Iterator[Function]:
    """Functions of the module and its classes, in their order."""
    todo: list[ast.stmt] = tree.body[::-1]
    while todo:
        node = todo.pop()
        if isinstance(node, Function):
            yield node
        elif isinstance(node, ast.ClassDef):
            todo += node.body[::-1]


def _of_function(function: Function, lines: Sequence[str]) -> Mined:
    start = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    end, document = function.end_lineno or start, ast.get_docstring(function)
    whole, span = block(lines[start - 1 : end], start)
    if function.name.startswith("test_"):
        said = function.name.removeprefix("test_").replace("_", " ")
        yield Pair("test", f"{said}\n\n{document}" if document else said, whole, span)
        return
    if not document or len(function.body) < 2:
        return
    after = function.body[0].end_lineno or start
    first = function.body[1]
    first_line = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", ()))])
    body, body_span = block(lines[after:end], after + 1)
    if first_line > after and body_span[1] > body_span[0]:
        yield Pair("code", document, whole, span)
        head, _ = block(lines[start - 1 : after], start)
        yield Pair("body", head, body, body_span)
