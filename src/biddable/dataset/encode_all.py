"""All conversations to examples: what is dropped and why, and how long the rest is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from biddable.data.conversation import Conversation
from biddable.dataset.workers import encode_each
from biddable.encoding.encode import Encoder, Example, make_encoder
from biddable.encoding.trained_turns import LossOn
from biddable.encoding.unprinted import unprinted
from biddable.errors import BiddableError, Finding
from biddable.template.rendering import UNUSABLE
from biddable.template.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TooLong = Literal["drop", "error"]
MOST_DROPPED = 0.01
REPORT_EVERY = 512


@dataclass(slots=True)
class Encoded:
    """The examples of a data set, with the findings.

    Args:
        examples: in the order of their conversations.
        dropped: one finding for each example that is too long.
        findings: errors (a conversation that cannot be encoded, too many dropped) and warnings.
        lengths: tokens of every example, the dropped ones too.
        stop_token_trained: every example ends in a trained token that stops the sampler.
    """

    examples: list[Example] = field(default_factory=list)
    dropped: list[Finding] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    stop_token_trained: bool = False


def encode_all(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    *,
    max_length: int,
    loss_on: LossOn = "assistant",
    too_long: TooLong = "drop",
    progress: Callable[[int], None] | None = None,
) -> Encoded:
    """Encodes every conversation; errors are collected, so that all of them are shown at once.

    Args:
        max_length: the most tokens of an example; longer ones are never cut.
        too_long: `drop` lists them in `dropped`, `error` makes each an error.
        progress: called with the number of conversations done, now and then.

    Raises:
        BiddableError: `template_unusable`, at the first conversation that shows it.
    """
    encoder = make_encoder(tokenizer, template)
    result = Encoded()
    for done, encoded in enumerate(encode_each(encoder, conversations, loss_on), 1):
        result.findings += _look_alikes(encoder, conversations[done - 1])
        if isinstance(encoded, BiddableError):
            if encoded.finding.code == UNUSABLE:
                raise encoded
            result.findings.append(encoded.finding)
            continue
        for example in encoded:
            length = len(example.input_ids)
            result.lengths.append(length)
            if length <= max_length:
                result.examples.append(example)
            else:
                target = result.findings if too_long == "error" else result.dropped
                target.append(_truncated(example, max_length, too_long))
        if progress is not None and done % REPORT_EVERY == 0:
            progress(done)
    result.findings += _of_all(encoder, result, max_length)
    result.findings += unprinted(encoder.rules, conversations)
    failed = any(f.code.startswith("stop_token") for f in result.findings)
    result.stop_token_trained = bool(result.examples) and not failed
    return result


def _look_alikes(encoder: Encoder, conversation: Conversation) -> Iterator[Finding]:
    """A note for each message that holds the text of a control token; it stays ordinary text."""
    for turn, message in enumerate(conversation.messages):
        if match := encoder.rules.codec.pattern.search(message.content):
            yield Finding(
                "special_token_in_text",
                "note",
                f"The message holds {match.group()!r}, which looks like a control token. It is"
                " encoded as ordinary text, here and in chat.",
                "Nothing need be done, unless a template's leftovers got into the data.",
                conversation.file,
                conversation.line,
                turn,
            )


def _truncated(example: Example, max_length: int, too_long: TooLong) -> Finding:
    length = len(example.input_ids)
    return Finding(
        "answer_truncated",
        "error" if too_long == "error" else "warning",
        f"The example has {length:,} tokens, {length - max_length:,} more than --max-length; it is"
        " left out rather than cut.",
        f"Raise --max-length to {length}, or shorten the conversation.",
        example.file,
        example.line,
        example.turn,
    )


def _of_all(encoder: Encoder, result: Encoded, max_length: int) -> Iterator[Finding]:
    """Where too many examples are dropped, or lack the BOS that the tokenizer itself writes."""
    dropped, lengths = len(result.dropped), result.lengths
    if dropped > MOST_DROPPED * len(lengths):
        yield Finding(
            "too_many_dropped",
            "error",
            f"{dropped:,} of {len(lengths):,} examples are longer than --max-length {max_length}.",
            f"--max-length {length_that_keeps(lengths, 0.99)} keeps 99 % of them,"
            f" {max(lengths)} keeps all.",
        )
    if encoder.adds_bos and result.examples and result.examples[0].input_ids[0] != encoder.bos:
        yield Finding(
            "bos_missing",
            "warning",
            "The tokenizer begins a text with a BOS token, but the chat template writes none.",
            "Begin the template with {{ bos_token }} if the base was trained with one.",
        )


def length_that_keeps(lengths: Sequence[int], share: float) -> int:
    """The least length at which at most `1 - share` of the examples are longer."""
    ordered = sorted(lengths)
    kept = -(-len(ordered) * round(share * 100) // 100)
    return ordered[max(kept, 1) - 1]
