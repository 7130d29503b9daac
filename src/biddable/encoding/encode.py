"""Conversations to training examples, and messages to the prompt that chat and serving send.

Everything follows from one definition on token ids (docs/design.md): the example of an answer is
`encode_prompt` of the messages before it, followed by the ids of what the model has to write. So
training ids begin with serving ids by construction, for every template and every tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from biddable.data.conversation import Conversation, Message
from biddable.data.messages import weight_of
from biddable.encoding.answers import empty_answer, nested_too_deep, placed
from biddable.encoding.ends import find_ends
from biddable.encoding.tokens import (
    Piece,
    check_text,
    continuation_batch,
    encode_batch,
    ids,
    make_codec,
)
from biddable.encoding.turns import Rules, Turn, piece_of, prompt_of, turn_of
from biddable.errors import BiddableError
from biddable.template.rendering import run, run_all
from biddable.template.template import Template, adds_bos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LossOn = Literal["assistant", "last", "all"]


@dataclass(frozen=True, slots=True)
class Example:
    """What enters training: token ids and how much predicting each of them counts.

    Args:
        input_ids: of prompt and answers.
        weights: of the same length; 0 is context. The first is always 0.
        file, line: where its conversation came from.
        turn: index of the last trained message.
    """

    input_ids: Sequence[int]
    weights: Sequence[float]
    file: str = ""
    line: int = 0
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Encoder:
    """A template and a tokenizer made ready once: plain data that worker processes can be sent.

    Args:
        rules: how turns are made.
        stops: ids at which the sampler stops.
        bos: id of the tokenizer's BOS, None where it has none.
        adds_bos: the tokenizer itself begins a text with it.
    """

    rules: Rules
    stops: tuple[int, ...]
    bos: int | None = None
    adds_bos: bool = False


def encode(
    conversation: Conversation,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    *,
    loss_on: LossOn = "assistant",
) -> list[Example]:
    """The examples of a conversation: one where its turns share a prefix, else one a turn.

    Args:
        loss_on: `assistant` trains every answer, `last` the last one, `all` every token.

    Raises:
        BiddableError: with file, line and turn, where the template cannot express the conversation
            or nothing in it is trained.
    """
    encoder = make_encoder(tokenizer, template)
    (result,) = encode_many(encoder, [conversation], loss_on)
    if isinstance(result, BiddableError):
        raise result
    return result


def encode_prompt(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """The ids that chat and serving send for some messages.

    Raises:
        BiddableError: `template_refused` or `message_text_lost`.
    """
    rules = make_encoder(tokenizer, template).rules
    try:
        rules = replace(rules, tools=tools)
        found, _ = run(prompt_of(rules, [message.as_dict() for message in messages]))
    except RecursionError:
        raise nested_too_deep() from None
    piece = piece_of(rules.codec, found)
    check_text(piece)
    return ids(rules.codec, piece)


def stop_token_ids(tokenizer: PreTrainedTokenizerFast, template: Template) -> tuple[int, ...]:
    """The ids at which the sampler stops: the template's ends of turn, then the tokenizer's EOS."""
    return make_encoder(tokenizer, template).stops


def make_encoder(tokenizer: PreTrainedTokenizerFast, template: Template) -> Encoder:
    """Binds a template to a tokenizer and finds how it ends a turn.

    The last few are kept, so that a caller may encode prompt after prompt; a tokenizer that gets
    another token or another special token is read again.
    """
    tokens = tuple((name, str(text)) for name, text in tokenizer.special_tokens_map.items())
    return kept_encoder(tokenizer, template, len(tokenizer), tokens)


@lru_cache(maxsize=4)
def kept_encoder(
    tokenizer: PreTrainedTokenizerFast, template: Template, size: int, tokens: tuple[Any, ...]
) -> Encoder:
    """`make_encoder` for a tokenizer of `size` tokens with these special ones."""
    template = template.bound(tokenizer)
    source = tokenizer.backend_tokenizer.to_str()
    eos = tokenizer.eos_token_id
    eos_text = dict(template.tokens).get("eos_token", "")
    rules = run(find_ends(Rules(template, make_codec(source)), eos_text))
    stops = [rules.codec.control[end] for end in rules.ends]
    closing = ids(rules.codec, Piece(rules.closing))
    if len(closing) == 1:
        stops += closing
    else:
        # A sampler stops at one token; a closing text of several would need one of its own.
        rules = replace(rules, closing="")
    if eos is not None:
        stops.append(eos)
    return Encoder(rules, tuple(dict.fromkeys(stops)), tokenizer.bos_token_id, adds_bos(tokenizer))


def encode_many(
    encoder: Encoder, conversations: Sequence[Conversation], loss_on: LossOn
) -> list[list[Example] | BiddableError]:
    """The examples of each conversation, or why it has none; texts are encoded in one batch."""
    planned = plan_all(encoder.rules, conversations, loss_on)
    turns = [turn for turns in planned if not isinstance(turns, BiddableError) for turn, _ in turns]
    codec = encoder.rules.codec
    prompts = encode_batch(codec, [turn.prompt for turn in turns])
    answers = continuation_batch(codec, [(t.prompt, t.answer) for t in turns], prompts)
    encoded = iter(zip(prompts, answers, strict=True))
    results: list[list[Example] | BiddableError] = []
    for conversation, plans in zip(conversations, planned, strict=True):
        if isinstance(plans, BiddableError):
            results.append(plans)
            continue
        rows = [(turn, weight, *next(encoded)) for turn, weight in plans]
        try:
            results.append(assemble(encoder, conversation, rows, loss_on))
        except BiddableError as error:
            results.append(placed(error, conversation))
    return results


def plan_all(
    rules: Rules, conversations: Sequence[Conversation], loss_on: LossOn
) -> list[list[tuple[Turn, float]] | BiddableError]:
    """`plan` for each, or for all the error of the one that shows the template unusable."""
    running = [plan(rules, conversation, loss_on) for conversation in conversations]
    planned, failed = run_all(running)
    if failed is None:
        return planned
    number, error = failed
    return [placed(error, conversations[number])] * len(conversations)


async def plan(
    rules: Rules, conversation: Conversation, loss_on: LossOn
) -> list[tuple[Turn, float]] | BiddableError:
    """The turns of a conversation that are trained, with their weights."""
    chat = [message.as_dict() for message in conversation.messages]
    rules = replace(rules, tools=conversation.tools)
    try:
        wanted = trained(conversation, loss_on)
        turns = [(await turn_of(rules, chat, k), weight) for k, weight in wanted]
        for turn, _ in turns:
            check_text(turn.prompt + turn.answer)
        return turns
    except BiddableError as error:
        return placed(error, conversation)
    except RecursionError:
        return placed(nested_too_deep(), conversation)


def trained(conversation: Conversation, loss_on: LossOn) -> list[tuple[int, float]]:
    """Indices and weights of the messages to train.

    Raises:
        BiddableError: `all_masked`, `empty_assistant` or `weight_invalid`.
    """
    found = []
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        weight = 1.0 if message.weight is None else weight_of(message.weight, index)
        if weight and not message.content.strip() and not message.extra.get("tool_calls"):
            raise empty_answer(index)
        found.append((index, weight))
    if loss_on in ("last", "all"):
        found = found[-1:]
    found = [(index, weight) for index, weight in found if weight > 0]
    if not found:
        raise BiddableError(
            "all_masked",
            "Nothing in this conversation is trained: it has no assistant message with weight.",
            "Add an answer, or give one a weight above 0.",
        )
    return found


def assemble(
    encoder: Encoder,
    conversation: Conversation,
    rows: Sequence[tuple[Turn, float, list[int], list[int]]],
    loss_on: LossOn,
) -> list[Example]:
    """Joins turns to examples: one goes on where the ids of a later turn begin with its own.

    Raises:
        BiddableError: `stop_token_untrained`, `stop_token_inside` or `two_bos`.
    """
    made: list[tuple[list[int], list[float], int]] = []
    for turn, weight, prompt, answer in rows:
        closing = ids(encoder.rules.codec, Piece(turn.closing)) if turn.closing else []
        trained_ids = answer + closing
        check_stop(encoder, trained_ids, turn.message)
        whole = prompt + trained_ids
        check_bos(encoder, whole)
        before: list[float] = []
        if made and prompt[: len(made[-1][0])] == made[-1][0]:
            before = made.pop()[1]
        context = 1.0 if loss_on == "all" else 0.0
        weights = before + [context] * (len(prompt) - len(before)) + [weight] * len(trained_ids)
        if loss_on == "all" or not prompt:
            weights[0] = 0.0
        made.append((whole, weights, turn.message))
    return [Example(i, w, conversation.file, conversation.line, turn) for i, w, turn in made]


def check_stop(encoder: Encoder, answer: Sequence[int], turn: int) -> None:
    """The proof that the model learns to stop where the answer ends, and not before."""
    stops = [place for place, token in enumerate(answer) if token in encoder.stops]
    if not stops:
        raise BiddableError(
            "stop_token_untrained",
            "No token that stops the sampler is trained at the end of this answer.",
            "Use a template whose end of turn is a special token of this tokenizer, or the"
            " plain frame (--template plain).",
            turn=turn,
        )
    if stops[0] != len(answer) - 1:
        raise BiddableError(
            "stop_token_inside",
            "The sampler would stop inside this answer: it holds the end of turn before its end.",
            "Take that text out of the answer, or use a template that ends turns otherwise.",
            turn=turn,
        )


def check_bos(encoder: Encoder, whole: Sequence[int]) -> None:
    """One BOS at the start; two are what a template and a tokenizer together would write."""
    if encoder.bos is not None and list(whole[:2]) == [encoder.bos] * 2:
        raise BiddableError(
            "two_bos",
            "The text begins with two BOS tokens.",
            "Take one of them out of the chat template.",
        )
