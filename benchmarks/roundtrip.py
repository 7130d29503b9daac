"""A run exported as GGUF in every type: the proof in llama.cpp, and what each type costs.

    python benchmarks/roundtrip.py RUN

The scorecard of each file stands beside that of the tuned model. The files go to a folder that is
removed at the end, or stay in --out. Adds a line to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from biddable import export

TYPES = ("f32", "f16", "q8_0", "q4_0")


def exported(run: str, kind: str, answers: int, folder: Path) -> dict[str, Any]:
    """What export.json says of one type, with the file's size and the seconds it took."""
    began = time.process_time()
    result = export(run, to="gguf", type=kind, answers=answers, out=folder / kind)
    size = (result.folder / result.record["file"]).stat().st_size
    names = ("type", "reader", "round_trip", "cost")
    facts = {name: result.record[name] for name in names}
    return {**facts, "megabytes": size / 1e6, "processor_seconds": time.process_time() - began}


def table(records: list[dict[str, Any]]) -> str:
    """The figures of the scorecard, a column for each type."""
    first = records[0]["cost"]["metrics"]
    rows = [["", "tuned", *(record["type"] for record in records)]]
    for name, values in first.items():
        figures = [record["cost"]["metrics"][name]["exported"] for record in records]
        rows.append([name, *(f"{figure:.4g}" for figure in (values["tuned"], *figures))])
    changed = [record["cost"]["answers_changed"] for record in records]
    rows.append(["answers changed", "", *map(str, changed)])
    rows.append(["megabytes", "", *(f"{record['megabytes']:.0f}" for record in records)])
    return "\n".join(f"{row[0]:24}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        records = [exported(args.run, kind, args.answers, out) for kind in args.types]
    print(table(records))
    line = {
        "workload": "roundtrip", "run": Path(args.run).name, "types": records,
        "load": os.getloadavg()[0], "date": f"{date.today():%Y-%m-%d}",
        "command": " ".join(sys.argv),
    }  # fmt: skip
    with (args.results / f"{line['date']}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
