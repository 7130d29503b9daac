"""The prepared data, before any weights are loaded: records and counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypedDict

import numpy as np

from biddable.data.conversation import Conversation
from biddable.encoding.encode import Example
from biddable.errors import BiddableError, Finding
from biddable.models.base import Base
from biddable.template.template import Template


@dataclass(frozen=True, slots=True)
class SplitPart:
    """The conversations and examples of one side of the split."""

    conversations: Sequence[Conversation]
    examples: Sequence[Example]


def shared_system_prompt(conversations: Sequence[Conversation]) -> str | None:
    """The system prompt, perhaps an empty one, that all conversations begin with; None where one
    differs or has none."""
    prompts: set[str | None] = set()
    for conversation in conversations:
        first = conversation.messages[0]
        prompts.add(first.content if first.role == "system" else None)
        if len(prompts) > 1:
            return None
    return prompts.pop() if prompts else None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens and trained tokens of examples, and a sum over all their ids and weights.

    The sum tells whether a resumed run feeds what it fed, also with a changed library.
    """

    tokens: int
    trained_tokens: int
    sha256: str


def counted(examples: Iterable[Example]) -> Counts:
    """The counts of examples, in one pass."""
    digest, tokens, trained = hashlib.sha256(), 0, 0
    for example in examples:
        weights = np.asarray(example.weights, dtype=np.float64)
        digest.update(np.asarray(example.input_ids, dtype=np.int32).tobytes())
        digest.update(weights.tobytes())
        tokens += len(weights)
        trained += int(np.count_nonzero(weights > 0))
    return Counts(tokens, trained, digest.hexdigest())


class OpenedBase(TypedDict):
    """The base and all that encoding needs of it: the first fields of `Prepared`."""

    base: Base
    tokenizer: Any
    template: Template
    max_length: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data as `train` works on it, before any weights are loaded.

    Args:
        base: where tokenizer and weights stand.
        tokenizer, template: what every text is rendered and encoded with.
        max_length: the longest example in tokens.
        format: what the files were taken for.
        rows: rows seen in the training files.
        hashes: sha256 of each source.
        train, held_out: the two sides.
        leaked: training knows every held-out row.
        counts: of the examples of both sides.
        longest: the index of the longest example to train on.
        lengths: tokens of every example, the dropped ones too.
        stop_token_trained: whether every answer ends in a trained stop token.
        dropped: a finding for each example that is too long.
        findings: all others, worst first.
    """

    base: Base
    tokenizer: Any
    template: Template
    max_length: int
    format: str
    rows: int
    hashes: dict[str, str]
    train: SplitPart
    held_out: SplitPart
    leaked: bool
    counts: Counts
    longest: int
    lengths: Sequence[int]
    stop_token_trained: bool
    dropped: Sequence[Finding]
    findings: Sequence[Finding]

    def examples(self) -> Iterator[Example]:
        """Those of both sides."""
        return chain(self.train.examples, self.held_out.examples)

    def conversations(self) -> Iterator[Conversation]:
        """Those of both sides."""
        return chain(self.train.conversations, self.held_out.conversations)

    def refuse_errors(self) -> None:
        """Raises the first error among the findings, and says how many more there are.

        Raises:
            BiddableError: there is one.
        """
        errors = [f for f in self.findings if f.severity == "error"]
        if not errors:
            return
        first, more = errors[0], len(errors) - 1
        fix = first.fix + (f" ({more} more: `biddable check` lists them.)" if more else "")
        raise BiddableError.of(replace(first, fix=fix))


def summary(prepared: Prepared) -> dict[str, Any]:
    """The counts that `check --json` prints."""
    return {
        "rows": prepared.rows,
        "examples": len(prepared.train.examples) + len(prepared.held_out.examples),
        "tokens": prepared.counts.tokens,
        "trained_tokens": prepared.counts.trained_tokens,
        "stop_token_trained": prepared.stop_token_trained,
        "dropped": len(prepared.dropped),
    }
