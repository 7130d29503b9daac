"""The words of a row: of its question and of its answer, and what a polite frame adds to them.

System prompts are left out of every comparison of rows: one that all share would make them look
alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from biddable.data.conversation import Conversation, Message

Words = tuple[bytes, ...]
# Scripts written without spaces are cut into characters, everything else into words.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")
# ASCII letters, digits and underscores stay, all else becomes a space; apostrophes vanish.
_ASCII_WORDS = bytes(c if chr(c).isalnum() or c == 95 else 32 for c in range(128)) + bytes(128)
_DIGIT = re.compile(rb"\d")
# Signs that change what is asked, where words alone do not: 5 + 3 and 5 - 3, C and C++.
_SIGNS = re.compile(r"[+*/=<>^%&|~#@$€£¥\\]|-(?=\s*\d)")
_NO_SIGNS = bytes(c for c in range(128) if not _SIGNS.match(f"{chr(c)}0"))
# Words with which a polite question may begin, before what is asked.
_OPENING = frozenset(
    b"hi hello hey dear good morning afternoon evening there team everyone sir madam please"
    b" kindly could can would will may might you i id we am im was want need like to know just"
    b" wondering if tell me help us let quick question sorry excuse ok okay well".split()
)
# And how it may end: behind a word of thanks, or with a tag.
_THANKS = frozenset(b"please thanks thank thx cheers kindly".split())
_CLOSING = frozenset(
    b"you so very much in advance a lot for your help time again and have nice good day many now"
    b" would could can will".split()
)
_LONGEST_CLOSING = 9
# Regards close a whole question; a name may follow them, and an adjective stands before.
_REGARDS = frozenset(b"regards sincerely".split())
_KINDS_OF_REGARDS = frozenset(b"best kind kindest warm with many yours".split())
_FEWEST_BEFORE_REGARDS = 3


def _phrases(text: bytes, at: int) -> dict[bytes, list[Words]]:
    """The phrases of lines, by their first word (at 0) or their last (at -1)."""
    phrases: dict[bytes, list[Words]] = {}
    for line in text.splitlines():
        words = tuple(line.split())
        phrases.setdefault(words[at], []).append(words)
    return phrases


# Phrases that say nothing as a whole, behind an opening or before a closing; the longest first.
_OPENING_PHRASES = _phrases(
    b"""do you have any idea
do you happen to know
do you know
is it possible to
it be possible to
hope you are doing well
hope you are well
hope youre well
hope all is well
hope this message finds you well
hope this email finds you well
hope this finds you well
bother you but
bother you
trouble you""",
    0,
)
_CLOSING_PHRASES = _phrases(
    b"""id really appreciate it
id appreciate it
i would really appreciate it
i would appreciate it
would be appreciated
much appreciated
if you dont mind
if possible
would you
could you
can you
will you""",
    -1,
)


def spoken(conversation: Conversation) -> list[Message]:
    """The messages without system prompts."""
    return [message for message in conversation.messages if message.role != "system"]


def system_of(conversation: Conversation) -> str:
    """The text of the system prompts; empty where there is none."""
    return "\n".join(m.content.strip() for m in conversation.messages if m.role == "system")


def digest(messages: Iterable[Message]) -> bytes:
    """A key that messages share exactly if their roles, texts and tool calls are equal."""
    key = blake2b(digest_size=16)
    for message in messages:
        extra = repr(message.extra) if message.extra else ""
        for part in (message.role, message.content.strip(), extra):
            data = part.encode("utf-8", "surrogatepass")
            key.update(b"%d:" % len(data))
            key.update(data)
    return key.digest()


def question_and_answer(conversation: Conversation) -> tuple[str, str]:
    """The text before the last answer, and the last answer, without system prompts."""
    messages = spoken(conversation)
    last = max((k for k, m in enumerate(messages) if m.role == "assistant"), default=len(messages))
    return _text(messages[:last]), _text(messages[last : last + 1])


def _text(messages: Sequence[Message]) -> str:
    return "\n".join(f"{m.content}\n{m.extra}" if m.extra else m.content for m in messages)


def words(text: str) -> list[bytes]:
    """Lower-case words without punctuation; characters where there are no words."""
    text = text.lower()
    if text.isascii():
        split = text.encode().translate(_ASCII_WORDS, b"'").split()
    else:
        bare = text.replace("'", "").replace("\u2019", "")
        split = [w.encode("utf-8", "surrogatepass") for w in WORD.findall(bare)]
    return split or [c.encode("utf-8", "surrogatepass") for c in text.split()]


def without_politeness(tokens: Sequence[bytes]) -> Words:
    """Words without polite phrases around them; all of them where nothing else is left."""
    start, end = 0, len(tokens)
    while start < end and (length := _opening(tokens[start:end])):
        start += length
    while (shorter := _without_closing(tokens, start, end)) < end:
        end = shorter
    return tuple(tokens[start:end] or tokens)


def _opening(tokens: Sequence[bytes]) -> int:
    """How many words of a polite opening the tokens begin with."""
    phrases = _OPENING_PHRASES.get(tokens[0], ())
    phrase = next((p for p in phrases if tuple(tokens[: len(p)]) == p), ())
    return len(phrase) or int(tokens[0] in _OPENING)


def _without_closing(tokens: Sequence[bytes], start: int, end: int) -> int:
    """Where the words end without the last polite closing."""
    for phrase in _CLOSING_PHRASES.get(tokens[end - 1], ()) if end else ():
        if end - start > len(phrase) and tuple(tokens[end - len(phrase) : end]) == phrase:
            return end - len(phrase)
    for place in range(end - 1, max(start, end - 4), -1):
        if tokens[place] in _REGARDS and place - start > _FEWEST_BEFORE_REGARDS:
            return place - (tokens[place - 1] in _KINDS_OF_REGARDS)
    for place in range(end - 1, max(start, end - _LONGEST_CLOSING), -1):
        if tokens[place] in _THANKS:
            return place
        if tokens[place] not in _CLOSING:
            break
    return end


def signs(text: str) -> str:
    """The signs of a text that are no words and yet change its meaning, in order."""
    if text.isascii() and not text.encode().translate(None, _NO_SIGNS):
        return ""
    return "".join(_SIGNS.findall(text))


def with_digits(tokens: Iterable[bytes]) -> list[bytes]:
    """The words that hold a digit, sorted."""
    return sorted(word for word in tokens if is_number(word))


def is_number(word: bytes) -> bool:
    """Whether a word holds a digit."""
    return _DIGIT.search(word) is not None
