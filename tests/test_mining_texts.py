"""What is a writer's own in mails and tickets of odd shapes, and who answers whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from biddable.mining.mail import own_text
from biddable.mining.pair import plain_subject
from biddable.mining.repository import BOT
from mined import answer, git, mined, prompts, stands, write

QUOTE = "> Why does it stop?"
FULL_QUOTES = [
    "-----Original Message-----\nFrom: Anna\nSent: Monday\n\nWhy?",
    "---------- Forwarded message ---------\nFrom: Eve <e@z.org>\n\nWhy?",
    "Begin forwarded message:\n\nFrom: x\n\nWhy?",
    "*From:* Anna <a@x.org>\n*Sent:* Monday\n*To:* Ben\n\nWhy?",
    "Von: Anna <a@x.org>\nGesendet: Montag\nAn: Ben\n\nWhy?",
    "From: Anna <a@x.org>\nTo: Ben <b@x.org>\n\nWhy?",
    "On Monday, January 5, 2026, Anna <a@x.org> wrote:\n \n Why?",
    f"Am Mo., 5. Jan. 2026 um 10:00 Uhr schrieb Anna <\na@x.org>:\n\n{QUOTE}",
    f"Anna writes:\n\n{QUOTE}",
    f"Excerpts from Anna's message of Mon Jan 05 10:00:00 2026:\n{QUOTE}",
    "-- \nBen",
    "-- Ben",
    "--Ben",
    "Kind regards,\nBen Miller\nPhone +49 30 1234567",
    f"Mit freundlichen Grüßen\nBen\n\nAm 5.1.2026 schrieb Anna:\n{QUOTE}",
    "Sent from my phone",
]


@pytest.mark.parametrize("end", FULL_QUOTES)
def test_what_repeats_another_mail_or_signs_is_cut_and_shown(end: str) -> None:
    text, cut = own_text(f"Open the lid.\nThen close it.\n\n{end}\n")
    assert text == "Open the lid.\nThen close it."
    assert sorted(cut[0].split()) == sorted(end.split())


OWN = [
    "Use the option:\n\n--verbose\n\nThen it says more.",
    "Apply this:\n\n--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n\nIt helps.",
    "Two parts.\n\n---\n\nThe second.",
    "Run:\n\n    >>> import os\n    >>> os.getcwd()\n\nand tell us.",
    "On the first day we wrote:\nnothing. Then we opened it.",
    "Look at this.\nFrom: the menu\nTo: the printer",
    "We send regards\nto all of you.",
]


@pytest.mark.parametrize("text", OWN)
def test_what_only_looks_like_a_quotation_stays(text: str) -> None:
    assert own_text(text) == (text, ())


@pytest.mark.parametrize("above", ["Yes.\n", "On Linux it works.\n", "It works.\nSo does this.\n"])
def test_the_text_above_a_quotation_stays(above: str) -> None:
    for intro in ("Ben wrote:", "On Mon, 5 Jan 2026, Ben <b@x.org>\nwrote:"):
        text, cut = own_text(f"{above}{intro}\n{QUOTE}\n\nAnd below.")
        assert text == f"{above}\nAnd below."
        assert cut == (f"{intro}\n{QUOTE}",)


def test_prefixes_of_subjects_go_and_words_that_begin_alike_stay() -> None:
    words = ["Return of goods", "Refund", "Trouble: no way in", "Svelte", "I said: re: it"]
    assert [plain_subject(word) for word in words] == words
    assert plain_subject("Re: Re[2]: [shop-list] AW: FWD: Refund") == "Refund"


def test_bots_are_no_people_with_such_names() -> None:
    bots = ["x[bot] <x@y.org>", "dependabot", "k8s-ci-robot a@b", "ci-bot x@y.org", "renovate"]
    people = ["Tom Talbot tom@x.org", "Ann Abbot abbot@x.org", "Botond b@x.org"]
    assert [bool(BOT.search(name)) for name in bots + people] == [True] * 5 + [False] * 3


MAIL = "From x\nFrom: {}@y.org\nSubject: Printer\nMessage-ID: <{}@y>\nReferences: <1@y>\n"
MIME = "MIME-Version: 1.0\nContent-Type: "


@pytest.mark.parametrize(
    ("head", "body", "own"),
    [
        ("", b"See:\n\n>From the start.\n", "See:\n\nFrom the start."),
        (
            MIME + "text/html\n",
            b"<div>Open it.</div><div>Shut it.</div><div>On 5 Jan, A &lt;a@x.org&gt; wrote:"
            b"<blockquote>Why?</blockquote></div>",
            "Open it.\nShut it.",
        ),
        (MIME + "text/html\n", b"<table><tr><td>One.<td>Two.</table>", "One. Two."),
        (MIME + "text/plain; charset=iso-8859-1\n", b"5 \x80 \x96 \xfc", "5 € \u2013 ü"),
        (MIME + "text/plain; charset=us-ascii\n", "5 € \u2013 ü".encode(), "5 € \u2013 ü"),
    ],
)
def test_bodies_of_odd_kinds(tmp_path: Path, head: str, body: bytes, own: str) -> None:
    question = (MAIL.format("a", 1) + "\nWhy?\n\n").encode()
    root = write(
        tmp_path, {"a.mbox": question + (MAIL.format("b", 2) + head + "\n").encode() + body}
    )
    rows, _ = mined(root / "a.mbox", tmp_path / "rows.jsonl")
    assert [answer(row) for row in rows] == [own]


ASK = "The lamp is broken."
TELL = "We send a new one."
GITHUB = {
    "title": "Lamp",
    "body": ASK,
    "author": {"login": "eve", "name": "Eve"},
    "comments": {
        "nodes": [
            {"author": {"login": "stale[bot]"}, "authorAssociation": "MEMBER", "body": "Stale."},
            {"author": {"login": "ian"}, "authorAssociation": "MEMBER", "body": TELL},
        ]
    },
}
JIRA = {
    "issues": [
        {
            "key": "A-1",
            "fields": {
                "summary": "Lamp",
                "description": ASK,
                "reporter": {"accountId": "1"},
                "comment": {"comments": [{"author": {"accountId": "2"}, "body": TELL}]},
            },
        }
    ]
}
ANSWERS = {"title": "Lamp", "body": ASK, "answers": [{"body": TELL, "owner": {"name": "z"}}]}
FORMS: dict[str, Any] = {"github.json": [GITHUB], "jira.json": JIRA, "answers.json": [ANSWERS]}
OSTICKET = f"ticket_id,thread_type,poster,title,body\n1,M,Ann,Lamp,{ASK}\n"
OSTICKET += f"1,N,Tom,,she is angry\n1,R,Tom,,{TELL}\n"
TABLES = {
    "osticket.csv": OSTICKET,
    "newest_first.csv": "ticket_id,created_at,author,subject,text\n"
    f"1,2026-01-03T10:00:00Z,tom,,{TELL}\n1,2026-01-01T09:00:00Z,ann,Lamp,{ASK}\n",
    "private.csv": f"ticket_id,author,subject,text,is_private\n1,ann,Lamp,{ASK},no\n"
    f"1,tom,,angry again,yes\n1,tom,,{TELL},no\n",
}


@pytest.mark.parametrize("name", [*FORMS, *TABLES])
def test_exports_give_the_question_and_the_answer_that_the_asker_saw(
    tmp_path: Path, name: str
) -> None:
    text = TABLES.get(name) or json.dumps(FORMS[name], indent=1)
    rows, _ = mined(write(tmp_path / "d", {name: text}), tmp_path / "rows.jsonl")
    assert [(row["prompt"], row["completion"]) for row in rows] == [(f"Lamp\n\n{ASK}", TELL)]
    assert all(map(stands, rows))


TWO_QUESTIONS = (
    "Q. May I use the old one,\nor is it too old?\n\nQ. Why is it 10.x and\nstill says 10.\n"
)
DOCUMENTS = {
    "lines.txt": (f"{TWO_QUESTIONS}Is that so?\n\nA. Yes.\n", {
        "Why is it 10.x and still says 10. Is that so?": "Yes.",
    }),
    "details.md": ("<details>\n<summary>How?</summary>\n\nSo.\n</details>\n\nOutside.\n\n"
                   "<details><summary>Who</summary>I.</details>\n", {"How?": "So."}),
    "number.md": ("## 3.2. Is version 2.0. of it here?\n\nNo.\n",
                  {"Is version 2.0. of it here?": "No."}),
    "role.rst": ("Why a:b:c and :ref:`d`?\n=======================\n\nSo.\n\n``t`` : noun\n"
                 "   What it is.\n\nSub\n---\n\nMore.\n",
                 {"Why a:b:c and d?": "So.\n\n``t`` : noun\n   What it is.\n\nSub\n---\n\nMore."}),
    "setext.md": ("Why is it?\n==========\n\nSo.\n\nMore\n----\n\nAnd so.\n",
                  {"Why is it?": "So.\n\nMore\n----\n\nAnd so."}),
    "page.html": ("<html><h2>How do I?<a>#</a></h2><p>So.</p><h3>Else<a>¶</a></h3>"
                  "<p># in C#</p></html>", {"How do I?": "So.\nElse\n# in C#"}),
    "about_menus.html": ("<main class='nav'><div id='navigation'><h2>Where is the menu?</h2>"
                         "<p>Above.</p><p id='toc'>Or left.</p></div></main>",
                         {"Where is the menu?": "Above.\nOr left."}),
    "menus.html": ("<div class='chapter'><h2>How do I?</h2><p>So.</p><div class='nav-item'>Or so."
                   "</div></div><div class='navfooter'><hr><table><tr><td>Chapter 2</td></tr>"
                   "</table></div><ul role=navigation><li>Up<p>Next</ul>"
                   "<div class='Footer'>Page 3</div>", {"How do I?": "So.\nOr so."}),
    "string.py": ('class A:\n    def f(self):\n        """Says it."""\n        # how\n'
                  '        return """\nleft\n"""\n',
                  {"Says it.": 'def f(self):\n    """Says it."""\n    # how\n'
                                  '    return """\nleft\n"""'}),
    "separator.py": ('def f():\n    """Says it."""\n    a = "\u2028\x85"\n    return a\n',
                     {"Says it.": 'def f():\n    """Says it."""\n    a = "\u2028\x85"\n'
                                  '    return a'}),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_answers_of_documents_are_whole_and_as_they_stand(tmp_path: Path, name: str) -> None:
    text, wanted = DOCUMENTS[name]
    path = write(tmp_path / "d", {name: text}) / name
    rows, _ = mined(path, tmp_path / "rows.jsonl", kind=["faq", "code"])
    assert prompts(rows, "faq", "code") == wanted
    assert all(map(stands, rows))


def test_a_license_file_of_several_names_its_own(tmp_path: Path) -> None:
    mit = "Permission is hereby granted, free of charge, to any person obtaining a copy\n"
    bsd = "Redistribution and use in source and binary forms\nNeither the name of\n"
    files = {"a/LICENSE": f"{mit}It bundles:\n{bsd}", "b/LICENSE": bsd + mit}
    files |= {f"{name}/x.md": f"## Why {name}?\n\nSo.\n" for name in "ab"}
    rows, _ = mined(write(tmp_path / "d", files), tmp_path / "rows.jsonl")
    assert [row["license"] for row in rows] == ["MIT", "BSD-3-Clause"]


def test_bare_repositories_shallow_worktrees_and_commits_that_are_no_text(tmp_path: Path) -> None:
    origin = write(tmp_path / "origin", {"a.txt": b"h\xe9\n"})
    git(origin, "init", "-q")
    for number in range(3):
        git(origin, "add", "-A")
        git(origin, "commit", "-qm", f"Number {number} of all")
        write(origin, {f"{number}.txt": "one\n"})
    git(tmp_path, "clone", "-q", "--bare", "origin", "bare.git")
    rows, record = mined(tmp_path / "bare.git", tmp_path / "rows.jsonl")
    assert [row["kind"] for row in rows] == ["commit", "message"] * 2
    assert record["left_out"] == {"invalid_utf8": 1}
    git(tmp_path, "clone", "-q", "--depth", "2", origin.as_uri(), "shallow")
    git(tmp_path / "shallow", "worktree", "add", "-q", "../tree")
    rows, record = mined(tmp_path / "tree", tmp_path / "again.jsonl", kind="commit")
    assert [row["prompt"] for row in rows] == ["Number 2 of all"]
    # The file itself is no text either.
    assert record["left_out"] == {"shallow_clone": 1, "invalid_utf8": 1}
