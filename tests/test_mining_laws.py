"""Laws of mining: answers stand at their lines, equal input gives equal bytes, groups hold."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biddable import mine
from biddable.data.readers import read
from biddable.data.split import split
from mined import answer, mined, mined_or_nothing, stands, write

WORDS = st.sampled_from(
    ["alpha", "beta", "gamma", "Ångström", "中文", "x=1", "a_b", "*bold*", "`code`", "<b>"]
)
LINE = st.lists(WORDS, min_size=1, max_size=9).map(" ".join)
TEXT = st.lists(st.one_of(LINE, st.just("")), min_size=1, max_size=6).map("\n".join)
PLAIN = LINE.filter(lambda line: line[0].isalnum())
HEADING = st.tuples(st.sampled_from(("# ", "## ", "### ")), PLAIN, st.sampled_from(("", "?")))
QUESTION = st.tuples(st.sampled_from(("**", "Q: ", "1. ", "- ")), PLAIN).map(
    lambda p: f"{p[0]}{p[1]}?{p[0] if p[0] == '**' else ''}"
)
LABELED = TEXT.map(lambda text: f"A: {text}")
TERM = st.tuples(PLAIN, LINE).map(lambda p: f"{p[0]}\n: {p[1]}")
BLOCK = st.one_of(HEADING.map("".join), TEXT, QUESTION, LABELED, TERM, st.just("```\n# no\n```"))
MARKDOWN = st.lists(BLOCK, min_size=2, max_size=14).map("\n\n".join)
SMALL = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rst(text: str) -> str:
    """Markdown's headings as underlined titles."""
    lines = []
    for line in text.split("\n"):
        mark, _, title = line.partition(" ")
        if mark in ("#", "##", "###"):
            lines += [title, "=-~"[len(mark) - 1] * max(3, 2 * len(title))]
        else:
            lines.append(line)
    return "\n".join(lines)


def page(text: str) -> str:
    """Each block in a tag of its own."""
    blocks = []
    for block in text.replace("<b>", "").split("\n\n"):
        mark, _, title = block.partition(" ")
        deep = len(mark) if mark in ("#", "##", "###") else 0
        blocks.append(f"<h{deep}>{title}</h{deep}>" if deep else f"<p>\n{block}\n</p>")
    return "<html><body>\n" + "\n".join(blocks) + "</body></html>"


FORMS: dict[str, Any] = {"a.md": str, "a.rst": rst, "a.html": page, "a.txt": rst}


@SMALL
@given(texts=st.lists(MARKDOWN, min_size=1, max_size=4), name=st.sampled_from(sorted(FORMS)))
def test_every_answer_stands_at_its_lines_and_equal_input_gives_equal_bytes(
    texts: list[str], name: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {f"{n}/{name}": FORMS[name](text) for n, text in enumerate(texts)}
        root = write(Path(folder) / "docs", files)
        rows, _ = mined_or_nothing(root, Path(folder) / "one.jsonl")
        assert all(map(stands, rows))
        if not rows:
            return
        mine(root, out=Path(folder) / "two.jsonl")
        once, twice = (Path(folder, f"{n}.jsonl").read_bytes() for n in ("one", "two"))
        assert once == twice


MAIL = "From a@b.org Mon Jan  5 10:00:00 2026\nFrom: {0}@b.org\nSubject: {2}s {1}\n\n{3}\n\n"
TURN = st.tuples(st.sampled_from("xyz"), st.integers(0, 2), st.sampled_from(("", "Re: ")), TEXT)


@SMALL
@given(turns=st.lists(TURN, min_size=2, max_size=8))
def test_every_answer_of_a_mail_stands_at_its_lines(turns: list[tuple[str, int, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), {"box.mbox": "".join(MAIL.format(*turn) for turn in turns)})
        rows, _ = mined_or_nothing(root, Path(folder) / "rows.jsonl")
        assert all(map(stands, rows))
        threads = [answer(row) for row in rows]
        assert len({row["group"] for row in rows}) == len(threads)


@SMALL
@given(texts=st.lists(MARKDOWN, min_size=4, max_size=8), seed=st.integers(0, 9))
def test_no_group_crosses_the_split(texts: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {
            f"{n}.md": f"# Title {n}\n\n{t}\n\n## Why {n}?\n\nSo." for n, t in enumerate(texts)
        }
        root, out = write(Path(folder) / "docs", files), Path(folder) / "rows.jsonl"
        mine(root, out=out)
        conversations = read([str(out)]).conversations
        sides = split(conversations, seed=seed, at_least=1)
        train, held_out = ({conversations[i].group for i in side} for side in sides)
        assert held_out
        assert not train & held_out


NAMES = ["a.md", "a.rst", "a.py", "a.html", "a.mbox", "a.csv", "a.json", "a.1", "a.txt", "a.pdf",
         "a.eml", "a.go", "a.xlsx", "a.md.gz"]  # fmt: skip
CONTENTS = st.fixed_dictionaries(
    {name: st.binary(max_size=200) | TEXT.map(str.encode) for name in NAMES}
)


@SMALL
@given(contents=CONTENTS)
def test_no_content_ends_in_a_traceback(contents: dict[str, bytes]) -> None:
    starts = {"a.mbox": b"From x\nFrom: y@z\n", "a.pdf": b"%PDF-1.7\n", "a.1": b".TH A 1\n.SH B\n"}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: starts.get(name, b"") + data for name, data in contents.items()}
        root = write(Path(folder) / "in", files | {"good.md": b"## Why?\n\nSo.\n"})
        rows, record = mined(root, Path(folder) / "rows.jsonl")
        assert record["rows"] == len(rows) >= 1
