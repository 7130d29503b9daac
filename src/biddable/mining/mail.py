"""Mail as threads: mbox files, maildir folders and single messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart
from email.utils import parseaddr, parsedate_to_datetime
from itertools import chain, pairwise

from biddable.errors import Finding
from biddable.mining.pair import Mined, Turn, plain_subject, thread_pair
from biddable.mining.pieces import html_pieces

# A larger message carries files.
MOST_BYTES = 1 << 20
IDENTIFIER = re.compile(r"<[^<>\s]+>")
HEADER = re.compile(rb"[!-9;-~]+:")
# The line that introduces a quotation, in the languages of the usual programs.
INTRODUCES = re.compile(
    r"(?:On|Am|Le|El|Em|Il|Op|Den|W dniu) (?:(?![.!?]\n|\n\n).){3,200}?(?:wrote|schrieb|a écrit"
    r"|escribió|escreveu|ha scritto|schreef|skrev|napisał)\b.{0,80}:"
    r"|\S[^\n]{0,80} (?:wrote|writes|schrieb):|Excerpts from [^\n]*message of [^\n]*:",
    re.DOTALL,
)
QUOTED = re.compile(r" {0,3}>.*")
# From here on a mail repeats another one, or is a signature, or a footer of a list.
ENDS = re.compile(
    r"-- ?|-- \S.{0,40}|--(?-i:[A-Z]).{0,40}|_{20,}|-----BEGIN PGP SIGNATURE-----"
    r"|-{3,} ?(?:Original Message|Ursprüngliche Nachricht|Message d'origine|Forwarded message"
    r"|Weitergeleitete Nachricht) ?-{3,}|Begin forwarded message:"
    r"|Sent from my .*|Von meinem .* gesendet|Get Outlook for .*"
    r"|\*?(?:From|Von|De):(?:.*\n\*?(?:Sent|Date|Gesendet|Datum|Envoyé|Enviado)|.*@.*\nTo):.*",
    re.IGNORECASE,
)
# What stands above the name of the writer, near the end.
CLOSING = re.compile(
    r"(?:(?:with|kind|best|warm|many) )*(?:regards|greetings)|cheers|cordialement|saludos"
    r"|sincerely(?: yours)?|yours (?:sincerely|faithfully|truly)"
    r"|(?:mit )?(?:freundlich|best|viel|lieb|schön)e[nr]? gr(?:ü|ue)(?:ß|ss)en?",
    re.IGNORECASE,
)
LONGEST_CLOSING = 8
PGP = re.compile(r"-----BEGIN PGP SIGNED MESSAGE-----|Hash: \w+")


@dataclass(frozen=True, slots=True)
class Mail:
    """One message: who wrote it when, what it answers, and its own text."""

    identifier: str
    answers: tuple[str, ...]
    subject: str
    time: float
    turn: Turn


def own_text(text: str) -> tuple[str, tuple[str, ...]]:
    """The text of a mail without quotations and signature, and what was cut."""
    lines = text.replace("\r\n", "\n").split("\n")
    kept: list[str] = []
    cut: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number].rstrip()
        ends = ENDS.fullmatch(line) or ENDS.fullmatch(
            "\n".join(lines[number : number + 2]).rstrip()
        )
        if ends and any(part.strip() for part in kept):
            cut += lines[number:]
            break
        size = _introduced(lines, number) or bool(QUOTED.match(line) or PGP.fullmatch(line))
        cut += lines[number : number + size]
        if not size:
            kept.append(line)
        number += max(size, 1)
    full = [number for number, line in enumerate(kept) if line.strip()]
    for number in full[1:][-LONGEST_CLOSING:]:
        if CLOSING.fullmatch(kept[number].strip(" ,.!")):
            cut += kept[number:]
            del kept[number:]
            break
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    return body, tuple(part for part in ("\n".join(cut),) if part.strip())


def _introduced(lines: Sequence[str], number: int) -> int:
    """How many lines from here on say whom the next ones quote, with these where no `>` does."""
    for end in range(number + 1, number + 4):
        said = "\n".join(lines[number:end]).strip()
        if lines[number].strip() and INTRODUCES.fullmatch(said):
            after = next((line for line in lines[end:] if line.strip()), ">")
            unmarked = len(lines) - number if "@" in said or re.search(r"\d", said) else 0
            return end - number if QUOTED.match(after) else unmarked
    return 0


def mbox_messages(lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """The messages of an mbox file, each with the number of its first line.

    A message begins with a `From ` behind a blank line, where a header follows it.
    """
    message: list[bytes] = []
    start, size, blank = 1, 0, False
    for number, (line, after) in enumerate(pairwise(chain(lines, [b""])), 1):
        if blank and line.startswith(b"From ") and HEADER.match(after):
            yield start, b"".join(message)
            start, message, size = number, [], 0
        blank = not line.strip()
        size += len(line)
        if size <= MOST_BYTES:
            # A `From ` at the beginning of a line is kept apart from a border by a `>`.
            message.append(line.removeprefix(b">") if line.startswith(b">From ") else line)
    yield start, b"".join(message)


def read_mail(data: bytes, path: str, first: int) -> Mail | Finding:
    """One message; a Finding where it has no text that can be read.

    Args:
        first: the number of its first line in the file.
    """
    if data.startswith(b"From "):
        data, first = data.partition(b"\n")[2], first + 1
    try:
        return _mail(data, path, first)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        RecursionError,
    ) as e:
        what = f"The message cannot be read: {type(e).__name__}."
        return Finding("malformed_mail", "warning", what, "", path, first)


def _mail(data: bytes, path: str, first: int) -> Mail | Finding:
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    if str(message.get("Auto-Submitted", "no")).lower() != "no" or "X-Autoreply" in message:
        return Finding("automatic_mail", "note", "A program wrote the message.", "", path, first)
    part = message.get_body(("plain", "html"))
    text = _content(part) if part is not None else ""
    if part is not None and part.get_content_type() == "text/html":
        text = "\n".join(piece.text for piece in html_pieces(text))
    own, cut = own_text(text)
    if not own or not message.get("From"):
        what = "The message has no text of its own, or no sender."
        return Finding("mail_without_text", "note", what, "", path, first)
    head = data.replace(b"\r\n", b"\n").partition(b"\n\n")[0].count(b"\n") + 2
    last = first + max(head, data.rstrip().count(b"\n"))
    address = parseaddr(str(message["From"]))[1] or str(message["From"])
    name = str(message["From"]) if "@" not in address else address
    turn = Turn(name.lower(), own, (first + head, last), path, url=_archived(message), cut=cut)
    answers = IDENTIFIER.findall(
        f"{message.get('References', '')} {message.get('In-Reply-To', '')}"
    )
    identifiers = IDENTIFIER.findall(str(message.get("Message-ID", "")))
    subject = " ".join(str(message.get("Subject", "")).split())
    return Mail((identifiers or [""])[0], tuple(answers), subject, _time(message), turn)


def _content(part: MIMEPart) -> str:
    """The text of a part, in the encoding that it names, else UTF-8, else Windows-1252."""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    named = part.get_content_charset() or "utf-8"
    # Who says Latin-1 or ASCII often means its larger brother.
    for encoding in ("utf-8" if named in ("iso-8859-1", "us-ascii") else named, "utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            continue
    return data.decode("latin-1")


def _archived(message: EmailMessage) -> str:
    address = str(message.get("Archived-At", "")).strip("<> ")
    return address if address.startswith("http") else ""


def _time(message: EmailMessage) -> float:
    try:
        return parsedate_to_datetime(str(message["Date"])).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def thread_pairs(mails: Sequence[Mail], staff: Sequence[str], group: Callable[[str], str]) -> Mined:
    """The threads of all mails: by what each answers, else by its subject.

    A message that stands in several folders counts once.

    Args:
        group: the name of a thread's group, from its first message.
    """
    threads: dict[str, list[Mail]] = {}
    root_of: dict[str, str] = {}
    seen: set[str] = set()
    for number, mail in enumerate(sorted(mails, key=lambda m: m.time)):
        if mail.identifier and mail.identifier in seen:
            continue
        seen.add(mail.identifier)
        subject = plain_subject(mail.subject).casefold()
        names = [
            *mail.answers,
            *([f"subject {subject}"] if subject != mail.subject.casefold() else []),
        ]
        known = next((root_of[name] for name in names if name in root_of), "")
        root = known or mail.identifier or f"number {number}"
        for name in (mail.identifier, *mail.answers, f"subject {subject}"):
            if name:
                root_of.setdefault(name, root)
        threads.setdefault(root, []).append(mail)
    for root, members in threads.items():
        turns = [mail.turn for mail in members]
        yield from thread_pair(plain_subject(members[0].subject), turns, staff, group(root))
