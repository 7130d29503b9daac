"""Where an answer begins in the render of a finished conversation, and whether it is all there."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from biddable.encoding.spans import Leaf, Located
from biddable.encoding.tokens import Piece
from biddable.errors import BiddableError

EMPTY_THINKING = re.compile(r"(<think>\s*</think>|<\|channel>thought\s*<channel\|>)\s*\Z")
THINKING_OPENS = re.compile(r"\s*(<think>|<\|channel>thought)")

KINDS = {"content": "text", "thinking": "thinking", "call": "tool call"}


def check_texts(located: Located, kinds: Container[str], message: int | None = None) -> None:
    """Refuses a render that lost or changed a text of one of these kinds, or doubled a content.

    Args:
        message: the one whose texts are looked at; None is all.
    """
    for leaf in located.lost:
        if leaf.kind in kinds and message in (None, leaf.message):
            raise text_lost(leaf)
    for leaf in located.repeated:
        if leaf.kind == "content" and message in (None, leaf.message):
            raise text_lost(leaf, "prints it more than once")


def check_answer(located: Located, index: int, start: int) -> None:
    """Refuses an answer of which something is missing, doubled, or already in the prompt."""
    check_texts(located, KINDS, index)
    for span in located.of_message(index):
        if span.start < start:
            raise text_lost(span.leaf, "prints it before the place where the model answers")


def answer_start(prompt: Located, finished: Located, index: int) -> int | None:
    """Where the answer begins in the render of a finished conversation; None if not as prompted.

    Usually the prompt is a prefix. Some templates write the messages before otherwise in a finished
    conversation: the answer then begins after the same words that stand between the last message
    and the answer in the prompt. An empty thinking block in the prompt, and white space at its end,
    may be absent from a finished conversation.
    """
    if finished.text.startswith(prompt.text):
        return len(prompt.text)
    ends = ends_before(prompt, finished, index)
    if ends is None:
        return None
    offered, at = prompt.text[ends[0] :], ends[1]
    if finished.text.startswith(offered, at):
        return at + len(offered)
    header = EMPTY_THINKING.sub("", offered)
    after = at + len(header)
    if header != offered and finished.text.startswith(header, at):
        return None if THINKING_OPENS.match(finished.text, after) else after
    first = finished.of_message(index)[0].start
    in_place = finished.text.startswith(offered.rstrip(), at)
    if in_place and offered.startswith(finished.text[at:first]):
        return first if offered[first - at :].isspace() else None
    return None


def ends_before(prompt: Located, finished: Located, index: int) -> tuple[int, int] | None:
    """Where the message before the answer ends, in the prompt and in the finished conversation."""
    prompted, repeated = prompt.of_message(index - 1), finished.of_message(index - 1)
    if not prompted or not repeated or prompted[-1].leaf != repeated[-1].leaf:
        return None
    return prompted[-1].end, repeated[-1].end


def opened_answer(
    prompt: Located, finished: Located, message: Mapping[str, Any], index: int
) -> Piece:
    """The answer where the prompt opens a thinking block that the finished conversation lacks.

    An answer that begins with what the prompt opens continues after it; its own words are taken,
    since the template drops them from a finished conversation.
    """
    ends = ends_before(prompt, finished, index)
    content = [span for span in finished.of_message(index) if span.leaf.kind == "content"]
    if ends is not None and len(content) == 1 and not finished.repeated:
        # White space between thinking and answer is the message's own, not the header's.
        before = str(message["content"])[: content[0].leaf.start]
        header = finished.text[ends[1] : content[0].start]
        header = header.removesuffix(before[len(before.rstrip()) :])
        offered = prompt.text[ends[0] :]
        opened = offered[len(header) :]
        text = str(message["content"]).strip()
        if offered.startswith(header) and opened.strip() and text.startswith(opened.strip()):
            rest = text[len(opened.strip()) :]
            blank = opened[len(opened.rstrip()) :]
            return Piece(rest.removeprefix(blank) if rest.startswith(blank) else rest.lstrip())
    raise BiddableError(
        "template_refused",
        "The generation prompt is not how the chat template begins this answer in a finished"
        " conversation.",
        "Give answers with their thinking, set template arguments (--template-arg), or train"
        " with the header of finished conversations (--header history).",
        turn=index,
    )


def text_lost(leaf: Leaf, what: str = "drops or rewrites it") -> BiddableError:
    excerpt = leaf.text if len(leaf.text) <= 40 else leaf.text[:40] + "..."
    return BiddableError(
        "message_text_lost",
        f"The {KINDS.get(leaf.kind, 'text')} {excerpt!r} does not come back whole from the chat"
        f" template, which {what}.",
        "Use a template that prints it (--template), or change the message.",
        turn=leaf.message,
    )


def empty_answer(index: int) -> BiddableError:
    return BiddableError(
        "empty_assistant",
        "The assistant's message is empty, so there is nothing to learn but to stop.",
        "Write an answer, or take the row out.",
        turn=index,
    )
