"""A fixture of each kind of source, and the rows that come out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from biddable.cli import main
from biddable.data.fix import as_row
from biddable.data.quality import inspect
from biddable.data.readers import read
from mined import answer, git, mined, prompts, stands, write

FAQ = """---
title: Shop
---
## Can I bring my dog?

Yes, on a leash.

### On a leash

A short one.

## Returns

**Q: How do I return
a shirt?**

A: Send it back.
Use the label.

**What about shoes?**

Only unworn ones.

<details>
<summary>Do you ship abroad?</summary>

To Norway.

</details>

- Is it free for all of us?
  Yes.

## Words

SKU
: The number of an article.

## Hours

```
# no heading
```
We open at nine and close at six on all days.
"""
RST = """Guide
=====

How do I install it?
--------------------

Run it.

Terms
-----

cart : noun
    What a customer wants to buy.

.. glossary::

   voucher
      A code.

API
---

.. automodule:: shop
   :members: many names of many things that are here
"""
PAGE = """<html><head><title>no</title></head><body><nav><p>Where? There.</p></nav>
<h1>Help</h1><h2>How can I pay?</h2>
<p>By card,
 or by <b>invoice</b> &amp; cash.</p>
<h2>Words</h2><dl><dt>IBAN</dt><dd>The number of an account.</dd></dl>
<h2>Contact us</h2><p>Call us between nine and five on any day of the week.</p></body></html>
"""


def test_markdown_gives_questions_terms_and_sections(tmp_path: Path) -> None:
    rows, record = mined(write(tmp_path, {"docs/faq.md": FAQ}), tmp_path / "rows.jsonl")
    assert prompts(rows, "faq") == {
        "Can I bring my dog?": "Yes, on a leash.\n\n### On a leash\n\nA short one.",
        "How do I return a shirt?": "Send it back.\nUse the label.",
        "What about shoes?": "Only unworn ones.",
        "Do you ship abroad?": "To Norway.",
        "Is it free for all of us?": "Yes.",
    }
    assert prompts(rows, "definition") == {"Shop > Words > SKU": "The number of an article."}
    assert list(prompts(rows, "section")) == ["Shop > Hours"]
    assert all(map(stands, rows))
    assert record["kinds"] == {"faq": 5, "definition": 1, "section": 1}
    # Rows of one single file can be split: each has a group of its own.
    assert len({row["group"] for row in rows}) == len(rows) == record["groups"]


def test_restructured_text_and_html_give_the_same_kinds(tmp_path: Path) -> None:
    files = {"guide.rst": RST, "page.html": PAGE}
    rows, _ = mined(write(tmp_path / "d", files), tmp_path / "rows.jsonl")
    assert prompts(rows, "faq", "definition", "section") == {
        "How do I install it?": "Run it.",
        "Guide > Terms > cart": "What a customer wants to buy.",
        "Guide > Terms > voucher": "A code.",
        "How can I pay?": "By card, or by invoice & cash.",
        "Help > Words > IBAN": "The number of an account.",
        "Help > Contact us": "Call us between nine and five on any day of the week.",
    }
    assert all(map(stands, rows))
    assert {row["group"] for row in rows} == {row["source"]["path"] for row in rows}


CODE = {
    "a.py": 'class A:\n    def add(self, a):\n        """Adds one."""\n        b = 1\n'
    "        return a + b\n\n\ndef test_sums_are_right():\n    assert A().add(1) == 2\n",
    "b.go": "package b\n\n// Add returns the sum\n// of two numbers.\nfunc Add(a, b int) int {\n"
    "\tc := a + b\n\treturn c\n}\n",
    "c.ts": "/**\n * Greets a person by name.\n */\nexport function greet(n: string) {\n"
    "  const h = n;\n  return h;\n}\n",
    "d.rs": "/// Splits a text in words.\n#[inline]\nfn cut(t: &str) {\n    let a = 1;\n    a\n}\n",
    "e.c": "/* Counts the set bits. */\nint bits(int x)\n{\n    int n = 0;\n    return n;\n}\n",
}
COMMENTS = {
    "Adds one.": "b = 1\nreturn a + b",
    "Add returns the sum\nof two numbers.": "c := a + b\nreturn c",
    "Greets a person by name.": "const h = n;\nreturn h;",
    "Splits a text in words.": "let a = 1;\na",
    "Counts the set bits.": "int n = 0;\nreturn n;",
}


def test_code_gives_functions_bodies_and_tests(tmp_path: Path) -> None:
    rows, _ = mined(write(tmp_path / "d", CODE), tmp_path / "rows.jsonl")
    code, bodies = prompts(rows, "code"), prompts(rows, "body")
    assert set(code) == set(COMMENTS)
    for (comment, body), (prompt, completion) in zip(COMMENTS.items(), bodies.items(), strict=True):
        assert comment in prompt
        assert completion == body
        assert body.split("\n")[0] in code[comment]
    assert list(prompts(rows, "test")) == ["sums are right"]
    assert all(map(stands, rows))


def test_history_gives_message_and_diff_both_ways(tmp_path: Path) -> None:
    repo = write(tmp_path / "r", {"a.md": "# A\n\n## Why?\n\nSo.\n", "LICENSE": "Apache License\n"
                                  "  Version 2.0, January 2004\n", ".gitignore": "no.md\n",
                                  "no.md": "## Why not?\n\nNo.\n"})  # fmt: skip
    git(repo, "init", "-q", "-b", "main")
    git(repo, "remote", "add", "origin", "https://user:secret@github.com/ann/r.git")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "The first of all\n\nIt is small.\n\nSigned-off-by: A <a@b.org>")
    git(repo, "commit", "-q", "--allow-empty", "-m", "Nothing is in here")
    git(repo, "commit", "-q", "--allow-empty", "-m", "A bot did", "--author", "x[bot] <x@y.org>")
    rows, record = mined(repo, tmp_path / "rows.jsonl")
    first = git(repo, "rev-list", "--max-parents=0", "HEAD").strip()
    shown = git(repo, "show", "--no-renames", "--format=%B", first).split("\n")
    by_kind = {row["kind"]: row for row in rows}
    assert by_kind["commit"]["prompt"] == "The first of all\n\nIt is small."
    for kind in ("commit", "message"):
        source = by_kind[kind]["source"]
        start, end = source["lines"]
        assert "\n".join(shown[start - 1 : end]) == by_kind[kind]["completion"]
        assert source["commit"] == by_kind[kind]["group"] == first
        assert source["url"] == f"https://github.com/ann/r/commit/{first}"
    head = git(repo, "rev-parse", "HEAD").strip()
    source = by_kind["faq"]["source"]
    assert source["commit"] == head
    assert source["url"] == f"https://github.com/ann/r/blob/{head}/a.md#L5-L5"
    assert record["licenses"] == {"Apache-2.0": 3}
    assert record["left_out"] == {"commit_says_little": 1, "commit_of_a_bot": 1}
    # A file that was changed is in no commit, and an ignored one is not read.
    (repo / "a.md").write_text("# A\n\n## Why?\n\nSo be it.\n")
    rows, _ = mined(repo, tmp_path / "again.jsonl", kind="faq")
    assert [answer(row) for row in rows] == ["So be it."]
    assert "commit" not in rows[0]["source"]


MBOX = """From a Mon Jan  5 10:00:00 2026
From: Anna <anna@x.org>
Subject: Printer
Message-ID: <1@x>
Date: Mon, 5 Jan 2026 10:00:00 +0000

