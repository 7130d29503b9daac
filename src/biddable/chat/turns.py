"""One turn of a conversation: the prompt as served, and what the model has to write after it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biddable.chat.spans import Chat, Leaf, Located, leaves, locate
from biddable.chat.template import Template, render_dicts
from biddable.chat.tokens import Codec, Piece
from biddable.data.findings import BiddableError

Tools = Sequence[Mapping[str, Any]]

EMPTY_THINKING = re.compile(r"(<think>\s*</think>|<\|channel>thought\s*<channel\|>)\s*\Z")
THINKING_OPENS = re.compile(r"\s*(<think>|<\|channel>thought)")

KINDS = {"content": "text", "thinking": "thinking", "call": "tool call"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What turns are made by: a template, a codec, and the template's ends of turn.

    Args:
        ends: texts of the control tokens that end an answer.
        closing: the text that ends one in a template without such a token.
    """

    template: Template
    codec: Codec
    ends: tuple[str, ...] = ()
    closing: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer with its prompt.

    Args:
        message: index of the answer in its conversation.
        prompt: what is sent for the messages before it.
        answer: what the model has to write, through the end of turn.
        closing: the end of turn where it is no control token; encoded on its own.
    """

    message: int
    prompt: Piece
    answer: Piece
    closing: str = ""


def prompt_of(rules: Rules, chat: Chat, tools: Tools) -> tuple[Located, Chat]:
    """The prompt for some messages, and the messages in the form that the template reads.

    Tool call arguments are tried as objects, then as JSON text: templates want one or the other.

    Raises:
        BiddableError: `template_refused` or `message_text_lost`.
    """
    errors = []
    for form in argument_forms(chat):
        try:
            return kept(located(rules, form, tools, prompt=True)), form
        except BiddableError as error:
            errors.append(error)
    raise most_telling(errors)


def located(
    rules: Rules, chat: Chat, tools: Tools, *, prompt: bool, wanted: Sequence[Leaf] | None = None
) -> Located:
    """Renders messages and finds leaves in them, all of them unless some are named."""

    def render(messages: Chat, schemas: Tools) -> str:
        return render_dicts(rules.template, messages, prompt, schemas)

    plain = render(chat, tools)
    if wanted is None:
        wanted = leaves(chat, tools, rules.codec.pattern)
    return locate(render, plain, chat, tools, wanted)


def most_telling(errors: Sequence[BiddableError]) -> BiddableError:
    """The first error that is not the template's own, which may be about a form nobody gave it."""
    ours = [error for error in errors if "does not render" not in error.finding.message]
    return (ours or list(errors))[0]


def kept(found: Located) -> Located:
    """Passes a prompt in which every message's text came back once; old thinking may go."""
    for leaf in found.lost:
        if leaf.kind in ("content", "call"):
            raise text_lost(leaf)
    for leaf in found.repeated:
        if leaf.kind == "content":
            raise text_lost(leaf, "prints it more than once")
    return found


def text_lost(leaf: Leaf, what: str = "drops or rewrites it") -> BiddableError:
    shown = leaf.text if len(leaf.text) <= 40 else leaf.text[:40] + "..."
    return BiddableError(
        f"The {KINDS.get(leaf.kind, 'text')} {shown!r} does not come back whole from the chat"
        f" template, which {what}.",
        fix="Use a template that prints it (--template), or change the message.",
        code="message_text_lost",
        turn=leaf.message,
    )


def piece_of(codec: Codec, found: Located) -> Piece:
    """A text with the control tokens that stand outside the messages' texts."""
    owned: list[tuple[int, int]] = []
    at = 0
    for span in found.spans:
        if span.start > at:
            owned += [m.span() for m in codec.pattern.finditer(found.text, at, span.start)]
        at = max(at, span.end)
    owned += [m.span() for m in codec.pattern.finditer(found.text, at)]
    return Piece(found.text, tuple(owned))


