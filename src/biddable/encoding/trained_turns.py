"""The turns of many conversations that are trained, their renders made together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from biddable.data.conversation import Conversation
from biddable.data.messages import weight_of
from biddable.encoding.answers import empty_answer
from biddable.encoding.chats import Rules, Scene
from biddable.encoding.spans import Chat
from biddable.encoding.tokens import check_text
from biddable.encoding.turns import Turn, requests_of, turn_of
from biddable.errors import BiddableError
from biddable.template.rendering import UNUSABLE, Renders

LossOn = Literal["assistant", "last", "all"]
Result = TypeVar("Result")


def plan_all(
    rules: Rules, conversations: Sequence[Conversation], loss_on: LossOn
) -> list[list[tuple[Turn, float]] | BiddableError]:
    """The turns of each conversation that are trained, with their weights, or why it has none.

    What they are likely to need is rendered together first. The error of a conversation that shows
    the template unusable stands for all of them.
    """
    renders = Renders(rules.template.text)
    jobs = [with_place(c, partial(job_of, rules, renders, c, loss_on)) for c in conversations]
    renders.gather(r for job in jobs if isinstance(job, Job) for r in job.requests)
    plans: list[list[tuple[Turn, float]] | BiddableError] = []
    for conversation, job in zip(conversations, jobs, strict=True):
        plan = with_place(conversation, partial(turns_of, job)) if isinstance(job, Job) else job
        plans.append(plan)
        if isinstance(plan, BiddableError) and plan.finding.code == UNUSABLE:
            return [plan] * len(conversations)
    return plans


@dataclass(frozen=True, slots=True)
class Job:
    """A conversation whose turns are to be made: what is trained, and what will be rendered."""

    scene: Scene
    chat: Chat
    trained: list[tuple[int, float]]
    requests: list[str]


def job_of(rules: Rules, renders: Renders, conversation: Conversation, loss_on: LossOn) -> Job:
    scene = Scene(rules, conversation.tools, renders)
    chat = [message.as_dict() for message in conversation.messages]
    indices = trained_messages(conversation, loss_on)
    requests = [request for index, _ in indices for request in requests_of(scene, chat, index)]
    return Job(scene, chat, indices, requests)


def turns_of(job: Job) -> list[tuple[Turn, float]]:
    turns = [(turn_of(job.scene, job.chat, index), weight) for index, weight in job.trained]
    for turn, _ in turns:
        check_text(turn.prompt + turn.answer)
    return turns


def with_place(conversation: Conversation, make: Callable[[], Result]) -> Result | BiddableError:
    """What a function makes of a conversation, or its error with file and line."""
    try:
        return make()
    except BiddableError as error:
        finding = replace(error.finding, file=conversation.file, line=conversation.line)
        return BiddableError.of(finding)


def trained_messages(conversation: Conversation, loss_on: LossOn) -> list[tuple[int, float]]:
    """Indices and weights of the messages to train.

    Raises:
        BiddableError: `all_masked`, `empty_assistant` or `weight_invalid`.
    """
    weights = []
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        weight = 1.0 if message.weight is None else weight_of(message.weight, index)
        if weight and not message.content.strip() and not message.extra.get("tool_calls"):
            raise empty_answer(index)
        weights.append((index, weight))
    if loss_on in ("last", "all"):
        weights = weights[-1:]
    weights = [(index, weight) for index, weight in weights if weight > 0]
    if not weights:
        raise BiddableError(
            "all_masked",
            "Nothing in this conversation is trained: it has no assistant message with weight.",
            "Add an answer, or give one a weight above 0.",
        )
    return weights
