"""A chat template in the language of Go's text/template, as Ollama wants it.

A Jinja text cannot be translated, but what it prints can be tabulated: texts between the contents,
each chosen by the roles on its two sides. Rendering marked contents gives the table, rendering
other contents both ways proves it, and a template that prints anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product

from biddable.data.conversation import Message
from biddable.errors import BiddableError
from biddable.template.rendering import attempt
from biddable.template.template import Template

_ROLES = ("system", "user", "assistant")
# What stands before the first and behind the last message.
_BEGIN, _END = "begin", "end"
# Messages of the longest conversation that is rendered, as it was trained and in other orders.
_LONGEST, _LONGEST_OTHER = 6, 4
_TRAINED = re.compile(r"(system )?(user assistant )*user")
# Ollama drops old messages where a chat is too long: an answer may then come first.
_LEFT_OUT = (f"{_BEGIN} assistant", "system assistant")
_MARK = re.compile("\ue000([0-9])\ue001")
_PADDED = " \n\u3000x\u00a0\t\n"
_TEXTS = (
    "One?", _PADDED, "two  spaces\n\n\nlines \\n 12,345", "{{ x }} {% y %} <b>&amp; \"q\" 'q' </b>",
    "<think>\nSo.\n</think>\n\nYes.", "naïve 漢字 🙂 e\u0301", "[INST] System: user\n\nassistant",
)  # fmt: skip
# The white space that Jinja's trim takes away, by its length in UTF-8.
_SPACES = {
    1: "\t\n\v\f\r\x1c\x1d\x1e\x1f ",
    2: "\x85\xa0",
    3: "\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """A chat template as a table.

    Args:
        between: what is printed between two roles, or before the first and behind the last.
        stripped: roles whose contents are printed without the white space around them.
        empty_system: an empty system message is printed like any other.
    """

    between: Mapping[tuple[str, str], str]
    stripped: frozenset[str] = frozenset()
    empty_system: bool = True

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, as the Go template prints it.

        Raises:
            BiddableError: `not_expressible`, the table has no such order of roles.
        """
        roles = [m.role for m in messages]
        pairs = list(pairwise((_BEGIN, *roles, _END)))
        if not set(pairs) <= set(self.between):
            raise _not_expressible(f"prints {', '.join(roles)} in a way of its own")
        texts = [m.content.strip() if m.role in self.stripped else m.content for m in messages]
        first, *rest = [self.between[pair] for pair in pairs]
        return first + "".join(text + after for text, after in zip(texts, rest, strict=True))

    def without(self, bos: str) -> Frame:
        """The frame for a program that itself puts the BOS in front."""
        between = {
            pair: text.removeprefix(bos) if pair[0] == _BEGIN else text
            for pair, text in self.between.items()
        }
        return replace(self, between=between)

    def go(self) -> str:
        """The Go template; messages that the table does not know are an error in it."""
        unknown = f"{{{{slice {_quoted('the trained template knows no such messages')} 99}}}}"
        steps, ends = {}, {}
        for (before, role), text in self.between.items():
            printed = "{{" + _quoted(text) + "}}" if text else ""
            if role == _END:
                ends[before] = printed
                continue
            content = '{{template "strip" .Content}}' if role in self.stripped else "{{.Content}}"
            if role == "system" and not self.empty_system:
                content = f"{{{{if not .Content}}}}{unknown}{{{{end}}}}{content}"
            steps[f"{before} {role}"] = printed + content + "{{$last = .Role}}"
        steps |= {step: "" for step in _LEFT_OUT if step not in steps}
        begin = f'{{{{$last := "{_BEGIN}"}}}}{{{{range .Messages}}}}'
        step = '{{$step := print $last " " .Role}}'
        body = _choice("$step", steps, unknown) + "{{end}}" + _choice("$last", ends, unknown)
        return (_strip() if self.stripped else "") + begin + step + body


def frame_of(template: Template) -> Frame:
    """The table of a chat template.

    Raises:
        BiddableError: `not_expressible`.
    """
    table: dict[tuple[str, str], str] = {}
    core: set[tuple[str, str]] = set()
    doubtful: set[tuple[str, str]] = set()
    # The trained ones first: another order may not gainsay them.
    for roles in sorted(_orders(), key=lambda roles: (not _trained(roles), len(roles))):
        pairs, texts = list(pairwise((_BEGIN, *roles, _END))), _between(template, roles)
        both = {*table.items(), *zip(pairs, texts, strict=True)} if texts else set()
        if texts and len(both) == len({*table, *pairs}):
            table = dict(both)
            core |= set(pairs) if _trained(roles) else set()
        elif _trained(roles) and "system" not in roles:
            raise _not_expressible("prints other texts between contents than their roles decide")
        else:
            doubtful |= set(pairs)
    known = {pair: table[pair] for pair in sorted(table) if pair in core or pair not in doubtful}
    return _proven(template, known)


