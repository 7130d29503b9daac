"""Secrets, personal data and broken encodings in the texts: likely ones, as warnings.

The patterns are the documented shapes of each key; a cheap test on the text comes before each, so
that clean data costs little. A finding shows only the first characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from biddable.data.conversation import Conversation
from biddable.errors import Finding


class Pattern(NamedTuple):
    """One kind of thing to look for.

    Args:
        name: what it is, in words.
        marks: texts of which every match holds one; none if it holds 13 digits instead.
        shape: a regular expression.
        holds: a further test on the matched text.
    """

    name: str
    marks: tuple[str, ...]
    shape: str
    holds: Callable[[str], bool] = bool


def luhn(text: str) -> bool:
    """Whether the digits of a text are a card number of 13 to 19 digits by the Luhn sum.

    ISO/IEC 7812-1; numbers of one repeated digit pass the sum but are no cards.
    """
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    total = sum(digits[-1::-2]) + sum(doubled)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and total % 10 == 0


def iban(text: str) -> bool:
    """Whether a text is an IBAN by its check digits (ISO 13616: mod 97 is 1)."""
    code = text.replace(" ", "")
    turned = code[4:] + code[:4]
    return 15 <= len(code) <= 34 and int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def _real_mail(text: str) -> bool:
    # Names that RFC 2606 keeps free for examples belong to nobody.
    domain = text.rpartition("@")[2].lower()
    return not re.search(r"(^|\.)example\.(com|net|org)$|\.(example|invalid|test)$", domain)


def _mixed(text: str) -> bool:
    """Whether an assigned value looks random: letters and digits, not a word or a placeholder."""
    value = re.split(r"[:=]\s*", text, maxsplit=1)[1].strip("'\" ")
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


GITHUB = ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_")
SERVICES = {
    "dckr_pat_": r"\bdckr_pat_[\w-]{20,}",
    "dop_v1_": r"\bdop_v1_\w{40,}",
    "shpat_": r"\bshpat_\w{32}",
    "pypi-": r"\bpypi-AgEI[\w-]{30,}",
    "SG.": r"\bSG\.[\w-]{22}\.[\w-]{43}",
    "hooks.slack": r"hooks\.slack\.com/services/\w+/\w+/\w{20,}",
    "earer ": r"\b[Bb]earer (?=\S*\d)[\w.~+/-]{30,}",
}
NAMES = ("assword", "asswd", "ecret", "api_key", "apikey", "API_KEY", "SECRET", "PASSWORD", "oken",
         "ccountKey", "ccessKey", "access_key", "ACCESS_KEY")  # fmt: skip
ASSIGNED = (
    r"(?i)\b\w*(?:password|passwd|secret|api_?key|access_?key|account_?key|token)['\"]?\s{0,3}"
    r"[:=]\s{0,3}['\"]?[^\s'\",;]{10,200}"
)
MAIL = r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"
CARD = r"(?<![\d.])(?:\d[ -]?){12,18}\d(?![\d.]\d|\d)"
ACCOUNT = r"\b[A-Z]{2}\d{2} ?(?:[A-Z0-9]{4} ?){2,7}[A-Z0-9]{1,4}\b"
# With all that is left of the key behind its first line.
PRIVATE_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[\w+/=\s\\,:-]*"
PATTERNS = {
    "secret_found": (
        Pattern("a private key", ("-----BEGIN ",), PRIVATE_KEY),
        Pattern("an AWS access key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        Pattern("a GitHub token", GITHUB, r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"),
        Pattern("a GitLab token", ("glpat-",), r"\bglpat-[\w-]{20,}"),
        Pattern("a Slack token", ("xox",), r"\bxox[abeoprs]-[\w-]{10,}"),
        Pattern("a Google API key", ("AIza",), r"\bAIza[\w-]{35}"),
        Pattern("a Stripe key", ("k_live_",), r"\b[rs]k_live_[A-Za-z0-9]{16,}"),
        Pattern("an API key", ("sk-",), r"\bsk-(?=[\w-]*\d)[\w-]{20,}"),
        Pattern("a Hugging Face token", ("hf_",), r"\bhf_[A-Za-z]{30,}\b"),
        Pattern("an npm token", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
        Pattern("a service's token", tuple(SERVICES), f"(?:{'|'.join(SERVICES.values())})"),
        Pattern(
            "a password in an address",
            ("://",),
            r"(?<=://)[^\s/:@]{1,64}:[^\s/:@]{4,64}(?=@)",
            _mixed,
        ),
        Pattern("a signed token (JWT)", ("eyJ",), r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
        Pattern("a password or key", NAMES, ASSIGNED, _mixed),
    ),
    "pii_found": (
        Pattern("an e-mail address", ("@",), MAIL, _real_mail),
        Pattern("a card number", (), CARD, luhn),
        Pattern("a bank account (IBAN)", (), ACCOUNT, iban),
    ),
}
NO_DIGITS = bytes(c for c in range(256) if not 48 <= c <= 57)
# UTF-8 read as Windows-1252 leaves these: a lead byte's letter before a continuation byte's sign.
MOJIBAKE = re.compile(
    r"[ÂÃ][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    r"|â€[\u0080-\u00bf\u0152\u0153\u2013-\u203a\u02dc\u2122\u00a6]|ï»¿|\ufffd"
)


FIXES = {
    "secret_found": "Take it out and revoke it: a model repeats what it was trained on.",
    "pii_found": "Replace it by a placeholder unless the model is meant to know it.",
    "mojibake": "The text was decoded wrongly; export it again as UTF-8.",
}


def private_findings(conversations: Sequence[Conversation]) -> Iterator[Finding]:
    """A warning for each message with a likely secret, personal data or a broken encoding."""
    for conversation in conversations:
        contents = [message.content for message in conversation.messages]
        for code, name, match in _matches("\n".join(contents)):
            turn = next((k for k, content in enumerate(contents) if match in content), None)
            shown = match if code == "mojibake" else match[:4] + "…"
            what = f"The text holds {name}: {shown!r}."
            place = conversation.file, conversation.line, turn
            yield Finding(code, "warning", what, FIXES[code], *place)


def masked(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The text with a placeholder for each likely secret and personal thing, and what these are."""
    kinds: list[tuple[str, str]] = []
    for code, pattern in _likely(text):
        placeholder = f"[{pattern.name.partition(' ')[2]}]"

        def put(match: re.Match[str], pattern: Pattern = pattern, shown: str = placeholder) -> str:
            return shown if pattern.holds(match[0]) else match[0]

        changed = re.sub(pattern.shape, put, text)
        kinds += [(code, pattern.name)] if changed != text else []
        text = changed
    return text, kinds


def _likely(text: str) -> Iterator[tuple[str, Pattern]]:
    """The patterns that a cheap look at the text does not rule out."""
    # A card or an account takes 13 digits at least; few texts have so many.
    numbers = len(text.encode("utf-8", "replace").translate(None, NO_DIGITS)) >= 13
    for code, patterns in PATTERNS.items():
        for pattern in patterns:
            marks = pattern.marks
            if any(mark in text for mark in marks) if marks else numbers:
                yield code, pattern


def _matches(text: str) -> Iterator[tuple[str, str, str]]:
    """Code, name and text of each kind that a text holds."""
    for code, pattern in _likely(text):
        matches = (match[0] for match in re.finditer(pattern.shape, text))
        if match := next(filter(pattern.holds, matches), None):
            yield code, pattern.name, match
    if not text.isascii() and (broken := MOJIBAKE.search(text)):
        yield "mojibake", "broken characters", broken[0]
