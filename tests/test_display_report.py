"""The page: none of its text is code, nothing leaves it, its filters work in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from biddable.display.masks import Token
from biddable.display.report import Report, page
from biddable.encoding.encode import Example
from biddable.judging.judge import Judgement, Question
from biddable.judging.outliers import outliers
from biddable.judging.scorecard import score

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = '<script>document.title="bad"</script><img src="http://example.com/x.png" onerror=alert(1)>'
TEXTS = [
    EVIL, "plain answer with a few words", "שלום עולם \u202e right to left", "x" * 100_000,
    "</textarea></style></script><!--", "line one\nline two & three", "漢字🙂", "'\"`${x}`",
]  # fmt: skip
EVENTS = [
    {"event": "eval", "step": 0, "held_out_loss": 4.0, "prompt": "p", "answer": "watched 漢字"},
    *({"event": "step", "step": i, "epoch": i / 5, "loss": 4 / i} for i in range(1, 21)),
    {"event": "eval", "step": 10, "held_out_loss": 2.0, "answer": f"watched {EVIL}"},
    {"event": "eval", "step": 20, "held_out_loss": 2.2},
]


def judgement(answers: list[str], loss: float, stopped: list[bool]) -> Judgement:
    n = len(answers)
    return Judgement(
        losses=[(loss * (i + 1), 2.0) for i in range(n)],
        swapped_losses=[(loss + 9, 2.0)] * n,
        train_losses=[(loss, 2.0)] * 3,
        general=[(5.0, 2.0), (6.0, 2.0)],
        token_losses=[[0.1, 3.0]] * 2,
        answers=answers,
        stopped=stopped,
        tokens=[3] * n,
    )


def report(rows: int) -> Report:
    texts = [TEXTS[i % len(TEXTS)] for i in range(rows)]
    questions = [Question([1], t, t[::-1], 9, "dir/<b>.jsonl", i) for i, t in enumerate(texts)]
    base = judgement(texts, 3.0, [True] * rows)
    tuned = judgement(texts[1:] + texts[:1], 1.0, [i % 4 > 0 for i in range(rows)])
    training = ["plain answer with a few words that is a training answer too", EVIL]
    tokens = [
        Token(EVIL, (1,), 0.0), Token("a", (2,), 1.0), Token("b", (3,), 1.0, stop=True),
    ]  # fmt: skip
    return Report(
        title=f"run {EVIL}",
        card=score(base, tuned, questions, training),
        questions=questions,
        base=base,
        tuned=tuned,
        examples=[Example([1, 2, 3], [0, 1, 1], "dir/<b>.jsonl", i + 1) for i in range(rows)],
        tokens=[tokens, tokens],
        training_answers=[(answer, "") for answer in training],
        trained=[(f"trained.jsonl:{i}", 9.0 if i == 3 else i / 100) for i in range(12)],
        events=EVENTS,
        lengths=[10, 20, 20, 30],
        limit=40,
        facts={"seed": "0", "base": EVIL},
        dropped=[EVIL],
    )


class Elements(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.acts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        wanted = ("src", "href", "xlink:href", "action", "srcset", "data", "poster")
        for name, value in attrs:
            if name.startswith("on") or name in wanted:
                self.acts.append((name, value or ""))


def test_no_text_becomes_markup_and_nothing_is_loaded() -> None:
    elements = Elements()
    elements.feed(page(report(16)))
    assert elements.tags.count("script") == 1
    assert elements.tags.count("style") - len(re.findall("<style type", page(report(16)))) == 1
    assert "img" not in elements.tags
    for name, value in elements.acts:
        assert name in ("href", "xlink:href")
        assert value.startswith(("#", "data:,")), (name, value)


def test_two_hundred_rows_stay_below_half_a_megabyte() -> None:
    assert len(page(report(200)).encode()) < 500_000


def test_redacting_leaves_figures_and_places_and_no_text() -> None:
    clean = replace(report(16), title="run", facts={}, dropped=())
    whole, redacted = page(clean), page(clean, redact=True)
    for text in ("plain answer", "שלום", "line two", "漢字", "watched"):
        assert text in whole
        assert text not in redacted
    assert "eval loss" in redacted
    assert "trained.jsonl:3<" in redacted
    assert "dir/&lt;b&gt;.jsonl:16" in redacted


def test_without_events_rows_or_facts_the_page_has_no_empty_parts() -> None:
    full = report(16)
    bare = Report(title="t", card=full.card, questions=(), base=full.base, tuned=full.tuned)
    text = page(bare)
    for heading in ("Loss<", "Answers", "Lengths", "Rows left out", "Settings", "Unusual"):
        assert f"<h2>{heading}" not in text


def test_the_same_report_gives_the_same_bytes() -> None:
    assert page(report(8)) == page(report(8))


def test_the_rows_with_the_highest_and_lowest_losses_are_named_with_their_places() -> None:
    text = page(report(16))
    rows = re.findall(r'<th scope="row">([^<]*)</th><td>(training|held out)</td><td>(\w+)', text)
    training = [(where, end) for where, side, end in rows if side == "training"]
    assert [where for where, end in training if end == "highest"][:2] == [
        "trained.jsonl:3",
        "trained.jsonl:11",
    ]
    assert [where for where, end in training if end == "lowest"][:2] == [
        "trained.jsonl:0",
        "trained.jsonl:1",
    ]
    held_out = [(where, end) for where, side, end in rows if side == "held out"]
    # The losses of the held-out rows rise from row to row.
    assert held_out[0] == ("dir/&lt;b&gt;.jsonl:16", "highest")
    assert held_out[5] == ("dir/&lt;b&gt;.jsonl:1", "lowest")


def test_too_few_rows_have_no_unusual_ones() -> None:
    assert outliers([1.0] * 9) == ([], [])
    assert outliers([float(i) for i in range(10)]) == ([9, 8, 7, 6, 5], [0, 1, 2, 3, 4])


PROBE = """<script>
let violations = 0;
addEventListener("securitypolicyviolation", () => { violations += 1; });
addEventListener("load", () => {
  const seen = () => document.querySelectorAll(".answers tbody tr:not(.hidden)").length;
  const states = [seen()];
  for (const box of document.querySelectorAll(".filters input")) {
    box.click(); states.push(seen()); box.click();
  }
  for (const side of ["base", "mask", "tuned"]) {
    document.querySelector(`.sides input[value=${side}]`).click();
    states.push(document.body.className);
  }
  states.push(document.title.startsWith("run <script>"));
  states.push(performance.getEntriesByType("resource").length, violations);
  document.body.setAttribute("data-states", states.join(" "));
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser_filters_work_and_the_console_stays_empty(tmp_path: Path) -> None:
    assert BROWSER is not None
    file = tmp_path / "report.html"
    html = page(report(16))
    file.write_text(html.replace("<title>", PROBE + "<title>", 1), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    match = re.search(r'data-states="([^"]*)"', done.stdout)
    assert match is not None
    rows = re.findall(r'<tr class="([a-z ]*)">', html)
    expected = [len(rows)] + [
        sum(kind in row.split() for row in rows)
        for kind in ("changed", "worse", "copied", "unstopped")
    ]
    assert match[1] == " ".join([*map(str, expected), "base", "mask", "tuned", "true", "0", "0"])
