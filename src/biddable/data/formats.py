"""What a row is, known by its keys: one small reader for each format.

A reader takes what it uses out of a copy of the row; what is left there at the end was not read,
which becomes a finding. So no key needs to be listed twice, and none is lost in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from biddable.data.messages import ROLES, written_role
from biddable.data.rows import Fields, is_nothing, kind, parsed, plain_text
from biddable.data.trees import take_node, tree_path
from biddable.errors import BiddableError

# The raw messages of each conversation of a row, not yet checked.
Drafts = list[list[Any]]

QUESTIONS = ("question", "query", "prompt", "instruction", "user", "human", "request", "input", "q")
ANSWERS = (
    "assistant", "answer", "response", "completion", "output", "reply", "target", "demonstration",
    "a",
)  # fmt: skip
CITATION = re.compile(r"\[\d+\]")
NO_INPUT = ("", "<noinput>")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TRANSCRIPT = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \n]?")
GUANACO = re.compile(r"(?:\A|\n?)### (Human|Assistant):[ \n]?")


class Format(NamedTuple):
    """A shape of rows.

    Args:
        name: what a user reads.
        needs: the keys by which it is known.
        uses: other keys that it may read.
        build: its reader.
        group: the key whose value is the group of a row that names none.
    """

    name: str
    needs: frozenset[str]
    uses: frozenset[str]
    build: Callable[[Fields], Drafts]
    group: str = ""


def message_list(key: str, row: Fields) -> Drafts:
    """The list of raw messages under a key, also where it is stored as JSON text."""
    value = row.pop(key)
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, list):
        return [[message for item in value for message in _by_speaker(item)]]
    what = f"{key!r} is {kind(value)}, not a list of messages."
    fix = 'Write it as [{"role": "user", "content": ...}, ...].'
    raise BiddableError("missing_messages_list", what, fix)


def _by_speaker(item: Any) -> list[Any]:
    """A message, or those of ms-swift's `{"human": question, "assistant": answer}`."""
    speakers = isinstance(item, dict) and item and all(str(k).casefold() in ROLES for k in item)
    return [_message(*pair) for pair in item.items()] if speakers else [item]


def _message(role: str, content: Any) -> Fields:
    return {"role": role, "content": content}


def _pair(question: str, answer: str, row: Fields) -> Drafts:
    """User and assistant, or the two lists of messages of a conversational prompt/completion."""
    prompt, reply = row.pop(question), row.pop(answer)
    is_chat = isinstance(reply, list) and (not reply or any(map(written_role, reply)))
    answers = reply if is_chat else [_message("assistant", _one_value(answer, reply))]
    if isinstance(prompt, list):
        # What the assistant said in the prompt is context.
        return [[*map(_as_context, prompt), *answers]]
    if (question, answer) == ("instruction", "response"):
        _take_citations(row)
    history = _history(row.pop("history", None))
    return [[*history, _message("user", _with_input(row, question, prompt)), *answers]]


def _one_value(key: str, value: Any) -> Any:
    """The one answer, also where it stands in a list or an object of its own."""
    if isinstance(value, list) and len(value) > 1:
        what = f"{key!r} holds {len(value)} values, not one answer."
        raise BiddableError("data_type", what, "Keep the one that the model is to give.")
    single = value[0] if isinstance(value, list) and value else value
    if isinstance(single, dict) and single.keys() == {"text"}:
        return _one_value(key, single["text"])
    return single


def _take_citations(row: Fields) -> None:
    """Dolly's contexts come from Wikipedia with citation marks, which mean nothing here."""
    context = row.get("context")
    if isinstance(context, str) and (marks := CITATION.findall(context)):
        row["context"], row["context.[citation]"] = CITATION.sub("", context), marks


def _with_input(row: Fields, key: str, question: Any) -> Any:
    """The question with its context and input; these alone where there is no question."""
    texts = [plain_text(row.pop(name, None), name) for name in ("context", "input")]
    texts = [text for text in texts if text.strip() not in NO_INPUT]
    if isinstance(question, int | float):
        question = plain_text(question, key) or None
    if not texts or not (question is None or isinstance(question, str)):
        return question
    return "\n".join([question, *texts] if question and question.strip() else texts)