def turn_of(rules: Rules, chat: Chat, index: int, tools: Tools) -> Turn:
    """The turn in which message `index` is the answer.

    Raises:
        BiddableError: `template_refused`, `message_text_lost` or `stop_token_untrained`.
    """
    prompt, history = prompt_of(rules, chat[:index], tools)
    errors = []
    for form in answer_forms(chat[index]):
        try:
            answer, closing = answer_of(rules, prompt, [*history, form], tools, chat[index + 1 :])
            return Turn(index, piece_of(rules.codec, prompt), answer, closing)
        except BiddableError as error:
            errors.append(error)
    raise most_telling(errors)


def answer_of(
    rules: Rules, prompt: Located, chat: Chat, tools: Tools, after: Chat
) -> tuple[Piece, str]:
    """What the model has to write after the prompt as the last message of `chat`."""
    index = len(chat) - 1
    wanted = [
        leaf for leaf in leaves(chat, tools, rules.codec.pattern) if leaf.message >= index - 1
    ]
    found = located(rules, chat, tools, prompt=False, wanted=wanted)
    own = found.of_message(index)
    if not own:
        raise next(
            (text_lost(leaf) for leaf in found.lost if leaf.message == index), empty_answer(index)
        )
    piece = piece_of(rules.codec, found)
    last = max(span.end for span in own)
    tail, closing = end_of_turn(rules, piece, last, chat, tools, after)
    start = answer_start(prompt, found, index)
    if start is None:
        return opened_answer(prompt, found, chat[index], index) + tail, closing
    check_answer(found, index, start)
    return piece.cut(start, last) + tail, closing


def check_answer(found: Located, index: int, start: int) -> None:
    """Refuses an answer of which something is missing, doubled, or already in the prompt."""
    for leaf in found.lost:
        if leaf.message == index and leaf.kind in KINDS:
            raise text_lost(leaf)
    for leaf in found.repeated:
        if leaf.message == index and leaf.kind == "content":
            raise text_lost(leaf, "prints it more than once")
    for span in found.of_message(index):
        if span.start < start:
            raise text_lost(span.leaf, "prints it before the place where the model answers")


def answer_start(prompt: Located, found: Located, index: int) -> int | None:
    """Where the answer begins in the render of a finished conversation; None if not as prompted.

    Usually the prompt is a prefix. Some templates write the messages before otherwise in a finished
    conversation: the answer then begins after the same words that stand between the last message
    and the answer in the prompt. Of an empty thinking block that the prompt opens and closes, and
    of white space that it ends in, a finished conversation need not have a trace.
    """
    if found.text.startswith(prompt.text):
        return len(prompt.text)
    ends = between(prompt, found, index)
    if ends is None:
        return None
    offered, at = prompt.text[ends[0] :], ends[1]
    if found.text.startswith(offered, at):
        return at + len(offered)
    header = EMPTY_THINKING.sub("", offered)
    after = at + len(header)
    if header != offered and found.text.startswith(header, at):
        return None if THINKING_OPENS.match(found.text, after) else after
    first = found.of_message(index)[0].start
    if found.text.startswith(offered.rstrip(), at) and offered.startswith(found.text[at:first]):
        return first if offered[first - at :].isspace() else None
    return None


def between(prompt: Located, found: Located, index: int) -> tuple[int, int] | None:
    """Where the message before the answer ends, in the prompt and in the finished conversation."""
    in_prompt, in_found = prompt.of_message(index - 1), found.of_message(index - 1)
    if not in_prompt or not in_found or in_prompt[-1].leaf != in_found[-1].leaf:
        return None
    return in_prompt[-1].end, in_found[-1].end


def opened_answer(prompt: Located, found: Located, message: Mapping[str, Any], index: int) -> Piece:
    """The answer where the prompt opens a thinking block that the finished conversation lacks.

    An answer that begins with what the prompt opens continues after it; its own words are taken,
    since the template drops them from a finished conversation.
    """
    ends = between(prompt, found, index)
    content = [s for s in found.of_message(index) if s.leaf.kind == "content"]
    if ends is not None and len(content) == 1 and not found.repeated:
        # White space between thinking and answer is the message's own, not the header's.
        before = str(message["content"])[: content[0].leaf.start]
        header = found.text[ends[1] : content[0].start].removesuffix(before[len(before.rstrip()) :])
        offered = prompt.text[ends[0] :]
        opened = offered[len(header) :]
        text = str(message["content"]).strip()
        if offered.startswith(header) and opened.strip() and text.startswith(opened.strip()):
            rest = text[len(opened.strip()) :]
            blank = opened[len(opened.rstrip()) :]
            return Piece(rest.removeprefix(blank) if rest.startswith(blank) else rest.lstrip())
    raise BiddableError(
        "The generation prompt is not how the chat template begins this answer in a finished"
        " conversation.",
        fix="Give answers with their thinking, set template arguments (--template-arg), or train"
        " with the header of finished conversations (--header history).",
        code="template_refused",
        turn=index,
    )


