"""The proof of an export: another program renders, encodes and answers as the tuned model does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from unicodedata import normalize

from biddable.data.conversation import Message
from biddable.encoding.encode import Example, encode_prompt
from biddable.errors import BiddableError
from biddable.exporting.go_template import Frame
from biddable.generation.generate import Answer, generate, remaining_context
from biddable.template.template import Template
from biddable.training.evaluate import token_losses

# Tokens of an answer that is compared.
LONGEST = 48
# Nats between two tokens that sums in another order may put the other way round.
_TIE = 2e-3
_TEXTS = (
    "Hello!",
    "  two  spaces\tand\n\nlines  ",
    "naïve Ünïcode 漢字かな 🙂 e\u0301 ٣٤٥ 1234567",
    "It's (a) re-read of v2.10: x_y = 'z' // \"quoted\" \\n {{ not }} <tags> & 100%",
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the tuned model gets it.

    Args:
        messages: what a user sends.
        text: what they are rendered to.
        ids: what that is encoded to.
    """

    messages: Sequence[Message]
    text: str
    ids: list[int]


class Reader(Protocol):
    """A program that reads what was exported."""

    @property
    def name(self) -> str: ...
    def render(self, messages: Sequence[Mapping[str, str]]) -> str: ...
    def encode(self, text: str) -> list[int]: ...
    def answer(self, prompt: Sequence[int], limit: int, bias: Sequence[Any] = ()) -> Answer: ...


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What was compared, and was equal.

    Args:
        prompts: rendered, encoded and answered by both.
        tokens: of those answers.
        ties: answers that part where two tokens are equally likely within the rounding of fp32.
        stops: tokens at which the reader ends an answer, each tried.
    """

    prompts: int
    tokens: int
    ties: int
    stops: int


def prompts_of(
    tokenizer: Any, template: Template, system: str | None, held_out: Sequence[Sequence[Message]]
) -> list[Prompt]:
    """The prompts of the proof: held-out ones, and texts that are easily encoded otherwise.

    Args:
        template: that of training.
        system: the default system prompt; None where messages are sent as they are.
        held_out: the messages before an answer.
    """
    control = control_texts(tokenizer)
    texts = [*_TEXTS, f"before {''.join(control[:8])} after"]
    chats = [*held_out, *([Message("user", text)] for text in texts)]
    if composes(tokenizer):
        # llama.cpp does not; the folder's README says so.
        chats = [[replace(m, content=normalize("NFC", m.content)) for m in c] for c in chats]
    prompts: list[Prompt] = []
    for chat in chats:
        plain = [m for m in chat if m.role != "system"]
        for messages in (chat, plain) if len(plain) < len(chat) else (chat,):
            whole = list(messages)
            if system is not None and whole[0].role != "system":
                whole.insert(0, Message("system", system))
            text = template.render(whole, add_generation_prompt=True)
            ids = encode_prompt(whole, tokenizer, template)
            if any(token in m.content for m in messages for token in control):
                # What looks like a control token is one to whoever is sent a text.
                ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            prompts.append(Prompt(messages, text, ids))
    return prompts


def control_texts(tokenizer: Any) -> list[str]:
    """What is a control token to whoever encodes a whole text."""
    return [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]


def composes(tokenizer: Any) -> bool:
    """Whether a tokenizer first joins letters and their accents, as Unicode's NFC does."""
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}
    return normalizer.get("type") == "NFC"


def prove(
    reader: Reader,
    model: Any,
    prompts: Sequence[Prompt],
    stop_ids: Sequence[int],
    bos: str = "",
    frame: Frame | None = None,
) -> RoundTrip:
    """Holds a reader against the model.

    Args:
        reader: of the model's weights in fp32.
        bos: what the reader itself puts before a text, and leaves out of the rendered prompt.
        frame: a second form of the chat template, without this BOS.

    Raises:
        BiddableError: `export_differs`, or `prompt_too_long`.
    """
    for prompt in prompts:
        texts = [reader.render([{"role": m.role, "content": m.content} for m in prompt.messages])]
        texts += [frame.render(prompt.messages)] if frame else []
        for rendered in texts:
            if rendered not in (prompt.text, prompt.text.removeprefix(bos)):
                raise _differs(reader, "renders a prompt otherwise", rendered, prompt.text)
            encoded = reader.encode(rendered)
            if encoded != prompt.ids:
                raise _differs(reader, "encodes a prompt otherwise", encoded, prompt.ids)
    ids = [p.ids for p in prompts]
    answers = generate(model, ids, stop_ids=stop_ids, max_new_tokens=LONGEST)
    ties = 0
    for prompt, want, room in zip(prompts, answers, remaining_context(model, ids), strict=True):
        answer = reader.answer(prompt.ids, min(LONGEST, room))
        if answer != want:
            if _gap(model, prompt.ids, answer, want, stop_ids[0]) > _TIE:
                raise _differs(reader, "answers otherwise", answer.ids, want.ids)
            ties += 1
    for stop in stop_ids:
        if reader.answer(prompts[0].ids, 2, [[stop, 1000]]) != Answer((), True):
            raise _differs(reader, "does not stop", "at the token", stop)
    return RoundTrip(len(prompts), sum(len(a.ids) for a in answers), ties, len(stop_ids))


def _gap(model: Any, prompt: Sequence[int], answer: Answer, want: Answer, end: int) -> float:
    """Nats between the tokens at which two answers part, as the model sees them."""
    both = [[*one.ids, *([end] if one.stopped else [])] for one in (answer, want)]
    place = next((i for i, (a, b) in enumerate(zip(*both, strict=False)) if a != b), None)
    if place is None:
        return float("inf")
    rows = [[*prompt, *ids[: place + 1]] for ids in both]
    examples = [Example(row, [0.0] * (len(row) - 1) + [1.0]) for row in rows]
    first, second = (float(losses[0]) for losses, _ in token_losses(model, examples, 4096))
    return abs(first - second)


def _differs(reader: Reader, what: str, theirs: object, ours: object) -> BiddableError:
    return BiddableError(
        "export_differs",
        f"{reader.name} {what}: {str(theirs)[:200]!r}, trained with {str(ours)[:200]!r}",
        "nothing was written; try another --to, and report it with the model's config.json",
    )
