"""Reads a GGUF file's header within the bounds of the file, before any library believes it.

Layout (ggml's docs/gguf.md, version 2 and 3, little-endian): magic, version, counts of tensors and
of values; the values, each a name, a type and its content; the tensors, each a name, dimensions,
type and place; then, aligned, their bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Plain values by name (texts and numbers; of a list its length), and shapes of tensors."""

    values: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def read_gguf_header(path: Path) -> GgufHeader:
    """The header, once all of it is known to fit the file.

    Raises:
        BiddableError: `base_damaged`.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            magic, version, tensors, values = struct.unpack("<4sIQQ", _bytes(file, 24, size))
            if magic != b"GGUF" or version not in (2, 3):
                raise ValueError("it does not begin as GGUF of version 2 or 3 does")
            if tensors > MOST_TENSORS or values > MOST_VALUES:
                raise ValueError(f"it claims {tensors:,} tensors and {values:,} values")
            known: dict[str, Any] = {}
            for _ in range(values):
                key = _text(file, size)
                _once(key, known)
                known[key] = _value(file, size, _number(file, size, "I"))
            for key, value in known.items():
                if key.endswith(".block_count") and not 0 < value <= tensors:
                    raise ValueError(f"it claims {value} layers and {tensors:,} tensors")
            return GgufHeader(known, _shapes(file, size, tensors, known))
    except (OSError, ValueError, struct.error, TypeError) as error:
        raise damaged(str(path), f"the GGUF file cannot be read: {str(error)[:200]}") from error


def _shapes(
    file: BinaryIO, size: int, tensors: int, known: dict[str, Any]
) -> dict[str, tuple[int, ...]]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    shapes: dict[str, tuple[int, ...]] = {}
    ends = []
    for _ in range(tensors):
        key = _text(file, size)
        _once(key, shapes)
        rank = _number(file, size, "I")
        if not 1 <= rank <= 4:
            raise ValueError(f"the tensor {key[:80]} has {rank} dimensions")
        shape = tuple(_number(file, size, "Q") for _ in range(rank))
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(_number(file, size, "I"))]
        numbers = prod(shape)
        if numbers == 0 or shape[0] % block:
            raise ValueError(f"the tensor {key[:80]} has the shape {list(shape)}")
        ends.append(_number(file, size, "Q") + numbers // block * width)
        shapes[key] = shape
    alignment = known.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise ValueError(f"its alignment is {alignment}")
    start = -(-file.tell() // alignment) * alignment
    if start + max(ends, default=0) > size:
        raise ValueError(f"its tensors end at byte {start + max(ends):,}, the file at {size:,}")
    return shapes


def _value(file: BinaryIO, size: int, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file, size)
    if kind != _LIST:
        return _number(file, size, _letter(kind))
    inner, count = _number(file, size, "I"), _number(file, size, "Q")
    if count > LONGEST_LIST:
        raise ValueError(f"it claims a list of {count:,} values")
    if inner == _TEXT:
        for _ in range(count):
            _text(file, size)
    else:
        _bytes(file, count * struct.calcsize("<" + _letter(inner)), size)
    return count


def _letter(kind: int) -> str:
    if kind not in _PLAIN:
        raise ValueError(f"it holds a value of the type {kind}")
    return _PLAIN[kind]


def _once(key: str, known: dict[str, Any]) -> None:
    if key in known:
        raise ValueError(f"{key[:80]} stands twice")


def _text(file: BinaryIO, size: int) -> str:
    length = _number(file, size, "Q")
    if length > LONGEST_TEXT:
        raise ValueError(f"it claims a text of {length:,} bytes")
    return _bytes(file, length, size).decode("utf-8")


def _number(file: BinaryIO, size: int, letter: str) -> Any:
    return struct.unpack("<" + letter, _bytes(file, struct.calcsize("<" + letter), size))[0]


def _bytes(file: BinaryIO, count: int, size: int) -> bytes:
    if count > size - file.tell():
        raise ValueError("it ends within its header")
    return file.read(count)
