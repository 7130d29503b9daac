"""What a row is, told by its keys: one small reader a format, each giving raw messages.

Shapes that come out of other tools' documentation: OpenAI chat, ShareGPT, Alpaca, Dolly, HH-RLHF,
Self-Instruct, OpenAssistant, InstructGPT demonstrations, TRL prompt/completion, and plain pairs of
columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from biddable.data.findings import BiddableError
from biddable.data.messages import ROLES
from biddable.data.rows import kind, parsed
from biddable.data.trees import tree_path

Fields = dict[str, Any]
# The raw messages of each conversation of a row, not yet checked.
Drafts = list[list[Any]]


class Format(NamedTuple):
    """A shape of rows.

    Args:
        name: what a user is told.
        needs: the keys by which it is known.
        uses: other keys that it reads.
        build: its reader.
        group: the key whose value is the group of a row that names none.
    """

    name: str
    needs: frozenset[str]
    uses: frozenset[str]
    build: Callable[[Fields], Drafts]
    group: str = ""


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
    ("instruction", "response"): "Dolly",
}
CITATION = re.compile(r"\[\d+\]")
NO_INPUT = ("", "<noinput>")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TRANSCRIPT = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \n]?")
GUANACO = re.compile(r"(?:\A|\n?)### (Human|Assistant):[ \n]?")


def message_list(key: str, row: Fields) -> Drafts:
    """The list of raw messages under a key, also where it is stored as JSON text."""
    value = row[key]
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, list):
        return [value]
    raise BiddableError(
        f"{key!r} is {kind(value)}, not a list of messages.",
        fix='Write it as [{"role": "user", "content": ...}, ...].',
        code="missing_messages_list",
    )


def _pair(question: str, answer: str, row: Fields) -> Drafts:
    """User and assistant, or the two lists of messages of a conversational prompt/completion."""
    asked, answered = row[question], row[answer]
    answers = answered if isinstance(answered, list) else [_said("assistant", answered)]
    if isinstance(asked, list):
        # What the assistant said in the prompt is context.
        return [[*map(_as_context, asked), *answers]]
    context = row.get("context")
    if (question, answer) == ("instruction", "response") and isinstance(context, str):
        # Dolly's contexts come from Wikipedia with citation marks, which mean nothing here.
        row = {**row, "context": CITATION.sub("", context)}
    return [[*_history(row.get("history")), _said("user", _with_input(row, asked)), *answers]]


def _with_input(row: Fields, asked: Any) -> Any:
    given = [row.get(key) for key in ("context", "input")]
    texts = [text for text in given if isinstance(text, str) and text.strip() not in NO_INPUT]
    if not texts or not isinstance(asked, str) or asked in texts:
        return asked
    return "\n".join([asked, *texts])


def _history(value: object) -> list[Fields]:
    value = parsed(value) if isinstance(value, str) and value else value
    if not value:
        return []
    if isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        roles = ("user", "assistant")
        return [_said(*said) for pair in value for said in zip(roles, pair, strict=True)]
    raise BiddableError(
        "'history' is not a list of [question, answer] pairs.",
        fix='Write it as [["question", "answer"], ...].',
        code="data_type",
    )


def _said(role: str, content: Any) -> Fields:
    return {"role": role, "content": content}


def _is_answer(message: object) -> bool:
    role = message.get("role", message.get("from")) if isinstance(message, dict) else None
    return isinstance(role, str) and ROLES.get(role) == "assistant"


def _as_context(message: Any) -> Any:
    return {**message, "weight": 0} if _is_answer(message) else message


def _chosen(row: Fields) -> Drafts:
    """HH-RLHF and other preference rows: the chosen side; only its last answer was chosen."""
    chosen, prompt = row["chosen"], row.get("prompt")
    if isinstance(chosen, list):
        given = prompt if isinstance(prompt, list) else []
        messages = chosen if chosen[: len(given)] == given else given + chosen
        if isinstance(prompt, str) and len(messages) == 1:
            messages = [_said("user", prompt), *messages]
    elif isinstance(chosen, str) and TRANSCRIPT.match(chosen):
        messages = _transcript(chosen, TRANSCRIPT)
    elif isinstance(prompt, str):
        messages = [_said("user", prompt), _said("assistant", chosen)]
    else:
        raise BiddableError(
            "'chosen' is no transcript of Human and Assistant turns, and there is no 'prompt'.",
            fix='Begin it with "\\n\\nHuman: ", or add the prompt.',
            code="data_type",
        )
    last = max((k for k, m in enumerate(messages) if _is_answer(m)), default=0)
    return [[*map(_as_context, messages[:last]), *messages[last:]]]


def _transcript(text: str, speaker: re.Pattern[str]) -> list[Any]:
    pieces = speaker.split(text)
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [_said(SPEAKERS[who], said.strip()) for who, said in pairs]


def _self_instruct(row: Fields) -> Drafts:
    """One conversation an instance; the instances of a task stay on one side of a split."""
    instances = row["instances"]
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        raise BiddableError(
            "'instances' is not a list of objects.",
            fix='Write it as [{"input": ..., "output": ...}, ...].',
            code="data_type",
        )
    asked = row["instruction"]
    return [
        [_said("user", _with_input(one, asked)), _said("assistant", one.get("output"))]
        for one in instances
    ]


def _mail(answer: str, row: Fields) -> Drafts:
    parts = [text for text in (row["subject"], row["body"]) if isinstance(text, str) and text]
    return [[_said("user", "\n\n".join(parts)), _said("assistant", row[answer])]]


def _text(row: Fields) -> Drafts:
    text = row["text"]
    if isinstance(text, str) and text.lstrip().startswith("### Human:"):
        return [_transcript(text.lstrip(), GUANACO)]
    if isinstance(text, str) and TRANSCRIPT.match(text):
        return [_transcript(text, TRANSCRIPT)]
    if len(row) > 1:
        raise _unknown(frozenset(row))
    raise BiddableError(
        "A row with nothing but 'text' does not say which part is the answer.",
        fix="Give question and answer their own columns, or train on plain text: pretrain.",
        code="text_only",
    )


def _later(row: Fields) -> Drafts:
    """Nothing yet: a flat row is one message, put together with the others of its file."""
    return []


def _format(
    name: str, needs: str, uses: str, build: Callable[[Fields], Drafts], group: str = ""
) -> Format:
    return Format(name, frozenset(needs.split()), frozenset(uses.split()), build, group)


def _pair_format(question: str, answer: str) -> Format:
    name = PAIR_NAMES.get((question, answer), f"{question}/{answer}")
    build = partial(_pair, question, answer)
    return _format(name, f"{question} {answer}", "context input history", build)


FORMATS: tuple[Format, ...] = (
    _format("OpenAI messages", "messages", "", partial(message_list, "messages")),
    _format("ShareGPT", "conversations", "", partial(message_list, "conversations")),
    _format("HH-RLHF (chosen)", "chosen", "prompt rejected", _chosen),
    _format("Self-Instruct", "instruction instances", "id name", _self_instruct, "id"),
    *(
        _format("mail (subject, body)", f"subject body {answer}", "", partial(_mail, answer))
        for answer in ("reply", "answer", "response", "resolution")
    ),
    *(_pair_format(question, answer) for question in QUESTIONS for answer in ANSWERS),
)
_FLAT_KEYS, _TREE_KEYS = "message_id parent_id text role", "message_tree_id prompt"
_OASST = "OpenAssistant {} (best path)"
FLAT = _format(_OASST.format("messages"), _FLAT_KEYS, "", _later, "message_tree_id")
# What a row is that has none of the formats above.
LAST_FORMATS = (
    _format(_OASST.format("trees"), _TREE_KEYS, "tree_state", tree_path, "message_tree_id"),
    _format("text with ### Human and ### Assistant", "text", "", _text),
)


def detect(keys: frozenset[str]) -> Format:
    """The format that rows with these keys have; none, or two of which neither reads the other's
    keys, are refused."""
    if FLAT.needs <= keys:
        return FLAT
    fits = [form for form in FORMATS if form.needs <= keys]
    fits = fits or [form for form in LAST_FORMATS if form.needs <= keys][:1]
    if not fits:
        raise _unknown(keys)
    first = fits[0]
    for other in fits[1:]:
        if not other.needs <= first.needs | first.uses:
            raise BiddableError(
                f"The row fits two formats: {first.name} and {other.name}.",
                fix="Remove the keys of one, or name the columns: --map user=...,assistant=...",
                code="ambiguous_format",
            )
    return first


def _unknown(keys: frozenset[str]) -> BiddableError:
    names = ", ".join(sorted(keys)[:12]) or "none"
    if keys & set(QUESTIONS):
        return BiddableError(
            f"The row has no assistant text; its keys are {names}.",
            fix='Add "assistant" with the answer, or say where it is: --map assistant=COLUMN.',
            code="example_missing_assistant_message",
        )
    return BiddableError(
        f"The keys of the row fit no known format: {names}.",
        fix="Use user and assistant, or messages, or name the columns: "
        "--map user=COLUMN,assistant=COLUMN.",
        code="unknown_format",
    )
