"""What is doubtful about rows that are well formed: too few, repeated, contradictory, private."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise

from biddable.data.conversation import Conversation
from biddable.data.duplicates import Duplicates, find
from biddable.data.leftovers import leftovers
from biddable.data.private import private_findings
from biddable.data.rows import number_of, shortened
from biddable.data.wording import digest, system_of
from biddable.errors import Finding, place

FEWEST, FEW = 10, 50
SAME_SPEAKER = (("user", "user"), ("assistant", "assistant"))
# An answer given this often to different questions is what the model will say to everything. A
# label set with fewer labels than this allows is not blamed: each of its answers is as frequent.
DOMINANT = 0.3
# A question that training answers in more ways has no answer of its own to be known.
MOST_ANSWERS = 3
# Held-out rows known to training that the finding names.
MOST_PLACES = 3


def inspect(
    conversations: Sequence[Conversation], duplicates: Duplicates | None = None
) -> list[Finding]:
    """All findings about the rows of a training set; structure was checked in reading.

    Args:
        conversations: as read.
        duplicates: those among the rows if they are known already.
    """
    duplicates = duplicates or find(conversations)
    return [
        *too_few(len(conversations)),
        *_turns(conversations),
        *_duplicates(conversations, duplicates),
        *_contradictions(conversations, duplicates),
        *_dominant(conversations),
        *leftovers(conversations),
        *private_findings(conversations),
    ]


def too_few(rows: int) -> list[Finding]:
    """An error below 10 examples, a warning below 50."""
    if rows >= FEW:
        return []
    what = f"There {'is' if rows == 1 else 'are'} only {number_of(rows, 'usable example')}."
    if rows < FEWEST:
        return [Finding("too_few_examples", "error", what, f"Give at least {FEWEST}.")]
    fix = f"From {FEW} on the results can be judged."
    return [Finding("too_few_examples", "warning", what, fix)]


def known_rows(
    train: Sequence[Conversation], held_out: Sequence[Conversation]
) -> dict[int, tuple[str, int]]:
    """The held-out rows that training knows: their indices, how, and the index of a trained row.

    A row is known where it is equal to a trained one but for its system prompt, is its near
    duplicate or its beginning, or asks the same, whatever it answers: the model was taught that
    question. A question to which training gives more than `MOST_ANSWERS` answers is a fixed one;
    its rows are compared by their answers.
    """
    both = [*train, *held_out]
    duplicates = find(both)
    known: dict[int, tuple[str, int]] = {}
    for how, groups in (
        ("is equal to", duplicates.exact),
        ("is nearly the same as", duplicates.near),
    ):
        for member, first in _later(groups).items():
            if first < len(train) <= member:
                known.setdefault(member - len(train), (how, first))
    for beginning, longer in duplicates.prefixes:
        if longer < len(train) <= beginning:
            known.setdefault(beginning - len(train), ("is the beginning of", longer))
    for group in duplicates.prompts:
        trained = [member for member in group if member < len(train)]
        if len({_answer(both[member]) for member in trained}) > MOST_ANSWERS:
            continue
        for member in group[len(trained) :]:
            systems = {"", system_of(both[member])}
            same = (t for t in trained if len({*systems, system_of(both[t])}) < 3)
            if (source := next(same, None)) is not None:
                known.setdefault(member - len(train), ("asks the same as", source))
    return dict(sorted(known.items()))


def leaks(
    train: Sequence[Conversation],
    held_out: Sequence[Conversation],
    known: Mapping[int, tuple[str, int]],
    *,
    all_known: bool,
) -> list[Finding]:
    """One warning about held-out rows that training knows, with their number and first places.

    Args:
        known: as `known_rows` gives them.
        all_known: nothing is left to judge on but these rows.
    """
    if not known:
        return []
    places = [
        f"{_place(held_out[member])} {how} {_place(train[source])}"
        for member, (how, source) in islice(known.items(), MOST_PLACES)
    ]
    rows = f"{len(known):,} of {number_of(len(held_out), 'held-out row')}"
    end = "nothing unseen is left to judge on" if all_known else "they are left out of the judging"
    what = f"Training knows {rows}; {end}. First: {'; '.join(places)}."
    fix = "Give held-out rows about other things; training keeps its rows."
    return [_about(held_out[next(iter(known))], "leak_train_heldout", what, fix)]


def _turns(conversations: Sequence[Conversation]) -> Iterator[Finding]:
    """Turns out of order: what some templates refuse and others render as if it were meant."""
    for conversation in conversations:
        roles = [message.role for message in conversation.messages]
        if roles[-1] != "assistant":
            what = f"The row ends with a {roles[-1]} message, which is never answered."
            fix = "Add the answer; --fix leaves out what follows the last one."
            yield _about(conversation, "ends_without_answer", what, fix, len(roles) - 1)
        twice = [k for k, pair in enumerate(pairwise(roles), 1) if pair in SAME_SPEAKER]
        if twice:
            what = f"Two {roles[twice[0]]} messages follow each other."
            fix = "Join them, or check that no role is wrong."
            yield _about(conversation, "roles_do_not_alternate", what, fix, twice[0])


def _duplicates(conversations: Sequence[Conversation], duplicates: Duplicates) -> Iterator[Finding]:
    exact = _later(duplicates.exact)
    for member, first in sorted(exact.items()):
        what = f"The row repeats {_place(conversations[first])}."
        fix = "Remove it; a repeated row counts twice."
        yield _about(conversations[member], "duplicate_exact", what, fix)
    for member, first in sorted(_later(duplicates.near).items()):
        if member not in exact:
            what = f"The row says nearly the same as {_place(conversations[first])}."
            yield _about(conversations[member], "duplicate_near", what, "Keep the better one.")


def _later(groups: Iterable[list[int]]) -> dict[int, int]:
    """The members of groups that are not the first, with the first."""
    return {member: group[0] for group in groups for member in group[1:]}


def _contradictions(
    conversations: Sequence[Conversation], duplicates: Duplicates
) -> Iterator[Finding]:
    for member, index in _later(duplicates.prompts).items():
        first = conversations[index]
        has_question = any(message.role == "user" for message in first.messages)
        if has_question and _answer(conversations[member]) != _answer(first):
            what = f"The same prompt has another answer in {_place(first)}."
            fix = "Keep one answer, unless both are meant."
            yield _about(conversations[member], "same_prompt_different_answer", what, fix)


def _dominant(conversations: Sequence[Conversation]) -> Iterator[Finding]:
    """One answer to many questions, unless there are so few answers that they are labels."""
    total = len(conversations)
    if total < FEWEST:
        return
    answers = [_answer(conversation) for conversation in conversations]
    counts = Counter(answers)
    answer, count = counts.most_common(1)[0]
    fair_share = 1 / len(counts)
    if count / total >= max(DOMINANT, 2 * fair_share):
        first = conversations[answers.index(answer)]
        text = shortened(first.messages[-1].content.strip())
        what = f"{count:,} of {total:,} answers are the same: {text!r}."
        fix = "Keep a few of them, or the model will give it to every question."
        yield _about(first, "one_answer_dominates", what, fix)


def _answer(conversation: Conversation) -> bytes:
    return digest(m for m in conversation.messages[-1:] if m.role == "assistant")


def _place(conversation: Conversation) -> str:
    return place(conversation.file, conversation.line) or "another row"


def _about(
    conversation: Conversation, code: str, message: str, fix: str, turn: int | None = None
) -> Finding:
    return Finding(code, "warning", message, fix, conversation.file, conversation.line, turn)
