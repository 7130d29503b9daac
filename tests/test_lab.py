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
from biddable.data.readers import read
from biddable.encoding.encode import encode, encode_many, encode_prompt, make_encoder
from biddable.engine.precision import load_model
from biddable.errors import BiddableError
from biddable.lab.api import MOST_CHARACTERS, MOST_MESSAGES, Lab, data_row, describe, show
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
    resolved = resolve_base(base)
    return Lab(base, load_tokenizer(resolved), load_model(resolved, torch.device("cpu")))


@pytest.mark.parametrize("template", ["plain", "chatml", "llama2"])
@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_ids_and_weights_are_those_of_training(template: str, loss_on: Any, lab: Lab) -> None:
    conversation = Conversation([Message(m["role"], m["content"]) for m in CHAT])
    asked = {"messages": CHAT, "template": template, "loss_on": loss_on}
    frame = Template.frame(template)
    (wanted,) = encode_many(make_encoder(lab.tokenizer, frame), [conversation], loss_on)
    answer = show(lab, asked)
    shown = answer["examples"]
    if isinstance(wanted, BiddableError):
        assert wanted.finding.message in answer["problem"]
        wanted = []
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
    loss = one["loss"]
    assert loss["mean"] == pytest.approx(float((losses * weights).sum() / weights.sum()), rel=1e-4)
    assert [r["loss"] for r in loss["rows"]] == pytest.approx(losses[weights > 0].tolist(), 1e-4)
    assert "".join(r["text"] for r in loss["rows"]).count("Colour") == 1


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
    "too many": {"messages": [*CHAT, *many(MOST_MESSAGES + 1)]},
    "too long": {"messages": [*CHAT, {"role": "user", "content": "x" * (MOST_CHARACTERS + 1)}]},
    "too long a template": {
        "messages": CHAT,
        "template": "typed Jinja",
        "typed": "{{ messages[2].content }}{{ eos_token }}" + "x" * MOST_CHARACTERS,
    },
    "a role": {"messages": [{"role": "robot", "content": "x"}, *CHAT]},
    "no text": {"messages": [{"role": "user", "content": 7}]},
    "no object": {"messages": ["hi"]},
    "a file": {"messages": CHAT, "template": "/etc/passwd"},
    "a template": {"messages": CHAT, "template": ["plain"]},
    "a loss": {"messages": CHAT, "loss_on": "none"},
    "no answer": {"messages": many(1)},
    "no frame": {"messages": CHAT, "template": "typed frame"},
    "no Jinja": {"messages": CHAT, "template": "typed Jinja", "typed": {"user": ""}},
    "broken Jinja": {"messages": CHAT, "template": "typed Jinja", "typed": "{% for"},
    "an endless template": {
        "messages": CHAT,
        "template": "typed Jinja",
        "typed": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    },
    "tools": {"messages": CHAT, "tools": "all"},
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_request_is_refused(name: str, lab: Lab) -> None:
    with pytest.raises(BiddableError):
        show(lab, BAD[name])


PLAIN_FRAME = {
    "system": "System: {system}\n",
    "user": "User: {prompt}\nAssistant: ",
    "assistant": "{completion}\n{eos}",
}


def written(lab: Lab, messages: list[dict[str, Any]] = CHAT, **frame: str) -> dict[str, Any]:
    typed = {**PLAIN_FRAME, **frame}
    return show(lab, {"messages": messages, "template": "typed frame", "typed": typed})


def texts_of(shown: dict[str, Any], ok: bool) -> str:
    return " ".join(check["text"] for check in shown["checks"] if check["ok"] is ok)


def test_a_frame_that_is_typed_trains_what_the_built_in_one_trains(lab: Lab) -> None:
    by_hand, built_in = written(lab), show(lab, {"messages": CHAT, "template": "plain"})
    assert by_hand["examples"] == built_in["examples"]
    assert by_hand["render"] == built_in["render"]
    assert texts_of(by_hand, ok=False) == by_hand["problem"] == ""
    assert r"learns to write 'Colour: red.\n</s>' as message 3" in texts_of(by_hand, ok=True)
    assert "'</s>' (id 1) stops the sampler" in texts_of(by_hand, ok=True)
    again = {"messages": CHAT, "template": "typed Jinja", "typed": by_hand["jinja"]}
    assert show(lab, again) == by_hand


def test_training_begins_with_the_ids_that_are_served(lab: Lab) -> None:
    shown = written(lab)
    frame = Template(shown["jinja"])
    messages = [Message(m["role"], m["content"]) for m in CHAT]
    ids = [i for token in shown["examples"][-1]["tokens"] for i in token["ids"]]
    prompt = encode_prompt(messages[:-1], lab.tokenizer, frame)
    assert ids[: len(prompt)] == prompt
    assert f"with the {len(prompt)} ids that chat and serve send" in texts_of(shown, ok=True)


BAD_FRAMES = {
    "drops the system prompt": ({"system": ""}, "drops or rewrites 'You name colours.'"),
    "prints the prompt twice": (
        {"user": "{prompt} {prompt}\n"}, "prints 'Which colour has the red cup?' more than once",
    ),
    "changes the answer": ({"assistant": "{% raw %}{eos}"}, "drops or rewrites 'Colour: red.'"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD_FRAMES))
