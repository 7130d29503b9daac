"""`chat`: talks to a model with the template it was trained with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any

from biddable.data.conversation import Conversation, Message
from biddable.data.fix import as_row
from biddable.dataset.early import refuse_early
from biddable.errors import BiddableError, did_you_mean, refuse_no_text
from biddable.generation.speaker import Reply, Speaker, checked_sampling, load
from biddable.options import with_values
from biddable.settings import ChatSettings, NoPrinting, Sampling
from biddable.storage import write_new
from biddable.terminal import Writer, console, exact_output, line, notices, read_line

# Reserved for an answer: a quarter of the context, or --max-new-tokens if that is less.
ROOM_SHARE = 4
# Characters of the system prompt that are shown.
SHOWN = 100
HELP = """\
/help         this list
/retry        answer the last prompt again
/reset        forget the conversation; the system prompt stays
/system TEXT  another system prompt, or none, and a new conversation
/save FILE    write the conversation as a row of training data
/quit         leave; so do Ctrl-D, and Ctrl-C twice. Ctrl-C once ends an answer.
"""
COMMANDS = ("/help", "/retry", "/reset", "/new", "/system", "/save", "/quit")


@dataclass(slots=True)
class Talk:
    """A conversation at the terminal. A system prompt of None sends none, "" an empty one."""

    speaker: Speaker
    options: Sampling
    out: Writer
    notices: Writer
    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def sent(self) -> list[Message]:
        """The messages that are sent: the system prompt, if any, and the turns."""
        return [*([] if self.system is None else [Message("system", self.system)]), *self.messages]


def chat(model: str | PathLike[str], **options: Any) -> None:
    """Answers one prompt on standard output, or talks until the end of input.

    Args:
        model: run folder, model folder, hub id, .gguf file or packaged base.
        options: fields of `biddable.settings.ChatSettings`, by name.

    Raises:
        BiddableError: the model cannot be used, an option is out of range, or the prompt is longer
            than the model's context.
    """
    settings = with_values(ChatSettings(), {"model": model, **options})
    refuse_early(settings)
    refuse_no_text(settings.system or "", "the system prompt")
    refuse_no_text(settings.prompt or "", "the prompt")
    sampling = checked_sampling({f.name: getattr(settings, f.name) for f in fields(Sampling)})
    line(console(), "loading", f"'{settings.model}'")
    speaker = load(settings.model, device=settings.device)
    system = speaker.trained_system if settings.system is None else settings.system or None
    talk = Talk(speaker, sampling, exact_output(), notices(), system)
    if settings.system is None and system is not None:
        talk.notices.write(f"system prompt, as in training: {_short(system) or 'an empty one'}\n")
    if settings.prompt is None:
        converse(talk, typed_lines(talk.notices))
    else:
        answer_once(talk, settings.prompt)


def answer_once(talk: Talk, prompt: str) -> None:
    """Writes the answer to one prompt.

    Raises:
        BiddableError: `prompt_too_long`.
        KeyboardInterrupt: Ctrl-C came before the answer began.
    """
    talk.messages.append(Message("user", prompt.strip("\n")))
    if _write_answer(talk, talk.speaker.replies(talk.options)) is None:
        raise KeyboardInterrupt


def converse(talk: Talk, lines: Iterable[str]) -> None:
    """Answers line after line, with the history, until `/quit` or the end of the lines."""
    talk.notices.write("type a message, or /help\n")
    reply = talk.speaker.replies(talk.options)
    for typed in lines:
        text = typed.strip()
        if text == "/quit":
            return
        try:
            refuse_no_text(text, "the line")
            if text.startswith("/"):
                _command(talk, reply, text)
            elif text:
                _turn(talk, reply, text)
        except BiddableError as error:
            talk.notices.write(f"error: {error}\n")


def _command(talk: Talk, reply: Reply, text: str) -> None:
    name, _, rest = text.partition(" ")
    rest = rest.strip()
    if name == "/help":
        talk.notices.write(HELP)
    elif name == "/retry":
        _retry(talk, reply)
    elif name in ("/reset", "/new"):
        talk.messages.clear()
        talk.notices.write("conversation cleared\n")
    elif name == "/system":
        talk.system = rest or None
        talk.messages.clear()
        system = "system prompt set" if rest else "no system prompt"
        talk.notices.write(f"conversation cleared, {system}\n")
    elif name == "/save":
        _save(talk, rest)
    else:
        hint = did_you_mean(name, COMMANDS)
        talk.notices.write(f"there is no command {name}{hint or '; /help lists them'}\n")


def _retry(talk: Talk, reply: Reply) -> None:
    """Answers the last prompt again; the answer that it had goes."""
    if not talk.messages:
        talk.notices.write("there is no prompt to answer again\n")
        return
    before = talk.messages[-2:]
    del talk.messages[-2:]
    _turn(talk, reply, before[0].content)
    # An answer that was interrupted before it began replaces nothing.
    if not talk.messages or talk.messages[-2] != before[0]:
        talk.messages += before


def _save(talk: Talk, name: str) -> None:
    """Writes the conversation as a row that `check` and `train` read."""
    if not name or not talk.messages:
        what = "there is no conversation yet" if name else "no file is named"
        raise BiddableError("option", what, "/save FILE writes the conversation")
    write_new(name, [json.dumps(as_row(Conversation(talk.sent())), ensure_ascii=False) + "\n"])
    talk.notices.write(f"saved in {name}\n")


def _turn(talk: Talk, reply: Reply, text: str) -> None:
    """Adds a prompt and its answer; a prompt without an answer is taken back."""
    talk.messages.append(Message("user", text))
    try:
        _drop_oldest(talk)
        answer = _write_answer(talk, reply)
    except BiddableError:
        talk.messages.pop()
        raise
    if answer is None:
        talk.messages.pop()
    else:
        talk.messages.append(Message("assistant", answer))


def _drop_oldest(talk: Talk) -> None:
    """Forgets the oldest turns until the prompt leaves room for an answer, and says so."""
    context, dropped = talk.speaker.context, 0
    room = min(talk.options.max_new_tokens, context // ROOM_SHARE)
    while len(talk.messages) > 1 and len(talk.speaker.encode(talk.sent())) + room > context:
        # A prompt and its answer go together: no talk begins with an answer.
        del talk.messages[:2]
        dropped += 1
    if dropped:
        turns = "turn was" if dropped == 1 else f"{dropped} turns were"
        talk.notices.write(f"the context of {context} tokens is full: the oldest {turns} dropped\n")


def _write_answer(talk: Talk, reply: Reply) -> str | None:
    """Writes the answer as it comes, and returns it; Ctrl-C ends it, and None is no answer."""
    written: list[str] = []
    finish = "length"
    pieces = reply(talk.sent())
    try:
        while True:
            piece = next(pieces)
            written.append(piece)
            talk.out.write(piece)
            talk.out.flush()
    except StopIteration as end:
        finish = end.value
    except KeyboardInterrupt:
        finish = "interrupted"
        talk.notices.write("\n(interrupted)\n")
    answer = "".join(written)
    if finish != "interrupted":
        talk.out.write("" if answer.endswith("\n") else "\n")
    talk.out.flush()
    if finish == "length":
        most = talk.options.max_new_tokens
        talk.notices.write(f"(cut at {most} tokens or the end of the context)\n")
    return answer.strip() if written or finish != "interrupted" else None


def _short(text: str) -> str:
    """The beginning of a text, in one line."""
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else words[: SHOWN - 1] + "…"


def typed_lines(notices: Writer) -> Iterator[str]:
    """Lines as they are typed, until Ctrl-D, or Ctrl-C twice."""
    interrupted = False
    while True:
        try:
            text = read_line("> ")
        except KeyboardInterrupt:
            notices.write("\n")
            if interrupted:
                return
            interrupted = True
            notices.write("(Ctrl-C again, or Ctrl-D, leaves)\n")
            continue
        if text is None:
            notices.write("\n")
            return
        interrupted = False
        yield text


def run(options: dict[str, Any], _: NoPrinting) -> int:
    """Answers one prompt, or talks until the end of input."""
    prompt = options.get("prompt")
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        options = {**options, "prompt": sys.stdin.read()}
    chat(**options)
    return 0
