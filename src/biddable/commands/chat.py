"""`chat`: talks to a model with the template it was trained with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TextIO, TypedDict, Unpack

from biddable.data.conversation import Message
from biddable.encoding.encode import encode_prompt
from biddable.engine.precision import choose_device, load_model
from biddable.errors import BiddableError, refuse_no_text
from biddable.generation.sampler import make_sampler
from biddable.generation.stream import stream
from biddable.models.base import load_tokenizer, resolve_base, trained_system_prompt
from biddable.models.model_files import stop_ids_of
from biddable.settings import MOST, MOST_SEED, refuse_out_of_range
from biddable.template.template import Template
from biddable.terminal import Writer, answers, console, line, notices

# In a talk an answer needs some room: this share of the context, or what it may use if less.
ROOM_SHARE = 4
# Characters of the system prompt that are shown.
SHOWN = 100
HELP = "/new starts again, /system TEXT sets the system prompt, /quit ends"

Reply = Callable[[Sequence[Message]], Generator[str, None, Literal["stop", "length"]]]


class Sampling(TypedDict, total=False):
    """How an answer is drawn and where it ends; options of `chat`."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: Sequence[str]
    seed: int


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model ready to answer.

    Args:
        encode: messages to the ids of the prompt.
        reply: messages to the text of the answer, piece by piece.
        context: positions of the model.
        room: tokens that a talk keeps free for the answer.
        max_new_tokens: the limit of an answer.
        trained_system: the system prompt of every training row, if they had the same.
    """

    encode: Callable[[Sequence[Message]], list[int]]
    reply: Reply
    context: int
    room: int
    max_new_tokens: int
    trained_system: str | None = None


@dataclass(slots=True)
class Talk:
    """The history of a talk; None is no system prompt, "" an empty one."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def sent(self) -> list[Message]:
        """What the model is asked with: the system prompt, if any, and the turns."""
        return [*([] if self.system is None else [Message("system", self.system)]), *self.messages]


def chat(
    model: str,
    *,
    prompt: str | None = None,
    system: str | None = None,
    device: str = "auto",
    **sampling: Unpack[Sampling],
) -> None:
    """Answers one prompt on standard output, or talks until the end of input.

    Args:
        model: run folder, model folder, hub id, .gguf file or packaged base.
        prompt: answer this and return; None talks.
        system: system prompt; "" sends none, None the one that every training row began with.
        device: auto, cuda, mps or cpu.
        sampling: temperature (0.7; 0 is greedy), top_p (1), max_new_tokens (512), stop (texts that
            end an answer and are not shown), seed (0).

    Raises:
        BiddableError: the model cannot be used, an option is out of range, or the prompt is longer
            than the model's context.
    """
    refuse_no_text(system or "", "the system prompt")
    refuse_no_text(prompt or "", "the prompt")
    speaker = load_speaker(model, device, **sampling)
    out, told = answers(), notices()
    sent = speaker.trained_system if system is None else system or None
    if system is None and sent is not None:
        told.write(f"system prompt, as in training: {_short(sent) or 'an empty one'}\n")
    if prompt is None:
        talk(speaker, sent, _typed(sys.stdin, told), out, told)
    else:
        answer_once(speaker, sent, prompt, out, told)


def load_speaker(model: str, device: str = "auto", **sampling: Unpack[Sampling]) -> Speaker:
    """Loads tokenizer, template and weights.

    Raises:
        BiddableError: the model cannot be used, or an option is out of range.
    """
    options: Sampling = {
        "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 512, "stop": (), "seed": 0, **sampling,
    }  # fmt: skip
    _check(options)
    line(console(), "model", f"loading '{model}'")
    base = resolve_base(model)
    tokenizer = load_tokenizer(base)
    template = Template.of(tokenizer)
    speaker = make_speaker(load_model(base, choose_device(device)), tokenizer, template, options)
    return replace(speaker, trained_system=trained_system_prompt(base))


