"""Rows to raw messages: one small reader a format.

A reader takes what it uses out of the row; what is left there at the end, nothing has read, and
that is said. So no key needs to be listed twice, and none is lost in silence.
"""

from __future__ import annotations

import re
from typing import Any

from biddable.data.messages import ROLES, written_role
from biddable.data.plain_text import is_nothing, plain_text
from biddable.data.rows import kind, parsed
from biddable.errors import BiddableError

Fields = dict[str, Any]
# The raw messages of each conversation of a row, not yet checked.
Drafts = list[list[Any]]

QUESTIONS = ("question", "query", "prompt", "instruction", "user", "human", "request", "input", "q")
CITATION = re.compile(r"\[\d+\]")
NO_INPUT = ("", "<noinput>")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TRANSCRIPT = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \n]?")
GUANACO = re.compile(r"(?:\A|\n?)### (Human|Assistant):[ \n]?")


def message_list(key: str, row: Fields) -> Drafts:
    """The list of raw messages under a key, also where it is stored as JSON text."""
    value = row.pop(key)
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, list):
        return [[message for item in value for message in _said_by_key(item)]]
    raise BiddableError(
        "missing_messages_list",
        f"{key!r} is {kind(value)}, not a list of messages.",
        'Write it as [{"role": "user", "content": ...}, ...].',
    )


def _said_by_key(item: Any) -> list[Any]:
    """A message, or those of ms-swift's `{"human": question, "assistant": answer}`."""
    by_key = isinstance(item, dict) and item and all(str(k).casefold() in ROLES for k in item)
    return [_said(*pair) for pair in item.items()] if by_key else [item]


def _is_chat(value: object) -> bool:
    return isinstance(value, list) and (not value or any(map(written_role, value)))


def pair(question: str, answer: str, row: Fields) -> Drafts:
    """User and assistant, or the two lists of messages of a conversational prompt/completion."""
    asked, answered = row.pop(question), row.pop(answer)
    answers = answered if _is_chat(answered) else [_said("assistant", _one(answer, answered))]
    if isinstance(asked, list):
        # What the assistant said in the prompt is context.
        return [[*map(_as_context, asked), *answers]]
    if (question, answer) == ("instruction", "response"):
        _without_citations(row)
    history = _history(row.pop("history", None))
    return [[*history, _said("user", _with_input(row, question, asked)), *answers]]


def _one(key: str, value: Any) -> Any:
    """The one answer, also where it stands in a list or an object of its own."""
    if isinstance(value, list) and len(value) > 1:
        raise BiddableError(
            "data_type",
            f"{key!r} holds {len(value)} values, not one answer.",
            "Keep the one that the model is to give.",
        )
    single = value[0] if isinstance(value, list) and value else value
    if isinstance(single, dict) and single.keys() == {"text"}:
        return _one(key, single["text"])
    return single


def _without_citations(row: Fields) -> None:
    """Dolly's contexts come from Wikipedia with citation marks, which mean nothing here."""
    context = row.get("context")
    if isinstance(context, str) and (marks := CITATION.findall(context)):
        row["context"], row["context.[citation]"] = CITATION.sub("", context), marks


def _with_input(row: Fields, question: str, asked: Any) -> Any:
    """The question and what belongs to it; what belongs to it alone where there is no question."""
    texts = [plain_text(row.pop(key, None), key) for key in ("context", "input")]
    texts = [text for text in texts if text.strip() not in NO_INPUT]
    if isinstance(asked, int | float):
        asked = plain_text(asked, question) or None
    if not texts or not (asked is None or isinstance(asked, str)):
        return asked
    return "\n".join([asked, *texts] if asked and asked.strip() else texts)


def _history(value: object) -> list[Fields]:
    value = parsed(value) if isinstance(value, str) and value else value
    if is_nothing(value):
        return []
    if isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        roles = ("user", "assistant")
        return [_said(*said) for pair in value for said in zip(roles, pair, strict=True)]
    if isinstance(value, list) and all(map(written_role, value)):
        return value
    raise BiddableError(
        "data_type",
        "'history' is not a list of [question, answer] pairs.",
        'Write it as [["question", "answer"], ...].',
    )


