"""How `biddable check` grows with the rows: `python benchmarks/check_scale.py 100000`.

Writes rows of about 200 tokens with words of this repository's own texts, checks them as a user
would, and prints the seconds by the clock and of the processors, and the peak of memory.
"""

from __future__ import annotations

import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def write_rows(path: Path, count: int) -> None:
    """Rows of 50 words asked and 90 answered."""
    texts = [p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("docs/**/*.md"))]
    words = re.findall(r"[A-Za-z]+", " ".join(texts))
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            user, assistant = (
                " ".join(draw.choices(words, k=50)),
                " ".join(draw.choices(words, k=90)),
            )
            row = {"system": "You answer with care.", "user": f"{user}?", "assistant": assistant}
            stream.write(json.dumps(row) + "\n")


def main(count: int) -> None:
    """Writes, checks, prints one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        write_rows(data, count)
        command = [sys.executable, "-m", "biddable", "check", str(data), "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    line = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/check_scale.py {count}",
        "rows": report["rows"],
        "tokens_per_row": round(report["tokens"] / report["examples"], 1),
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "largest_process_mib": used.ru_maxrss // 1024,
        "findings": len(report["findings"]),
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
