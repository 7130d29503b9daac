"""`serve`: OpenAI's own client, curl's bytes and a browser against a server of tiny models."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import LlamaForCausalLM

from biddable.cli import main
from biddable.commands.serve import _key_for
from biddable.errors import BiddableError
from biddable.generation.speaker import Speaker, load
from biddable.serving.forms import event
from browser import BROWSER, Browser
from folders import SYSTEM, base_folder

QUESTIONS = [f"Which color has thing {i}? " + "It is a thing. " * (i % 4) for i in range(16)]
HELLO = [{"role": "user", "content": "Hi?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


@dataclass(frozen=True)
class Place:
    """A running server, and the folders of its models."""

    port: int
    root: Path
    process: subprocess.Popen[str]

    @property
    def client(self) -> openai.OpenAI:
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=60)


def start(root: Path, *words: str, **env: str) -> tuple[int, subprocess.Popen[str]]:
    runs = [str(root / word) if (root / word).is_dir() else word for word in words]
    command = [sys.executable, "-m", "biddable", "serve", *runs, "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
    )
    assert process.stderr is not None
    lines = ""
    while not (port := re.search(r"http://[^ ]+:(\d+)/v1", lines)):
        lines += (text := process.stderr.readline())
        assert text, lines
    return int(port[1]), process


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one base; the weights of each are its own."""
    root = tmp_path_factory.mktemp("serve")
    base = base_folder(root / "base")
    for number, name in enumerate(("first", "second"), 1):
        shutil.copytree(base, root / name / "model")
        model = LlamaForCausalLM.from_pretrained(base)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(root / name / "model")
        (root / name / "model" / "system_prompt.txt").write_text(SYSTEM)
        (root / name / "config.toml").write_text(f"base = {json.dumps(base)}\n")
    return root


