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

# Names of columns, in the order in which they are looked for; only letters and digits count.
SUBJECT = ("subject", "ticketsubject", "title", "summary", "headline")
QUESTION = (
    *("question", "description", "ticketdescription", "customermessage", "inquiry", "query"),
    *("body", "message", "text", "content", "request", "problem", "issue", "comment"),
)
ANSWER = (
    *(
        "answer",
        "firstresponse",
        "firstreply",
        "agentreply",
        "agentresponse",
        "staffreply",
        "reply",
    ),
    *("response", "resolution", "solution", "acceptedanswer", "resolutionnotes"),
)
THREAD = ("threadid", "ticketid", "conversationid", "caseid", "issueid", "ticketnumber", "ticket")
LISTS = (
    "comments", "messages", "replies", "conversations", "conversation", "thread", "posts",
    "answers", "correspondence",
)  # fmt: skip
TEXT = (
    "body",
    "plainbody",
    "text",
    "bodytext",
    "message",
    "content",
    "comment",
    "answer",
    "htmlbody",
)
AUTHOR = ("author", "from", "sender", "user", "authorid", "userid", "fromemail", "email", "name",
          "role", "speaker", "requesterid", "customer", "reporter")  # fmt: skip
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
            "internal": True, "isinternal": True}  # fmt: skip
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
        fields = (
            {_plain(key): v for key, v in row.value.items()} if isinstance(row.value, dict) else {}
        )
        if _is_training_row(fields):
            what = "The file holds rows that need no mining."
            yield Finding("already_rows", "note", what, f"biddable check {path}", path)
            return
        number = str(_first(fields, THREAD) or f"row {seen}")
        turns = list(_turns(fields, lines, path))
        seen += 1
        if turns:
            threads.setdefault(number, []).extend(turns)
            subjects.setdefault(number, plain_subject(_text(_first(fields, SUBJECT))))
        elif seen == TRIED and not threads:
            break
    if not threads:
        yield Finding("no_tickets", "note", "The file holds no tickets that are known.", "", path)
    for number, turns in threads.items():
        yield from thread_pair(subjects[number], turns, staff, group(number))


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
    lists = (fields[name] for name in LISTS if isinstance(fields.get(name), list))
    nested: list[Any] = next(lists, [])
    items = [{_plain(k): v for k, v in item.items()} for item in nested if isinstance(item, dict)]
    question, asker = _text(_first(fields, QUESTION)), _name(_first(fields, AUTHOR))
    if not items and (answer := _text(_first(fields, ANSWER))):
        question = question or _text(_first(fields, SUBJECT))
        yield from _turn("asker", question, lines, path, False, url)
        yield from _turn("staff", answer, lines, path, True, url)
    elif not items and question and any(name in fields for name in (*THREAD, *ANSWER)):
        yield from _turn(asker, question, lines, path, _is_staff(fields), url)
    elif items:
        # A list that repeats the description begins with it.
        texts = [_text(_first(item, TEXT)) for item in items]
        if question and question not in texts:
            yield from _turn(asker, question, lines, path, False, url)
        for item, text in zip(items, texts, strict=True):
            if not any(_truth(item.get(name)) is value for name, value in INTERNAL.items()):
                author = _name(_first(item, AUTHOR))
                yield from _turn(author, text, lines, path, _is_staff(item), url)


def _turn(
    author: str, text: str, lines: tuple[int, int], path: str, staff: bool | None, url: str
) -> Iterator[Turn]:
    own, cut = own_text(text)
    if own:
        yield Turn(author, own, lines, path, staff, url, cut)


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
        value = next((value[k] for k in ("login", "email", "id", "name") if value.get(k)), "")
    return str(value or "").strip().lower()


def _text(value: object) -> str:
    """The text of a cell; that of HTML without its tags."""
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    if re.search(r"<(?:p|br|div|span)\b[^>]*>", text[:2000]):
        text = "\n".join(piece.text for piece in html_pieces(text))
    return text.strip()
