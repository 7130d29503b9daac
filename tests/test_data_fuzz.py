"""Malformed files: always a finding or an error with its place, never a traceback or a hang.

`python tests/test_data_fuzz.py 2000` runs the long version and says the time and the memory.
"""

from __future__ import annotations

import gzip
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biddable.data.quality import inspect
from biddable.data.readers import read
from biddable.data.split import split
from biddable.errors import BiddableError

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, {"y": None}]}}}
ROWS: list[Any] = [
    {"system": "s", "user": "Häuser 🙂 “x”?", "assistant": "a\nb", "weight": 0.5, "group": "g"},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
            {"role": "tool", "content": "1", "tool_call_id": "x"},
            {"role": "assistant", "content": "a"},
        ],
        "tools": [CALL],
    },
    {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    {"instruction": "i", "input": "x", "output": "o", "history": [["q", "a"]]},
    {"chosen": "\n\nHuman: u\n\nAssistant: a", "rejected": "\n\nHuman: u\n\nAssistant: b"},
    {"id": "1", "instruction": "i", "instances": [{"input": "x", "output": "o"}]},
    {
        "message_tree_id": "t",
        "prompt": {
            "message_id": "r",
            "role": "prompter",
            "text": "u",
            "replies": [{"message_id": "a", "role": "assistant", "text": "a", "replies": []}],
        },
    },
    {"message_id": "r", "parent_id": None, "role": "prompter", "text": "u"},
    {"message_id": "a", "parent_id": "r", "role": "assistant", "text": "a", "rank": 0},
]
STRANGE: list[Any] = [
    *(None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**400, "", " ", "\x00", "\ud83d"),
    *([], {}, [[]], [None], {"role": "user"}, [{"role": "user"}], ["a", 1], {"": {"": []}}),
    *("x" * 5000, "[" * 3000, '{"a":' * 500, "4539 1488 0343 6467", "a@b.co " * 300),
]
NOISE = [
    b"\x00",
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\n",
    b"\r",
    b'"',
    b"\\u",
    b"{",
    b"]",
    b",",
]


def strange_value(rng: random.Random, value: Any) -> Any:
    """The value with one part of it replaced, removed, doubled or wrapped many times."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: strange_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [
            *value[:place],
            strange_value(rng, value[place]),
            *value[place + rng.randrange(2) :],
        ]
    if rng.random() < 0.15:
        for _ in range(rng.choice([3, 60, 400])):
            value = [value] if rng.random() < 0.5 else {"content": value}
        return value
    return rng.choice(STRANGE)


def strange_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes cut, with some of them changed, or with noise put in."""
    place = rng.randrange(len(data) + 1)
    kind = rng.randrange(4)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + rng.choice(NOISE) * rng.choice([1, 1, 50]) + data[place:]
    if kind == 2:
        changed = bytearray(data)
        for _ in range(min(len(data), rng.choice([1, 5]))):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(changed)
    return data[place:] + data[:place]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_array(rows: list[Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_table(rows: list[Any]) -> bytes:
    cells = [json.dumps(row).replace('"', '""') for row in rows]
    lines = ["user,assistant", *(f'"{cell}","{cell}"' for cell in cells)]
    return "\n".join(lines).encode()


def as_gzip(rows: list[Any]) -> bytes:
    return gzip.compress(as_lines(rows))


KINDS: list[tuple[str, Callable[[list[Any]], bytes]]] = [
    ("data.jsonl", as_lines),
    ("data.json", as_array),
    ("data.csv", as_table),
    ("data.jsonl.gz", as_gzip),
]


def malformed(rng: random.Random) -> tuple[str, bytes]:
    rows = [rng.choice(ROWS) for _ in range(rng.randrange(1, 12))]
    if rng.random() < 0.7:
        rows = [strange_value(rng, row) if rng.random() < 0.5 else row for row in rows]
    name, stored = rng.choice(KINDS)
    data = stored(rows)
    for _ in range(rng.choice([0, 1, 1, 3])):
        data = strange_bytes(rng, data)
    return name, data


def survives(path: Path, data: bytes) -> str:
    """Reads a file and all that follows from it; what came out: fine, findings or an error."""
    path.write_bytes(data)
    mapping = {"user": "user", "assistant": "assistant"} if path.suffix == ".csv" else None
    try:
        result = read([str(path)], mapping=mapping)
    except BiddableError as error:
        finding = error.finding
        return "error" if finding.file == str(path) and finding.fix else "an error without place"
    for finding in result.errors():
        assert finding.file == str(path)
        about_file = finding.code in ("unreadable_file", "file_too_large")
        assert finding.line or about_file or "more with the same fault" in finding.message
    for conversation in result.conversations:
        for message in conversation.messages:
            json.dumps(message.as_dict(), ensure_ascii=False).encode()
    inspect(result.conversations)
    split(result.conversations)
    return "findings" if result.findings else "fine"


@pytest.mark.parametrize("seed", range(120))
def test_a_malformed_file_never_gets_through_unseen(tmp_path: Path, seed: int) -> None:
    name, data = malformed(random.Random(seed))
    assert survives(tmp_path / name, data) in ("fine", "findings", "error")


GIANTS = {
    "text": b'{"user": "' + b"x" * 50_000_000 + b'", "assistant": "a"}',
    "lists": b'{"user": [' + b"[]," * 16_000_000 + b"[]]}",
    "depth": b"[" * 50_000_000,
    "blanks": b" " * 50_000_000,
    "commas": b"[" + b"{}," * 16_000_000 + b"{}]",
    "newlines": b"\n" * 50_000_000,
}


def long_run(count: int) -> None:
    """Mutates `count` files, then tries the giants; prints what came out and what it cost."""
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "fuzz")
    folder.mkdir(exist_ok=True)
    outcomes: dict[str, int] = {}
    slowest = 0.0
    for seed in range(count):
        started = time.monotonic()
        name, data = malformed(random.Random(seed))
        outcome = survives(folder / name, data)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        slowest = max(slowest, time.monotonic() - started)
    print(f"{count} files: {outcomes}, slowest {slowest:.2f} s")
    for what, data in GIANTS.items():
        for name in ("giant.jsonl", "giant.json", "giant.csv"):
            started = time.monotonic()
            outcome = survives(folder / name, data)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{what} {name}: {outcome}, {time.monotonic() - started:.1f} s, peak {peak} MiB")


if __name__ == "__main__":
    long_run(int(sys.argv[1]))