def test_what_a_frame_loses_is_shown_beside_the_render(name: str, lab: Lab) -> None:
    frame, what = BAD_FRAMES[name]
    shown = written(lab, **frame)
    assert what in texts_of(shown, ok=False)
    assert shown["problem"]
    assert shown["render"]
    assert shown["examples"] == []


def test_a_frame_that_does_not_end_an_answer_is_refused_with_its_render(lab: Lab) -> None:
    shown = written(lab, assistant="{completion} ")
    assert "end of turn" in shown["problem"]
    assert [part["role"] for part in shown["render"] if part["role"]] == [m["role"] for m in CHAT]


def test_placeholders_in_a_message_are_ordinary_text(lab: Lab) -> None:
    odd = [
        {"role": "user", "content": "{prompt} {eos} {completion}"},
        {"role": "assistant", "content": "{{ 7 * 7 }}{eos}{% raw %}"},
    ]
    shown = written(lab, odd)
    assert shown["problem"] == ""
    assert [p["text"] for p in shown["render"] if p["role"]] == [m["content"] for m in odd]


CALL = {
    "messages": [
        {"role": "user", "content": "Which colour?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "look", "arguments": {"at": "cup"}}}],
        },
        {"role": "tool", "content": "red"},
        {"role": "assistant", "content": "Red.", "weight": 0.5},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
}
WITH_TOOLS = (
    "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_row_of_a_file_is_shown_as_it_is_trained_with_its_tools_and_weights(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps(CALL))
    conversations = read([str(tmp_path / "rows.jsonl")]).conversations
    opened = Lab("x", tokenizer(WITH_TOOLS), None, conversations)
    assert describe(opened)["rows"] == 2
    row = data_row(opened, "2")
    assert row.pop("place").endswith("rows.jsonl:2")
    shown = show(opened, {**row, "template": "own"})
    wanted = encode(conversations[1], opened.tokenizer, Template.of(opened.tokenizer))
    weights = [[t["weight"] for t in e["tokens"] for _ in t["ids"]] for e in shown["examples"]]
    assert weights == [list(example.weights) for example in wanted]
    assert 0.5 in weights[-1]
    for number in ("0", "3", "-1", "x", ""):
        with pytest.raises(BiddableError):
            data_row(opened, number)


@pytest.fixture(scope="module")
def address(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    first = {"user": "What is two plus two?", "assistant": "Four.", "system": "You answer briefly."}
    file.write_text(json.dumps(first) + "\n" + json.dumps(CALL))
    command = [sys.executable, "-m", "biddable", "lab", base, "--weights", "--port", "0"]
    command += ["--data", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = r"http://127\.0\.0\.1:\d+/"
    lines = (re.search(address, line) for line in iter(process.stderr.readline, ""))
    yield next(match[0] for match in lines if match)
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
    assert ask(address + "api/row?number=1")[0] == 200
    assert ask(address + "api/row?number=3")[0] == 422
    assert ask(address + "api/row?number=1", Host="evil.example")[0] == 400
    assert "--good: light-dark(" in ask(address + "page.css")[2]
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


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Browser]:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    opened = Browser(tmp_path / "profile")
    try:
        opened.send("Page.navigate", url=address)
        opened.wait("document.querySelectorAll('.formula').length === 1")
        yield opened
        assert [c for c in opened.complaints() if "422" not in c] == []
    finally:
        opened.close()


def test_in_a_browser_by_keyboard_in_light_and_dark(page: Browser) -> None:
    trained = "[...document.querySelectorAll('.token.trained')].map(t => t.textContent).join('')"
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
    result = "document.getElementById('result').textContent"
    page.value("document.getElementById('check').click()")
    assert "1 marked that do not count, 0 missed" in page.value(result)
    page.value("document.querySelector('button.token').click()")
    page.value("document.getElementById('check').click()")
    assert page.value(result).startswith("All right")
    # What is typed is text wherever it comes out.
    page.value("document.querySelectorAll('.message textarea')[1].focus()")
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


def test_in_a_browser_a_renderer_is_written_and_rows_are_opened(page: Browser) -> None:
    checks = "document.getElementById('checks').textContent"
    # The frame begins without an end of turn, and is mended by typing.
    page.value("document.getElementById('write').click()")
    page.wait("document.getElementById('problem').textContent.includes('end of turn')")
    page.value("document.getElementById('frame-assistant').focus()")
    page.value("document.activeElement.setSelectionRange(99, 99)")
    page.type("{eos}")
    page.wait("document.querySelectorAll('#checks .yes').length === 4")
    assert "ids that chat and serve send" in page.value(checks)
    assert page.value("document.getElementById('problem').textContent") == ""
    assert page.value("document.querySelectorAll('#render .user').length") == 1
    # Its Jinja can be changed; what it loses then is said.
    page.value("document.getElementById('copy').click()")
    page.wait("document.getElementById('jinja').value.includes('{completion}')")
    change = "const e = document.getElementById('jinja'); e.value = e.value.replace('{prompt}',"
    page.value(f"{change} ''); e.dispatchEvent(new Event('input', {{bubbles: true}}))")
    page.wait("document.querySelectorAll('#checks .no').length > 0")
    assert "drops or rewrites 'What is two plus two?'" in page.value(checks)
    page.value("const row = document.getElementById('row'); row.value = 2")
    page.value("row.dispatchEvent(new Event('change'))")
    page.wait("document.getElementById('row-place').textContent.includes('rows.jsonl:2, 1 tools')")
    assert "tool_calls" in page.value("document.querySelector('.rest').textContent")
