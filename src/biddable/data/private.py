"""Secrets, personal data and broken encodings in the texts: likely ones, told as warnings.

The patterns are the documented shapes of each key; a cheap test on the text comes before each, so
that clean data costs little. What is found is shown only by its first characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from biddable.data.conversation import Conversation
from biddable.data.findings import Finding


class Pattern(NamedTuple):
    """One kind of thing to look for.

    Args:
        name: what it is, in words.
        marks: texts of which every match holds one; none if it holds 13 digits instead.
        regex: its shape.
        holds: a further test on the matched text.
    """

    name: str
    marks: tuple[str, ...]
    regex: re.Pattern[str]
    holds: Callable[[str], bool]


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


def _always(text: str) -> bool:
    return True


def _real_mail(text: str) -> bool:
    # Names that RFC 2606 keeps free for examples belong to nobody.
    domain = text.rpartition("@")[2].lower()
    return not re.search(r"(^|\.)example\.(com|net|org)$|\.(example|invalid|test)$", domain)


def _mixed(text: str) -> bool:
    """Whether an assigned value looks random: letters and digits, not a word or a placeholder."""
    value = re.split(r"[:=]\s*", text, maxsplit=1)[1].strip("'\" ")
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


SECRETS = (
    Pattern(
        "a private key",
        ("-----BEGIN ",),
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
        _always,
    ),
    Pattern(
        "an AWS access key", ("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), _always
    ),
    Pattern(
        "a GitHub token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"),
        _always,
    ),
    Pattern("a GitLab token", ("glpat-",), re.compile(r"\bglpat-[\w-]{20,}"), _always),
    Pattern("a Slack token", ("xox",), re.compile(r"\bxox[abeoprs]-[\w-]{10,}"), _always),
    Pattern("a Google API key", ("AIza",), re.compile(r"\bAIza[\w-]{35}"), _always),
    Pattern("a Stripe key", ("k_live_",), re.compile(r"\b[rs]k_live_[A-Za-z0-9]{16,}"), _always),
    Pattern("an API key", ("sk-",), re.compile(r"\bsk-(?=[\w-]*\d)[\w-]{20,}"), _always),
    Pattern("a Hugging Face token", ("hf_",), re.compile(r"\bhf_[A-Za-z]{30,}\b"), _always),
    Pattern("an npm token", ("npm_",), re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"), _always),
    Pattern(
        "a signed token (JWT)",
        ("eyJ",),
        re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
        _always,
    ),
    Pattern(
        "a password or key",
        ("assword", "asswd", "ecret", "api_key", "apikey", "API_KEY", "SECRET", "PASSWORD", "oken"),
        re.compile(
            r"(?i)\b\w*(?:password|passwd|secret|api_?key|token)['\"]?\s{0,3}[:=]\s{0,3}['\"]?[^\s'\",;]{10,80}"
        ),
        _mixed,
    ),
)
PERSONAL = (
    Pattern(
        "an e-mail address",
        ("@",),
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"),
        _real_mail,
    ),
    Pattern(
        "a card number",
        (),
        re.compile(r"(?<![\d.])(?:\d[ -]?){12,18}\d(?![\d.]\d|\d)"),
        luhn,
    ),
    Pattern(
        "a bank account (IBAN)",
        (),
        re.compile(r"\b[A-Z]{2}\d{2} ?(?:[A-Z0-9]{4} ?){2,7}[A-Z0-9]{1,4}\b"),
        iban,
    ),
)
NO_DIGITS = bytes(c for c in range(256) if not 48 <= c <= 57)
# UTF-8 read as Windows-1252 leaves these: a lead byte's letter before a continuation byte's sign.
MOJIBAKE = re.compile(
    r"[ÂÃ][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    r"|â€[\u0080-\u00bf\u0152\u0153\u2013-\u203a\u02dc\u2122\u00a6]|ï»¿|\ufffd"
)


def private_findings(conversations: Sequence[Conversation]) -> Iterator[Finding]:
    """A warning for each message with a likely secret, personal data or a broken encoding."""
    for conversation in conversations:
        whole = "\n".join([message.content for message in conversation.messages])
        for code, what, found in _all(whole):
            turn = next(
                (k for k, m in enumerate(conversation.messages) if found in m.content), None
            )
            yield _finding(code, what, found, conversation, turn)


def _all(text: str) -> Iterator[tuple[str, str, str]]:
    # A card or an account takes 13 digits at least; few texts have so many.
    numbers = len(text.encode("utf-8", "replace").translate(None, NO_DIGITS)) >= 13
    for code, patterns in (("secret_found", SECRETS), ("pii_found", PERSONAL)):
        for pattern in patterns:
            if not (any(mark in text for mark in pattern.marks) if pattern.marks else numbers):
                continue
            for match in pattern.regex.finditer(text):
                if pattern.holds(match[0]):
                    yield code, pattern.name, match[0]
                    break
    if not text.isascii():
        broken = MOJIBAKE.search(text)
        if broken:
            yield "mojibake", "broken characters", broken[0]


def _finding(
    code: str, what: str, found: str, conversation: Conversation, turn: int | None
) -> Finding:
    fixes = {
        "secret_found": "Take it out and revoke it: a model repeats what it was trained on.",
        "pii_found": "Replace it by a placeholder unless the model is meant to know it.",
        "mojibake": "The text was decoded wrongly; export it again as UTF-8.",
    }
    shown = found if code == "mojibake" else found[:4] + "…"
    return Finding(
        code,
        "warning",
        f"The text holds {what}: {shown!r}.",
        fixes[code],
        conversation.file,
        conversation.line,
        turn,
    )
