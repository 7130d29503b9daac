"""What the lab's page asks for: an example rendered, encoded and, with weights, its loss.

All of it is made by the functions of training. What comes from the page is bounded before anything
is rendered, and goes back as JSON, never as HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from biddable.data.conversation import Conversation, Message
from biddable.display.masks import Token, marked, tokens_of
from biddable.encoding.chats import located, scene_of
from biddable.encoding.encode import Encoder, Example, encode_many, make_encoder
from biddable.engine.plan import plan_step
from biddable.engine.step import example_losses
from biddable.errors import BiddableError
from biddable.template.frames import FRAMES
from biddable.template.template import Template

OWN = "own"
ROLES = ("system", "user", "assistant")
LOSS_ON = ("assistant", "last", "all")
MOST_MESSAGES = 20
MOST_CHARACTERS = 20_000
# A row beyond this would take a small machine seconds.
MOST_LOSS_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Lab:
    """What the lab works with.

    Args:
        name: of the base.
        tokenizer: of the base.
        model: its weights with our attention function; None where none are loaded.
    """

    name: str
    tokenizer: Any
    model: Any = None


def describe(lab: Lab) -> dict[str, Any]:
    """What the page can offer: templates, ways to train, limits."""
    own = [OWN] if lab.tokenizer.chat_template else []
    return {
        "base": lab.name,
        "templates": [*own, *FRAMES],
        "loss_on": list(LOSS_ON),
        "roles": list(ROLES),
        "weights": lab.model is not None,
        "most_messages": MOST_MESSAGES,
        "most_characters": MOST_CHARACTERS,
    }


def show(lab: Lab, request: Any) -> dict[str, Any]:
    """The render with roles, the tokens with the mask, and the masked mean.

    Args:
        request: {"messages": [{"role", "content"}], "template", "loss_on"}.

    Returns:
        {"render": [{"text", "role"}], "examples": [{"tokens", "loss"}]}; a role is empty where the
        template speaks, `loss` is None without weights.

    Raises:
        BiddableError: the request is malformed or too large, or the template cannot express it.
    """
    messages, template, loss_on = _read(request)
    made = Template.load(None if template == OWN else template, lab.tokenizer)
    encoder = make_encoder(lab.tokenizer, made)
    (found,) = encode_many(encoder, [Conversation(messages)], loss_on)
    if isinstance(found, BiddableError):
        raise found
    return {
        "render": _render(encoder, messages),
        "examples": [_example(lab, encoder, example) for example in found],
    }


def _read(request: Any) -> tuple[list[Message], str, Any]:
    """The parts of a request, each checked."""
    if not isinstance(request, Mapping):
        raise _refused("the request is no JSON object")
    given = request.get("messages")
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_MESSAGES:
        raise _refused(f"an example has 1 to {MOST_MESSAGES} messages")
    messages = []
    for number, one in enumerate(given, 1):
        role, content = (one.get(k) if isinstance(one, Mapping) else None for k in _FIELDS)
        if role not in ROLES or not isinstance(content, str):
            raise _refused(f"message {number} needs a role of {', '.join(ROLES)} and a text")
        messages.append(Message(role, content))
    if sum(len(m.content) for m in messages) > MOST_CHARACTERS:
        raise _refused(f"an example has at most {MOST_CHARACTERS:,} characters here")
    template, loss_on = request.get("template", "plain"), request.get("loss_on", "assistant")
    if template not in (OWN, *FRAMES) or loss_on not in LOSS_ON:
        raise _refused("there is no such template or way to train")
    return messages, template, loss_on


_FIELDS = ("role", "content")


def _refused(what: str) -> BiddableError:
    return BiddableError("lab_request", what, "change the example")


def _render(encoder: Encoder, messages: list[Message]) -> list[dict[str, str]]:
    """The text of the finished conversation, cut where messages begin and end."""
    scene = scene_of(encoder.rules)
    found = located(scene, [m.as_dict() for m in messages], prompt=False)
    parts: list[dict[str, str]] = []
    at = 0
    for span in found.spans:
        parts.append({"text": found.text[at : span.start], "role": ""})
        role = messages[span.leaf.message].role
        parts.append({"text": found.text[span.start : span.end], "role": role})
        at = span.end
    parts.append({"text": found.text[at:], "role": ""})
    return [part for part in parts if part["text"]]


def _example(lab: Lab, encoder: Encoder, example: Example) -> dict[str, Any]:
    tokens = tokens_of(example, lab.tokenizer, encoder)
    shown = [
        {
            "text": marked(token.text),
            "ids": list(token.ids),
            "weight": token.weight,
            "special": token.special,
            "stop": token.stop,
        }
        for token in tokens
    ]
    return {"tokens": shown, "loss": _loss(lab, example, tokens)}


def _loss(lab: Lab, example: Example, tokens: list[Token]) -> dict[str, Any] | None:
    """Each trained token's loss, the sums, and their quotient, as the loop has them."""
    if lab.model is None or len(example.input_ids) > _longest(lab.model):
        return None
    plan = plan_step([example], len(example.input_ids))
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


def _longest(model: Any) -> int:
    return min(MOST_LOSS_TOKENS, int(model.config.max_position_embeddings))
