"""The proof of an export: a real llama.cpp asks, encodes and answers as the tuned model does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unicodedata import normalize

from biddable.data.conversation import Message
from biddable.encoding.encode import Example, encode_prompt
from biddable.errors import BiddableError
from biddable.exporting.llama_cpp import LlamaCpp
from biddable.generation.generate import Answer, generate
from biddable.models.support import context_of
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
class Asked:
    """A prompt as the tuned model gets it.

    Args:
        messages: what a user sends.
        text: what they are rendered to.
        ids: what that is encoded to.
    """

    messages: Sequence[Message]
    text: str
    ids: list[int]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What was compared, and was equal.

    Args:
        prompts: rendered, encoded and answered by both.
        tokens: of those answers.
        ties: answers that part where two tokens are equally likely within the rounding of fp32.
        stops: tokens at which llama.cpp ends an answer, each tried.
    """

    prompts: int
    tokens: int
    ties: int
    stops: int


def questions_for(
    tokenizer: Any, template: Template, system: str | None, held_out: Sequence[Sequence[Message]]
) -> list[Asked]:
    """The prompts of the proof: held-out ones, and texts that are easily encoded otherwise.

    Args:
        template: that of training.
        system: the default system prompt; None where messages are sent as they are.
        held_out: the messages before an answer.
    """
    control = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    texts = [*_TEXTS, f"before {''.join(control[:8])} after"]
    chats = [*held_out, *([Message("user", text)] for text in texts)]
    if composes(tokenizer):
        # llama.cpp does not; the folder's README says so.
        chats = [[replace(m, content=normalize("NFC", m.content)) for m in c] for c in chats]
    prompts: list[Asked] = []
    for chat in chats:
        plain = [m for m in chat if m.role != "system"]
        for messages in (chat, plain) if len(plain) < len(chat) else (chat,):
            whole = list(messages)
            if system is not None and whole[0].role != "system":
                whole.insert(0, Message("system", system))
            text = template.render(whole, add_generation_prompt=True)
            ids = encode_prompt(whole, tokenizer, template)
            if chat[-1].content == chats[-1][-1].content:
                # What looks like a control token is one to whoever is sent a text.
                ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            prompts.append(Asked(messages, text, ids))
    return prompts


def composes(tokenizer: Any) -> bool:
    """Whether a tokenizer first joins letters and their accents, as Unicode's NFC does."""
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}
    return normalizer.get("type") == "NFC"


def prove(
    server: LlamaCpp, model: Any, prompts: Sequence[Asked], stop_ids: Sequence[int], bos: str
) -> RoundTrip:
    """Holds the server against the model.

    Args:
        server: with the model's weights in fp32.
        bos: what the server itself puts before a text, and leaves out of the rendered prompt.

    Raises:
        BiddableError: `export_differs`.
    """
    for prompt in prompts:
        rendered = server.render([{"role": m.role, "content": m.content} for m in prompt.messages])
        if rendered not in (prompt.text, prompt.text.removeprefix(bos)):
            raise _differs("renders a prompt otherwise", rendered, prompt.text)
        ids = server.encode(rendered)
        if ids != prompt.ids:
            raise _differs("encodes a prompt otherwise", ids, prompt.ids)
    limit = longest_answer(model, prompts)
    answers = generate(model, [p.ids for p in prompts], stop_ids=stop_ids, max_new_tokens=limit)
    ties = 0
    for prompt, want in zip(prompts, answers, strict=True):
        answer = server.answer(prompt.ids, limit)
        if answer != want:
            if _gap(model, prompt.ids, answer, want, stop_ids[0]) > _TIE:
                raise _differs("answers otherwise", answer.ids, want.ids)
            ties += 1
    for stop in stop_ids:
        if server.answer(prompts[0].ids, 2, [[stop, 1000]]) != Answer((), True):
            raise _differs("does not stop", "at the token", stop)
    return RoundTrip(len(prompts), sum(len(a.ids) for a in answers), ties, len(stop_ids))


def longest_answer(model: Any, prompts: Sequence[Asked]) -> int:
    """So many tokens have room after each of the prompts.

    Raises:
        BiddableError: `prompt_too_long`.
    """
    room = context_of(model.config) - max(len(p.ids) for p in prompts)
    if room < 1:
        what = "the model's context has no room for the prompts of the proof"
        raise BiddableError("prompt_too_long", what, "shorten the held-out prompts")
    return min(LONGEST, room)


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


def _differs(what: str, theirs: object, ours: object) -> BiddableError:
    return BiddableError(
        "export_differs",
        f"llama.cpp {what}: {str(theirs)[:200]!r}, trained with {str(ours)[:200]!r}",
        "nothing was written; --to hf leaves tokenizer and template as they were trained",
    )