@pytest.fixture(scope="module")
def place(root: Path) -> Iterator[Place]:
    port, process = start(root, "first", "second", "--base")
    try:
        yield Place(port, root, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(scope="module")
def speaker(root: Path) -> Speaker:
    return load(root / "first", device="cpu")


def ask(place: Place, text: str, model: str = "first", **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return place.client.chat.completions.create(model=model, messages=messages, **GREEDY | more)


def streamed(place: Place, text: str, **more: Any) -> tuple[str, Any]:
    """The text of a streamed answer and its last piece with a choice."""
    chunks = [c for c in ask(place, text, stream=True, **more) if c.choices]
    assert chunks[0].choices[0].delta.role == "assistant"
    return "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0]


def post(place: Place, body: Any, path: str = "chat/completions", **headers: str) -> Any:
    """(status, JSON) of a request as curl would send it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    sent = {"Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", f"/v1/{path}", data, sent)
    reply = connection.getresponse()
    answer = reply.status, json.loads(reply.read())
    connection.close()
    return answer


def metric(place: Place, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


# Laws.


def test_an_answer_is_that_of_chat_with_the_system_prompt_of_training(
    place: Place, speaker: Speaker
) -> None:
    for text in QUESTIONS[:6]:
        expected = speaker.answer(text, temperature=0, max_new_tokens=24)
        assert ask(place, text).choices[0].message.content == expected
        assert streamed(place, text)[0] == expected
        drawn = {"temperature": 1.3, "top_p": 0.9, "seed": 7}
        assert ask(place, text, **drawn).choices[0].message.content == speaker.answer(
            text, max_new_tokens=24, **drawn
        )
    other = ask(place, "Hi?", extra_body={"biddable_system": False})
    assert other.choices[0].message.content == speaker.answer(
        "Hi?", system="", temperature=0, max_new_tokens=24
    )


def test_sixteen_clients_at_once_get_what_one_gets_alone(place: Place) -> None:
    jobs = [(text, model) for text in QUESTIONS for model in ("first", "second", "base")]
    alone = [ask(place, text, model).choices[0].message.content for text, model in jobs]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda job: ask(place, *job).choices[0].message.content, jobs))
    assert together == alone
    assert len(set(alone)) > len(QUESTIONS)


def test_the_async_client_streams_many_answers_at_once(place: Place) -> None:
    async def one(client: openai.AsyncOpenAI, text: str) -> str:
        messages: Any = [{"role": "user", "content": text}]
        stream: Any = await client.chat.completions.create(
            model="first", messages=messages, stream=True, **GREEDY
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def everyone() -> list[str]:
        url = f"http://127.0.0.1:{place.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(one(client, text) for text in QUESTIONS))

    alone = [ask(place, text).choices[0].message.content for text in QUESTIONS]
    assert asyncio.run(everyone()) == alone


def test_a_stop_text_cuts_where_it_begins_streamed_or_not(place: Place) -> None:
    for text in ("Hi?", "Which color has it?", "And the door?"):
        full = ask(place, text).choices[0].message.content
        assert len(full) > 7
        for stop in (full[3:6], [full[5:7], "never in it"], [full[2:4]]):
            stops = [stop] if isinstance(stop, str) else stop
            cut = min(full.find(s) + len(s) for s in stops if s in full)
            expected = next(full[: cut - len(s)] for s in stops if full[:cut].endswith(s))
            answer = ask(place, text, stop=stop).choices[0]
            assert (answer.message.content, answer.finish_reason) == (expected, "stop")
            content, last = streamed(place, text, stop=stop)
            assert (content, last.finish_reason) == (expected, "stop")


def test_an_event_is_one_line_to_every_client() -> None:
    """Some split at whatever Python's splitlines takes for an end of line."""
    text = "a\u2028b\u2029c\x85d\x1ce\x0bf\r\ng\ud800"
    whole = event({"text": text}).decode()
    assert whole.splitlines() == [whole.strip(), ""]
    assert json.loads(whole.removeprefix("data: ")) == {"text": text}


def test_usage_and_limits(place: Place) -> None:
    answer = ask(place, "Hi?", max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    *_, last = ask(place, "Hi?", max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == answer.usage
    both = ask(place, "Hi?", max_tokens=5, extra_body={"max_completion_tokens": 5})
    assert both.choices[0].message.content == answer.choices[0].message.content
    # To the end of the context of 256.
    long = ask(place, "Hi? " * 30, max_tokens=100_000)
    assert long.usage.total_tokens <= 256


def test_logarithms_go_with_the_text(place: Place) -> None:
    for text in QUESTIONS[:3]:
        answer = ask(place, text, logprobs=True, top_logprobs=3)
        logs = answer.choices[0].logprobs.content
        assert all(log.logprob == log.top_logprobs[0].logprob <= 0 for log in logs)
        assert all(len(log.top_logprobs) == 3 for log in logs)
        parts = [c.choices[0] for c in ask(place, text, logprobs=True, stream=True)]
        pieces = [log.token for part in parts if part.logprobs for log in part.logprobs.content]
        assert pieces == [log.token for log in logs]
        assert len(pieces) == answer.usage.completion_tokens - (
            answer.choices[0].finish_reason == "stop"
        )


def test_completions_take_a_text_or_ids_as_they_are(place: Place, root: Path) -> None:
    from biddable.models.base import load_tokenizer, resolve_base

    tokenizer = load_tokenizer(resolve_base(str(root / "base")))
    text = "System: Be brief.\nUser: Hi?\nAssistant: "
    ids = tokenizer.encode(text, add_special_tokens=False)
    create = place.client.completions.create
    answers = [
        create(model="base", prompt=prompt, max_tokens=9, temperature=0).choices[0].text
        for prompt in (text, [text], ids, [ids])
    ]
    assert len(set(answers)) == 1
    pieces = create(model="base", prompt=text, max_tokens=9, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == answers[0]
    logs = create(model="base", prompt=text, max_tokens=4, logprobs=2).choices[0].logprobs
    assert logs is not None
    assert len(logs.tokens or []) == len(logs.text_offset or []) == 4
    assert create(model="base", prompt=text).usage.completion_tokens <= 16  # type: ignore[union-attr]


def test_models_are_named_and_found_by_name_or_path(place: Place) -> None:
    models = place.client.models.list().data
    assert [m.id for m in models] == ["first", "second", "base"]
    assert place.client.models.retrieve("second").id == "second"
    path = str(place.root / "base")
    assert ask(place, "Hi?", path).model == "base"
    with pytest.raises(openai.NotFoundError):
        place.client.models.retrieve("third")


def test_the_roles_and_parts_that_clients_send_are_read(place: Place) -> None:
    def content(messages: Any) -> Any:
        create = place.client.chat.completions.create
        return create(model="first", messages=messages, **GREEDY).choices[0].message.content

    brief = {"role": "system", "content": "Be brief."}
    plain = content([brief, {"role": "user", "content": "Hi?"}])
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i?"}]
    assert plain == content(
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    )
    first = ask(place, "Hi?").choices[0].message.model_dump()
    history: Any = [{"role": "user", "content": "Hi?"}, first, {"role": "user", "content": "And?"}]
    assert content(history) is not None


def test_the_calls_of_open_webui_are_answered(place: Place) -> None:
    """Its backend lists the models, streams a chat, and asks for a title in one piece."""
    named = {"Authorization": "Bearer none", "X_OpenWebUI_User_Name": "me"}
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    chat = {
        "stream": True,
        "model": "first",
        "messages": messages,
        "max_tokens": 8,
        "temperature": 1,
    }
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    kind = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    connection.request("POST", "/v1/chat/completions", json.dumps(chat).encode(), kind)
    reply = connection.getresponse()
    assert reply.getheader("content-type", "").startswith("text/event-stream")
    events = reply.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(e.removeprefix("data: "))["choices"] for e in events[:-2])
    connection.close()
    title = {"stream": False, "model": "first", "messages": HELLO, "max_completion_tokens": 1000}
    status, answer = post(place, title, **named)
    assert (status, answer["choices"][0]["message"]["role"]) == (200, "assistant")


# Refusals.

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**70}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"temprature": 0}, "temprature"),
    ({"guided_json": {}}, "guided_json"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi?"}, "messages"),
    ({"messages": ["Hi?"]}, "messages[0]"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "content": "x"}]}]},
        "messages[0].content[0].content",
    ),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x " * 2000}]}, "messages"),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
]


