"""From the user's files to examples with findings: what `check` shows and `train` works on.

Four steps: open the base, read the rows, encode them, split them. A cache stands around the last
three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from itertools import chain
from typing import Any

from biddable.data.columns import parse_map
from biddable.data.conversation import Conversation
from biddable.data.duplicates import Duplicates, find
from biddable.data.files import text_or_file
from biddable.data.quality import inspect, known_rows, leaks
from biddable.data.readers import ReadResult, read
from biddable.data.split import split, why_unsplit
from biddable.dataset.cache import FEWEST, cache_path, hashes_of, load_cached, store
from biddable.dataset.encode_all import encode_all
from biddable.dataset.prepared import OpenedBase, Prepared, SplitPart, counted
from biddable.dataset.workers import setup_of
from biddable.encoding.encode import make_encoder
from biddable.errors import BiddableError, Finding, capped
from biddable.models.base import load_config, load_tokenizer, resolve_base
from biddable.models.support import UNLIMITED, context_of
from biddable.settings import ReadSettings
from biddable.template.template import Template

Progress = Callable[[int], None] | None
# More held-out rows would narrow the interval of a rate beyond need.
MOST_HELD_OUT = 500


def prepare(
    settings: ReadSettings, progress: Progress = None, today: date | None = None
) -> Prepared:
    """Reads, checks, renders, encodes and splits; faults of single rows are findings.

    Args:
        settings: those of the run.
        progress: called now and then with the number of conversations encoded so far.
        today: for templates that print a date; a resumed run keeps the one it began with.

    Raises:
        BiddableError: nothing can be read, or base or template cannot be used.
    """
    hashes = hashes_of((*settings.data, settings.eval) if settings.eval else settings.data)
    opened = open_base(settings, today)
    path = None if hashes is None else cache_path(_inputs(settings, opened), hashes)
    if path and (cached := load_cached(path, opened)):
        return cached
    prepared = _encode_and_split(settings, opened, progress)
    if path is None or len(prepared.train.examples) < FEWEST or prepared.hashes != hashes:
        return prepared
    return store(path, prepared, opened)


def open_base(settings: ReadSettings, today: date | None) -> OpenedBase:
    """The base with all that encoding needs of it."""
    base = resolve_base(settings.base)
    tokenizer = load_tokenizer(base)
    context = context_of(load_config(base))
    longest = settings.max_length or (2048 if context == UNLIMITED else context)
    if longest > context:
        raise BiddableError(
            "option",
            f"--max-length {longest} is longer than the {context} positions of {base.name}",
            f"give at most {context}",
        )
    template = Template.load(
        settings.template or None,
        tokenizer,
        args=template_arguments(settings.template_arg),
        header="history" if settings.header == "history" else "prompt",
        today=today,
    )
    return {"base": base, "tokenizer": tokenizer, "template": template, "max_length": longest}


def _inputs(settings: ReadSettings, opened: OpenedBase) -> dict[str, Any]:
    """All beside the data files that decides the encoded rows, as JSON values."""
    s, encoder = settings, make_encoder(opened["tokenizer"], opened["template"])
    return {
        "encoder": setup_of(encoder, s.loss_on),  # type: ignore[arg-type]
        "limits": [opened["max_length"], s.too_long],
        "read": [s.data, s.eval, s.map, text_or_file(s.system), s.group_by, s.encoding],
        "seed": s.seed,
    }


def _encode_and_split(settings: ReadSettings, opened: OpenedBase, progress: Progress) -> Prepared:
    encode = partial(
        encode_all,
        tokenizer=opened["tokenizer"],
        template=opened["template"],
        max_length=opened["max_length"],
        loss_on=settings.loss_on,  # type: ignore[arg-type]
        too_long=settings.too_long,  # type: ignore[arg-type]
    )
    rows = read_rows(settings, settings.data)
    eval_rows = read_rows(settings, (settings.eval,)) if settings.eval else None
    # Many rows are encoded by worker processes; meanwhile this one looks for duplicates.
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(_inspected, rows.conversations)
        encoded = [encode(rows.conversations, progress=progress)]
    duplicates, looked = looking.result()
    train, leaked = SplitPart(rows.conversations, encoded[0].examples), False
    if rows.errors() and not rows.conversations:
        looked = []  # That there are too few rows follows from why none could be read.
    findings = [*rows.findings, *looked, *encoded[0].findings]
    if eval_rows is None:
        train, held_out = _split(train, settings.seed, duplicates)
        findings += _none_held_out(rows.conversations, held_out, duplicates)
    else:
        encoded.append(encode(eval_rows.conversations))
        held_out = SplitPart(eval_rows.conversations, encoded[1].examples)
        held_out, leaked, leaks = without_known(train.conversations, held_out)
        findings = [*leaks, *findings, *eval_rows.findings, *encoded[1].findings]
    findings += _none_to_judge(train, held_out, settings.eval)
    examples = train.examples
    return Prepared(
        **opened,
        format=rows.format,
        rows=rows.rows,
        hashes=rows.hashes | (eval_rows.hashes if eval_rows else {}),
        train=train,
        held_out=held_out,
        leaked=leaked,
        counts=counted(chain(examples, held_out.examples)),
        longest=max(range(len(examples)), key=lambda i: len(examples[i].input_ids), default=0),
        lengths=[length for part in encoded for length in part.lengths],
        stop_token_trained=encoded[0].stop_token_trained,
        dropped=[finding for part in encoded for finding in part.dropped],
        findings=capped(findings),
    )


def template_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; true, false and whole numbers are taken as such.

    Raises:
        BiddableError: one of them has no `=`.
    """
    words: dict[str, Any] = {"true": True, "false": False}
    arguments: dict[str, Any] = {}
    for text in pairs:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise BiddableError(
                "option",
                f"--template-arg {text!r} is not NAME=VALUE",
                "write for example --template-arg enable_thinking=false",
            )
        arguments[name] = words.get(value.lower(), int(value) if value.isdigit() else value)
    return arguments


