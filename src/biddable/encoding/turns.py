"""One turn of a conversation: the prompt as served, and what the model has to write after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from biddable.encoding.answers import (
    answer_start,
    check_answer,
    check_texts,
    empty_answer,
    opened_answer,
    text_lost,
)
from biddable.encoding.chats import (
    Rules,
    Scene,
    answer_forms,
    argument_forms,
    has_calls,
    located,
    piece_of,
    requests_to_locate,
)
from biddable.encoding.spans import Chat, Located
from biddable.encoding.tokens import Piece
from biddable.errors import BiddableError
from biddable.template.rendering import attempt
from biddable.template.template import QUESTION, request_of

Form = TypeVar("Form")
Result = TypeVar("Result")


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


def requests_of(scene: Scene, chat: Chat, index: int) -> list[str]:
    """The renders that `turn_of` usually needs, so that those of many turns are made together."""
    before, finished = (argument_forms(chat[:end])[0] for end in (index, index + 1))
    if has_calls(finished):
        of_prompt = requests_to_locate(scene, before, prompt=True)
        return of_prompt + requests_to_locate(scene, finished, prompt=False, since=index - 1)
    of_prompt = [request_of(scene.rules.template, before, True, scene.tools)]
    return of_prompt + requests_to_locate(scene, finished, prompt=False)


def first_accepted(make: Callable[[Form], Result], forms: Sequence[Form]) -> Result:
    """The result for the first form that the template takes.

    Where it takes none, our own error is preferred to the template's, which may be about a form
    that the user did not write.
    """
    errors = []
    for form in forms:
        result = attempt(partial(make, form))
        if not isinstance(result, BiddableError):
            return result
        errors.append(result)
    ours = [error for error in errors if "does not render" not in error.finding.message]
    raise (ours or errors)[0]


def prompt_of(scene: Scene, chat: Chat) -> tuple[Located, Chat]:
    """The prompt for some messages, and the messages in the form that the template reads.

    Raises:
        BiddableError: `template_refused` or `message_text_lost`.
    """

    def prompt(form: Chat) -> tuple[Located, Chat]:
        text = located(scene, form, prompt=True)
        # Thinking of former answers may go.
        check_texts(text, ("content", "call"))
        return text, form

    return first_accepted(prompt, argument_forms(chat))


def turn_of(scene: Scene, chat: Chat, index: int) -> Turn:
    """The turn in which message `index` is the answer.

    Raises:
        BiddableError: `template_refused`, `message_text_lost` or `stop_token_untrained`.
    """
    usual = attempt(lambda: usual_turn(scene, chat[: index + 1]))
    if isinstance(usual, Turn):
        return usual
    prompt, history = prompt_of(scene, chat[:index])

    def turn(form: Mapping[str, Any]) -> Turn:
        answer, closing = answer_of(scene, prompt, [*history, form], chat[index + 1 :])
        return Turn(index, piece_of(scene.rules.codec, prompt), answer, closing)

    return first_accepted(turn, answer_forms(chat[index]))


def usual_turn(scene: Scene, chat: Chat) -> Turn | None:
    """The turn of the last message in the usual case, which saves rendering the prompt twice.

    In that case there are no tool calls, the prompt is a prefix of the finished conversation, every
    text comes back once and in its place, and the end of turn follows the answer.
    """
    if has_calls(chat):
        return None
    index = len(chat) - 1
    prompt = scene.renders.text(request_of(scene.rules.template, chat[:-1], True, scene.tools))
    finished = located(scene, chat, prompt=False)
    start = len(prompt)
    in_place = all(
        span.start >= start if span.leaf.message == index else span.end <= start
        for span in finished.spans
    )
    complete = in_place and finished.of_message(index) and not finished.lost + finished.repeated
    if not complete or not finished.text.startswith(prompt):
        return None
    piece = piece_of(scene.rules.codec, finished)
    end = own_end(scene.rules, piece, finished.last_end(index))
    return Turn(index, piece.cut(0, start), piece.cut(start, end)) if end else None


def own_end(rules: Rules, piece: Piece, last: int) -> int | None:
    """Where the first end of turn behind an answer's last word ends."""
    tail = (span for span in piece.owned if span[0] >= last)
    return next((end for start, end in tail if piece.text[start:end] in rules.ends), None)


def answer_of(scene: Scene, prompt: Located, chat: Chat, after: Chat) -> tuple[Piece, str]:
    """What the model has to write after the prompt as the last message of `chat`."""
    index = len(chat) - 1
    finished = located(scene, chat, prompt=False, since=index - 1)
    if not finished.of_message(index):
        lost = (text_lost(leaf) for leaf in finished.lost if leaf.message == index)
        raise next(lost, empty_answer(index))
    piece, last = piece_of(scene.rules.codec, finished), finished.last_end(index)
    tail, closing = end_of_turn(scene, piece, last, chat, after)
    start = answer_start(prompt, finished, index)
    if start is None:
        return opened_answer(prompt, finished, chat[index], index) + tail, closing
    check_answer(finished, index, start)
    return piece.cut(start, last) + tail, closing


def end_of_turn(
    scene: Scene, piece: Piece, last: int, chat: Chat, after: Chat
) -> tuple[Piece, str]:
    """The text after an answer's last word through its end of turn, and a closing text.

    Raises:
        BiddableError: `stop_token_untrained`, the template ends this answer with nothing.
    """
    rules = scene.rules
    end = own_end(rules, piece, last)
    if end is not None:
        return piece.cut(last, end), ""
    if rules.closing and piece.text[last:] == rules.closing:
        return Piece(""), rules.closing
    for tail in tails(scene, chat, after[:1]):
        if last_token(tail) in rules.ends:
            return tail, ""
    raise BiddableError(
        "stop_token_untrained",
        "The chat template writes no end of turn after this answer, so a model trained on it would"
        " not learn to stop.",
        "Use a template that ends answers with one of the tokenizer's special tokens.",
        turn=len(chat) - 1,
    )


def tails(scene: Scene, chat: Chat, after: Chat = ()) -> Iterator[Piece]:
    """The texts from an answer's last word to the first control token of a message after it.

    Args:
        chat: the answer is its last message.
        after: the message that follows, if any; then a made-up one is tried.
    """
    index = len(chat) - 1
    for following in [*after, probe_after(chat[-1])]:
        longer = [*chat, following]
        text = attempt(partial(located, scene, longer, prompt=False, since=index))
        if isinstance(text, BiddableError):
            continue
        other = text.of_message(index + 1)
        if not text.of_message(index) or not other:
            continue
        piece, last = piece_of(scene.rules.codec, text), text.last_end(index)
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
