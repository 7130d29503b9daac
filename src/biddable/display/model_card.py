"""README.md of a model folder: what the model is, how it was made and judged, how it is asked."""

from __future__ import annotations

import json
from pathlib import Path

from biddable.dataset.prepared import Prepared
from biddable.display.scorecard_lines import difference, number
from biddable.judging.metric_names import title
from biddable.judging.scorecard import Scorecard
from biddable.models.base import SYSTEM_PROMPT_FILE, Base
from biddable.settings import PACKAGED, Settings
from biddable.terminal import steers

PACKAGED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def model_card(
    prepared: Prepared, settings: Settings, card: Scorecard, version: str, with_system: bool
) -> str:
    """The card of a tuned model; no row of the data stands in it."""
    base = hub_id(prepared.base)
    # A hub id is ASCII, so that its JSON is YAML too; a local path is nobody's business.
    of_base = "" if base is None else f"base_model: {json.dumps(base)}\n"
    table = "\n".join(
        f"| {one_line(title(name)).replace('|', '/')} | {number(m, m.base)} | {number(m, m.tuned)} "
        f"| {number(m, m.baseline)} | {difference(m)} | {m.n} |"
        for name, m in card.metrics.items()
    )
    return f"""---
{of_base}library_name: transformers
pipeline_tag: text-generation
tags: [sft, biddable]
---

# A tuned {plain(base or Path(prepared.base.name).name)}

Supervised fine-tuning with biddable {version} on {len(prepared.train.examples)} examples of private
data ({plain(prepared.format)}), all weights, loss on the assistant's tokens only. The chat template
in `chat_template.jinja` and the stop tokens in `generation_config.json` are those of training.

## Verdict

{one_line(card.verdict.sentence)} {one_line(card.verdict.evidence)}

| metric | base | tuned | no model | change (95 % CI) | n |
|---|---|---|---|---|---|
{table}

No model: the best answer that looks at no prompt. Changes of rates are in points.

## Settings

Learning rate {settings.lr:g}, {settings.epochs:g} epochs, {settings.batch_size} rows per step, seed
{settings.seed}; the run folder's config.toml repeats the run.

## Use

{_use(with_system)}"""


def hub_id(base: Base) -> str | None:
    """The name under which others find a base on the hub; None for what stands on this disk."""
    if base.name == PACKAGED:
        return PACKAGED_ID
    here = Path(base.name).resolve()
    local = base.name.endswith(".gguf") or base.folder.resolve().is_relative_to(here)
    return None if local else base.name


def one_line(text: str) -> str:
    """A text on one line, without characters that steer what displays it."""
    return " ".join("".join(" " if steers(c) else c for c in text).split())


def plain(text: str) -> str:
    """A text as Markdown that shows it and means nothing by it."""
    return "`" + one_line(text).replace("`", "'") + "`"


def _use(with_system: bool) -> str:
    """How the model is asked elsewhere as it was judged; with its system prompt, if it has one."""
    paths = read = system = note = ""
    if with_system:
        paths = "from pathlib import Path\n"
        read = f'\nsystem = Path("PATH/{SYSTEM_PROMPT_FILE}").read_bytes().decode()'
        system = '{"role": "system", "content": system}, '
        note = (
            f"Every training row began with the system prompt in `{SYSTEM_PROMPT_FILE}`: send it "
            "with each question.\n\n"
        )
    return f"""{note}```python
{paths}from transformers import pipeline
chat = pipeline("text-generation", model="PATH"){read}
messages = [{system}{{"role": "user", "content": "..."}}]
# Greedy, as it was judged: a pipeline samples unless told.
answer = chat(messages, max_new_tokens=256, do_sample=False)
print(answer[0]["generated_text"][-1]["content"])
```
"""