def _history(value: object) -> list[Fields]:
    value = parsed(value) if isinstance(value, str) and value else value
    if is_nothing(value):
        return []
    if isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        roles = ("user", "assistant")
        return [_message(*said) for pair in value for said in zip(roles, pair, strict=True)]
    if isinstance(value, list) and all(map(written_role, value)):
        return value
    what = "'history' is not a list of [question, answer] pairs."
    raise BiddableError("data_type", what, 'Write it as [["question", "answer"], ...].')


def _is_answer(message: object) -> bool:
    return ROLES.get(written_role(message)) == "assistant"


def _as_context(message: Any) -> Any:
    # Its own flags are settled with the weight.
    flags = {"weight": 0, "loss": None, "train": None}
    return {**message, **flags} if _is_answer(message) else message


def _chosen_side(row: Fields) -> Drafts:
    """HH-RLHF and other preference rows: the chosen side; only its last answer was chosen."""
    chosen = row.pop("chosen")
    alone = isinstance(chosen, str) and not TRANSCRIPT.match(chosen)
    if isinstance(chosen, str):
        chosen = [_message("assistant", chosen)] if alone else _transcript(chosen, TRANSCRIPT)
    chosen = [chosen] if isinstance(chosen, dict) else chosen
    key = next((key for key in ("conversations", *QUESTIONS) if key in row), "")
    before = message_list(key, row)[0] if key == "conversations" else row.get(key)
    if not isinstance(chosen, list) or (alone and before is None):
        what = "'chosen' is no transcript of Human and Assistant turns, and there is no 'prompt'."
        raise BiddableError("data_type", what, 'Begin it with "\\n\\nHuman: ", or add the prompt.')
    messages = chosen
    if isinstance(before, list):
        row.pop(key, None)
        messages = chosen if chosen[: len(before)] == before else before + chosen
    elif before is not None and len(chosen) == 1:
        row.pop(key)
        messages = [_message("user", _with_input(row, key, before)), *chosen]
    elif before in (m.get("content", m.get("value")) for m in chosen if isinstance(m, dict)):
        # The prompt is what the user says in the messages anyway.
        row.pop(key, None)
    last = max((k for k, m in enumerate(messages) if _is_answer(m)), default=0)
    return [[*map(_as_context, messages[:last]), *messages[last:]]]


def _transcript(text: str, speaker: re.Pattern[str]) -> list[Any]:
    pieces = speaker.split(text)
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [_message(SPEAKERS[who], said.strip()) for who, said in pairs]


def _self_instruct(row: Fields) -> Drafts:
    """One conversation an instance; the instances of a task stay on one side of a split."""
    instances = row.pop("instances")
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        fix = 'Write it as [{"input": ..., "output": ...}, ...].'
        raise BiddableError("data_type", "'instances' is not a list of objects.", fix)
    instruction = row.pop("instruction")
    drafts = []
    for one in map(dict, instances):
        answer = _message("assistant", one.pop("output", None))
        drafts.append([_message("user", _with_input(one, "instruction", instruction)), answer])
        row.update({f"instances.{k}": v for k, v in one.items() if not is_nothing(v)})
    return drafts


def _mail(answer: str, row: Fields) -> Drafts:
    parts = [plain_text(row.pop(key), key) for key in ("subject", "body")]
    mail = "\n\n".join(part for part in parts if part)
    return [[_message("user", mail), _message("assistant", row.pop(answer))]]


def _speakers(row: Fields) -> Drafts:
    text = row.pop("text")
    if isinstance(text, str) and text.lstrip().startswith("### Human:"):
        return [_transcript(text.lstrip(), GUANACO)]
    if isinstance(text, str) and TRANSCRIPT.match(text):
        return [_transcript(text, TRANSCRIPT)]
    if row:
        raise _unknown_keys({key: key for key in ("text", *row)})
    what = "A row with nothing but 'text' does not say which part is the answer."
    fix = "Give question and answer their own columns, or train on plain text: pretrain."
    raise BiddableError("text_only", what, fix)