def _said(role: str, content: Any) -> Fields:
    return {"role": role, "content": content}


def _is_answer(message: object) -> bool:
    return ROLES.get(written_role(message)) == "assistant"


def _as_context(message: Any) -> Any:
    # Its own flags are settled with the weight.
    flags = {"weight": 0, "loss": None, "train": None}
    return {**message, **flags} if _is_answer(message) else message


def chosen_side(row: Fields) -> Drafts:
    """HH-RLHF and other preference rows: the chosen side; only its last answer was chosen."""
    chosen = row.pop("chosen")
    alone = isinstance(chosen, str) and not TRANSCRIPT.match(chosen)
    if isinstance(chosen, str):
        chosen = [_said("assistant", chosen)] if alone else _transcript(chosen, TRANSCRIPT)
    chosen = [chosen] if isinstance(chosen, dict) else chosen
    key = next((key for key in ("conversations", *QUESTIONS) if key in row), "")
    before = message_list(key, row)[0] if key == "conversations" else row.get(key)
    if not isinstance(chosen, list) or (alone and before is None):
        raise BiddableError(
            "data_type",
            "'chosen' is no transcript of Human and Assistant turns, and there is no 'prompt'.",
            'Begin it with "\\n\\nHuman: ", or add the prompt.',
        )
    messages = chosen
    if isinstance(before, list):
        row.pop(key, None)
        messages = chosen if chosen[: len(before)] == before else before + chosen
    elif before is not None and len(chosen) == 1:
        row.pop(key)
        messages = [_said("user", _with_input(row, key, before)), *chosen]
    elif before in (m.get("content", m.get("value")) for m in chosen if isinstance(m, dict)):
        # The prompt is what the user says in the messages anyway.
        row.pop(key, None)
    last = max((k for k, m in enumerate(messages) if _is_answer(m)), default=0)
    return [[*map(_as_context, messages[:last]), *messages[last:]]]


def _transcript(text: str, speaker: re.Pattern[str]) -> list[Any]:
    pieces = speaker.split(text)
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [_said(SPEAKERS[who], said.strip()) for who, said in pairs]


def self_instruct(row: Fields) -> Drafts:
    """One conversation an instance; the instances of a task stay on one side of a split."""
    instances = row.pop("instances")
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        raise BiddableError(
            "data_type",
            "'instances' is not a list of objects.",
            'Write it as [{"input": ..., "output": ...}, ...].',
        )
    asked = row.pop("instruction")
    drafts = []
    for one in map(dict, instances):
        answer = _said("assistant", one.pop("output", None))
        drafts.append([_said("user", _with_input(one, "instruction", asked)), answer])
        row.update({f"instances.{k}": v for k, v in one.items() if not is_nothing(v)})
    return drafts


def mail(answer: str, row: Fields) -> Drafts:
    parts = [plain_text(row.pop(key), key) for key in ("subject", "body")]
    asked = "\n\n".join(part for part in parts if part)
    return [[_said("user", asked), _said("assistant", row.pop(answer))]]


def speakers(row: Fields) -> Drafts:
    text = row.pop("text")
    if isinstance(text, str) and text.lstrip().startswith("### Human:"):
        return [_transcript(text.lstrip(), GUANACO)]
    if isinstance(text, str) and TRANSCRIPT.match(text):
        return [_transcript(text, TRANSCRIPT)]
    if row:
        raise unknown_keys(frozenset(("text", *row)))
    raise BiddableError(
        "text_only",
        "A row with nothing but 'text' does not say which part is the answer.",
        "Give question and answer their own columns, or train on plain text: pretrain.",
    )


def unknown_keys(keys: frozenset[str]) -> BiddableError:
    """The error for a row that none of the formats fits."""
    names = ", ".join(sorted(keys)[:12]) or "none"
    if keys & set(QUESTIONS):
        return BiddableError(
            "example_missing_assistant_message",
            f"The row has no assistant text; its keys are {names}.",
            'Add "assistant" with the answer, or say where it is: --map assistant=COLUMN.',
        )
    return BiddableError(
        "unknown_format",
        f"The keys of the row fit no known format: {names}.",
        "Use user and assistant, or messages, or name the columns: "
        "--map user=COLUMN,assistant=COLUMN.",
    )