def read_rows(settings: ReadSettings, sources: Sequence[str]) -> ReadResult:
    """The rows of these sources, read as the settings say."""
    mapping = parse_map(settings.map) if settings.map else None
    return read(
        sources,
        mapping=mapping,
        system=text_or_file(settings.system),
        group_by=settings.group_by or None,
        encoding=settings.encoding,
    )


def _inspected(conversations: Sequence[Conversation]) -> tuple[Duplicates, list[Finding]]:
    """Duplicates among the rows, and the findings about them and all else that is odd."""
    duplicates = find(conversations)
    return duplicates, inspect(conversations, duplicates)


def _split(rows: SplitPart, seed: int, duplicates: Duplicates) -> tuple[SplitPart, SplitPart]:
    """Both sides; what came from one line of a file stays together."""
    share = min(0.1, MOST_HELD_OUT / max(1, len(rows.conversations)))
    _, chosen = split(rows.conversations, share=share, seed=seed, duplicates=duplicates)
    places = {(rows.conversations[i].file, rows.conversations[i].line) for i in chosen}
    return _at(rows, places, False), _at(rows, places, True)


def _at(rows: SplitPart, places: set[tuple[str, int]], wanted: bool) -> SplitPart:
    """The rows at these places (file, line), or, where `wanted` is false, all others."""
    return SplitPart(
        [c for c in rows.conversations if ((c.file, c.line) in places) is wanted],
        [e for e in rows.examples if ((e.file, e.line) in places) is wanted],
    )


def without_known(
    train: Sequence[Conversation], held_out: SplitPart
) -> tuple[SplitPart, bool, list[Finding]]:
    """The held-out rows that training does not know, and the findings about the others.

    Where it knows all of them they stay as they are, and the second value is True: what is judged
    on them is memory.
    """
    known = known_rows(train, held_out.conversations)
    places = {(held_out.conversations[i].file, held_out.conversations[i].line) for i in known}
    rest = _at(held_out, places, False)
    leaked = bool(known) and not rest.conversations
    findings = leaks(train, held_out.conversations, known, all_known=leaked)
    return (held_out if leaked else rest), leaked, findings


def _none_held_out(
    rows: Sequence[Conversation], held_out: SplitPart, duplicates: Duplicates
) -> Iterator[Finding]:
    if rows and not held_out.conversations:
        why, fix = why_unsplit(rows, duplicates)
        yield Finding("too_few_held_out", "error", f"No row can be held out: {why}.", fix)


def _none_to_judge(train: SplitPart, held_out: SplitPart, eval_file: str) -> list[Finding]:
    """An error where held-out rows were wanted and none can be used."""
    if held_out.examples or not train.examples or not (eval_file or held_out.conversations):
        return []
    count = len(held_out.conversations)
    what = f"None of the {count} held-out rows" if count > 1 else "No held-out row"
    source = f" of {eval_file}" if eval_file else ""
    message = f"{what}{source} can be used: they are faulty or longer than --max-length."
    fix = "The other findings say what is wrong with them; give others with --eval."
    return [Finding("too_few_held_out", "error", message, fix)]