It shows E5.

--
Anna, 555-1234

From b Mon Jan  5 11:00:00 2026
From: Ben <ben@y.org>
Subject: Re: Printer
In-Reply-To: <1@x>
Message-ID: <2@y>
Date: Mon, 5 Jan 2026 11:00:00 +0000

On Mon, 5 Jan 2026, Anna wrote:
> It shows E5.

Open the lid.
_______________________________________________
a footer

From a Mon Jan  5 12:00:00 2026
From: Anna <anna@x.org>
References: <1@x> <2@y>
Message-ID: <3@x>
Date: Mon, 5 Jan 2026 12:00:00 +0000

Still E5.

From b Mon Jan  5 13:00:00 2026
From: Ben <ben@y.org>
References: <3@x>
Date: Mon, 5 Jan 2026 13:00:00 +0000
Content-Transfer-Encoding: quoted-printable
Content-Type: text/plain; charset=utf-8

Wait =E2=80=93 then
switch it on.
""".replace("--\nAnna", "-- \nAnna")
MAILDIR = {
    "m/cur/1:2,S": "From: a@b.org\nSubject: Where\nMessage-ID: <9@b>\n\nWhere is it?\n",
    "m/new/2": "From: c@d.org\nSubject: Re: Where\nIn-Reply-To: <9@b>\nMIME-Version: 1.0\n"
    "Content-Type: text/html\n\n<p>There.</p><blockquote>Where is it?</blockquote>\n",
    "m/tmp/3": "not yet",
}


def test_mail_gives_threads_without_quotations_and_signatures(tmp_path: Path) -> None:
    files = {"list.mbox": MBOX, **MAILDIR}
    rows, record = mined(write(tmp_path / "d", files), tmp_path / "rows.jsonl")
    single, thread = sorted(rows, key=lambda row: "messages" in row)
    assert (single["prompt"], single["completion"]) == ("Where is it?", "There.")
    assert [(m["role"], m["content"]) for m in thread["messages"]] == [
        ("user", "Printer\n\nIt shows E5."),
        ("assistant", "Open the lid."),
        ("user", "Still E5."),
        ("assistant", "Wait \u2013 then\nswitch it on."),
    ]
    assert thread["source"]["lines"] == [41, 42]
    cut = " ".join(part["text"] for part in record["cut"])
    assert "Anna, 555" in cut
    assert "> It shows E5." in cut
    assert "@" not in thread["group"]


CSV = 'id,subject,description,reply\n1,Login,"No\nway in.","Reset\nit."\n2,Two,Why?,So.\n3,C,D,\n'
MESSAGES = "ticket_id,author_role,message\n7,customer,Lamp?\n7,agent,Which?\n"
MESSAGES += "7,customer,Blue.\n7,agent,Sent.\n"
NESTED = {
    "tickets": [
        {
            "subject": "Slow",
            "description": "It is slow.",
            "requester_id": 1,
            "html_url": "https://h.example/5",
            "comments": [
                {"author_id": 1, "body": "It is slow."},
                {"author_id": 9, "body": "he is annoying", "public": False},
                {"author_id": 9, "html_body": "<p>More <b>servers</b>.</p>", "public": True},
            ],
        }
    ]
}


def test_tables_and_json_give_tickets(tmp_path: Path) -> None:
    files = {"a.csv": CSV, "b.csv": MESSAGES, "c.json": json.dumps(NESTED, indent=1)}
    rows, record = mined(write(tmp_path / "d", files), tmp_path / "rows.jsonl")
    assert prompts([row for row in rows if "prompt" in row], "ticket") == {
        "Login\n\nNo\nway in.": "Reset\nit.",
        "Two\n\nWhy?": "So.",
        "Slow\n\nIt is slow.": "More servers.",
    }
    assert [row["source"]["lines"] for row in rows[:3]] == [[2, 4], [5, 5], [5, 5]]
    assert [m["content"] for m in rows[2]["messages"]] == ["Lamp?", "Which?", "Blue.", "Sent."]
    assert rows[3]["source"]["url"] == "https://h.example/5"
    assert all(map(stands, rows))
    assert len({row["group"] for row in rows}) == 4
    assert record["left_out"] == {"no_answer": 1}


def test_who_answers_can_be_named(tmp_path: Path) -> None:
    table = "thread_id,author,text\n1,bob@help.example,Welcome\n1,eve,How?\n1,ian,Me too!\n"
    table += "1,bob@help.example,So.\n"
    rows, _ = mined(write(tmp_path, {"a.csv": table}), tmp_path / "r.jsonl", staff="@help.example")
    assert rows[0]["prompt"] == "How?\n\nMe too!"
    assert rows[0]["completion"] == "So."


MAN = """.TH SHOP 1
.SH OPTIONS
.TP
.BR \\-f ", " \\-\\-force
Sell even if
.I nothing
is left.
.SH DESCRIPTION
It sells the things that stand in the list of articles.
"""
HELP = """usage: shop [-h] LIST

