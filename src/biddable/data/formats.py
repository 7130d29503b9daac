"""What a row is, told by its keys: one small reader a format, each giving raw messages.

Shapes that come out of other tools' documentation: OpenAI chat, ShareGPT, Alpaca, Dolly, HH-RLHF,
Self-Instruct, InstructGPT demonstrations, TRL prompt/completion, and plain pairs of columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from biddable.data.findings import BiddableError
from biddable.data.rows import kind, parsed
from biddable.data.turns import ROLES

Fields = dict[str, Any]


class Draft(NamedTuple):
    """Raw messages of one conversation, not yet checked, and what else its row says of it."""

    messages: list[Any]
    group: str | None = None


class Format(NamedTuple):
    """A shape of rows.

    Args:
        name: what a user is told.
        needs: the keys by which it is known.
        uses: other keys that it reads.
        build: its reader.
    """

    name: str
    needs: frozenset[str]
    uses: frozenset[str]
    build: Callable[[Fields], list[Draft]]


# Keys that any row may carry.
COMMON = frozenset(("system", "group", "weight", "tools"))
QUESTIONS = ("question", "query", "prompt", "instruction", "user", "human", "request", "input", "q")
ANSWERS = (
    *("assistant", "answer", "response", "completion", "output", "reply", "target"),
    *("demonstration", "a"),
)
PAIR_NAMES = {
    ("user", "assistant"): "system/user/assistant",
    ("prompt", "completion"): "prompt/completion",
    ("prompt", "demonstration"): "InstructGPT demonstrations",
    ("instruction", "output"): "Alpaca",
}
CITATION = re.compile(r"\[\d+\]")
NO_INPUT = ("", "<noinput>")
SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \n]?")
GUANACO = re.compile(r"(?:\A|\n?)### (Human|Assistant):[ \n]?")


def _messages(row: Fields) -> list[Draft]:
    return [Draft(message_list(row["messages"], "messages"))]


def _sharegpt(row: Fields) -> list[Draft]:
    return [Draft(message_list(row["conversations"], "conversations"))]


def message_list(value: object, key: str) -> list[Any]:
    """A list of raw messages, also where it is stored as JSON text.

    Raises:
        BiddableError: the value under this key is something else.
    """
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, list):
        return value
    raise BiddableError(
        f"{key!r} is {kind(value)}, not a list of messages.",
        fix='Write it as [{"role": "user", "content": ...}, ...].',
        code="missing_messages_list",
    )


def _pair_format(question: str, answer: str) -> Format:
    """The format of rows with one column asked and one answered."""

    def build(row: Fields) -> list[Draft]:
        return [Draft(_pair(row, row[question], row[answer]))]

    name = PAIR_NAMES.get((question, answer), f"{question}/{answer}")
    uses = frozenset(("context", "input", "history")) - {question}
    return Format(name, frozenset((question, answer)), uses, build)


def _dolly(row: Fields) -> list[Draft]:
    """Dolly's contexts come from Wikipedia with citation marks, which mean nothing here."""
    context = row.get("context")
    if isinstance(context, str):
        row = {**row, "context": CITATION.sub("", context)}
    return [Draft(_pair(row, row["instruction"], row["response"]))]


def _pair(row: Fields, question: Any, answer: Any) -> list[Any]:
    """User and assistant, or the two lists of messages of a conversational prompt/completion."""
    answers = answer if isinstance(answer, list) else [_said("assistant", answer)]
    if isinstance(question, list):
        # What the assistant said in the prompt is context.
        return [*({**m, "weight": 0} if _is_answer(m) else m for m in question), *answers]
    history = [
        message
        for asked, answered in _history(row.get("history"))
        for message in (_said("user", asked), _said("assistant", answered))
    ]
    return [*history, _said("user", _with_input(row, question)), *answers]


def _with_input(row: Fields, question: Any) -> Any:
    given = [row.get(key) for key in ("context", "input")]
    texts = [text for text in given if isinstance(text, str) and text.strip() not in NO_INPUT]
    if not texts or not isinstance(question, str) or question in texts:
        return question
    return "\n".join([question, *texts])


def _history(value: object) -> list[Any]:
    value = parsed(value) if isinstance(value, str) and value else value
    if not value:
        return []
    if isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        return value
    raise BiddableError(
        "'history' is not a list of [question, answer] pairs.",
        fix='Write it as [["question", "answer"], ...].',
        code="data_type",
    )


def _is_answer(message: object) -> bool:
    if not isinstance(message, dict):
        return False
    role = message.get("role", message.get("from"))
    return isinstance(role, str) and ROLES.get(role) == "assistant"


def _said(role: str, content: Any, weight: float | None = None) -> Fields:
    return {"role": role, "content": content, "weight": weight}