def _format(
    name: str, needs: str, uses: str, build: Callable[[Fields], Drafts], group: str = ""
) -> Format:
    return Format(name, frozenset(needs.split()), frozenset(uses.split()), build, group)


PAIR_NAMES = {
    ("user", "assistant"): "system/user/assistant",
    ("prompt", "demonstration"): "InstructGPT demonstrations",
    ("instruction", "output"): "Alpaca",
    ("instruction", "response"): "Dolly",
}
PAIRS = tuple(
    _format(
        PAIR_NAMES.get((question, answer), f"{question}/{answer}"),
        f"{question} {answer}",
        "context input history",
        partial(_pair, question, answer),
    )
    for question in QUESTIONS
    for answer in ANSWERS
)
FORMATS: tuple[Format, ...] = (
    _format("ShareGPT preferences", "conversations chosen", "prompt", _chosen_side),
    _format("OpenAI messages", "messages", "", partial(message_list, "messages")),
    _format("ShareGPT", "conversations", "", partial(message_list, "conversations")),
    _format("HH-RLHF (chosen)", "chosen", "prompt", _chosen_side),
    _format("Self-Instruct", "instruction instances", "id", _self_instruct, "id"),
    *(
        _format("mail (subject, body)", f"subject body {answer}", "", partial(_mail, answer))
        for answer in ("reply", "answer", "response", "resolution")
    ),
    *PAIRS,
)
_FLAT_KEYS, _TREE_KEYS = "message_id parent_id text role", "message_tree_id prompt"
_OASST = "OpenAssistant {} (best path)"
FLAT = _format(_OASST.format("messages"), _FLAT_KEYS, "", take_node, "message_tree_id")
# Tried for a row that fits none of the formats above.
LAST_FORMATS = (
    _format(_OASST.format("trees"), _TREE_KEYS, "", tree_path, "message_tree_id"),
    *(
        _format(f"messages under {key!r}", key, "", partial(message_list, key))
        for key in ("conversation", "dialog", "dialogue", "contents")
    ),
    _format("text with ### Human and ### Assistant", "text", "", _speakers),
)


def detect(written: Mapping[str, str]) -> Format:
    """The format that rows with these keys have.

    Args:
        written: each key in its plain form, and as the row has it.

    Raises:
        BiddableError: no format fits, or two of which neither reads the other's keys.
    """
    keys = frozenset(written)
    if FLAT.needs <= keys:
        return FLAT
    fits = [form for form in FORMATS if form.needs <= keys]
    fits = fits or [form for form in LAST_FORMATS if form.needs <= keys][:1]
    if not fits:
        raise _unknown_keys(written)
    first = fits[0]
    for other in fits[1:]:
        if not other.needs <= first.needs | first.uses:
            what = f"The row fits two formats: {first.name} and {other.name}."
            fix = "Remove the keys of one, or name the columns: --map user=...,assistant=..."
            raise BiddableError("ambiguous_format", what, fix)
    return first


def _unknown_keys(keys: Mapping[str, str]) -> BiddableError:
    names = ", ".join(sorted(keys.values())[:12]) or "none"
    if keys.keys() & set(QUESTIONS):
        what = f"The row has no assistant text; its keys are {names}."
        fix = 'Add "assistant" with the answer, or say where it is: --map assistant=COLUMN.'
        return BiddableError("example_missing_assistant_message", what, fix)
    what = f"The keys of the row fit no known format: {names}."
    fix = "Use user and assistant, or messages, or name the columns: --map user=A,assistant=B."
    if any(key.startswith(("{", '"')) for key in keys):
        fix = "Does the file hold JSON? Then its name has to end in .jsonl or .json, not in .csv."
    elif any(key.rstrip().endswith((".", "?", "!")) for key in keys):
        fix = "Is the first line of the table a row? Write a header above it: user,assistant."
    return BiddableError("unknown_format", what, fix)
