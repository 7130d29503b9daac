"""OpenAssistant: message trees, and the flat rows of the same, one message each.

Of a tree the best path is read: at every step the reply that people ranked first (rank 0), without
deleted messages and those that reviewers refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from biddable.data.findings import Finding
from biddable.data.formats import Draft, Fields, Format
from biddable.data.rows import Row

UNRANKED = 1 << 30


def tree_drafts(row: Fields) -> list[Draft]:
    """The best path of one tree; none where it holds no answer."""
    prompt = row["prompt"]
    replies = {id(prompt): _listed(prompt.get("replies")) if isinstance(prompt, dict) else []}
    return _draft(prompt, row.get("message_tree_id"), replies)


def flat_drafts(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Draft]] | Finding]:
    """The best path of each tree among the rows, in the order of the trees' first messages."""
    by_parent: dict[str, list[Fields]] = {}
    known = {row.value["message_id"] for row in rows if _is_id(row.value["message_id"])}
    for row in rows:
        parent = row.value["parent_id"]
        if _is_id(parent):
            by_parent.setdefault(parent, []).append(row.value)
    for row in rows:
        parent = row.value["parent_id"]
        if _is_id(parent) and parent not in known:
            yield Finding(
                "missing_parent",
                "warning",
                f"The message answers {parent[:40]!r}, which is not in the data; it is left out.",
                "Keep whole trees in one file.",
                row.file,
                row.line,
            )
        elif not _is_id(parent):
            yield row, _draft(row.value, row.value.get("message_tree_id"), by_parent)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _draft(root: Any, tree_id: object, replies: dict[Any, list[Fields]]) -> list[Draft]:
    path: list[Any] = []
    node, seen = root, set()
    while isinstance(node, dict) and _kept(node) and id(node) not in seen:
        seen.add(id(node))
        path.append({"role": node.get("role"), "content": node.get("text")})
        below = _listed(node.get("replies")) or replies.get(_key(node), [])
        node = min((n for n in below if _kept(n)), key=_rank, default=None)
    while path and path[-1]["role"] != "assistant":
        path.pop()
    return [Draft(path, tree_id if isinstance(tree_id, str) else None)] if path else []


def _key(node: Fields) -> Any:
    key = node.get("message_id")
    return key if _is_id(key) else id(node)


def _listed(value: object) -> list[Fields]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _kept(node: Fields) -> bool:
    deleted = node.get("deleted") in (True, "True", "true")
    return not deleted and node.get("review_result") not in (False, "False", "false")


def _rank(node: Fields) -> float:
    rank = node.get("rank")
    try:
        return float(rank) if isinstance(rank, int | float | str) and rank != "" else UNRANKED
    except ValueError:
        return UNRANKED


TREE = Format(
    "OpenAssistant trees (best path)",
    frozenset(("message_tree_id", "prompt")),
    frozenset(("tree_state",)),
    tree_drafts,
)
FLAT_KEYS = frozenset(("message_id", "parent_id", "text", "role"))
FLAT_NAME = "OpenAssistant messages (best path)"