def _chosen(row: Fields) -> list[Draft]:
    """HH-RLHF and other preference rows: the chosen side; only its last answer was chosen."""
    chosen, prompt = row["chosen"], row.get("prompt")
    if isinstance(chosen, list):
        given = prompt if isinstance(prompt, list) else []
        messages = chosen if chosen[: len(given)] == given else given + chosen
        if isinstance(prompt, str) and len(messages) == 1:
            messages = [_said("user", prompt), *messages]
    elif isinstance(chosen, str) and SPEAKER.match(chosen):
        messages = _transcript(chosen, SPEAKER)
    elif isinstance(prompt, str):
        messages = [_said("user", prompt), _said("assistant", chosen)]
    else:
        raise BiddableError(
            "'chosen' is no transcript of Human and Assistant turns, and there is no 'prompt'.",
            fix='Begin it with "\\n\\nHuman: ", or add the prompt.',
            code="data_type",
        )
    return [Draft(_only_last(messages))]


def _transcript(text: str, speaker: re.Pattern[str]) -> list[Any]:
    pieces = speaker.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [_said(roles[who], said.strip()) for who, said in pairs]


def _only_last(messages: list[Any]) -> list[Any]:
    last = max((k for k, m in enumerate(messages) if _is_answer(m)), default=-1)
    return [
        {**m, "weight": 0} if _is_answer(m) and k != last else m for k, m in enumerate(messages)
    ]


def _self_instruct(row: Fields) -> list[Draft]:
    """One conversation an instance; the instances of a task stay on one side of a split."""
    instances = row["instances"]
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        raise BiddableError(
            "'instances' is not a list of objects.",
            fix='Write it as [{"input": ..., "output": ...}, ...].',
            code="data_type",
        )
    group = row.get("id")
    return [
        Draft(
            [
                _said("user", _with_input(instance, row["instruction"])),
                _said("assistant", instance.get("output")),
            ],
            group if isinstance(group, str) else None,
        )
        for instance in instances
    ]


def _mail(row: Fields) -> list[Draft]:
    answers = (row[key] for key in ("reply", "answer", "response", "resolution") if key in row)
    parts = [text for text in (row["subject"], row["body"]) if isinstance(text, str) and text]
    return [Draft([_said("user", "\n\n".join(parts)), _said("assistant", next(answers))])]


def _text(row: Fields) -> list[Draft]:
    text = row["text"]
    if isinstance(text, str) and text.lstrip().startswith("### Human:"):
        return [Draft(_transcript(text.lstrip(), GUANACO))]
    if isinstance(text, str) and SPEAKER.match(text):
        return [Draft(_transcript(text, SPEAKER))]
    if len(row) > 1:
        _refuse_unknown(frozenset(row))
    raise BiddableError(
        "A row with nothing but 'text' does not say which part is the answer.",
        fix="Give question and answer their own columns, or train on plain text: pretrain.",
        code="text_only",
    )


def _format(name: str, needs: str, uses: str, build: Callable[[Fields], list[Draft]]) -> Format:
    return Format(name, frozenset(needs.split()), frozenset(uses.split()), build)


FORMATS: tuple[Format, ...] = (
    _format("OpenAI messages", "messages", "", _messages),
    _format("ShareGPT", "conversations", "", _sharegpt),
    _format("HH-RLHF (chosen)", "chosen", "prompt rejected", _chosen),
    _format("Self-Instruct", "instruction instances", "id name", _self_instruct),
    *(
        _format("mail (subject, body)", f"subject body {answer}", "", _mail)
        for answer in ("reply", "answer", "response", "resolution")
    ),
    _format("Dolly", "instruction response", "context", _dolly),
    *(_pair_format(question, answer) for question in QUESTIONS for answer in ANSWERS),
)
TEXT = _format("text with ### Human and ### Assistant", "text", "", _text)


def detect(keys: frozenset[str]) -> Format:
    """The format that rows with these keys have.

    Raises:
        BiddableError: none fits, or two fit and neither reads the other's keys.
    """
    fits = [form for form in FORMATS if form.needs <= keys]
    if not fits and "text" in keys:
        return TEXT
    if not fits:
        _refuse_unknown(keys)
    first = fits[0]
    for other in fits[1:]:
        if not other.needs <= first.needs | first.uses:
            raise BiddableError(
                f"The row fits two formats: {first.name} and {other.name}.",
                fix="Remove the keys of one, or name the columns: --map user=...,assistant=...",
                code="ambiguous_format",
            )
    return first


def _refuse_unknown(keys: frozenset[str]) -> None:
    names = ", ".join(sorted(keys)[:12]) or "none"
    asked = keys & set(QUESTIONS)
    if asked:
        raise BiddableError(
            f"The row has no assistant text; its keys are {names}.",
            fix='Add "assistant" with the answer, or say where it is: --map assistant=COLUMN.',
            code="example_missing_assistant_message",
        )
    raise BiddableError(
        f"The keys of the row fit no known format: {names}.",
        fix="Use user and assistant, or messages, or name the columns: "
        "--map user=COLUMN,assistant=COLUMN.",
        code="unknown_format",
    )
