"""Plain text as examples in which every token is trained, and its ends held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from biddable.encoding.encode import Example
from biddable.encoding.tokens import Piece, encode_batch, make_codec
from biddable.errors import BiddableError

# The end of each text is held out: a twentieth of it, and of all texts together no more than this
# many characters, which give the loss per byte to about 1 %.
HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 50_000
OPENINGS = 3
OPENING_CHARACTERS = 80


class Windows(Sequence[Example]):
    """Cuts a stream of token ids into windows that overlap by one token.

    Each window feeds `context` tokens and predicts as many, so every token but the first of the
    stream is predicted once; the last window may be shorter.

    Args:
        stream: token ids.
        context: tokens that the model sees at once.
        file: what an error about a window names; the line is the window's number, from 1.
    """

    def __init__(self, stream: Sequence[int], context: int, file: str) -> None:
        self._ids: NDArray[np.int32] = np.asarray(stream, dtype=np.int32)
        self._context, self._file = context, file

    def __len__(self) -> int:
        return math.ceil(max(0, len(self._ids) - 1) / self._context)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self._context
        ids: list[int] = self._ids[start : start + self._context + 1].tolist()
        return Example(ids, [0.0] + [1.0] * (len(ids) - 1), self._file, index + 1)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts as the model gets them.

    Args:
        train: windows of the training text.
        held_out: windows of the held-out ends.
        bytes_per_token: of the held-out text.
        openings: held-out beginnings for the model to go on from.
    """

    train: Windows
    held_out: Sequence[Example]
    bytes_per_token: float
    openings: Sequence[str]


def cut_ends(texts: Sequence[str]) -> list[tuple[str, str]]:
    """(start to train on, end to hold out) of each text."""
    most = max(1, MOST_HELD_OUT // len(texts))
    ends = [min(most, math.ceil(HELD_OUT_SHARE * len(text))) for text in texts]
    return [(text[:-n], text[-n:]) for text, n in zip(texts, ends, strict=True)]


def encode_corpus(texts: Sequence[str], tokenizer: Any, context: int) -> Corpus:
    """Encodes the texts; what looks like a control token in them is ordinary text.

    Raises:
        BiddableError: `text_too_short`, less than one window is left to train on.
    """
    codec = make_codec(tokenizer.backend_tokenizer.to_str())
    end = tokenizer.eos_token_id
    parts = cut_ends(texts)
    starts = encode_batch(codec, [Piece(start) for start, _ in parts])
    ends = encode_batch(codec, [Piece(last) for _, last in parts])
    stream = [end] + [i for ids in starts for i in (*ids, end)]
    if len(stream) <= context:
        what = f"the text has {len(stream)} tokens, less than one row of {context}"
        raise BiddableError("text_too_short", what, "give more text, or a smaller --context")
    # An end-of-text token takes the place of the text before each held-out end.
    held_out = [w for ids in ends for w in Windows([end, *ids], context, "held-out text")]
    size = sum(len(last.encode()) for _, last in parts)
    openings = [last.strip()[:OPENING_CHARACTERS] for _, last in parts[:OPENINGS]]
    train = Windows(stream, context, "training text")
    return Corpus(train, held_out, size / sum(map(len, ends)), openings)
