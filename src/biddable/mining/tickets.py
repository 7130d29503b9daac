"""Tickets of exports: tables and JSON, a row for each ticket or for each message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

from biddable.data.rows import Row
from biddable.errors import BiddableError, Finding
from biddable.mining.mail import own_text
from biddable.mining.pair import Mined, Turn, plain_subject, thread_pair
from biddable.mining.pieces import html_pieces
from biddable.mining.repository import BOT

# Names of columns, in the order in which they are looked for; only letters and digits count.
SUBJECT = ("subject", "ticketsubject", "title", "summary", "headline")
QUESTION = (
    *("question", "description", "ticketdescription", "customermessage", "inquiry", "query"),
    *("body", "message", "text", "content", "request", "problem", "issue", "comment"),
)
ANSWER = (
    *("answer", "firstresponse", "firstreply", "agentreply", "agentresponse", "staffreply"),
    *("reply", "response", "resolution", "solution", "acceptedanswer", "resolutionnotes"),
)
THREAD = ("threadid", "ticketid", "conversationid", "caseid", "issueid", "ticketnumber", "ticket")
LISTS = (
    "comments", "messages", "replies", "conversations", "conversation", "thread", "posts",
    "answers", "correspondence", "conversationparts", "comment",
)  # fmt: skip
TEXT = ("body", "plainbody", "text", "bodytext", "message", "content", "comment", "answer",
        "htmlbody")  # fmt: skip
AUTHOR = ("author", "from", "sender", "user", "authorid", "userid", "fromemail", "email", "name",
          "role", "speaker", "requesterid", "customer", "reporter", "poster", "owner")  # fmt: skip
# Keys of an object about an author.
NAMED = ("login", "email", "emailAddress", "accountId", "id", "name", "displayName")
TIME = ("createdat", "created", "creationdate", "createdtime", "sentat", "date", "timestamp")
ROLE = (
    *("role", "authorrole", "senderrole", "userrole", "authortype", "authorassociation"),
    *("usertype", "sendertype", "speaker"),
)
STAFF = re.compile(r"agent|staff|support|admin|assistant|operator|employee|owner|member|collab"
                   r"|outbound|outgoing", re.IGNORECASE)  # fmt: skip
ASKER = re.compile(
    r"customer|user|client|requester|end.?user|none|contributor|inbound|incoming", re.I
)
# A truth value of such a name says who wrote, or that nobody outside may read it.
IS_STAFF = {"isstaff": True, "staff": True, "fromagent": True, "isagent": True, "inbound": False,
            "incoming": False, "iscustomer": False}  # fmt: skip
INTERNAL = {"public": False, "ispublic": False, "private": True, "isprivate": True,
            "internal": True, "isinternal": True, "isbot": True}  # fmt: skip
# A message of such a type is not for those outside; osTicket writes N.
TYPE = ("type", "threadtype", "messagetype", "parttype", "commenttype", "visibility")
NOTE = re.compile(r"n|note|private|.*internal.*|.*private.*note", re.IGNORECASE)
URL = ("htmlurl", "url", "link", "permalink")
WRAPPERS = ("tickets", "issues", "results", "data", "items", "rows", "records", "cases")
# So many rows without a ticket mean that a file holds none.
TRIED = 50
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
Fields = Mapping[str, Any]


def ticket_pairs(
    rows: Iterable[Row], total: int, path: str, staff: Sequence[str], group: Callable[[str], str]
) -> Mined:
    """The tickets of a file, each as a pair or a conversation.

    Args:
        rows: as the data room reads them; the lines of one end where the next begins.
        total: lines of the file; 0 where its rows are numbered instead.
        staff: as for `thread_pair`.
        group: the name of a ticket's group, from its number.
    """
    threads: dict[str, list[Turn]] = {}
    subjects: dict[str, str] = {}
    seen = 0
    for row, lines in _unwrapped(_with_lines(rows, total)):
        if isinstance(row.value, BiddableError):
            f = row.value.finding
            yield Finding(f.code, "warning", f.message, f.fix, path, row.line)
            continue
        fields = _fields(row.value)
        if _is_training_row(fields):
            what = "The file holds rows that need no mining."
            yield Finding("already_rows", "note", what, f"biddable check {path}", path)
            return
        number = str(_first(fields, THREAD) or f"row {seen}")
        turns = list(_turns(fields, lines, path))
        seen += 1
        if turns:
            threads.setdefault(number, []).extend(turns)
            subject = plain_subject(_text(_first(fields, SUBJECT)))
            subjects[number] = subjects.get(number) or subject
        elif seen == TRIED and not threads:
            break
    if not threads:
        yield Finding("no_tickets", "note", "The file holds no tickets that are known.", "", path)
    for number, turns in threads.items():
        yield from thread_pair(subjects[number], _in_time(turns), staff, group(number))


def _in_time(turns: list[Turn]) -> list[Turn]:
    """The messages from the oldest on, where each says in an order of digits when it was sent."""
    dated = all(re.match(r"\d{4}-\d\d-\d\d", turn.time) for turn in turns)
    return sorted(turns, key=lambda turn: turn.time) if dated else turns


def _fields(value: object) -> dict[str, Any]:
    """The cells by plain names; those of a Jira issue stand in its `fields`."""
    cells = value if isinstance(value, dict) else {}
    inner = cells.get("fields")
    cells = cells | inner if isinstance(inner, dict) else cells
    return {_plain(key): cell for key, cell in cells.items()}


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.casefold())


def _is_training_row(fields: Fields) -> bool:
    messages = fields.get("messages")
    roles = (
        {m.get("role") for m in messages if isinstance(m, dict)}
        if isinstance(messages, list)
        else set()
    )
    return "assistant" in roles or {"prompt", "completion"} <= fields.keys()


Placed = tuple[Row, tuple[int, int]]


def _with_lines(rows: Iterable[Row], total: int) -> Iterator[Placed]:
    """Each row with its first and last line."""
    for row, after in pairwise(chain(rows, [None])):
        if row is not None:
            first = min(max(row.line, 1), total or row.line)
            end = after.line - 1 if after else total
            yield row, (first, max(first, min(end, total or end)))


def _unwrapped(rows: Iterator[Placed]) -> Iterator[Placed]:
    """The rows; where an object holds them in a list, those of the list."""
    for row, lines in rows:
        value = row.value if isinstance(row.value, dict) else {}
        inside = next((value[w] for w in WRAPPERS if isinstance(value.get(w), list)), None)
        if inside is None or _first(value, QUESTION):
            yield row, lines
        else:
            yield from ((Row(row.line, item), lines) for item in inside)


def _turns(fields: Fields, lines: tuple[int, int], path: str) -> Iterator[Turn]:
    """The messages of a row: a question and its answer, a list of messages, or only one."""
    url = _text(_first(fields, URL))
    url = url if url.startswith("http") else ""
    name, items = _items(fields)
    question = _text(_first(fields, QUESTION))
    if not items and (answer := _text(_first(fields, ANSWER))):
        question = question or _text(_first(fields, SUBJECT))
        yield from _turn(fields, question, Turn("asker", "", lines, path, False, url))
        yield from _turn(fields, answer, Turn("staff", "", lines, path, True, url))
    elif not items and question and any(name in fields for name in (*THREAD, *ANSWER)):
        author = _name(_first(fields, AUTHOR))
        yield from _turn(fields, question, Turn(author, "", lines, path, _is_staff(fields), url))
    elif items:
        # A list that repeats the description begins with it.
        texts = [_text(_first(item, TEXT)) for item in items]
        if question and question not in texts:
            author = _name(_first(fields, AUTHOR))
            yield from _turn(fields, question, Turn(author, "", lines, path, False, url))
        for item, text in zip(items, texts, strict=True):
            staff = True if name == "answers" else _is_staff(item)
            author = _name(_first(item, AUTHOR))
            yield from _turn(item, text, Turn(author, "", lines, path, staff, url))


def _items(fields: Fields) -> tuple[str, list[dict[str, Any]]]:
    """The messages of a ticket, and the name of their list, which may be in an object."""
    for name in LISTS:
        value = fields.get(name)
        if isinstance(value, dict):
            value = next((inner for inner in value.values() if isinstance(inner, list)), None)
        if isinstance(value, list):
            return name, [_fields(item) for item in value if isinstance(item, dict)]
    return "", []


def _turn(fields: Fields, text: str, turn: Turn) -> Iterator[Turn]:
    """The message with the text of its writer, unless it is internal, a program's, or empty."""
    own, cut = own_text(text)
    internal = any(_truth(fields.get(name)) is value for name, value in INTERNAL.items())
    internal |= any(NOTE.fullmatch(_text(fields.get(name))) is not None for name in TYPE)
    if own and not internal and not BOT.search(turn.author):
        time = str(_first(fields, TIME) or "")
        yield turn._replace(text=own, cut=cut, time=time)


def _is_staff(fields: Fields) -> bool | None:
    """Whether staff wrote a message; None where nothing says so."""
    for name, value in IS_STAFF.items():
        if (truth := _truth(fields.get(name))) is not None:
            return truth is value
    role = _text(_first(fields, ROLE))
    return True if STAFF.search(role) else False if ASKER.search(role) else None


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else TRUTH.get(str(value).strip().lower())


def _first(fields: Fields, names: Sequence[str]) -> Any:
    return next((v for name in names if (v := fields.get(name)) not in (None, "", [], {})), None)


def _name(value: object) -> str:
    """A name of an author, also out of an object about one."""
    if isinstance(value, dict):
        value = next((value[k] for k in NAMED if value.get(k)), "")
    return str(value or "").strip().lower()


def _text(value: object) -> str:
    """The text of a cell; that of HTML without its tags."""
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    if re.search(r"<(?:p|br|div|span)\b[^>]*>", text[:2000]):
        text = "\n".join(piece.text for piece in html_pieces(text))
    return text.strip()
