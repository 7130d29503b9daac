"""The lab's answers to its page: an example rendered, checked, encoded and, with weights, its loss.

All of it comes from the functions of training. What the page sends is bounded before anything is
rendered, and goes back as JSON, never as HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biddable.data.conversation import Conversation, Message
from biddable.data.fix import as_row
from biddable.data.messages import WRITTEN_ROLES, to_messages
from biddable.data.tool_calls import take_tools
from biddable.display.masks import Token, marked, tokens_of
from biddable.encoding.chats import located, scene_of
from biddable.encoding.encode import Encoder, Example, encode_many, encode_prompt, make_encoder
from biddable.encoding.spans import Located
from biddable.engine.step import example_losses, plan_for
from biddable.errors import BiddableError, place
from biddable.models.support import context_of
from biddable.options import CHOICES
from biddable.template.frames import FRAMES, UNKNOWN_ROLE
from biddable.template.template import Template
from biddable.template.wrap import literal

OWN, TYPED_FRAME, TYPED_JINJA = "own", "typed frame", "typed Jinja"
# The placeholder of a message's text in the typed frame of its role.
PLACEHOLDERS = {"system": "{system}", "user": "{prompt}", "assistant": "{completion}"}
EOS = "{eos}"
LOSS_ON = CHOICES["loss_on"]
MOST_MESSAGES = 20
MOST_CHARACTERS = 20_000
# A longer example would take a small machine seconds.
MOST_LOSS_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Lab:
    """What the lab works with.

    Args:
        name: of the base.
        tokenizer: of the base.
        model: its weights with our attention function; None where none are loaded.
        rows: of the data file that was opened.
    """

    name: str
    tokenizer: Any
    model: Any = None
    rows: Sequence[Conversation] = ()


def describe(lab: Lab) -> dict[str, Any]:
    """What the page can offer: templates, ways to train, limits."""
    own = [OWN] if lab.tokenizer.chat_template else []
    return {
        "base": lab.name,
        "templates": [*own, *FRAMES, TYPED_FRAME, TYPED_JINJA],
        "loss_on": list(LOSS_ON),
        "roles": list(WRITTEN_ROLES),
        "weights": lab.model is not None,
        "rows": len(lab.rows),
        "most_characters": MOST_CHARACTERS,
    }


def data_row(lab: Lab, number: str) -> dict[str, Any]:
    """Row `number`, from 1, of the data: its place, messages and tools."""
    if not number.isdecimal() or not 1 <= int(number) <= len(lab.rows):
        raise _refused(f"the data has rows 1 to {len(lab.rows):,}")
    row = lab.rows[int(number) - 1]
    return {"place": place(row.file, row.line), "tools": [], **as_row(row)}


def show(lab: Lab, request: Any) -> dict[str, Any]:
    """The render with roles, what training checks, the tokens with the mask, the masked mean.

    Args:
        request: {"messages", "tools", "template", "typed", "loss_on"}; `typed` is a frame by role
            or a Jinja text, where the template is one that is typed.

    Returns:
        {"jinja", "render": [{"text", "role"}], "checks": [{"ok", "text"}],
        "examples": [{"tokens", "loss"}], "problem"}. A role is empty where the template speaks,
        `loss` is None without weights, `problem` says why training refuses the example.

    Raises:
        BiddableError: the request is malformed or too large, or the template does not render.
    """
    conversation, loss_on = _read(request)
    encoder = make_encoder(lab.tokenizer, _template(lab, request))
    (result,) = encode_many(encoder, [conversation], loss_on)
    chat = [message.as_dict() for message in conversation.messages]
    rendered = located(scene_of(encoder.rules, conversation.tools), chat, prompt=False)
    refusal = result.finding if isinstance(result, BiddableError) else None
    examples = [] if isinstance(result, BiddableError) else result
    checks = _checks(lab, encoder, conversation, rendered, examples)
    return {
        "jinja": encoder.rules.template.text,
        "render": _render(rendered, conversation.messages),
        "checks": [{"ok": ok, "text": text} for ok, text in checks],
        "examples": [_example(lab, encoder, example) for example in examples],
        "problem": f"{refusal.message} {refusal.fix}" if refusal else "",
    }


def _read(request: Any) -> tuple[Conversation, Any]:
    """The conversation of a request, by the reader of training, and what is trained of it."""
    if not isinstance(request, Mapping):
        raise _refused("the request is no JSON object")
    raw, loss_on = request.get("messages"), request.get("loss_on", "assistant")
    if not isinstance(raw, list) or not 1 <= len(raw) <= MOST_MESSAGES:
        raise _refused(f"an example has 1 to {MOST_MESSAGES} messages")
    if len(str(request)) > MOST_CHARACTERS:
        raise _refused(f"an example has at most {MOST_CHARACTERS:,} characters here")
    if loss_on not in LOSS_ON:
        raise _refused("there is no such way to train")
    tools = take_tools({"tools": request.get("tools") or []})
    return Conversation(to_messages(raw, []), tools=tools), loss_on


def _template(lab: Lab, request: Mapping[str, Any]) -> Template:
    """The template by its name, or the one that was typed."""
    name, typed = request.get("template", "plain"), request.get("typed")
    if name == TYPED_JINJA and isinstance(typed, str):
        return Template(typed)
    if name == TYPED_FRAME and isinstance(typed, Mapping):
        return Template(frame_text(typed), built_in=True)
    if name not in (OWN, *FRAMES):
        raise _refused("there is no such template")
    return Template.load(None if name == OWN else name, lab.tokenizer)


def frame_text(frame: Mapping[str, Any]) -> str:
    """The Jinja text of a frame that has a text for each role in `PLACEHOLDERS`."""
    cases = [
        f"if message.role == {literal(role)} -%}}{{{{ {literal(str(frame.get(role, '')))}"
        f" | replace('{EOS}', eos_token or '') | replace('{placeholder}', message.content) }}}}"
        for role, placeholder in PLACEHOLDERS.items()
    ]
    body = "{%- el".join(cases) + "{%- else -%}" + UNKNOWN_ROLE + "{%- endif -%}"
    return "{%- for message in messages -%}{%- " + body + "{%- endfor -%}"


def _refused(what: str) -> BiddableError:
    return BiddableError("lab_request", what, "change the example")


def _render(rendered: Located, messages: Sequence[Message]) -> list[dict[str, str]]:
    """The text of the finished conversation, cut where messages begin and end."""
    parts: list[dict[str, str]] = []
    at = 0
    for span in rendered.spans:
        parts.append({"text": rendered.text[at : span.start], "role": ""})
        role = messages[span.leaf.message].role if span.leaf.message >= 0 else ""
        parts.append({"text": rendered.text[span.start : span.end], "role": role})
        at = span.end
    parts.append({"text": rendered.text[at:], "role": ""})
    return [part for part in parts if part["text"]]


def _checks(
    lab: Lab,
    encoder: Encoder,
    conversation: Conversation,
    rendered: Located,
    examples: Sequence[Example],
) -> Iterator[tuple[bool, str]]:
    """What is lost, what the model learns to write, where it stops, and what is served."""
    # Training allows the thinking of former answers to go.
    for leaf in rendered.lost:
        yield bool(examples), f"The template drops or rewrites {leaf.text!r}."
    for leaf in rendered.repeated:
        yield bool(examples), f"The template prints {leaf.text!r} more than once."
    if not rendered.lost and not rendered.repeated:
        yield True, "Every text comes back once and whole."
    for example in examples:
        ids, before = list(example.input_ids), conversation.messages[: example.turn]
        template, tools = encoder.rules.template, conversation.tools
        prompt = encode_prompt(before, lab.tokenizer, template, tools=tools)
        answer, last = lab.tokenizer.decode(ids[len(prompt) :]), lab.tokenizer.decode(ids[-1:])
        yield True, f"The model learns to write {answer!r} as message {example.turn + 1}."
        yield ids[-1] in encoder.stops, f"{last!r} (id {ids[-1]}) stops the sampler."
        served = ids[: len(prompt)] == prompt
        yield served, f"Training begins with the {len(prompt)} ids that chat and serve send."


def _example(lab: Lab, encoder: Encoder, example: Example) -> dict[str, Any]:
    tokens = tokens_of(example, lab.tokenizer, encoder)
    shown = [asdict(token) | {"text": marked(token.text)} for token in tokens]
    return {"tokens": shown, "loss": _loss(lab, example, tokens)}


def _loss(lab: Lab, example: Example, tokens: Sequence[Token]) -> dict[str, Any] | None:
    """Each trained token's loss, the sums, and their quotient, as the loop has them."""
    if lab.model is None:
        return None
    longest = min(MOST_LOSS_TOKENS, context_of(lab.model.config))
    if len(example.input_ids) > longest:
        return None
    plan = plan_for(lab.model, [example], len(example.input_ids))
    ((losses, weights),) = example_losses(lab.model, [example], plan)
    texts = [marked(t.text) for t in tokens for _ in t.ids]
    trained = [text for text, w in zip(texts, example.weights, strict=True) if w > 0]
    total, count = float((losses * weights).sum()), float(weights.sum())
    rows = zip(trained, weights.tolist(), losses.tolist(), strict=True)
    return {
        "rows": [{"text": text, "weight": w, "loss": loss} for text, w, loss in rows],
        "sum": total,
        "weights": count,
        "mean": total / count,
    }
