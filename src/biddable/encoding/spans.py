"""Where each message's text stands in a rendered conversation, proven by rendering it marked.

One private-use character, a mark, is put inside every text of the messages. Taking the marks out of
the marked render must give the plain render back; then each mark shows where its text came out, and
the characters around it must be that text, whole. So nothing is searched for by its words, and a
template that drops, repeats or rewrites a message's text is seen.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from biddable.errors import BiddableError
from biddable.template.rendering import attempt

# A place within a text, as a share of its length. The middle comes first: templates look at
# beginnings and ends ("does it start with a tag?") more often than at what stands between.
PLACES = (0.5, 0.0, 1.0, 0.25, 0.75)

# A message's fields may be nested this deep; Python's own limit comes soon after.
DEEPEST = 100

THINKING = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)

Chat = Sequence[Mapping[str, Any]]
Path = tuple[str | int, ...]
# For each leaf the [start, end) places at which it came back.
Ranges = list[list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One text of a conversation, without the white space around it.

    Args:
        message: index of its message; -1 for the tool schemas.
        path: keys and indices that lead to the string in its message.
        start: where `text` begins in that string.
        text: its characters.
        kind: `content`, `thinking`, `call` (a tool call's name or argument) or `control` (text
            that looks like a control token in any other field).
    """

    message: int
    path: Path
    start: int
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Span:
    """The [start, end) range of a leaf in a rendered text."""

    leaf: Leaf
    start: int
    end: int


@dataclass(slots=True)
class Located:
    """Where the leaves of a conversation stand in its render.

    Args:
        text: the plain render.
        spans: in order of their start.
        lost: leaves that did not come back, or came back changed.
        repeated: leaves that came back more than once.
    """

    text: str
    spans: list[Span] = field(default_factory=list)
    lost: list[Leaf] = field(default_factory=list)
    repeated: list[Leaf] = field(default_factory=list)

    def of_message(self, index: int) -> list[Span]:
        return [span for span in self.spans if span.leaf.message == index]

    def last_end(self, index: int) -> int:
        """Where the last text of a message ends."""
        return max(span.end for span in self.of_message(index))


def leaves(chat: Chat, control: re.Pattern[str]) -> Iterator[Leaf]:
    """The texts of messages, and control-token look-alikes in their other fields.

    The last of `chat` is no message but holds the tool schemas.
    """
    for index, message in enumerate(chat[:-1]):
        yield from content_leaves(index, message)
        if len(message) > 2:
            yield from field_leaves(index, message, control)
    yield from field_leaves(-1, chat[-1], control)


def content_leaves(index: int, message: Mapping[str, Any]) -> Iterator[Leaf]:
    content = message.get("content")
    if not isinstance(content, str):
        return
    thinking = THINKING.fullmatch(content) if message["role"] == "assistant" else None
    if thinking is not None:
        yield from stripped(index, ("content",), thinking.start(1), thinking[1], "thinking")
    start = thinking.start(2) if thinking else 0
    yield from stripped(index, ("content",), start, content[start:], "content")


def field_leaves(
    index: int, message: Mapping[str, Any], control: re.Pattern[str]
) -> Iterator[Leaf]:
    for path, text in strings(message, ()):
        if path[0] in ("role", "content"):
            continue
        if path[0] in ("reasoning_content", "reasoning", "thinking"):
            yield from stripped(index, path, 0, text, "thinking")
        elif path[0] == "tool_calls" and ("arguments" in path or path[-1] == "name"):
            yield from stripped(index, path, 0, text, "call")
        else:
            for match in control.finditer(text):
                yield Leaf(index, path, match.start(), match.group(), "control")


def stripped(index: int, path: Path, start: int, text: str, kind: str) -> Iterator[Leaf]:
    core = text.strip()
    if core:
        yield Leaf(index, path, start + text.index(core), core, kind)


