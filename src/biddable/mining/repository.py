"""What git says of a folder: its files without ignored ones, its commits, where it is published."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from biddable.errors import Finding
from biddable.mining.pair import Mined, Pair, block

# Seconds for one call; bytes of the history that are read.
LONGEST_CALL = 120
MOST_HISTORY = 1 << 30
# Nothing that a foreign repository's settings name is run.
SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
        "-c", "core.quotePath=false")  # fmt: skip
LOG = ("--no-merges", "--no-ext-diff", "--no-textconv", "--no-color", "--no-show-signature",
       "--no-renames", "--format=%x00%H%x1f%an%x1f%ae%n%B%x00", "-p")  # fmt: skip
BOT = re.compile(
    r"\b(?:ro|dependa|code|ci)?bot\b|renovate|github-actions|pre-commit-ci|weblate", re.IGNORECASE
)
TRAILER = re.compile(r"(?:[A-Z][\w-]+-by|Change-Id|Reviewed-on|Link|Fixes|Closes|Cc|Bug): .*")
HOSTS = re.compile(r"(?:https?://|ssh://|git@)(?:[^@/]*@)?([\w.-]*(?:github|gitlab)[\w.-]*)"
                   r"[:/](?:\d+/)?(.+?)(?:\.git)?/?")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder in a git repository.

    Args:
        folder: which is looked at; paths are relative to it.
        top: whether it is the whole repository.
        commit: the one that is checked out; empty where there is none yet.
        page: the address of the repository on its host; empty where that is not known.
        blobs: the sums of the files in that commit, by path.
    """

    folder: Path
    top: bool
    commit: str = ""
    page: str = ""
    prefix: str = ""
    blobs: dict[str, str] = field(default_factory=dict)

    def holds(self, path: str, data: bytes) -> bool:
        """Whether a file is in the commit as it stands on the disk."""
        digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
        digest.update(data)
        return self.blobs.get(path) == digest.hexdigest()

    def url(self, path: str, lines: tuple[int, int]) -> str:
        """The address of lines of a file."""
        tree = "-/blob" if "gitlab" in self.page else "blob"
        where = f"{self.page}/{tree}/{self.commit}/{self.prefix}{path}"
        return f"{where}#L{lines[0]}-L{lines[1]}" if self.page else ""


def git(folder: Path, *words: str) -> str:
    """What git prints.

    Raises:
        OSError: git is not there, fails or takes too long.
    """
    try:
        done = subprocess.run(
            ["git", *SAFE, *words], cwd=folder, env=_environment(), capture_output=True,
            timeout=LONGEST_CALL, check=True,
        )  # fmt: skip
    except (subprocess.SubprocessError, ValueError) as error:
        raise OSError(f"git {words[0]} failed") from error
    return done.stdout.decode("utf-8", "surrogateescape")


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return own | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}


def repository(folder: Path) -> Repository | None:
    """The repository of a folder; None where it is in none that git reads."""
    try:
        prefix = git(folder, "rev-parse", "--show-prefix").strip("\n")
        ignored = prefix and not git(folder, "ls-files", "-co", "--exclude-standard", "--", ".")
    except OSError:
        return None
    if ignored:
        return None
    try:
        commit = git(folder, "rev-parse", "--verify", "HEAD").strip()
        entries = git(folder, "ls-tree", "-r", "-z", "HEAD").split("\0")
    except OSError:
        return Repository(folder, not prefix)
    blobs = {
        path: head.split()[-1] for head, _, path in (e.partition("\t") for e in entries) if path
    }
    return Repository(folder, not prefix, commit, _page(folder), prefix, blobs)


def _page(folder: Path) -> str:
    try:
        remote = git(folder, "remote", "get-url", "origin").strip()
    except OSError:
        return ""
    # A password in the address is left behind.
    match = HOSTS.fullmatch(remote)
    return f"https://{match[1]}/{match[2]}" if match else ""


