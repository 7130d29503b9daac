"""Pairs of man pages and of stored `--help` texts: what an option or a section says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from biddable.mining.outline import document_pairs
from biddable.mining.pair import Mined, Pair, block
from biddable.mining.pieces import Piece

ESCAPES = (
    (r"\\\*\(Aq", "'"),
    (r"\\\*(?:\(..|\[\w+\])", ""),
    (r'\\".*', ""), (r"\\f(?:\[\w*\]|\(\w\w|.)", ""), (r"\\s[-+]?\d+", ""), (r"\\\((?:aq|cq)", "'"),
    (r"\\\((?:dq|lq|rq)", '"'), (r"\\\((?:em|en|mi|hy)|\\-", "-"), (r"\\\(bu|\\\[bu\]", "*"),
    (r"\\[&|^:/,)%]", ""), (r"\\[ ~0]", " "), (r"\\e|\\\(rs", r"\\"),
)  # fmt: skip
MACRO = re.compile(r"[.'][ \t]*([A-Za-z]{1,3}|\\\")(?![\w.])[ \t]*(.*)")
ARGUMENT = re.compile(r'"((?:[^"]|"")*)"|(\S+)')
# Macros whose arguments are text; those of two letters of BIR set them without blanks between.
FONTS = re.compile(r"[BI]|SM|SB|[BIR]{2}|MR|UR|MT")
# The macros of mdoc that have text; the arguments of a flag get a dash.
SEMANTIC = re.compile(r"Nm|Nd|Fl|Ar|Cm|Pa|Op|Ev|Xr|Sy|Em|Li|Dq|Sq|Ql|Va|Fn|Ic|Tn|Oo|Oc|Pq|Ns")
BREAKS = ("PP", "P", "LP", "El", "HP", "sp", "br", "RE")
# Whether lines are filled from here on, or stand as they are.
FILLING = {"nf": False, "EX": False, "Bd": False, "fi": True, "EE": True, "Ed": True}
# A help text says how its program is called among its first lines.
FIRST_LINES = 6
USAGE = re.compile(r"^\s*usage:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
OPTION = re.compile(r"(\s{1,10})(-{1,2}[\w?]\S*(?:[ ,|]\S+)*)(?:\s{2,}(\S.*))?")


def is_man_page(text: str) -> bool:
    """Whether a text is the source of a man page."""
    return bool(re.search(r"^\.(?:TH|Dt)[ \t]", text[:20_000], re.MULTILINE))


def man_pairs(text: str) -> Mined:
    """Options and sections of a man page, named by the page."""
    pieces = _joined(_roff_pieces(text))
    title = next((p.text for p in pieces if p.role == "heading" and p.level == 1), "")
    for pair in document_pairs(pieces):
        if isinstance(pair, Pair):
            prompt = pair.prompt if pair.prompt.startswith(title) else f"{title} > {pair.prompt}"
            yield replace(pair, kind="help", prompt=prompt)


def _roff_pieces(text: str) -> Iterator[Piece]:
    role, waits, filled = "text", False, True
    for number, source in enumerate(text.split("\n"), 1):
        macro = MACRO.fullmatch(source)
        name, rest = (macro[1], macro[2]) if macro else ("", source)
        shown = _shown(name, rest)
        if name in ("TH", "Dt"):
            yield Piece("heading", (shown.split() or [""])[0].lower(), number, 1)
        elif name.upper() in ("SH", "SS"):
            yield Piece("heading", shown, number, 2 + (name.upper() == "SS"))
            role = "text"
        elif name in BREAKS:
            role = role if name in ("sp", "br") else "text"
            yield Piece(role, "", number)
        elif name in FILLING:
            filled = FILLING[name]
        elif name in ("TP", "TQ"):
            waits = True
        elif shown and (waits or name in ("IP", "It")):
            yield Piece("term", shown, number)
            role, waits = "definition", False
        elif shown:
            yield Piece(role if filled else "code", shown, number)


def _joined(pieces: Iterator[Piece]) -> list[Piece]:
    """The lines of a paragraph as one piece, which is how a man page shows them."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else Piece("", "", 0)
        filled = piece.role in ("text", "definition") and piece.role == last.role
        if filled and piece.text and last.text:
            joined[-1] = last._replace(text=f"{last.text} {piece.text}", last=piece.line)
        else:
            joined.append(piece)
    return joined


def _shown(name: str, rest: str) -> str:
    """The text of a line of a man page; nothing where its macro has none."""
    titles = ("TH", "Dt", "SH", "Sh", "SS", "Ss", "IP", "It")
    if name and name not in titles and not FONTS.fullmatch(name) and not SEMANTIC.fullmatch(name):
        return ""
    if name:
        words = [quoted or bare for quoted, bare in ARGUMENT.findall(rest)]
        words = words[:1] if name in ("TH", "IP") else words
        flagged = [f"-{word}" for word in words[:1]] + words[1:] if name == "Fl" else words
        rest = ("" if re.fullmatch("[BIR]{2}", name) else " ").join(flagged)
    if name == "It":
        rest = re.sub(r"\bFl (?=\w)", "-", re.sub(r"\b(?:Ar|Ns|Cm|Pa) ", "", rest))
    for pattern, text in ESCAPES:
        rest = re.sub(pattern, text, rest)
    return rest.rstrip()


def help_pairs(text: str) -> Mined:
    """Each option of a stored `--help` text, and the text as a whole."""
    lines = text.split("\n")
    usage = USAGE.search("\n".join(lines[:FIRST_LINES]))
    if usage is None:
        return
    whole, span = block(lines, 1)
    yield Pair("help", f"{usage[1]} --help", whole, span)
    for number, line in enumerate(lines):
        if option := OPTION.fullmatch(line):
            end = number + 1
            deeper = re.compile(rf"\s{{{len(option[1]) + 2},}}(?!-)\S.*")
            while end < len(lines) and deeper.fullmatch(lines[end]):
                end += 1
            said, place = block([option[3] or "", *lines[number + 1 : end]], number + 1)
            said = "\n".join(part.strip() for part in said.split("\n"))
            if said:
                yield Pair("help", f"{usage[1]} {option[2].strip()}", said, place)
