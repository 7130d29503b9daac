"""Held-out rows: drawn by group, so that nothing held out was seen in training."""

from __future__ import annotations

import random
from collections.abc import Sequence

from biddable.data.conversation import Conversation
from biddable.data.duplicates import Duplicates, clusters, find, groups_by, unite

# So many times the wanted number may be held out where only whole clusters can be.
MOST_BEYOND = 3


def split(
    conversations: Sequence[Conversation],
    *,
    share: float = 0.1,
    at_least: int = 8,
    seed: int = 0,
    found: Duplicates | None = None,
) -> tuple[list[int], list[int]]:
    """Divides rows into training and held-out ones: two lists of indices, each in file order.

    Rows of one group, exact and near duplicates, rows with the same prompt, and rows of which one
    begins the other stay on one side. Such clusters are taken in a seeded random order while they
    fit the wanted number: `share` of the rows, `at_least` so many, at most half. Where none fits,
    the smallest is held out if it is not much larger, else none.

    A prompt that more rows share than are wanted is a fixed one, as in data that teaches nothing
    but a tone; its rows are told apart by their answers.

    Args:
        conversations: as read.
        share: the part of the rows to hold out.
        at_least: and so many, even if it is a larger part.
        seed: another one draws other rows.
        found: the duplicates among the rows if they are known already.
    """
    wanted = min(max(round(share * len(conversations)), at_least), len(conversations) // 2)
    groups = _clusters(conversations, found or find(conversations), wanted)
    random.Random(seed).shuffle(groups)
    held_out: list[int] = []
    for cluster in groups:
        if len(held_out) + len(cluster) <= wanted:
            held_out += cluster
    smallest = min(groups, key=len, default=[])
    if not held_out and len(groups) > 1 and len(smallest) <= MOST_BEYOND * wanted:
        held_out = smallest
    kept = set(held_out)
    return [k for k in range(len(conversations)) if k not in kept], sorted(held_out)


def _clusters(
    conversations: Sequence[Conversation], found: Duplicates, wanted: int
) -> list[list[int]]:
    """All rows in clusters that must stay together, in the order of their first rows."""
    parents = list(range(len(conversations)))
    for group in (
        *groups_by(conversation.group for conversation in conversations),
        *found.exact,
        *(group for group in found.prompts if len(group) <= wanted),
        *found.prefixes,
        *found.near,
    ):
        for member in group[1:]:
            unite(parents, group[0], member)
    return clusters(parents)


def cluster_numbers(conversations: Sequence[Conversation]) -> list[int]:
    """A number for each row, the same for those that are not independent of each other.

    They are the rows that `split` keeps together. A question that more than half of the rows ask is
    a fixed one and unites none.
    """
    found = find(conversations)
    numbers = [0] * len(conversations)
    for number, cluster in enumerate(_clusters(conversations, found, len(conversations) // 2)):
        for member in cluster:
            numbers[member] = number
    return numbers


def why_unsplit(conversations: Sequence[Conversation], found: Duplicates) -> tuple[str, str]:
    """Why `split` held out none of these rows, at least one, and what to do."""
    rows = len(conversations)
    other = "Give rows about other things, or a file of held-out rows with --eval."
    if rows == 1:
        return "there is only one usable row", other
    for groups, what, fix in (
        (
            groups_by(conversation.group for conversation in conversations),
            "are of one group",
            "Group by another column, or give held-out rows with --eval.",
        ),
        (found.exact, "are equal", other),
        (found.near, "are near duplicates of one another", other),
    ):
        if len(groups) == 1 and len(groups[0]) == rows:
            return f"all {rows:,} rows {what}", fix
    sizes = [len(cluster) for cluster in _clusters(conversations, found, rows // 2)]
    return (
        f"the {rows:,} rows form {len(sizes)} clusters by their groups and as near duplicates, of "
        f"{min(sizes):,} rows or more",
        other,
    )