def make_speaker(model: Any, tokenizer: Any, template: Template, options: Sampling) -> Speaker:
    """A speaker of a loaded model; all options have to be there."""
    sample = make_sampler(options["temperature"], options["top_p"], options["seed"])
    stop_ids = stop_ids_of(model, tokenizer, template)
    context = int(model.config.max_position_embeddings)
    most = options["max_new_tokens"]

    def encode(messages: Sequence[Message]) -> list[int]:
        return encode_prompt(messages, tokenizer, template)

    def reply(messages: Sequence[Message]) -> Generator[str, None, Literal["stop", "length"]]:
        return stream(
            model,
            encode(messages),
            stop_ids=stop_ids,
            stop_strings=options["stop"],
            tokenizer=tokenizer,
            max_new_tokens=most,
            sample=sample,
        )

    return Speaker(encode, reply, context, min(most, context // ROOM_SHARE), most)


def answer_once(
    speaker: Speaker, system: str | None, prompt: str, out: Writer, notices: Writer
) -> None:
    """Writes the answer to one prompt.

    Raises:
        BiddableError: `prompt_too_long`.
    """
    talk = Talk(system, [Message("user", prompt.strip("\n"))])
    _write_answer(speaker, talk, out, notices)


def talk(
    speaker: Speaker, system: str | None, lines: Iterable[str], out: Writer, notices: Writer
) -> None:
    """Answers line after line, with the history, until `/quit` or the end of the lines."""
    history = Talk(system)
    notices.write(HELP + "\n")
    for typed in lines:
        text = typed.strip()
        if text == "/quit":
            return
        try:
            refuse_no_text(text, "the line")
            if text.startswith("/"):
                _command(history, text, notices)
            elif text:
                _turn(speaker, history, text, out, notices)
        except BiddableError as error:
            notices.write(f"error: {error}\n")


def _command(history: Talk, text: str, notices: Writer) -> None:
    name, _, rest = text.partition(" ")
    if name == "/new":
        history.messages.clear()
        notices.write("conversation cleared\n")
    elif name == "/system":
        history.system = rest.strip() or None
        history.messages.clear()
        system = "system prompt set" if history.system else "no system prompt"
        notices.write(f"conversation cleared, {system}\n")
    else:
        notices.write(f"{name} is no command; {HELP}\n")


def _turn(speaker: Speaker, history: Talk, text: str, out: Writer, notices: Writer) -> None:
    """One question and its answer; a question that cannot be asked leaves no trace."""
    history.messages.append(Message("user", text))
    try:
        _drop_oldest(speaker, history, notices)
        answer = _write_answer(speaker, history, out, notices)
    except BiddableError:
        history.messages.pop()
        raise
    history.messages.append(Message("assistant", answer))


def _drop_oldest(speaker: Speaker, history: Talk, notices: Writer) -> None:
    """Forgets the oldest turns until the prompt leaves room for an answer, and says so."""
    dropped = 0
    while len(history.messages) > 1 and (
        len(speaker.encode(history.sent())) + speaker.room > speaker.context
    ):
        # A question and its answer go together: no talk begins with an answer.
        del history.messages[:2]
        dropped += 1
    if dropped:
        turns = "turn was" if dropped == 1 else f"{dropped} turns were"
        notices.write(
            f"the context of {speaker.context} tokens is full: the oldest {turns} dropped\n"
        )


def _write_answer(speaker: Speaker, talk: Talk, out: Writer, notices: Writer) -> str:
    """Writes the answer as it comes, and returns it; Ctrl-C ends the answer only."""
    written: list[str] = []
    finish = "length"
    pieces = speaker.reply(talk.sent())
    try:
        while True:
            piece = next(pieces)
            written.append(piece)
            out.write(piece)
            out.flush()
    except StopIteration as end:
        finish = end.value
    except KeyboardInterrupt:
        if not written:
            raise
        finish = "interrupted"
    answer = "".join(written)
    out.write("" if answer.endswith("\n") else "\n")
    out.flush()
    if finish == "length":
        notices.write(f"(cut at {speaker.max_new_tokens} tokens or the end of the context)\n")
    return answer.strip()


def _short(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def _typed(source: TextIO, notices: Writer) -> Iterable[str]:
    """Lines as they are typed, each after a prompt sign."""
    while True:
        notices.write("> ")
        notices.flush()
        line = source.readline()
        if not line:
            notices.write("\n")
            return
        yield line


def _check(options: Sampling) -> None:
    """Refuses options out of range.

    Raises:
        BiddableError: `option`.
    """
    refuse_out_of_range("temperature", options["temperature"], (0.0, 100.0))
    refuse_out_of_range("top_p", options["top_p"], (1e-6, 1.0))
    refuse_out_of_range("max_new_tokens", options["max_new_tokens"], (1, MOST))
    refuse_out_of_range("seed", options["seed"], (0, MOST_SEED))
    if not all(options["stop"]):
        raise BiddableError("option", "--stop is empty", "give text, or leave it out")