def listed(folder: Path, inside: bool) -> list[str]:
    """The files below a folder but ignored ones, sorted; a folder with a repository ends in /.

    Args:
        inside: whether the folder is in a repository; else .gitignore files are read all the same.

    Raises:
        OSError: git is not there or fails.
    """
    if inside:
        text = git(folder, "ls-files", "-z", "-co", "--exclude-standard")
        return sorted(set(filter(None, text.split("\0"))))
    with tempfile.TemporaryDirectory() as empty:
        git(Path(empty), "init", "-q", "--bare", ".")
        where = (f"--git-dir={empty}", f"--work-tree={folder.absolute()}")
        text = git(folder, *where, "ls-files", "-z", "-o", "--exclude-standard")
    return sorted(filter(None, text.split("\0")))


def commit_pairs(repo: Repository, shown: str, most: int, longest: int) -> Mined:
    """`commit`: message to diff; `message`: diff to message. Merges and bots are left out.

    The lines are those of `git show --no-renames --format=%B COMMIT`.

    Args:
        shown: the folder, as it was given.
        most: commits that are read, from the newest on.
        longest: characters of a diff; of a longer one nothing is kept.
    """
    shallow = repo.folder / git(repo.folder, "rev-parse", "--git-path", "shallow").strip("\n")
    cut_off = shallow.read_text().split() if shallow.is_file() else []
    if cut_off:
        what = (
            f"The clone is shallow: its oldest commits ({len(cut_off)}) have no diff of their own."
        )
        yield Finding(
            "shallow_clone", "note", what, "git fetch --unshallow brings the rest.", shown
        )
    for commit, author, message, diff in _commits(repo.folder, most, longest):
        if commit in cut_off:
            continue
        if BOT.search(author):
            yield Finding("commit_of_a_bot", "note", "A program wrote the commit.", "", shown)
            continue
        yield from _of_commit(repo, shown, (commit, message, diff))


def _of_commit(repo: Repository, shown: str, record: tuple[str, list[str], str]) -> Mined:
    commit, lines, diff = record
    cut = tuple(line for line in lines if TRAILER.fullmatch(line))
    message, span = block([line for line in lines if not TRAILER.fullmatch(line)], 1)
    if len(message.split()) < 3 or "\n@@ " not in diff:
        what = "The message has less than three words, or the diff no text."
        yield Finding("commit_says_little", "note", what, "", f"{shown} {commit[:10]}")
        return
    if "\ufffd" in diff + message:
        what = "The message or the diff is not UTF-8."
        yield Finding("invalid_utf8", "note", what, "", f"{shown} {commit[:10]}")
        return
    url = f"{repo.page}/commit/{commit}" if repo.page else ""
    start = len(lines) + 3
    place = start, start + diff.count("\n")
    both = Pair(
        "commit", message, diff, place, shown, group=commit, commit=commit, url=url, cut=cut
    )
    yield both
    yield replace(both, kind="message", prompt=diff, completion=message, lines=span)


def _commits(folder: Path, most: int, longest: int) -> Iterator[tuple[str, str, list[str], str]]:
    """Commit, author, lines of the message and diff, from the newest on."""
    command = ["git", *SAFE, "log", "-n", str(most), *LOG]
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        message: list[str] = []
        diff: list[str] = []
        head, size, read, in_message = "", 0, 0, False
        while read < MOST_HISTORY:
            data = process.stdout.readline(1 << 20)
            read += len(data)
            line = data.decode("utf-8", "replace").rstrip("\n")
            if not data or (line.startswith("\0") and len(line) > 1):
                if head:
                    commit, *author = head.split("\x1f")
                    yield commit, " ".join(author), message, "\n".join(diff).strip("\n")
                if not data:
                    return
                head, message, diff, size, in_message = line[1:], [], [], 0, True
            elif line == "\0":
                in_message = False
            elif in_message:
                message.append(line)
            elif size <= longest:
                size += len(line) + 1
                diff.append(line)
        process.kill()