def _orders() -> Iterator[tuple[str, ...]]:
    """Roles of conversations; Ollama joins messages of one role that follow each other."""
    for count in range(1, _LONGEST + 1):
        for roles in product(_ROLES, repeat=count):
            repeats = any(a == b for a, b in pairwise(roles))
            if not repeats and (count <= _LONGEST_OTHER or _trained(roles)):
                yield roles


def _trained(roles: Sequence[str]) -> bool:
    return _TRAINED.fullmatch(" ".join(roles)) is not None


def _between(template: Template, roles: Sequence[str]) -> list[str] | None:
    """The texts around the contents; None where they do not come once each and in order."""
    marked = [Message(role, f"\ue000{i}\ue001") for i, role in enumerate(roles)]
    text = attempt(partial(template.render, marked, add_generation_prompt=True))
    parts = [] if isinstance(text, BiddableError) else _MARK.split(text)
    return parts[::2] if parts[1::2] == [str(i) for i in range(len(roles))] else None


def _proven(template: Template, table: Mapping[tuple[str, str], str]) -> Frame:
    """The table with the roles whose contents are stripped, once it renders all that it knows."""
    frame = Frame(table)
    system = [Message("system", "x")] if (_BEGIN, "system") in table else []
    longest = [*system, *(Message(role, "x") for role in ("user", "assistant", "user"))]
    for role in {m.role for m in longest}:
        padded = [Message(m.role, _PADDED) if m.role == role else m for m in longest]
        strips = replace(frame, stripped=frame.stripped | {role})
        if frame.render(padded) != template.render(padded, add_generation_prompt=True):
            frame = strips
    for roles in _orders():
        if len(roles) < _LONGEST_OTHER and set(pairwise((_BEGIN, *roles, _END))) <= set(table):
            for text in _TEXTS:
                chat = [Message(role, text) for role in roles]
                want = attempt(partial(template.render, chat, add_generation_prompt=True))
                if isinstance(want, str) and frame.render(chat) != want:
                    raise _not_expressible(f"changes contents such as {text!r}")
    empty = [replace(m, content="") if m.role == "system" else m for m in longest]
    same = frame.render(empty) == template.render(empty, add_generation_prompt=True)
    return replace(frame, empty_system=same)


def _choice(variable: str, cases: Mapping[str, str], otherwise: str) -> str:
    """Prints what stands at the variable's value."""
    tests = [f'if eq {variable} "{value}"}}}}{body}' for value, body in cases.items()]
    return "{{" + "\n{{- else ".join(tests) + "\n{{- else}}" + otherwise + "{{end}}"


def _strip() -> str:
    """A template that prints a text without the white space around it."""
    cases = []
    for size, spaces in _SPACES.items():
        among = " ".join(_quoted(space) for space in spaces)
        rest = f"(slice . {size})"
        # As long as the text without as many bytes at its end.
        short = f"(len {rest})"
        for edge, inner in (
            (f"(slice . 0 {size})", rest),
            (f"(slice . {short})", f"(slice . 0 {short})"),
        ):
            test = f"if and (ge (len .) {size}) (eq {edge} {among})"
            cases.append(test + '}}{{template "strip" ' + inner + "}}")
    return '{{define "strip"}}{{' + "\n{{- else ".join(cases) + "{{else}}{{.}}{{end}}{{end}}"


def _quoted(text: str) -> str:
    """A string of Go in ASCII without quotes inside: Ollama drops what cannot be printed."""
    escapes = {"\n": "\\n", '"': "\\x22", "\\": "\\\\"}
    return '"' + "".join(escapes.get(c) or _escaped(c) for c in text) + '"'


def _escaped(c: str) -> str:
    return c if c.isascii() and c.isprintable() else f"\\U{ord(c):08x}"


def _not_expressible(why: str) -> BiddableError:
    return BiddableError(
        "not_expressible",
        f"the language of Ollama's templates cannot say what the chat template does: it {why}",
        "export it with --to gguf: llama.cpp, by llama-server --jinja, renders the template itself",
    )
