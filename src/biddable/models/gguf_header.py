"""Reads a GGUF file's header within the bounds of the file, before any library trusts it.

Layout (ggml's docs/gguf.md, version 2 and 3, little-endian): magic, version, counts of tensors and
of values; the values, each a name, a type and its content; the tensors, each a name, dimensions,
type and place; then, aligned, their bytes.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from biddable.models.vetting import damaged

# struct letters of the plain value types; 8 is a text, 9 a list.
_PLAIN = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_TEXT, _LIST = 8, 9
# A file of a few bytes must not make a long loop or a large text.
MOST_VALUES, MOST_TENSORS, LONGEST_TEXT, LONGEST_LIST = 100_000, 1_000_000, 1 << 26, 1 << 24

Shapes = dict[str, tuple[int, ...]]


def gguf_shapes(path: Path) -> Shapes:
    """The shapes of a GGUF file's tensors, once all of its header is known to fit the file.

    Raises:
        BiddableError: `base_damaged`.
    """
    try:
        with path.open("rb") as file:
            return _Header(file, path.stat().st_size).shapes()
    except (OSError, ValueError, struct.error, TypeError) as error:
        raise damaged(str(path), f"the GGUF file cannot be read: {str(error)[:200]}") from error


class _Header:
    """Reads one part of a header after another.

    Raises:
        ValueError: from every method, the part cannot be in a sound file of this size.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def shapes(self) -> Shapes:
        if self._bytes(4) != b"GGUF" or self._number("I") not in (2, 3):
            raise ValueError("it does not begin as GGUF of version 2 or 3 does")
        tensors, count = self._number("Q"), self._number("Q")
        if tensors > MOST_TENSORS or count > MOST_VALUES:
            raise ValueError(f"it claims {tensors:,} tensors and {count:,} values")
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._name(values)
            values[key] = self._value(self._number("I"))
            if key.endswith(".block_count") and not 0 < values[key] <= tensors:
                raise ValueError(f"it claims {values[key]} layers and {tensors:,} tensors")
        shapes: Shapes = {}
        ends = [self._tensor(shapes) for _ in range(tensors)]
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
            raise ValueError(f"its alignment is {alignment}")
        end = -(-self._file.tell() // alignment) * alignment + max(ends, default=0)
        if end > self._size:
            raise ValueError(f"its tensors end at byte {end:,}, the file at {self._size:,}")
        return shapes

    def _tensor(self, shapes: Shapes) -> int:
        """Adds the shape of the next tensor; one past its last byte, counted from the first's."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        key = self._name(shapes)
        rank = self._number("I")
        if not 1 <= rank <= 4:
            raise ValueError(f"the tensor {key[:80]} has {rank} dimensions")
        shape = tuple(self._number("Q") for _ in range(rank))
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
        if prod(shape) == 0 or shape[0] % block:
            raise ValueError(f"the tensor {key[:80]} has the shape {list(shape)}")
        shapes[key] = shape
        end: int = self._number("Q") + prod(shape) // block * width
        return end

    def _value(self, kind: int) -> Any:
        """A text or number; of a list its length."""
        if kind == _TEXT:
            return self._text()
        if kind != _LIST:
            return self._number(_letter(kind))
        inner, count = self._number("I"), self._number("Q")
        if count > LONGEST_LIST:
            raise ValueError(f"it claims a list of {count:,} values")
        if inner == _TEXT:
            for _ in range(count):
                self._text()
        else:
            self._bytes(count * struct.calcsize("<" + _letter(inner)))
        return count

    def _name(self, known: dict[str, Any]) -> str:
        if (key := self._text()) in known:
            raise ValueError(f"{key[:80]} stands twice")
        return key

    def _text(self) -> str:
        length = self._number("Q")
        if length > LONGEST_TEXT:
            raise ValueError(f"it claims a text of {length:,} bytes")
        return self._bytes(length).decode("utf-8")

    def _number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self._bytes(struct.calcsize("<" + letter)))[0]

    def _bytes(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise ValueError("it ends within its header")
        return self._file.read(count)


def _letter(kind: int) -> str:
    if kind not in _PLAIN:
        raise ValueError(f"it holds a value of the type {kind}")
    return _PLAIN[kind]
