"""From the user's files to examples with findings: what `check` shows and `train` works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

from biddable.data.columns import parse_map
from biddable.data.conversation import Conversation
from biddable.data.duplicates import Duplicates, find
from biddable.data.findings import BiddableError, Finding, capped
from biddable.data.quality import inspect, leak
from biddable.data.readers import ReadResult, read
from biddable.data.split import split
from biddable.dialogue.dataset import Encoded, encode_all
from biddable.dialogue.encode import Example, make_encoder
from biddable.dialogue.parallel import setup_of
from biddable.dialogue.template import Template
from biddable.models.base import Base, load_config, load_tokenizer, resolve_base
from biddable.training.settings import Settings
from biddable.verbs.kept import FEWEST, hashes_of, keep, opened, place_of
from biddable.verbs.prepared import Prepared, Side, counted

Tell = Callable[[int], None] | None
# Held-out rows beyond this make the interval of a rate no narrower than anyone needs.
MOST_HELD_OUT = 500


def prepare(settings: Settings, tell: Tell = None, today: date | None = None) -> Prepared:
    """Reads, checks, renders, encodes and splits; faults of single rows are findings.

    What came of many rows is kept, and found again by whoever works on the same with the same.

    Args:
        settings: those of the run.
        tell: called now and then with the number of conversations encoded so far.
        today: for templates that print a date; a resumed run keeps the one it began with.

    Raises:
        BiddableError: nothing can be read, or base or template cannot be used.
    """
    sources = (*settings.data, settings.eval) if settings.eval else settings.data
    hashes = hashes_of(sources)
    base = resolve_base(settings.base)
    tokenizer, limit = load_tokenizer(base), _longest(base, settings.max_length)
    template = _template(settings, tokenizer, today)
    known = {"base": base, "tokenizer": tokenizer, "template": template, "max_length": limit}
    place = None
    if hashes is not None:
        place = place_of(decides(settings, tokenizer, template, limit), hashes)
        if kept := opened(place, known):
            return kept
    made = _fresh(settings, known, tell)
    few = len(made.train.examples) < FEWEST
    return made if few or place is None or made.hashes != hashes else keep(place, made, known)


def decides(settings: Settings, tokenizer: Any, template: Template, limit: int) -> dict[str, Any]:
    """All beside the data files that decides what is made of them, as JSON values."""
    s = settings
    return {
        "encoder": setup_of(make_encoder(tokenizer, template), s.loss_on),  # type: ignore[arg-type]
        "limits": [limit, s.too_long],
        "read": [s.data, s.eval, s.map, _text_or_file(s.system), s.group_by, s.encoding],
        "seed": s.seed,
    }


def _fresh(settings: Settings, known: dict[str, Any], tell: Tell) -> Prepared:
    """All made from the files."""
    tokenizer, template, limit = (known[n] for n in ("tokenizer", "template", "max_length"))
    found = _read(settings, settings.data)
    other = _read(settings, (settings.eval,)) if settings.eval else None
    # Many rows are encoded by worker processes; meanwhile this one looks for duplicates.
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(_look, found.conversations)
        encoded = _encode(found.conversations, tokenizer, template, settings, limit, tell)
    twins, looked = looking.result()
    if found.errors() and not found.conversations:
        looked = []  # That there are too few rows follows from why none could be read.
    findings = [*found.findings, *looked, *encoded.findings]
    lengths, dropped = list(encoded.lengths), list(encoded.dropped)
    if other is None:
        train, held_out = _split(found.conversations, encoded.examples, settings.seed, twins)
        findings += _too_few_held_out(held_out, bool(found.conversations))
    else:
        others = _encode(other.conversations, tokenizer, template, settings, limit)
        train = Side(found.conversations, encoded.examples)
        held_out = Side(other.conversations, others.examples)
        leaks = leak(found.conversations, other.conversations)
        findings += [*other.findings, *others.findings, *leaks]
        lengths, dropped = [*lengths, *others.lengths], [*dropped, *others.dropped]
    return Prepared(
        **known,
        format=found.format,
        rows=found.rows,
        hashes=found.hashes | (other.hashes if other else {}),
        train=train,
        held_out=held_out,
        counts=counted(chain(train.examples, held_out.examples)),
        longest=_longest_of(train.examples),
        lengths=lengths,
        stop_token_trained=encoded.stop_token_trained,
        dropped=dropped,
        findings=capped(findings),
    )


def _template(settings: Settings, tokenizer: Any, today: date | None) -> Template:
    return Template.load(
        settings.template or None,
        tokenizer,
        args=template_arguments(settings.template_arg),
        header="history" if settings.header == "history" else "prompt",
        today=today,
    )


def template_arguments(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; true, false and whole numbers are taken as such.

    Raises:
        BiddableError: one of them has no `=`.
    """
    words: dict[str, Any] = {"true": True, "false": False}
    made: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise BiddableError(
                f"--template-arg {text!r} is not NAME=VALUE",
                code="option",
                fix="write for example --template-arg enable_thinking=false",
            )
        made[name] = words.get(value.lower(), int(value) if value.isdigit() else value)
    return made


