"""Conversations to training examples, and messages to the prompt that chat and serving send.

Everything follows from one definition on token ids (docs/design.md): the example of an answer is
`encode_prompt` of the messages before it, followed by the ids of what the model has to write. So
training ids begin with serving ids by construction, for every template and every tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from biddable.data.conversation import Conversation, Message
from biddable.encoding.chats import Rules, piece_of, scene_of
from biddable.encoding.ends import find_ends
from biddable.encoding.tokens import (
    Piece,
    check_text,
    continuation_batch,
    encode_batch,
    ids,
    make_codec,
)
from biddable.encoding.trained_turns import LossOn, plan_all, with_place
from biddable.encoding.turns import Turn, prompt_of
from biddable.errors import BiddableError
from biddable.template.template import Template, adds_bos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
    """A template bound to a tokenizer: plain data, which can be sent to worker processes.

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
    return prompt_ids(make_encoder(tokenizer, template), messages, tools=tools)


def prompt_ids(
    encoder: Encoder, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
    """`encode_prompt` for a caller that keeps its encoders.

    Raises:
        BiddableError: `template_refused` or `message_text_lost`.
    """
    scene = scene_of(encoder.rules, tools)
    prompt, _ = prompt_of(scene, [message.as_dict() for message in messages])
    piece = piece_of(encoder.rules.codec, prompt)
    check_text(piece)
    return ids(encoder.rules.codec, piece)


def stop_token_ids(tokenizer: PreTrainedTokenizerFast, template: Template) -> tuple[int, ...]:
    """The ids at which the sampler stops: the template's ends of turn, then the tokenizer's EOS."""
    return make_encoder(tokenizer, template).stops


def make_encoder(tokenizer: PreTrainedTokenizerFast, template: Template) -> Encoder:
    """Binds a template to a tokenizer and finds how it ends a turn.

    The last few encoders are cached, so that a caller may encode prompt after prompt; a tokenizer
    whose tokens have changed is read again.
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
    rules = find_ends(Rules(template, make_codec(source)), eos_text)
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
    for conversation, plan in zip(conversations, planned, strict=True):
        if isinstance(plan, BiddableError):
            results.append(plan)
            continue
        rows = [(turn, weight, *next(encoded)) for turn, weight in plan]
        results.append(
            with_place(conversation, partial(assemble, encoder, conversation, rows, loss_on))
        )
    return results


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
    joined: list[tuple[list[int], list[float], int]] = []
    for turn, weight, prompt, answer in rows:
        closing = ids(encoder.rules.codec, Piece(turn.closing)) if turn.closing else []
        trained_ids = answer + closing
        check_stop(encoder, trained_ids, turn.message)
        ids_so_far = prompt + trained_ids
        check_bos(encoder, ids_so_far)
        before: list[float] = []
        if joined and prompt[: len(joined[-1][0])] == joined[-1][0]:
            before = joined.pop()[1]
        context = 1.0 if loss_on == "all" else 0.0
        weights = before + [context] * (len(prompt) - len(before)) + [weight] * len(trained_ids)
        if loss_on == "all" or not prompt:
            weights[0] = 0.0
        joined.append((ids_so_far, weights, turn.message))
    return [Example(i, w, conversation.file, conversation.line, turn) for i, w, turn in joined]


def check_stop(encoder: Encoder, answer: Sequence[int], turn: int) -> None:
    """Proves that the model learns to stop where the answer ends, and not before."""
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


def check_bos(encoder: Encoder, input_ids: Sequence[int]) -> None:
    """Refuses two BOS tokens at the start: one of the template, one of the tokenizer."""
    if encoder.bos is not None and list(input_ids[:2]) == [encoder.bos] * 2:
        raise BiddableError(
            "two_bos",
            "The text begins with two BOS tokens.",
            "Take one of them out of the chat template.",
        )
