"""Held-out rows: drawn by group, so that nothing held out was seen in training."""

from __future__ import annotations

import random
from collections.abc import Sequence

from biddable.data.conversation import Conversation
from biddable.data.duplicates import Duplicates, clusters, find, groups_by

# Where every cluster is larger than the wanted number, at most this multiple is held out.
MOST_BEYOND = 3


def split(
    conversations: Sequence[Conversation],
    *,
    share: float = 0.1,
    at_least: int = 8,
    seed: int = 0,
    duplicates: Duplicates | None = None,
) -> tuple[list[int], list[int]]:
    """Divides rows into training and held-out ones: two lists of indices, each in file order.

    Rows of one group, exact and near duplicates, rows with the same prompt, and rows of which one
    begins the other stay on one side. Such clusters are taken in a seeded random order while they
    fit the wanted number: `share` of the rows, `at_least` so many, at most half. Where none fits,
    the smallest is held out if it is not much larger, else none.

    A prompt that more rows share than are wanted is a fixed one, as in data that teaches nothing
    but a tone; its rows are compared by their answers.

    Args:
        conversations: as read.
        share: the part of the rows to hold out.
        at_least: hold out at least this many, even if that is a larger part.
        seed: another one draws other rows.
        duplicates: those among the rows if they are known already.
    """
    wanted = min(max(round(share * len(conversations)), at_least), len(conversations) // 2)
    groups = _clusters(conversations, duplicates or find(conversations), wanted)
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
    conversations: Sequence[Conversation], duplicates: Duplicates, wanted: int
) -> list[list[int]]:
    """All rows in clusters that must stay together, in the order of their first rows."""
    prompts = [group for group in duplicates.prompts if len(group) <= wanted]
    groups = groups_by(c.group for c in conversations) + duplicates.exact + prompts
    return clusters(len(conversations), groups + duplicates.prefixes + duplicates.near)


def cluster_numbers(conversations: Sequence[Conversation]) -> list[int]:
    """A number for each row, the same for those that are not independent of each other.

    They are the rows that `split` keeps together. A question that more than half of the rows ask is
    a fixed one and unites none.
    """
    numbers = [0] * len(conversations)
    together = _clusters(conversations, find(conversations), len(conversations) // 2)
    for number, cluster in enumerate(together):
        for member in cluster:
            numbers[member] = number
    return numbers


def why_unsplit(conversations: Sequence[Conversation], duplicates: Duplicates) -> tuple[str, str]:
    """Why `split` held out no row of these (there is at least one), and what to do."""
    rows = len(conversations)
    fix = "Give rows about other things, or a file of held-out rows with --eval."
    if rows == 1:
        return "there is only one usable row", fix
    if [len(group) for group in groups_by(c.group for c in conversations)] == [rows]:
        fix = "Group by another column, or give held-out rows with --eval."
        return f"all {rows:,} rows are of one group", fix
    if [len(group) for group in duplicates.exact] == [rows]:
        return f"all {rows:,} rows are equal", fix
    if [len(group) for group in duplicates.near] == [rows]:
        return f"all {rows:,} rows are near duplicates of one another", fix
    sizes = [len(cluster) for cluster in _clusters(conversations, duplicates, rows // 2)]
    what = f"the {rows:,} rows form {len(sizes)} clusters by their groups and as near duplicates"
    return f"{what}, of {min(sizes):,} or more rows each", fix
