"""Writes docs/guide/codes.md: the codes of all errors and findings, read from the source.

`python tests/helpers/codes_table.py` writes the page; tests/test_docs.py holds it current.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "biddable"
PAGE = ROOT / "docs" / "guide" / "codes.md"
HEAD = """# Codes

Every error and every finding has a code, which programs may rely on: `check --json` and `--json` of
the other commands print it, a person sees it in brackets behind the message. Words in braces are
filled in. An error ends a command with exit code 1, a warning does so only with `check --strict`, a
note never. This page is written by `tests/helpers/codes_table.py`.

| code | kind | where | message |
|---|---|---|---|
"""
SEVERITIES = ("error", "warning", "note")
CODE = re.compile(r"[a-z]+(_[a-z]+)*")
LONGEST = 140


@dataclass(frozen=True)
class Passing:
    """A function that takes a code and passes it on, with the places of its arguments.

    A message or severity that it does not take is the text itself.
    """

    code: int
    message: int | str
    severity: int | str


def rows() -> list[tuple[str, str, str, str]]:
    """Code, kind, room or module, and the form of the message, sorted."""
    forms: set[tuple[str, str, str, str]] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix().removesuffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants, passing = module_texts(tree), passing_functions(tree)
        for scope in scopes(tree):
            if getattr(scope, "name", "") in passing:
                continue
            assigned = constants | module_texts(scope)
            for call in (node for node in own_nodes(scope) if isinstance(node, ast.Call)):
                forms |= set(of_call(call, assigned, place, passing))
    return sorted(forms)


def passing_functions(tree: ast.AST) -> dict[str, Passing]:
    """The functions that take a code and pass it on, by name."""
    passing = {}
    for scope in scopes(tree)[1:]:
        assert isinstance(scope, ast.FunctionDef)
        places = {argument.arg: i for i, argument in enumerate(scope.args.args)}
        for call in (node for node in own_nodes(scope) if isinstance(node, ast.Call)):
            kind, arguments = ast.unparse(call.func), [ast.unparse(a) for a in call.args]
            if kind in ("BiddableError", "Finding") and arguments[:1] and arguments[0] in places:
                level = "error" if kind == "BiddableError" else arguments[1].strip("'")
                at = 1 if kind == "BiddableError" else 2
                own = form(call.args[at], module_texts(scope))
                message = places.get(arguments[at], own)
                severity = places.get(level, level)
                passing[scope.name] = Passing(places[arguments[0]], message, severity)
    return passing


def scopes(tree: ast.AST) -> list[ast.AST]:
    return [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))]


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module or function that are not in a function within it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from own_nodes(child)


def module_texts(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """What names are given in a scope: the expressions, in order."""
    texts: dict[str, list[ast.expr]] = {}
    for node in own_nodes(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                for name, value in pairs:
                    if isinstance(name, ast.Name):
                        texts.setdefault(name.id, []).append(value)
    return texts


def of_call(
    call: ast.Call, names: dict[str, list[ast.expr]], place: str, passing: dict[str, int]
) -> Iterator[tuple[str, str, str, str]]:
    """The codes of one construction of an error or a finding."""
    # An assignment counts for the calls behind it, and the last one before a call is its message.
    names = {name: [v for v in values if v.lineno <= call.lineno] for name, values in names.items()}
    called, arguments = ast.unparse(call.func).split(".")[-1], list(call.args)
    how = ({"BiddableError": Passing(0, 1, "error"), "Finding": Passing(0, 2, 1)} | passing).get(
        called
    )
    places = [n for n in (how.code, how.message, how.severity) if isinstance(n, int)] if how else []
    if how is None or len(arguments) <= max(places):
        return
    severity, message = how.severity, how.message
    text = message if isinstance(message, str) else form(arguments[message], names)
    kinds = [severity] if isinstance(severity, str) else constants_of(arguments[severity], names)
    kinds = [kind for kind in kinds if kind in SEVERITIES] or ["by place"]
    code = arguments[how.code]
    for name in constants_of(code, names) or of_tables(code, names):
        yield name, ", ".join(sorted(set(kinds))), place, text


def constants_of(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    """The texts that an expression may be: itself, both sides of a choice, a name's values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return constants_of(node.body, names) + constants_of(node.orelse, names)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        tables = [value for value in names.get(node.value.id, ()) if isinstance(value, ast.Dict)]
        return [t for table in tables for v in table.values for t in constants_of(v, names)]
    if isinstance(node, ast.Name):
        return [
            text
            for value in names.get(node.id, ())
            for text in constants_of(value, names if value is not node else {})
        ]
    return []


def of_tables(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    """What a loop's variable `code` may be: keys of the module's tables, heads of their rows."""
    heads: list[ast.expr | None] = []
    for value in [v for values in names.values() for v in values]:
        if isinstance(value, ast.Dict):
            heads += value.keys
        elif isinstance(value, ast.Tuple):
            heads += [row.elts[0] for row in value.elts if isinstance(row, ast.Tuple) and row.elts]
    texts = [head.value for head in heads if isinstance(head, ast.Constant)]
    is_code = isinstance(node, ast.Name) and node.id == "code" and not names.get("code")
    return [t for t in texts if isinstance(t, str) and CODE.fullmatch(t)] if is_code else []


def form(node: ast.expr, names: dict[str, list[ast.expr]]) -> str:
    """A message with its expressions in braces, short enough for a table."""
    text = " ".join(plain(node, names).split()).replace("|", "\\|")
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " ..."


def plain(node: ast.expr, names: dict[str, list[ast.expr]]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(plain(value, {}) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return plain(node.left, names) + plain(node.right, names)
    if isinstance(node, ast.Name) and names.get(node.id):
        return plain(names[node.id][-1], {})
    if isinstance(node, ast.IfExp):
        return f"{plain(node.body, names)} / {plain(node.orelse, names)}"
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "")
    return f"{{{name or 'text'}}}"


def page() -> str:
    lines = [f"| `{code}` | {kind} | {where} | {text} |\n" for code, kind, where, text in rows()]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