def strings(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every string in a JSON value, with its path."""
    if len(path) > DEEPEST:
        raise nested_too_deep()
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from strings(item, (*path, key))


def locate(
    render: Callable[[Chat], str], chat: Chat, wanted: Sequence[Leaf], request: str
) -> Located:
    """Renders a chat and finds leaves in its text.

    All leaves are marked at once where that leaves the render unchanged, else one by one.

    Args:
        request: the JSON of the chat; its characters are not used as marks.
    """
    plain = render(chat)
    marks = free_marks(request, len(wanted))
    if any(mark in plain for mark in marks):
        marks = free_marks(request + plain, len(wanted))

    def ranges_at(place: float, leaves: Sequence[Leaf]) -> Ranges | None:
        text = attempt(lambda: render(with_marks(chat, leaves, marks, place)))
        return ranges_of(plain, text, leaves, marks, place) if isinstance(text, str) else None

    def ranges_alone(leaf: Leaf) -> list[tuple[int, int]]:
        tried = (ranges_at(place, [leaf]) for place in PLACES)
        return next((ranges[0] for ranges in tried if ranges and ranges[0]), [])

    together = (ranges_at(place, wanted) for place in PLACES[:3] if wanted)
    every = next((ranges for ranges in together if ranges is not None), None)
    located = Located(plain)
    for leaf, ranges in zip(wanted, every or map(ranges_alone, wanted), strict=True):
        located.spans += [Span(leaf, start, end) for start, end in ranges]
        if not ranges:
            located.lost.append(leaf)
        elif len(ranges) > 1:
            located.repeated.append(leaf)
    located.spans.sort(key=lambda span: span.start)
    return located


def ranges_of(
    plain: str, marked: str, leaves: Sequence[Leaf], marks: str, place: float
) -> Ranges | None:
    """Where each leaf stands, by its mark; None where the marks changed the text."""
    marks = marks[: len(leaves)]
    pattern = re.compile(f"[{marks[0]}-{marks[-1]}]")
    if pattern.sub("", marked) != plain:
        return None
    ranges: Ranges = [[] for _ in leaves]
    for before, match in enumerate(pattern.finditer(marked)):
        index = marks.index(match.group())
        text = leaves[index].text
        around = text_range(plain, match.start() - before, text, mark_place(text, place))
        if around is not None:
            ranges[index].append(around)
    return ranges


def mark_place(text: str, place: float) -> int:
    return round(place * len(text))


def text_range(plain: str, at: int, text: str, before: int) -> tuple[int, int] | None:
    """The range of a text that is split at `at`, as it is or as JSON writes it inside quotes."""
    left, right = text[:before], text[before:]
    if not (plain.startswith(right, at) and plain.endswith(left, 0, at)):
        left, right = (json.dumps(part, ensure_ascii=False)[1:-1] for part in (left, right))
        if not (plain.startswith(right, at) and plain.endswith(left, 0, at)):
            return None
    return at - len(left), at + len(right)


def free_marks(text: str, count: int) -> str:
    """`count` consecutive private-use characters that do not occur in the text."""
    used = [] if text.isascii() else [ord(c) for c in set(text) if c >= "\ue000"]
    for first, end in ((0xE000, 0xF8FF), (0xF0000, 0xFFFF0)):
        for start in range(first, end - count, max(count, 64)):
            if not any(start <= code < start + count for code in used):
                return "".join(map(chr, range(start, start + count)))
    raise BiddableError(
        "template_refused",
        "The conversation has more texts than there are characters to mark them with.",
        "Divide the conversation into shorter ones.",
    )


def with_marks(chat: Chat, leaves: Sequence[Leaf], marks: str, place: float) -> Chat:
    """A copy of the chat with a mark in each leaf, at a share of its length."""
    marked = [dict(message) for message in chat]
    if any(len(leaf.path) > 1 for leaf in leaves):
        marked = copy.deepcopy(marked)
    # From the back, so that a mark does not move the places before it.
    for leaf, mark in sorted(zip(leaves, marks, strict=False), key=lambda pair: -pair[0].start):
        holder: Any = marked[leaf.message]
        for key in leaf.path[:-1]:
            holder = holder[key]
        text, at = holder[leaf.path[-1]], leaf.start + mark_place(leaf.text, place)
        holder[leaf.path[-1]] = text[:at] + mark + text[at:]
    return marked


def nested_too_deep() -> BiddableError:
    return BiddableError(
        "template_refused",
        "A field of a message is nested too deep to render.",
        "Flatten the arguments of its tool calls.",
    )
