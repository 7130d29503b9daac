"""The pages: every link leads somewhere, every named file exists, the table of codes is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import codes_table

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w/.-])(?:docs|tests|examples|benchmarks)/[\w./-]+\.(?:md|py|jsonl)")


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    for name in NAMED.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{name} is not there"


def test_every_test_that_a_page_names_is_there() -> None:
    tests = "\n".join(p.read_text(encoding="utf-8") for p in ROOT.glob("tests/test_*.py"))
    names = {n for p in PAGES for n in re.findall(r"`(test_\w+)`", p.read_text(encoding="utf-8"))}
    assert [name for name in sorted(names) if f"def {name}(" not in tests] == []


def test_every_page_of_the_docs_is_in_their_table_of_contents() -> None:
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/**/*.md"):
        if page.name != "README.md":
            assert f"({page.relative_to(ROOT / 'docs').as_posix()})" in contents, page


def test_the_table_of_codes_is_that_of_the_source() -> None:
    """Else: python tests/helpers/codes_table.py."""
    assert codes_table.PAGE.read_text(encoding="utf-8") == codes_table.page()