options:
  -h, --help    show this help
                and exit
  --long NAME
                the name
"""


def test_manuals_give_their_options(tmp_path: Path) -> None:
    files = {"shop.1": MAN, "shop.txt": HELP}
    rows, _ = mined(write(tmp_path / "d", files), tmp_path / "rows.jsonl")
    options = prompts(rows, "help")
    assert options.pop("shop --help") == HELP.strip()
    assert options == {
        "shop > OPTIONS > -f, --force": "Sell even if nothing is left.",
        "shop > DESCRIPTION": "It sells the things that stand in the list of articles.",
        "shop -h, --help": "show this help\nand exit",
        "shop --long NAME": "the name",
    }


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF with lines of text and no bookmarks."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", "", "<</Type/Font/Subtype/Type1/BaseFont/Courier>>"]
    kids = []
    for lines in pages:
        drawn = "".join(f"({line}) Tj 0 -20 Td " for line in lines)
        stream = f"BT /F 12 Tf 72 700 Td {drawn}ET"
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents {len(objects) + 2} 0 R"
            "/Resources<</Font<</F 3 0 R>>>>>>"
        )
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(kids)}]>>"
    body, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj{text}endobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}"
    tail = f"trailer<</Size {len(places) + 1}/Root 1 0 R>>\nstartxref\n{len(body)}\n%%EOF"
    return body + f"{head}{tail}".encode()


def test_a_pdf_gives_questions_at_their_pages(tmp_path: Path) -> None:
    data = pdf([["Q: What is it?", "A: A shop."], ["Q: Is it open?", "A: Yes.", "Always."]])
    rows, _ = mined(write(tmp_path, {"a.pdf": data}), tmp_path / "rows.jsonl")
    assert prompts(rows, "pdf") == {"What is it?": "A shop.", "Is it open?": "Yes.\nAlways."}
    assert [row["source"]["lines"] for row in rows] == [[1, 1], [2, 2]]


def test_check_finds_nothing_in_the_keys_and_keeps_them(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    rows, _ = mined(write(tmp_path / "d", CODE | {"a.md": FAQ}), out, system="Be brief.")
    result = read([str(out)])
    assert [f.code for f in result.findings if f.severity != "note" or f.line] == []
    assert "unused_columns" not in {f.code for f in result.findings}
    assert "reserved_column" not in {f.code for f in result.findings}
    assert [c.group for c in result.conversations] == [row["group"] for row in rows]
    assert all(c.messages[0].content == "Be brief." for c in result.conversations)
    for row, conversation in zip(rows, result.conversations, strict=True):
        kept = as_row(conversation)
        assert [kept[key] for key in ("source", "kind")] == [row[key] for key in ("source", "kind")]
    # A column of the same name that `mine` did not write is still a finding.
    out.write_text('{"prompt": "a", "completion": "b", "source": "a book", "kind": "x"}\n')
    assert {f.code for f in read([str(out)]).findings} == {"unused_columns"}


def test_only_the_kinds_wanted_are_mined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "d", {"a.md": FAQ})
    rows, _ = mined(root, tmp_path / "rows.jsonl", kind=["faq,definition"])
    assert {row["kind"] for row in rows} == {"faq", "definition"}
    assert main(["mine", str(root), "--out", str(tmp_path / "x"), "--kind", "fag"]) == 1
    assert "did you mean faq?" in capsys.readouterr().err


def test_secrets_are_left_out_or_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQ+/=\nabc\n-----END PRIVATE KEY-----"
    text = f"## Which key?\n\nThis one: {key}\n\n## Who?\n\nAsk ann@shop.org, or bob@shop.org.\n"
    root = write(tmp_path / "d", {"a.md": text})
    rows, record = mined(root, tmp_path / "rows.jsonl")
    assert [row["prompt"] for row in rows] == ["Who?"]
    assert record["left_out"] == {"secret_found": 1, "pii_found": 1}
    rows, record = mined(root, tmp_path / "masked.jsonl", mask=True)
    assert [row["completion"] for row in rows] == [
        "This one: [private key]",
        "Ask [e-mail address], or [e-mail address].",
    ]
    assert record["masked"] == 2
    kept = (tmp_path / "masked.jsonl").read_text() + json.dumps(record)
    assert "MIIE" not in kept
    assert "@shop" not in kept


def test_inspection_of_mined_rows_is_free_of_errors(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    mined(write(tmp_path / "d", CODE | {"a.md": FAQ, "b.rst": RST}), out)
    findings = inspect(read([str(out)]).conversations)
    assert "error" not in {finding.severity for finding in findings}
