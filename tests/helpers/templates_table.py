"""Writes docs/guide/templates.md: which real templates can express which conversations, or why not.

Run it with the packages of `real_templates.PACKAGES` at hand: `templates_table.py
FOLDER`, where FOLDER holds, or gets, their wheels.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import real_templates
from biddable import BiddableError, Conversation, Template
from biddable.dataset.encode_all import encode_all
from biddable.encoding.encode import make_encoder
from biddable.errors import Finding

REASONS = {
    "S": "the template itself raises an error for it (most often: no system messages)",
    "L": "the template drops or rewrites a message's text (here: all before a literal `</think>`)",
    "T": "the template does not write tool calls, or not with their names and arguments",
    "R": "the template does not read `reasoning_content`, or drops thinking",
    "P": "the generation prompt opens or closes a thinking block, the answer has none or one:\n"
    "  `--header history` or a template argument helps",
    "E": "the template ends answers with no token at which a sampler could stop",
}

HEAD = """# Real chat templates

The templates shipped in {packages}, each with {kinds} conversations.

`=` is exact: prompt ids are those that transformers makes of the rendered prompt, trained ids are
those of the answer through its end of turn, by an oracle that the tests own. A letter is a refusal,
with its reason; the oracle finds each of them right. Nothing else occurs. Written by
`tests/helpers/templates_table.py`; the tests hold the table against what they see.

Of {total} cases {exact} are exact and {refused} refused ({by_reason}).
{lacking} of the refusals are of templates that have no tool calls or no thinking to give; without
the columns for these two, {basic_refused} of {basic} are refused.

{reasons}

With `--header history`, {helped} of the {refused_for_header} refusals for P are exact.

## Beside generation markers

Some templates of TRL mark what is to be trained. Where our answers differ from the marks, it is for
one of these reasons, and the tests refuse any other:

- the mark begins inside the generation prompt (`<think>` of Nemotron 3, Qwen 3.5 to 3.8 and
  DeepSeek-R1's distilled models, an empty thinking block of Qwen 3.5 without thinking, the header
  of gpt-oss and Muse Glimmer, a line break of Qwen 2.5), which the model never writes itself;
- the mark goes on behind the end of turn (a line break in ChatML and Gemma, `</s>` in Phi 3): the
  sampler has stopped there;
- DeepSeek-V3 drops the thinking that its prompt opens, so its mark has none; our answer has it;
- DiffusionGemma's mark of a tool call lacks the token that ends it.

## Table

"""


def letter(finding: Finding | None) -> str:
    """How a refusal is written in the table."""
    if finding is None:
        return "="
    if finding.code == "message_text_lost":
        first = finding.message.split("'")[0]
        return "T" if "tool call" in first else "R" if "thinking" in first else "L"
    if finding.code == "template_refused":
        return "S" if "does not render" in finding.message else "P"
    assert finding.code == "stop_token_untrained", finding
    return "E"


def outcome(conversation: Conversation, tokenizer: object, template: Template) -> str:
    encoded = encode_all(
        [conversation],
        tokenizer,  # type: ignore[arg-type]
        template,
        max_length=10**6,
    )
    errors = [finding for finding in encoded.findings if finding.severity == "error"]
    return letter(errors[0] if errors else None)


def written(table: str) -> dict[str, list[str]]:
    """The rows of a table that was written before: name to letters."""
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("| `")
    ]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[2:]] for cells in rows}


def page(templates: dict[str, str], conversations: dict[str, Conversation]) -> str:
    rows, counts, helped, asked = [], Counter[str](), 0, 0
    basic = basic_refused = 0
    for name, text in templates.items():
        tokenizer = real_templates.tokenizer_for(text)
        template = Template.of(tokenizer)
        cells = [outcome(c, tokenizer, template) for c in conversations.values()]
        counts.update(cells)
        for cell, (kind, conversation) in zip(cells, conversations.items(), strict=True):
            if kind not in ("tools", "reasoning field"):
                basic += 1
                basic_refused += cell != "="
            if cell == "P":
                asked += 1
                try:
                    other = Template.load(None, tokenizer, header="history")
                except BiddableError:
                    continue
                helped += outcome(conversation, tokenizer, other) == "="
        end_texts = make_encoder(tokenizer, template).rules.ends
        ends = " ".join(f"`{end}`" for end in end_texts).replace("|", "\\|")
        rows.append(f"| `{name}` | {ends} | {' | '.join(cells)} |")
    total = sum(counts.values())
    by_reason = ", ".join(f"{n} {k}" for k, n in counts.most_common() if k != "=")
    reasons = "\n".join(f"- {key}: {text}" for key, text in REASONS.items())
    head = HEAD.format(
        packages=" and ".join(real_templates.PACKAGES),
        kinds=len(conversations),
        total=total,
        exact=counts["="],
        refused=total - counts["="],
        by_reason=by_reason,
        basic=basic,
        basic_refused=basic_refused,
        lacking=sum(counts[key] for key in "TR"),
        reasons=reasons,
        helped=helped,
        refused_for_header=asked,
    )
    titles = f"| template | ends of turn | {' | '.join(conversations)} |\n"
    return head + titles + "|---|---|" + "---|" * len(conversations) + "\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    from test_encoding_real_templates import CONVERSATIONS

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if not real_templates.fetch(folder):
        sys.exit("the packages cannot be downloaded here")
    target = Path(__file__).parents[2] / "docs" / "guide" / "templates.md"
    target.write_text(page(real_templates.read(folder), CONVERSATIONS), encoding="utf-8")