def end_of_turn(
    rules: Rules, piece: Piece, last: int, chat: Chat, tools: Tools, after: Chat
) -> tuple[Piece, str]:
    """The text after an answer's last word through its end of turn, and a closing text.

    Raises:
        BiddableError: `stop_token_untrained`, the template ends this answer with nothing.
    """
    for start, end in piece.owned:
        if start >= last and (piece.text[start:end] in rules.ends):
            return piece.cut(last, end), ""
    if rules.closing and piece.text[last:] == rules.closing:
        return Piece(""), rules.closing
    for following in [*after[:1], *probes_after(chat[-1])]:
        try:
            tail = tail_of_next(rules, chat, following, tools)
        except BiddableError:
            continue
        if tail is not None and tail.text[slice(*tail.owned[-1])] in rules.ends:
            return tail, ""
    raise BiddableError(
        "The chat template writes no end of turn after this answer, so a model trained on it would"
        " not learn to stop.",
        fix="Use a template that ends answers with one of the tokenizer's special tokens.",
        code="stop_token_untrained",
        turn=len(chat) - 1,
    )


def tail_of_next(
    rules: Rules, chat: Chat, following: Mapping[str, Any], tools: Tools
) -> Piece | None:
    """The text from an answer's last word to the first control token of the message after it."""
    index = len(chat) - 1
    whole = [*chat, following]
    wanted = [leaf for leaf in leaves(whole, tools, rules.codec.pattern) if leaf.message >= index]
    found = located(rules, whole, tools, prompt=False, wanted=wanted)
    own, other = found.of_message(index), found.of_message(index + 1)
    if not own or not other:
        return None
    last = max(span.end for span in own)
    piece = piece_of(rules.codec, found)
    first = next(((a, b) for a, b in piece.owned if last <= a and b <= other[0].start), None)
    return piece.cut(last, first[1]) if first else None


def probes_after(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages that may follow an answer, to see what a template writes before them."""
    calls = message.get("tool_calls")
    if not calls:
        return [{"role": "user", "content": "Q?"}]
    call = calls[0]
    name = call.get("function", call).get("name", "")
    return [{"role": "tool", "content": "R", "name": name, "tool_call_id": call.get("id", "")}]


def argument_forms(chat: Chat) -> list[Chat]:
    """The messages with tool call arguments as objects and, where there are any, as JSON text."""
    if not any(message.get("tool_calls") for message in chat):
        return [chat]
    return [[with_arguments_as(kind, m) for m in chat] for kind in ("object", "text")]


def answer_forms(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The ways to hand an answer to a template, the likeliest first."""
    forms = [form for chat in argument_forms([message]) for form in chat]
    content = message.get("content")
    thinking = re.fullmatch(r"\s*<think>(.*?)</think>\s*(.*)", str(content), re.DOTALL)
    if thinking and "reasoning_content" not in message:
        split = {"reasoning_content": thinking[1].strip("\n"), "content": thinking[2]}
        forms += [{**form, **split} for form in forms]
    return forms


def with_arguments_as(kind: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, (list, tuple)):
        return message
    return {**message, "tool_calls": [call_as(kind, call) for call in calls]}


def call_as(kind: str, call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": call_as(kind, call["function"])}
    arguments = call.get("arguments")
    if kind == "text" and isinstance(arguments, Mapping):
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if kind == "object" and isinstance(arguments, str):
        try:
            return {**call, "arguments": json.loads(arguments)}
        except ValueError:
            return call
    return call


def empty_answer(index: int) -> BiddableError:
    return BiddableError(
        "The assistant's message is empty, so there is nothing to learn but to stop.",
        fix="Write an answer, or take the row out.",
        code="empty_assistant",
        turn=index,
    )
