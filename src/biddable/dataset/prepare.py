"""From the user's files to examples with findings: what `check` shows and `train` works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import chain
from typing import Any

from biddable.data.columns import parse_map
from biddable.data.conversation import Conversation
from biddable.data.duplicates import Duplicates, find
from biddable.data.files import text_or_file
from biddable.data.quality import inspect, known_rows, leaks
from biddable.data.readers import ReadResult, read
from biddable.data.split import split, why_unsplit
from biddable.dataset.cache import FEWEST, hashes_of, keep, opened, place_of
from biddable.dataset.encode_all import Encoded, encode_all
from biddable.dataset.prepared import Prepared, SplitPart, counted
from biddable.dataset.workers import setup_of
from biddable.encoding.encode import Example, make_encoder
from biddable.errors import BiddableError, Finding, capped
from biddable.models.base import Base, load_config, load_tokenizer, resolve_base
from biddable.settings import ReadSettings
from biddable.template.template import Template

Tell = Callable[[int], None] | None
# Held-out rows beyond this make the interval of a rate no narrower than anyone needs.
MOST_HELD_OUT = 500


def prepare(settings: ReadSettings, tell: Tell = None, today: date | None = None) -> Prepared:
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


def decides(
    settings: ReadSettings, tokenizer: Any, template: Template, limit: int
) -> dict[str, Any]:
    """All beside the data files that decides what is made of them, as JSON values."""
    s = settings
    return {
        "encoder": setup_of(make_encoder(tokenizer, template), s.loss_on),  # type: ignore[arg-type]
        "limits": [limit, s.too_long],
        "read": [s.data, s.eval, s.map, text_or_file(s.system), s.group_by, s.encoding],
        "seed": s.seed,
    }


def _fresh(settings: ReadSettings, known: dict[str, Any], tell: Tell) -> Prepared:
    """All made from the files."""
    tokenizer, template, limit = (known[n] for n in ("tokenizer", "template", "max_length"))
    rows = read_rows(settings, settings.data)
    other = read_rows(settings, (settings.eval,)) if settings.eval else None
    # Many rows are encoded by worker processes; meanwhile this one looks for duplicates.
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(_look, rows.conversations)
        encoded = _encode(rows.conversations, tokenizer, template, settings, limit, tell)
    twins, looked = looking.result()
    train, parts, leaked = SplitPart(rows.conversations, encoded.examples), [encoded], False
    if rows.errors() and not rows.conversations:
        looked = []  # That there are too few rows follows from why none could be read.
    findings = [*rows.findings, *looked, *encoded.findings]
    if other is None:
        train, held_out = _split(train, settings.seed, twins)
        if rows.conversations and not held_out.conversations:
            findings.append(_none_held_out(rows.conversations, twins))
    else:
        parts.append(_encode(other.conversations, tokenizer, template, settings, limit))
        held_out = SplitPart(other.conversations, parts[1].examples)
        held_out, leaked, leaks = unknown(train.conversations, held_out)
        findings = [*leaks, *findings, *other.findings, *parts[1].findings]
    findings += _none_to_judge(train, held_out, settings.eval)
    return Prepared(
        **known,
        format=rows.format,
        rows=rows.rows,
        hashes=rows.hashes | (other.hashes if other else {}),
        train=train,
        held_out=held_out,
        leaked=leaked,
        counts=counted(chain(train.examples, held_out.examples)),
        longest=_longest_of(train.examples),
        lengths=[length for part in parts for length in part.lengths],
        stop_token_trained=encoded.stop_token_trained,
        dropped=[finding for part in parts for finding in part.dropped],
        findings=capped(findings),
    )


def _template(settings: ReadSettings, tokenizer: Any, today: date | None) -> Template:
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
                "option",
                f"--template-arg {text!r} is not NAME=VALUE",
                "write for example --template-arg enable_thinking=false",
            )
        made[name] = words.get(value.lower(), int(value) if value.isdigit() else value)
    return made


def read_rows(settings: ReadSettings, sources: Sequence[str]) -> ReadResult:
    """Some sources, read as the settings say."""
    mapping = parse_map(settings.map) if settings.map else None
    return read(
        sources,
        mapping=mapping,
        system=text_or_file(settings.system),
        group_by=settings.group_by or None,
        encoding=settings.encoding,
    )


def _longest(base: Base, asked: int) -> int:
    """The length limit: as asked, but never beyond the base's positions."""
    config = load_config(base)
    context = int(getattr(config, "max_position_embeddings", 0) or asked or 2048)
    if asked > context:
        raise BiddableError(
            "option",
            f"--max-length {asked} is longer than the {context} positions of {base.name}",
            f"give at most {context}",
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
    settings: ReadSettings,
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


def _split(rows: SplitPart, seed: int, twins: Duplicates) -> tuple[SplitPart, SplitPart]:
    """Both sides; what came from one line of a file stays together."""
    share = min(0.1, MOST_HELD_OUT / max(1, len(rows.conversations)))
    _, chosen = split(rows.conversations, share=share, seed=seed, found=twins)
    places = {(rows.conversations[i].file, rows.conversations[i].line) for i in chosen}
    return _at(rows, places, False), _at(rows, places, True)


def _at(rows: SplitPart, places: set[tuple[str, int]], wanted: bool) -> SplitPart:
    """The rows that stand at some places of the files, or the others."""
    return SplitPart(
        [c for c in rows.conversations if ((c.file, c.line) in places) is wanted],
        [e for e in rows.examples if ((e.file, e.line) in places) is wanted],
    )


def unknown(
    train: Sequence[Conversation], held_out: SplitPart
) -> tuple[SplitPart, bool, list[Finding]]:
    """The held-out rows that training does not know, and what is said of the others.

    Where it knows all of them they stay as they are, and the second value is True: what is judged
    on them is memory.
    """
    known = known_rows(train, held_out.conversations)
    places = {(held_out.conversations[i].file, held_out.conversations[i].line) for i in known}
    rest = _at(held_out, places, False)
    leaked = bool(known) and not rest.conversations
    findings = leaks(train, held_out.conversations, known, all_known=leaked)
    return (held_out if leaked else rest), leaked, findings


def _none_held_out(rows: Sequence[Conversation], twins: Duplicates) -> Finding:
    why, fix = why_unsplit(rows, twins)
    return Finding("too_few_held_out", "error", f"No row can be held out: {why}.", fix)


def _none_to_judge(train: SplitPart, held_out: SplitPart, eval_file: str) -> list[Finding]:
    """An error where held-out rows were wanted and none can be used."""
    if held_out.examples or not train.examples or not (eval_file or held_out.conversations):
        return []
    count = len(held_out.conversations)
    what = f"None of the {count} held-out rows" if count > 1 else "No held-out row"
    source = f" of {eval_file}" if eval_file else ""
    return [
        Finding(
            "too_few_held_out",
            "error",
            f"{what}{source} can be used: they are faulty or longer than --max-length.",
            "The other findings say what is wrong with them; give others with --eval.",
        )
    ]
