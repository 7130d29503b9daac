"""Our side of `first`: from raw rows to the end of step 1, as `train` goes but for judging.

`python -m benchmarks.first ROWS.jsonl`
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from biddable.dataset.prepare import prepare
from biddable.engine.memory import choose_batch_tokens, keep_freed_memory, needs_of
from biddable.engine.precision import choose_device, choose_dtype, load_model
from biddable.settings import Settings
from biddable.training.checkpoint import Progress
from biddable.training.interrupt import Interrupt
from biddable.training.loop import TrainerParts, fit, make_optimizer
from biddable.training.weights import Replicas


def main() -> None:
    settings = Settings(data=(sys.argv[1],), steps=1)
    prepared = prepare(settings)
    prepared.refuse_errors()
    keep_freed_memory()
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    weights = Replicas(load_model(prepared.base, device), dtype)
    needs = needs_of(weights.model, weights.pieces, weights.working_bytes)
    settings = replace(settings, batch_tokens=choose_batch_tokens(needs, device))

    def tell(event: Any) -> None:
        if event["event"] == "step":
            line = {"base": str(prepared.base.folder), "seconds": event["seconds"]}
            print(json.dumps(line), flush=True)

    with tempfile.TemporaryDirectory() as folder, Interrupt() as interrupt:
        parts = TrainerParts(
            weights=weights,
            optimizer=make_optimizer(weights, settings),
            examples=prepared.train.examples,
            evaluate=lambda: float("inf"),
            answer=lambda: "",
            log=tell,
            folder=Path(folder),
            settings=settings,
        )
        fit(parts, Progress(), interrupt)


if __name__ == "__main__":
    main()
