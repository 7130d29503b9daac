"""Pairs of code in other languages, by their tree-sitter grammars: the extra `mine`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from biddable.errors import BiddableError
from biddable.mining.pair import Mined, Pair, block

# The module of each suffix, and its function that gives the grammar.
GRAMMARS = {
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs"), ("javascript", "language")),
    **dict.fromkeys((".ts", ".mts"), ("typescript", "language_typescript")),
    ".tsx": ("typescript", "language_tsx"),
    ".go": ("go", "language"),
    ".rs": ("rust", "language"),
    ".java": ("java", "language"),
    **dict.fromkeys((".c", ".h"), ("c", "language")),
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".hpp", ".hh"), ("cpp", "language")),
    ".cs": ("c_sharp", "language"),
    ".rb": ("ruby", "language"),
    ".php": ("php", "language_php"),
}
FUNCTION = re.compile(r"(?:function|method)\w*|constructor_declaration")
# What stands around a line of a comment.
COMMENT = re.compile(
    r"^[ \t]*(?:/\*+!?|\*+/|\*(?!/)|//[/!]?|#+)[ \t]?|[ \t]*\*+/[ \t]*$", re.MULTILINE
)
# What `export` and the like wrap around a function.
WRAPPERS = ("export_statement", "template_declaration")
IN_TEST = re.compile(r"test\w*|.*[tT]est", re.ASCII)


def other_code_pairs(text: str, suffix: str) -> Mined:
    """The same kinds as of Python, where a comment before a function takes the docstring's place.

    Raises:
        BiddableError: `missing_extra`, the grammars are not installed.
    """
    name, language = GRAMMARS[suffix]
    try:
        tree_sitter = import_module("tree_sitter")
        grammar = getattr(import_module(f"tree_sitter_{name}"), language)()
    except ImportError:
        what = f"Files such as *{suffix} are read by tree-sitter, which is not installed."
        raise BiddableError("missing_extra", what, "pip install 'biddable[mine]'") from None
    tree = tree_sitter.Parser(tree_sitter.Language(grammar)).parse(text.encode())
    for node in _functions(tree.root_node):
        yield from _of_function(node, text.split("\n"))


def _functions(root: Any) -> Iterator[Any]:
    """Functions with a body, in their order, without those inside of others."""
    todo = [root]
    while todo:
        node = todo.pop()
        if FUNCTION.fullmatch(node.type) and node.child_by_field_name("body") is not None:
            yield node
        else:
            todo += node.children[::-1]


def _of_function(node: Any, lines: list[str]) -> Mined:
    body = node.child_by_field_name("body")
    named = node.child_by_field_name("name") or node.child_by_field_name("declarator")
    name = re.split(r"\W", named.text.decode())[0] if named is not None else ""
    outer = node.parent if node.parent is not None and node.parent.type in WRAPPERS else node
    start, end = outer.start_point[0] + 1, node.end_point[0] + 1
    comment = _comment_above(outer, lines)
    whole, span = block(lines[start - 1 : end], start)
    if IN_TEST.fullmatch(name):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", " ", re.sub(r"^[tT]est_?", "", name)).strip()
        if words:
            yield Pair("test", f"{words}\n\n{comment}" if comment else words, whole, span)
    elif len(comment.split()) > 2 and end - start > 2:
        yield Pair("code", comment, whole, span)
        # A body in braces is what stands on the lines between them.
        braces = body.text.startswith(b"{")
        first, last = body.start_point[0] + braces, body.end_point[0] + (not braces)
        inner, inner_span = block(lines[first:last], first + 1)
        if inner_span[1] > inner_span[0]:
            head, _ = block(lines[start - 1 : first], start)
            yield Pair("body", f"{comment}\n\n{head}", inner, inner_span)


def _comment_above(node: Any, lines: list[str]) -> str:
    """The text of the comment that ends right above a function; attributes may stand between."""
    parts: list[str] = []
    before, line = node.prev_sibling, node.start_point[0]
    while before is not None and before.end_point[0] >= line - 1:
        if "comment" in before.type:
            parts.append(before.text.decode(errors="replace").rstrip("\n"))
        elif "attribute" not in before.type and "decorator" not in before.type:
            break
        line, before = before.start_point[0], before.prev_sibling
    text = "\n".join(reversed(parts))
    return "\n".join(line.rstrip() for line in COMMENT.sub("", text).split("\n")).strip()
