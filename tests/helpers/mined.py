"""Rows that `mine` takes out of files written on the spot, and where they stand."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from biddable import BiddableError, mine

GIT = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.org", "GIT_CONFIG_GLOBAL": ""}
GIT |= {"GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "ann@example.org"}
GIT |= {"GIT_AUTHOR_DATE": "2026-01-01T10:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T10:00:00Z"}


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Writes files below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def git(folder: Path, *words: str) -> str:
    """What git prints, with a fixed author."""
    environment = {**os.environ, **GIT}
    command = ["git", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return done.stdout.decode()


def mined(root: Path, out: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows and the record of what stands below a folder."""
    result = mine(root, out=out, **options)
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    return rows, json.loads(result.record_file.read_text(encoding="utf-8"))


def mined_or_nothing(root: Path, out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The same, or nothing where the sources hold no rows."""
    try:
        return mined(root, out)
    except BiddableError as error:
        if error.finding.code != "nothing_mined":
            raise
        return [], {}


def answer(row: dict[str, Any]) -> str:
    """The completion of a row, or the last message."""
    return str(row["messages"][-1]["content"] if "messages" in row else row["completion"])


def prompts(rows: list[dict[str, Any]], *kinds: str) -> dict[str, str]:
    """The completions of rows of these kinds, by prompt."""
    return {row["prompt"]: row["completion"] for row in rows if row["kind"] in kinds}


def letters(text: str) -> str:
    """A text without white space, quotation marks and markup."""
    return re.sub(r"[\s>`*_:\"¶]|^A\.", "", html.unescape(re.sub(r"<[^>]*>", "", text)))


def stands(row: dict[str, Any]) -> bool:
    """Whether a row's completion stands in its source at its lines; of a mail each of its lines,
    in order.
    """
    first, last = row["source"]["lines"]
    lines = Path(row["source"]["path"]).read_text(encoding="utf-8").split("\n")[first - 1 : last]
    source, at = letters("\n".join(lines)), 0
    for line in answer(row).split("\n") if row["kind"] == "ticket" else [answer(row)]:
        wanted = letters(line)
        at = source.find(wanted, at)
        if at < 0:
            return False
        at += len(wanted)
    return True
