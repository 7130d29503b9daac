"""The lab: it shows what training does; what reaches it is bounded; it works by keyboard."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from biddable.cli import main
from biddable.data.conversation import Conversation, Message
from biddable.encoding.encode import encode
from biddable.engine.precision import load_model
from biddable.errors import BiddableError
from biddable.lab.api import MOST_CHARACTERS, MOST_MESSAGES, Lab, describe, show
from biddable.models.base import load_tokenizer, resolve_base
from biddable.template.template import Template
from browser import BROWSER, Browser
from folders import base_folder, tokenizer

EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
CHAT = [
    {"role": "system", "content": "You name colours."},
    {"role": "user", "content": "Which colour has the red cup?"},
    {"role": "assistant", "content": "Colour: red."},
    {"role": "user", "content": "And the blue door?"},
    {"role": "assistant", "content": "Colour: blue."},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def lab(base: str) -> Lab:
    found = resolve_base(base)
    return Lab(base, load_tokenizer(found), load_model(found, torch.device("cpu")))


@pytest.mark.parametrize("template", ["plain", "chatml", "llama2"])
@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_ids_and_weights_are_those_of_training(template: str, loss_on: Any, lab: Lab) -> None:
    conversation = Conversation([Message(m["role"], m["content"]) for m in CHAT])
    asked = {"messages": CHAT, "template": template, "loss_on": loss_on}
    frame = Template.frame(template)
    try:
        wanted = encode(conversation, lab.tokenizer, frame, loss_on=loss_on)
    except BiddableError as error:
        with pytest.raises(BiddableError, match=re.escape(error.finding.message)):
            show(lab, asked)
        return
    shown = show(lab, asked)["examples"]
    assert [[i for t in e["tokens"] for i in t["ids"]] for e in shown] == [
        list(e.input_ids) for e in wanted
    ]
    for one, example in zip(shown, wanted, strict=True):
        weights = [t["weight"] for t in one["tokens"] for _ in t["ids"]]
        assert weights == list(example.weights)


def test_the_masked_mean_is_that_of_plain_transformers(base: str, lab: Lab) -> None:
    from transformers import AutoModelForCausalLM

    (one,) = show(lab, {"messages": CHAT[:3]})["examples"]
    ids = torch.tensor([[i for t in one["tokens"] for i in t["ids"]]])
    weights = torch.tensor([t["weight"] for t in one["tokens"] for _ in t["ids"]])[1:]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(base)(ids).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    found = one["loss"]
    assert found["mean"] == pytest.approx(float((losses * weights).sum() / weights.sum()), rel=1e-4)
    assert [r["loss"] for r in found["rows"]] == pytest.approx(losses[weights > 0].tolist(), 1e-4)
    assert "".join(r["text"] for r in found["rows"]).count("Colour") == 1


def test_the_render_is_cut_by_role_and_loses_nothing(lab: Lab) -> None:
    parts = show(lab, {"messages": CHAT, "template": "plain"})["render"]
    assert [(p["role"], p["text"]) for p in parts if p["role"]] == [
        (m["role"], m["content"]) for m in CHAT
    ]
    messages = [Message(m["role"], m["content"]) for m in CHAT]
    frame = Template.frame("plain").bound(lab.tokenizer)
    whole = frame.render(messages, add_generation_prompt=False)
    assert "".join(p["text"] for p in parts) == whole


def test_without_weights_the_loss_is_left_out_and_own_templates_are_offered() -> None:
    bare = Lab("x", tokenizer(), None)
    assert show(bare, {"messages": CHAT})["examples"][0]["loss"] is None
    assert "own" not in describe(bare)["templates"]
    own = tokenizer("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    assert describe(Lab("x", own))["templates"][0] == "own"
    assert (
        show(Lab("x", own), {"messages": CHAT, "template": "own"})["render"][-1]["text"] == "</s>"
    )


def many(count: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "x"}] * count


BAD: dict[str, Any] = {
    "a list": [],
    "no messages": {},
    "none": {"messages": []},
    "too many": {"messages": many(MOST_MESSAGES + 1)},
    "too long": {"messages": [{"role": "user", "content": "x" * (MOST_CHARACTERS + 1)}]},
    "a role": {"messages": [{"role": "tool", "content": "x"}]},
    "no text": {"messages": [{"role": "user", "content": 7}]},
    "no object": {"messages": ["hi"]},
    "a file": {"messages": CHAT, "template": "/etc/passwd"},
    "a template": {"messages": CHAT, "template": ["plain"]},
    "a loss": {"messages": CHAT, "loss_on": "none"},
    "no answer": {"messages": many(1)},
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_request_is_refused(name: str, lab: Lab) -> None:
    with pytest.raises(BiddableError):
        show(lab, BAD[name])


@pytest.fixture(scope="module")
def address(base: str) -> Iterator[str]:
    command = [sys.executable, "-m", "biddable", "lab", base, "--weights", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
    assert found is not None
    yield found[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (0, 130)
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def ask(url: str, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    request = urllib.request.Request(url, data=data, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, dict(reply.headers), reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def test_the_server_answers_this_machine_only_and_bounded_json_only(address: str) -> None:
    body = json.dumps({"messages": CHAT}).encode()
    show_at, json_kind = address + "api/show", "application/json"
    assert ask(show_at, body, Content_Type=json_kind)[0] == 200
    assert ask(address, Host="evil.example")[0] == 400
    assert ask(show_at, body, Content_Type=json_kind, Host="evil.example:80")[0] == 400
    assert ask(show_at, body, Content_Type="text/plain")[0] == 415
    assert ask(show_at, b"x" * 300_000, Content_Type=json_kind)[0] == 413
    assert ask(show_at, b"{", Content_Type=json_kind)[0] == 400
    assert ask(show_at, b"[" * 100_000, Content_Type=json_kind)[0] == 400
    assert ask(show_at, b'{"messages": []}', Content_Type=json_kind)[0] == 422
    assert ask(show_at)[0] == 405
    assert ask(address + "../api.py")[0] == 404
    status, headers, text = ask(address)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


def test_a_port_that_is_taken_is_an_error_with_a_fix(
    address: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = address.rstrip("/").rpartition(":")[2]
    assert main(["lab", base, "--port", port]) == 1
    assert "give another --port" in capsys.readouterr().err


# Ink and paper as computed from the style sheet, so no frame is waited for.
COLOURS = """(() => { const style = getComputedStyle(document.body);
    return [style.color, style.backgroundColor]; })()"""


def brightness(colour: str) -> float:
    """From 0 to 1, of what a browser gives as rgb(r, g, b)."""
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser_by_keyboard_in_light_and_dark(address: str, tmp_path: Path) -> None:
    page = Browser(tmp_path / "profile")
    try:
        page.send("Page.navigate", url=address)
        page.wait("document.querySelectorAll('.formula').length === 1")
        trained = (
            "[...document.querySelectorAll('.token.trained')].map(t => t.textContent).join('')"
        )
        assert page.value(trained).startswith("Four.")
        # The exercise: its box by Space, then Tab to the tokens, arrows between them.
        page.value("document.getElementById('exercise').focus()")
        page.press(" ", 32, " ")
        assert page.value("document.querySelectorAll('.token.trained').length") == 0
        page.press("Tab", 9)
        page.press("Tab", 9)
        focus = "[...document.querySelectorAll('button.token')].indexOf(document.activeElement)"
        assert page.value(focus) == 0
        page.press(" ", 32, " ")
        count = page.value("document.querySelectorAll('button.token').length")
        truth = "[...document.querySelectorAll('button.token')].map(t => t.dataset.counts)"
        wanted = page.value(truth)
        for place in range(1, count):
            page.press("ArrowRight", 39)
            assert page.value(focus) == place
            if wanted[place] == "true":
                page.press(" ", 32, " ")
        told = "document.getElementById('told').textContent"
        page.value("document.getElementById('check').click()")
        assert "1 marked that do not count, 0 missed" in page.value(told)
        page.value("document.querySelector('button.token').click()")
        page.value("document.getElementById('check').click()")
        assert page.value(told).startswith("All right")
        # What is typed is text wherever it comes out.
        page.value("document.querySelectorAll('textarea')[1].focus()")
        page.type(EVIL)
        page.wait("document.getElementById('render').textContent.includes('onerror')")
        assert page.value("document.title") == "biddable lab"
        assert page.value("document.querySelectorAll('img').length") == 0
        # A refusal is told and the page goes on.
        page.value("document.querySelectorAll('.message button')[2].click()")
        page.wait("document.getElementById('problem').textContent.length > 10")
        # Marked, for the old document satisfies the same wait until the new one is there.
        page.value("window.old = true")
        page.send("Page.reload")
        page.wait("!window.old && document.querySelectorAll('.formula').length === 1")
        light = page.value(COLOURS)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.send("Emulation.setEmulatedMedia", features=dark)
        night = page.value(COLOURS)
        assert brightness(light[1]) > 0.8
        assert brightness(night[1]) < 0.2
        for text, ground in (light, night):
            assert abs(brightness(text) - brightness(ground)) > 0.6
        assert [c for c in page.complaints() if "422" not in c] == []
    finally:
        page.close()