def _read(settings: Settings, sources: Sequence[str]) -> ReadResult:
    mapping = parse_map(settings.map) if settings.map else None
    return read(
        sources,
        mapping=mapping,
        system=_text_or_file(settings.system),
        group_by=settings.group_by or None,
        encoding=settings.encoding,
    )


def _text_or_file(given: str) -> str | None:
    """TEXT, or the content of FILE for @FILE.

    Raises:
        BiddableError: the file cannot be read.
    """
    if not given.startswith("@"):
        return given or None
    try:
        return Path(given[1:]).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BiddableError(
            f"the system prompt {given[1:]} cannot be read: {error}",
            code="option",
            fix="give --system TEXT, or --system @FILE with a text file in UTF-8",
        ) from error


def _longest(base: Base, asked: int) -> int:
    """The length limit: as asked, but never beyond the base's positions."""
    config = load_config(base)
    context = int(getattr(config, "max_position_embeddings", 0) or asked or 2048)
    if asked > context:
        raise BiddableError(
            f"--max-length {asked} is longer than the {context} positions of {base.name}",
            code="option",
            fix=f"give at most {context}",
        )
    return asked or context


def _longest_of(examples: Sequence[Example]) -> int:
    return max(range(len(examples)), key=lambda i: len(examples[i].input_ids), default=0)


def _look(conversations: Sequence[Conversation]) -> tuple[Duplicates, list[Finding]]:
    """Duplicates among the rows, and the findings about them and all else that is odd."""
    twins = find(conversations)
    return twins, inspect(conversations, twins)


def _encode(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    template: Template,
    settings: Settings,
    limit: int,
    tell: Tell = None,
) -> Encoded:
    return encode_all(
        conversations,
        tokenizer,
        template,
        max_length=limit,
        loss_on=settings.loss_on,  # type: ignore[arg-type]
        too_long=settings.too_long,  # type: ignore[arg-type]
        progress=tell,
    )


def _split(
    conversations: Sequence[Conversation],
    examples: Sequence[Example],
    seed: int,
    twins: Duplicates,
) -> tuple[Side, Side]:
    """Both sides; what came from one line of a file stays together."""
    share = min(0.1, MOST_HELD_OUT / max(1, len(conversations)))
    _, chosen = split(conversations, share=share, seed=seed, found=twins)
    places = {(conversations[i].file, conversations[i].line) for i in chosen}

    def side(wanted: bool) -> Side:
        return Side(
            [c for c in conversations if ((c.file, c.line) in places) is wanted],
            [e for e in examples if ((e.file, e.line) in places) is wanted],
        )

    return side(False), side(True)


def _too_few_held_out(held_out: Side, any_rows: bool) -> list[Finding]:
    if held_out.examples or not any_rows:
        return []
    return [
        Finding(
            "too_few_held_out",
            "error",
            "No row can be held out: all are near-duplicates of one another or of one group.",
            "Give rows about other things, or a file of held-out rows with --eval.",
        )
    ]
