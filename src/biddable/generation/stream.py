"""One answer as it is written: pieces of text without half characters or parts of stop strings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, Literal

from biddable.generation.batch import Batch
from biddable.generation.generate import decode, remaining_context
from biddable.generation.sampler import Sampler

# What a decoder writes for bytes that are no whole character yet.
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
Finish = Literal["stop", "length"]


def stream(
    model: Any,
    prompt: Sequence[int],
    *,
    stop_ids: Collection[int],
    stop_strings: Sequence[str] = (),
    tokenizer: Any,
    max_new_tokens: int,
    sample: Sampler,
) -> Generator[str, None, Finish]:
    """Yields the text of the answer to one prompt, and returns why it ended.

    Together the pieces are the answer that `generate` gives, cut at the first stop string.

    Raises:
        BiddableError: `prompt_too_long`.
    """
    stopped = False

    def tokens() -> Iterator[int]:
        nonlocal stopped
        batch, (room,) = Batch(model), remaining_context(model, [prompt])
        if max_new_tokens > 0:
            batch.join([prompt], [0])
        for step in decode(batch, {0: min(max_new_tokens, room)}, stop_ids, sample):
            stopped = step[0][1] in stop_ids
            if not stopped:
                yield step[0][1]

    cut = yield from pieces(tokens(), text_decoder(tokenizer), stop_strings)
    return "stop" if stopped or cut else "length"


def text_decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Token ids to text: every token shows, and no space is tidied away."""

    def text(ids: Sequence[int]) -> str:
        decoded: str = tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return decoded

    return text


def pieces(
    tokens: Iterable[int], text: Callable[[Sequence[int]], str], stop_strings: Sequence[str]
) -> Generator[str, None, bool]:
    """Yields the text of the tokens as soon as it is certain; returns whether a stop string cut it.

    Held back are incomplete characters, and text that may be the beginning of a stop string.
    """
    cutter = Cutter(text, stop_strings)
    for token in tokens:
        piece = cutter.push(token)
        if piece:
            yield piece
        if cutter.cut:
            return True
    if rest := cutter.rest():
        yield rest
    return False


class Cutter:
    """Cuts an answer into the pieces of text that are certain after each token.

    All ids are decoded again for each token: some decoders treat a text's start in a way of their
    own, and a few hundred ids take less than a millisecond.

    Args:
        text: token ids to text.
        stop_strings: the answer ends before the one that is complete first; `cut` says so.
    """

    def __init__(self, text: Callable[[Sequence[int]], str], stop_strings: Sequence[str]) -> None:
        self._text, self._stops = text, stop_strings
        self._ids: list[int] = []
        self._whole, self._sent = "", 0
        self.cut = False

    def push(self, token: int) -> str:
        """The text that one more token makes certain; often empty."""
        self._ids.append(token)
        self._whole = self._text(self._ids)
        end = find_stop(self._whole, self._stops)
        if end is None:
            certain = self._whole.rstrip(UNFINISHED)
            return self._up_to(len(certain) - _held_back(certain, self._stops))
        self.cut = True
        return self._up_to(end)

    def rest(self) -> str:
        """The text that was held back, after the last token."""
        return "" if self.cut else self._up_to(len(self._whole))

    def _up_to(self, end: int) -> str:
        piece = self._whole[self._sent : end]
        self._sent = max(self._sent, end)
        return piece


def find_stop(text: str, stop_strings: Sequence[str]) -> int | None:
    """Where the stop string that is complete first begins; of two that end together, the longer."""
    ends = [(at + len(stop), at) for stop in stop_strings if (at := text.find(stop)) >= 0]
    return min(ends)[1] if ends else None


def _held_back(text: str, stop_strings: Sequence[str]) -> int:
    """Length of the longest end of the text with which a stop string begins."""
    sizes = (n for stop in stop_strings for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(sizes, default=0)
