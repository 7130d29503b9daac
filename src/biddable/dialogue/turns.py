"""One turn of a conversation: the prompt as served, and what the model has to write after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biddable.data.findings import BiddableError
from biddable.dialogue.answers import (
    answer_start,
    check_answer,
    empty_answer,
    opened_answer,
    text_lost,
)
from biddable.dialogue.forms import answer_forms, argument_forms
from biddable.dialogue.spans import Chat, Leaf, Located, leaves, locate
from biddable.dialogue.template import Template, render_dicts
from biddable.dialogue.tokens import Codec, Piece

Tools = Sequence[Mapping[str, Any]]


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
    usual = usual_turn(rules, chat[: index + 1], tools)
    if usual is not None:
        return usual
    prompt, history = prompt_of(rules, chat[:index], tools)
    errors = []
    for form in answer_forms(chat[index]):
        try:
            answer, closing = answer_of(rules, prompt, [*history, form], tools, chat[index + 1 :])
            return Turn(index, piece_of(rules.codec, prompt), answer, closing)
        except BiddableError as error:
            errors.append(error)
    raise most_telling(errors)


def usual_turn(rules: Rules, chat: Chat, tools: Tools) -> Turn | None:
    """The turn of the last message where the usual holds, which saves rendering the prompt twice.

    That is: no tool calls, the prompt is a prefix of the finished conversation, every text comes
    back once and in its place, and the end of turn follows the answer.
    """
    index = len(chat) - 1
    if any(message.get("tool_calls") for message in chat):
        return None
    try:
        prompt = render_dicts(rules.template, chat[:-1], True, tools)
        found = located(rules, chat, tools, prompt=False)
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
    last = max(span.end for span in own)
    end = next((b for a, b in piece.owned if a >= last and piece.text[a:b] in rules.ends), None)
    return Turn(index, piece.cut(0, start), piece.cut(start, end)) if end is not None else None


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
