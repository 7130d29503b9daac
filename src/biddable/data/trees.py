"""OpenAssistant: message trees, and the flat rows of the same, one message each.

Of a tree the best path is read: at every step the reply that people ranked first (rank 0), without
deleted messages and those that reviewers refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from biddable.data.rows import Fields, Row, is_nothing, kind
from biddable.errors import BiddableError

UNRANKED = float(1 << 30)
# What the choice of the path reads of a message.
NODE_KEYS = (
    "message_id", "parent_id", "role", "text", "rank", "replies", "deleted", "review_result",
    "message_tree_id",
)  # fmt: skip


def tree_path(row: Fields) -> list[list[Fields]]:
    """The best path of one tree; none where it holds no answer.

    What it does not use goes back into the row: other keys of messages, and the replies that are
    not on the path.
    """
    root = row.pop("prompt")
    if not isinstance(root, dict):
        what = f"'prompt' is {kind(root)}, not the first message of a tree."
        raise BiddableError("data_type", what, "Keep message_tree_id for trees, or add the answer.")
    paths = _best_path(root, {})
    texts = [message["content"] for path in paths for message in path]
    todo: list[Any] = [root]
    while todo:
        node = todo.pop()
        if not isinstance(node, dict):
            row["prompt.replies"] = node
            continue
        replies = node.get("replies")
        todo += replies if isinstance(replies, list) else [replies] if replies else []
        unread = {k: v for k, v in node.items() if k not in NODE_KEYS and not is_nothing(v)}
        row.update({f"prompt.{key}": value for key, value in unread.items()})
        if node.get("text") not in texts:
            row["prompt.replies"] = node.get("text")
    return paths


def take_node(row: Fields) -> list[list[Fields]]:
    """No path yet: a flat row is one message; `flat_paths` joins those of a file."""
    for key in set(NODE_KEYS[:-1]) & row.keys():
        del row[key]
    return []


def flat_paths(rows: Sequence[Row]) -> Iterator[tuple[Row, list[list[Fields]] | None]]:
    """The best path of each tree at the row of its first message.

    None at a message whose parent is not among the rows.
    """
    by_parent: dict[str, list[Fields]] = {}
    known = {row.value["message_id"] for row in rows if _is_id(row.value["message_id"])}
    for row in rows:
        if _is_id(row.value["parent_id"]):
            by_parent.setdefault(row.value["parent_id"], []).append(row.value)
    for row in rows:
        parent = row.value["parent_id"]
        if not _is_id(parent):
            yield row, _best_path(row.value, by_parent)
        elif parent not in known:
            yield row, None


def _best_path(root: Any, by_parent: Mapping[str, list[Fields]]) -> list[list[Fields]]:
    path: list[Fields] = []
    node, seen = root, set()
    while isinstance(node, dict) and _is_kept(node) and id(node) not in seen:
        seen.add(id(node))
        path.append({"role": node.get("role"), "content": node.get("text")})
        replies, key = node.get("replies"), node.get("message_id")
        if not isinstance(replies, list) or not replies:
            replies = by_parent.get(key, []) if isinstance(key, str) else []
        kept = [reply for reply in replies if isinstance(reply, dict) and _is_kept(reply)]
        node = min(kept, key=_rank, default=None)
    while path and path[-1]["role"] != "assistant":
        path.pop()
    return [path] if path else []


def _is_id(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_kept(node: Fields) -> bool:
    deleted = node.get("deleted") in (True, "True", "true")
    return not deleted and node.get("review_result") not in (False, "False", "false")


def _rank(node: Fields) -> float:
    try:
        return float(node["rank"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return UNRANKED
