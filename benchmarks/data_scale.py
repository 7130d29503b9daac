"""How reading, findings and the split grow with the rows: `python benchmarks/data_scale.py 10000`.

Writes rows of about 200 tokens (50 words asked, 90 answered, 2 % of them repeated), works on them
and prints the seconds of each part, by the clock and of the processor, and the peak of memory.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from biddable.data import duplicates, private, quality
from biddable.data.readers import read
from biddable.data.split import split

T = TypeVar("T")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_rows(path: Path, count: int) -> None:
    """Rows with words drawn as in a language: the k-th commonest with weight 1/k."""
    rng = random.Random(0)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(2, 9))) for _ in range(20_000)]
    weights = list(itertools.accumulate(1 / k for k in range(1, 20_001)))
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            if number % 50 != 1:
                user, assistant = (
                    " ".join(rng.choices(words, cum_weights=weights, k=size)) for size in (50, 90)
                )
            row = {"system": "You answer with care.", "user": user + "?", "assistant": assistant}
            stream.write(json.dumps(row) + "\n")


def timed(name: str, work: Callable[[], T]) -> T:
    """Does some work and prints what it took."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:12} {time.perf_counter() - clock:7.2f} s"
        f" {time.process_time() - processor:7.2f} s cpu {peak:7.0f} MiB"
    )
    return result


def main(count: int) -> None:
    """Measures one number of rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, count)
        conversations = timed("read", lambda: read([str(path)]).conversations)
    same = timed("duplicates", lambda: duplicates.find(conversations))
    timed("private", lambda: list(private.private_findings(conversations)))
    timed("inspect", lambda: quality.inspect(conversations, same))
    timed("split", lambda: split(conversations, duplicates=same))


if __name__ == "__main__":
    main(int(sys.argv[1]))