@pytest.mark.parametrize(("change", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(
    change: dict[str, Any], param: str, place: Place
) -> None:
    status, answer = post(place, {"model": "first", "messages": HELLO, "max_tokens": 3} | change)
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["type"] == "invalid_request_error"
    assert re.split(r"[.\[]", param)[0] in answer["error"]["message"] or param == "messages"


def test_what_asks_for_nothing_is_taken(place: Place) -> None:
    more = {
        "n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
        "presence_penalty": 0, "logit_bias": {}, "user": "me", "metadata": {"a": "b"}, "seed": None,
        "logprobs": False, "stop": [], "max_completion_tokens": None, "top_p": 0, "store": False,
    }  # fmt: skip
    status, answer = post(place, {"model": "first", "messages": HELLO, "max_tokens": 3, **more})
    assert status == 200, answer


def test_errors_are_those_that_the_client_knows(place: Place) -> None:
    with pytest.raises(openai.NotFoundError, match="there is first, second, base"):
        ask(place, "Hi?", model="gpt-4o")
    with pytest.raises(openai.BadRequestError) as error:
        ask(place, "x " * 2000)
    assert error.value.code == "context_length_exceeded"


def test_bodies_hosts_and_paths_that_are_no_request(place: Place) -> None:
    hello = {"model": "first", "messages": HELLO}
    twice, odd = b'{"a": 1, "a": 2}', (b"", b"\xff\xfe", b'{"a": NaN}', b"[" * 60_000)
    for body in (b"{", b"null", b"[]", twice, *odd):
        status, answer = post(place, body)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    start = json.dumps(hello | {"max_tokens": 1}).encode()[:-1]
    for name, taken in ((b"metadata", (200, 400)), (b"stop", (400,)), (b"x", (400,))):
        for depth in (300, 600, *range(900, 1000, 6)):
            nested = b'{"a":[' * (depth // 2) + b"0" + b"]}" * (depth // 2)
            status, answer = post(place, start + b', "' + name + b'": ' + nested + b"}")
            assert status in taken, answer
    assert post(place, b" " * (5 << 20))[0] == 413
    assert post(place, hello, Content_Type="text/plain")[0] == 415
    assert post(place, hello, Content_Type="Application/JSON; charset=utf-8")[0] == 200
    assert post(place, hello, Host="evil.example")[0] == 400
    assert post(place, hello, Host="localhost.evil.example:80")[0] == 400
    assert post(place, hello, Host=f"localhost:{place.port}")[0] == 200
    assert post(place, hello, Authorization="Bearer sk-anything")[0] == 200
    assert post(place, hello, "embeddings")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    connection.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://evil.example"})
    reply = connection.getresponse()
    assert reply.status == 405
    assert not [name for name, _ in reply.getheaders() if name.lower().startswith("access-control")]
    reply.read()
    connection.close()


def test_a_client_that_leaves_frees_its_row(place: Place) -> None:
    for stream in (True, False):
        body = {"model": "first", "messages": HELLO, "max_tokens": 200, "stream": stream}
        data = json.dumps({**body, "temperature": 2}).encode()
        sockets = []
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", place.port))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{place.port}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            client.sendall(head.encode() + data)
            sockets.append(client)
        sockets[0].recv(1)
        for client in sockets:
            client.close()
        end = time.monotonic() + 30
        while metric(place, "biddable_running") + metric(place, "biddable_waiting"):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert metric(place, 'biddable_requests_total{model="first",status="499"}') > 0


def test_metrics_and_health(place: Place) -> None:
    before = metric(place, "biddable_completion_tokens_total")
    ask(place, "Hi?", max_tokens=5)
    assert metric(place, "biddable_completion_tokens_total") == before + 5
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    connection.close()


# The command.


def test_a_key_is_needed_where_other_machines_can_ask_and_answers_end_in_order(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BIDDABLE_KEY", raising=False)
    assert main(["serve", str(root / "first"), "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "set BIDDABLE_KEY" in capsys.readouterr().err
    port, process = start(root, "first", "--host", "0.0.0.0", BIDDABLE_KEY="sesame")
    place = Place(port, root, process)
    hello = {"model": "first", "messages": HELLO, "max_tokens": 2}
    try:
        assert post(place, hello)[0] == 401
        assert post(place, hello, Authorization="Bearer sesam")[0] == 401
        assert post(place, hello, Authorization="Bearer s\u00e9same")[0] == 401
        assert post(place, hello, Authorization="Bearer sesame", Host="a.name")[0] == 200
        with pytest.raises(openai.AuthenticationError):
            place.client.models.list()
        client = place.client.with_options(api_key="sesame")
        messages: Any = HELLO
        stream = client.chat.completions.create(
            model="first", messages=messages, max_tokens=200, stream=True
        )
        next(iter(stream))
        process.send_signal(signal.SIGTERM)
        # Within the time that is left to them: a tiny model writes 200 tokens in less.
        assert [c.choices[0].finish_reason for c in stream][-1] in ("stop", "length")
        assert process.wait(60) == 0
        assert process.stderr is not None
        text = process.stderr.read()
        assert "Traceback" not in text
        assert "ended" in text
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_key_that_is_set_counts_on_this_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy on the same machine lets others in."""
    monkeypatch.setenv("BIDDABLE_KEY", "sesame")
    assert _key_for("127.0.0.1") == _key_for("0.0.0.0") == "sesame"
    monkeypatch.delenv("BIDDABLE_KEY")
    assert _key_for("127.0.0.1") is _key_for("::1") is None
    for key in ("sésame", " sesame", "se\nsame", "\t"):
        monkeypatch.setenv("BIDDABLE_KEY", key)
        with pytest.raises(BiddableError, match="no request can bear the key"):
            _key_for("127.0.0.1")


def test_what_cannot_be_served_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    (root / "half").mkdir()
    (root / "half" / "config.toml").touch()
    cases = {
        (): "there is no model to serve",
        ("missing/run",): "missing/run",
        ("",): "its name is empty",
        ("half",): "the run half has no model yet",
        ("base", "--base"): "names its base",
        ("first", str(root / "second" / ".." / "first"), "first/model", "base/../second/model"):
            "two models have the name model",
    }  # fmt: skip
    for words, text in cases.items():
        assert main(["serve", *words, "--port", "0"]) in (1, 2), words
        assert text in capsys.readouterr().err
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        assert main(["serve", "first", "--port", str(listener.getsockname()[1])]) == 1
    assert "give another --port" in capsys.readouterr().err
    monkeypatch.setenv("BIDDABLE_KEY", "sesame")
    for host in ("no such host", "x" * 80, "."):
        assert main(["serve", "first", "--host", host, "--port", "0"]) == 1
        assert "give another --host" in capsys.readouterr().err


# The page.


def brightness(color: str) -> float:
    """From 0 to 1, of what a browser gives as rgb(r, g, b)."""
    red, green, blue = (int(part) for part in re.findall(r"\d+", color)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser_by_keyboard_on_a_phone_and_in_the_dark(
    place: Place, tmp_path: Path
) -> None:
    page = Browser(tmp_path / "profile")
    notes = "document.querySelectorAll('.note').length"
    try:
        page.send("Network.enable")
        page.send("Page.navigate", url=f"http://127.0.0.1:{place.port}/")
        page.wait("document.activeElement?.id === 'prompt'")
        chosen = "[0, 1].map(s => document.getElementById('model-' + s).value)"
        assert page.value(chosen) == ["base", "first"]
        assert page.value("document.getElementById('system').value") == SYSTEM
        page.type(QUESTIONS[0])
        page.press("Enter", 13, "\r")
        page.wait(f"{notes} === 2")
        system: Any = [{"role": "system", "content": SYSTEM}]
        for side, model in enumerate(("base", "first")):
            answer = place.client.chat.completions.create(
                model=model, messages=[*system, {"role": "user", "content": QUESTIONS[0]}],
                temperature=0,
            )  # fmt: skip
            drawn = f"document.querySelectorAll('#log-{side} .turn')[1].textContent"
            assert page.value(drawn) == answer.choices[0].message.content
        # What is typed is text wherever it comes out, and the talk goes on.
        page.type('<img src=x onerror="document.title=1">')
        page.press("Enter", 13, "\r")
        page.wait(f"{notes} === 4")
        assert page.value("document.title") == "biddable serve"
        assert page.value("document.querySelectorAll('img').length") == 0
        # Shift+Enter is a line; Escape stops; a new conversation is empty.
        page.value("document.getElementById('new').click()")
        assert page.value("document.querySelectorAll('.turn').length") == 0
        # A question that is too long is told on both sides, and is no part of what is sent next.
        page.value("document.getElementById('prompt').value = 'x '.repeat(2000)")
        page.value("document.getElementById('send').click()")
        page.wait("document.querySelectorAll('.bad').length === 2")
        assert "context" in page.value("document.querySelector('.bad').textContent")
        page.wait("!document.getElementById('send').disabled")
        assert page.value("talks.flat().length") == 0
        light = page.value("[getComputedStyle(document.body).color, "
                           "getComputedStyle(document.body).backgroundColor]")  # fmt: skip
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.send("Emulation.setEmulatedMedia", features=dark)
        night = page.value("[getComputedStyle(document.body).color, "
                           "getComputedStyle(document.body).backgroundColor]")  # fmt: skip
        assert brightness(light[1]) > 0.8
        assert brightness(night[1]) < 0.2
        for text, ground in (light, night):
            assert abs(brightness(text) - brightness(ground)) > 0.6
        page.send(
            "Emulation.setDeviceMetricsOverride",
            width=390, height=800, deviceScaleFactor=1, mobile=True,
        )  # fmt: skip
        assert page.value("document.documentElement.scrollWidth") <= 390
        assert [c for c in page.complaints() if "400" not in c] == []
        asked = [
            t["params"]["request"]["url"]
            for t in page.events
            if t.get("method") == "Network.requestWillBeSent"
        ]
        assert asked
        assert all(url.startswith((f"http://127.0.0.1:{place.port}/", "data:")) for url in asked)
    finally:
        page.close()
