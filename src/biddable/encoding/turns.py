"""One turn of a conversation: the prompt as served, and what the model has to write after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from biddable.encoding.answers import (
    answer_start,
    check_answer,
    check_texts,
    empty_answer,
    opened_answer,
    text_lost,
)
from biddable.encoding.forms import answer_forms, argument_forms
from biddable.encoding.spans import Chat, Located, leaves, locate
from biddable.encoding.tokens import Codec, Piece
from biddable.errors import BiddableError
from biddable.template.template import QUESTION, Template, render_dicts

Form = TypeVar("Form")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Rules:
    """What turns are made by: a template, a codec, and the template's ends of turn.

    Args:
        ends: texts of the control tokens that end an answer.
        closing: the text that ends one in a template without such a token.
        tools: the tool schemas of the conversation at hand.
    """

    template: Template
    codec: Codec
    ends: tuple[str, ...] = ()
    closing: str = ""
    tools: Sequence[Mapping[str, Any]] = ()


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


async def prompt_of(rules: Rules, chat: Chat) -> tuple[Located, Chat]:
    """The prompt for some messages, and the messages in the form that the template reads.

    Tool call arguments are tried as objects, then as JSON text: templates want one or the other.

    Raises:
        BiddableError: `template_refused` or `message_text_lost`.
    """

    async def prompt(form: Chat) -> tuple[Located, Chat]:
        found = await located(rules, form, prompt=True)
        # Thinking of former answers may go.
        check_texts(found, ("content", "call"))
        return found, form

    return await first_made(prompt, argument_forms(chat))


async def first_made(make: Callable[[Form], Awaitable[Made]], forms: Sequence[Form]) -> Made:
    """What is made of the first form that a template takes.

    Where it takes none, an error of ours is told before one of the template's own, which may be
    about a form nobody gave it.
    """
    errors = []
    for form in forms:
        try:
            return await make(form)
        except BiddableError as error:
            errors.append(error)
    ours = [error for error in errors if "does not render" not in error.finding.message]
    raise (ours or errors)[0]


async def located(rules: Rules, chat: Chat, *, prompt: bool, since: int = -1) -> Located:
    """Renders messages and finds their texts, those of message `since` and after it."""

    async def render(whole: Chat) -> str:
        return await render_dicts(rules.template, whole[:-1], prompt, whole[-1]["tools"])

    whole = [*chat, {"tools": rules.tools}]
    found = leaves(whole, rules.codec.pattern)
    return await locate(render, whole, [leaf for leaf in found if leaf.message >= since])


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


async def turn_of(rules: Rules, chat: Chat, index: int) -> Turn:
    """The turn in which message `index` is the answer.

    Raises:
        BiddableError: `template_refused`, `message_text_lost` or `stop_token_untrained`.
    """
    usual = await usual_turn(rules, chat[: index + 1])
    if usual is not None:
        return usual
    prompt, history = await prompt_of(rules, chat[:index])

    async def turn(form: Mapping[str, Any]) -> Turn:
        answer, closing = await answer_of(rules, prompt, [*history, form], chat[index + 1 :])
        return Turn(index, piece_of(rules.codec, prompt), answer, closing)

    return await first_made(turn, answer_forms(chat[index]))


async def usual_turn(rules: Rules, chat: Chat) -> Turn | None:
    """The turn of the last message where the usual holds, which saves rendering the prompt twice.

    That is: no tool calls, the prompt is a prefix of the finished conversation, every text comes
    back once and in its place, and the end of turn follows the answer.
    """
    index = len(chat) - 1
    if any(message.get("tool_calls") for message in chat):
        return None
    try:
        prompt = await render_dicts(rules.template, chat[:-1], True, rules.tools)
        found = await located(rules, chat, prompt=False)
    except BiddableError:
        return None
    start = len(prompt)
    own = found.of_message(index)
    in_place = all(
        span.start >= start if span.leaf.message == index else span.end <= start
        for span in found.spans
    )
    whole = own and in_place and not found.lost and not found.repeated
    if not whole or not found.text.startswith(prompt):
        return None
    piece = piece_of(rules.codec, found)
    end = own_end(rules, piece, found.last_end(index))
    return Turn(index, piece.cut(0, start), piece.cut(start, end)) if end else None


def own_end(rules: Rules, piece: Piece, last: int) -> int | None:
    """Where the first end of turn behind an answer's last word ends."""
    tail = (span for span in piece.owned if span[0] >= last)
    return next((end for start, end in tail if piece.text[start:end] in rules.ends), None)


async def answer_of(rules: Rules, prompt: Located, chat: Chat, after: Chat) -> tuple[Piece, str]:
    """What the model has to write after the prompt as the last message of `chat`."""
    index = len(chat) - 1
    found = await located(rules, chat, prompt=False, since=index - 1)
    if not found.of_message(index):
        lost = (text_lost(leaf) for leaf in found.lost if leaf.message == index)
        raise next(lost, empty_answer(index))
    piece, last = piece_of(rules.codec, found), found.last_end(index)
    tail, closing = await end_of_turn(rules, piece, last, chat, after)
    start = answer_start(prompt, found, index)
    if start is None:
        return opened_answer(prompt, found, chat[index], index) + tail, closing
    check_answer(found, index, start)
    return piece.cut(start, last) + tail, closing


async def end_of_turn(
    rules: Rules, piece: Piece, last: int, chat: Chat, after: Chat
) -> tuple[Piece, str]:
    """The text after an answer's last word through its end of turn, and a closing text.

    Raises:
        BiddableError: `stop_token_untrained`, the template ends this answer with nothing.
    """
    end = own_end(rules, piece, last)
    if end is not None:
        return piece.cut(last, end), ""
    if rules.closing and piece.text[last:] == rules.closing:
        return Piece(""), rules.closing
    async for tail in tails(rules, chat, after[:1]):
        if last_token(tail) in rules.ends:
            return tail, ""
    raise BiddableError(
        "stop_token_untrained",
        "The chat template writes no end of turn after this answer, so a model trained on it would"
        " not learn to stop.",
        "Use a template that ends answers with one of the tokenizer's special tokens.",
        turn=len(chat) - 1,
    )


async def tails(rules: Rules, chat: Chat, after: Chat = ()) -> AsyncIterator[Piece]:
    """The texts from an answer's last word to the first control token of a message after it.

    Args:
        chat: the answer is its last message.
        after: the message that follows, if any; then some that may follow are tried.
    """
    index = len(chat) - 1
    for following in [*after, probe_after(chat[-1])]:
        try:
            found = await located(rules, [*chat, following], prompt=False, since=index)
        except BiddableError:
            continue
        other = found.of_message(index + 1)
        if not found.of_message(index) or not other:
            continue
        piece, last = piece_of(rules.codec, found), found.last_end(index)
        inside = (b for a, b in piece.owned if last <= a and b <= other[0].start)
        if end := next(inside, None):
            yield piece.cut(last, end)


def last_token(piece: Piece) -> str:
    """The control token in which a piece ends."""
    return piece.text[slice(*piece.owned[-1])]


def probe_after(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message that may follow an answer, to see what a template writes before it."""
    calls = message.get("tool_calls")
    if not calls:
        return QUESTION
    call = calls[0]
    name = call.get("function", call).get("name", "")
    return {"role": "tool", "content": "R", "name": name, "tool_call_id": call.get("id", "")}
