"""A chat template is untrusted code: it reaches nothing and can neither stall nor fill memory."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import biddable
from biddable import BiddableError
from biddable.template.rendering import Renderer, Renders, renderer_of
from biddable.template.template import Template, request_of

ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class of a loop": "{% for a in [1] %}{{ loop.__class__ }}{% endfor %}",
    "class of a macro": "{% macro m() %}{% endmacro %}{{ m.__class__ }}",
    "class by key": "{{ ''['__class__'] }}",
    "class by attr": "{{ ''|attr('__class__') }}",
    "class by map": "{{ [1]|map(attribute='__class__')|list }}",
    "class by sort": "{{ ['a', 'b']|sort(attribute='__class__') }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].system('touch FILE') }}",
    "globals of cycler": "{{ cycler.__init__.__globals__.os.system('touch FILE') }}",
    "globals of namespace": "{{ namespace.__init__.__globals__ }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of self": "{{ self.__init__.__globals__ }}",
    "format": "{{ '{0.__class__}'.format('x') }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "stored format": "{% set f = '{0.__class__.__mro__}'.format %}{{ f('x') }}",
    "format by attr": "{{ '{0.__class__}'|attr('format')('x') }}",
    "format by map": "{{ ['{0.__class__}']|map('format', 1)|list }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "extends": "{% extends 'x' %}",
    "changes a list": "{% set x = [] %}{% set _ = x.append(1) %}",
    "changes a message": "{{ messages[0].update({'a': 1}) }}",
    "frame of a generator": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "format by filter": "{{ '%s'|format(''.__class__) }}",
    "class by groupby": "{{ ['a']|groupby('__class__') }}",
    "class by sum": "{{ ['a']|sum(attribute='__class__') }}",
    "class by unique": "{{ ['a']|unique(attribute='__class__')|list }}",
    "class by selectattr": "{{ ['a']|selectattr('__class__')|list }}",
    "class by map of attr": "{{ ['a']|map('attr', '__class__')|list }}",
    "class of a filter's result": "{{ ([1]|slice(1)).__class__ }}",
    "code of a generator": "{{ (messages|batch(1)).gi_code }}",
    "globals of dict": "{{ dict.__globals__ }}",
    "mro of namespace": "{{ namespace.mro() }}",
    "environment of a macro": "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "random": "{{ [1, 2]|random }}",
    "debug": "{% debug %}",
}

GROW = "{% set n = namespace(x=START) %}{% for i in range(60) %}{% set n.x = STEP %}{% endfor %}"
BIG = "{% set x = 'a' * 4000000 %}{% for i in range(99999) %}BODY{% endfor %}"
MANY = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"
# What takes all time or memory, by any means that a template has.
BOMBS = {
    "nested ranges": MANY.replace("BODY", ""),
    "text times number": "{{ 'x' * 1000000000 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "large numbers": GROW.replace("START", "10").replace("STEP", "n.x * n.x"),
    "doubling by +": GROW.replace("START", "'a'").replace("STEP", "n.x + n.x"),
    "doubling by ~": GROW.replace("START", "'a'").replace("STEP", "n.x ~ n.x"),
    "doubling lists": GROW.replace("START", "[1]").replace("STEP", "n.x + n.x"),
    "lists in lists": GROW.replace("START", "[1]").replace("STEP", "[n.x, n.x]") + "{{ n.x }}",
    "lists times 2": GROW.replace("START", "[1]").replace("STEP", "[n.x] * 2") + "{{ n.x }}",
    "dicts in dicts": GROW.replace("START", "1").replace("STEP", "dict(a=n.x, b=n.x)")
    + "{{ n.x|tojson }}",
    "hash of tuples": GROW.replace("START", "(1,)").replace("STEP", "(n.x, n.x)")
    + "{{ {n.x: 1} }}",
    "doubling blocks": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "doubling varargs": "{% macro m() %}{% set n.x = varargs + varargs %}{% endmacro %}"
    "{% set n = namespace(x=[1]) %}"
    "{% for i in range(60) %}{{ m(*n.x) }}{% endfor %}",
    "branching macro": "{% macro m(x) %}{% if x %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "branching loop": "{% for x in [60] recursive %}{% if x %}{{ loop([x - 1]) }}"
    "{{ loop([x - 1]) }}{% endif %}{% endfor %}",
    "replace filter": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "replace method": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "join filter": "{{ ([('a' * 100000)] * 10000)|join }}",
    "join method": "{{ 'x'.join([('a' * 100000)] * 10000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "center": "{{ 'a'|center(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(tabsize=1000000000) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent width by name": "{{ '%(a)2000000000d' % {'a': 1} }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "percent precision": "{{ '%.999999999f' % 1.5 }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "indent": "{{ 'a\nb'|indent(1000000000) }}",
    "tojson indent": "{{ [1]|tojson(indent=1000000000) }}",
    "tojson separators": "{{ ([1] * 100000)|tojson(separators=('x' * 100000, 'y')) }}",
    "map": "{{ ([('a' * 1000000)] * 10000)|map('upper')|list|length }}",
    "map with replace": "{{ range(99999)|map('string')|map('replace', '9', 'b' * 9999)|list }}",
    "map with a long path": "{% set x = [[[1]]] * 99999 %}{% for i in range(99999) %}"
    "{{ x|map(attribute='0.0.0.0.0.0.0')|list|length }}{% endfor %}",
    "batch": "{{ [1]|batch(1000000000, 'x')|list }}",
    "slice filter": "{{ [1]|slice(1000000000)|list }}",
    "literal text": MANY.replace("BODY", "x" * 10_000),
    "output": "{% for i in range(99999) %}" + "x" * 100 + "{% endfor %}",
    "search": BIG.replace("BODY", "{{ 'b' in x }}"),
    "count": BIG.replace("BODY", "{{ x.count('b') }}"),
    "rfind": BIG.replace("BODY", "{{ x.rfind('ba') }}"),
    "split": BIG.replace("BODY", "{% set y = x.split() %}"),
    "slices": BIG.replace("BODY", "{% set y = x[1:] %}"),
    "range.count": "{% for i in range(99999) %}{{ range(99999).count('a') }}{% endfor %}",
    "in range": "{% for i in range(99999) %}{{ 'q' in range(99999) }}{% endfor %}",
    "sort": "{% for i in range(99999) %}{{ range(99999)|sort|first }}{% endfor %}",
    "groupby": "{% set x = [[1]] * 99999 %}{% for i in range(99999) %}"
    "{{ x|groupby(0)|length }}{% endfor %}",
    "unique": "{% for i in range(99999) %}{{ range(99999)|unique|list|length }}{% endfor %}",
    "sum of lists": "{{ ([[1] * 9999] * 99999)|sum(start=[])|length }}",
    "arguments": "{% macro m() %}{{ varargs|length }}{% endmacro %}{% set x = [1] * 100000 %}"
    "{% for i in range(9999) %}{{ m(*x) }}{% endfor %}",
    "bytes of a number": "{{ (1).to_bytes(4000000000, 'big')|length }}",
    "wordwrap": "{{ ('a ' * 9999999)|wordwrap(1)|length }}",
    "urlize": "{{ ('http://a.b/ ' * 9999999)|urlize|length }}",
    "striptags": "{{ ('<' * 9999999)|striptags|length }}{{ ('<!--' * 999999)|striptags }}",
    "title": BIG.replace("BODY", "{{ x|title|length }}"),
    "xmlattr": BIG.replace("BODY", "{{ {'a': x}|xmlattr|length }}"),
    "pprint": "{{ ([[[1] * 99] * 99] * 999)|pprint|length }}",
    "generators in generators": "{% set n = namespace(x=[1]) %}{% for i in range(99999) %}"
    "{% set n.x = n.x|map('string') %}{% endfor %}{{ n.x|list }}",
    "a template too long to compile": "{{ a }}{% if b %}c{% endif %}" * 60_000,
    "a template of one long expression": "{{ " + "a + " * 200_000 + "a }}",
}
# What fails by itself before it takes much.
DEEP = {
    "recursive macro": "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "recursive loop": "{% for x in [[[]]] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "parentheses": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "lists": "{{ " + "[" * 5_000 + "1" + "]" * 5_000 + " }}",
    "loops": "{% for a in x %}" * 500 + "{% endfor %}" * 500,
    "deep value": GROW.replace("60", "9999").replace("START", "[]").replace("STEP", "[n.x]")
    + "{{ n.x|tojson }}",
    "a number of many digits": "{{ ('9' * 99999)|int + 1 }}{{ messages.x.y.z }}",
}


VARIABLES = {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": True}
# Smaller than those of the product, so that the tests are quick.
LIMITS = (96 << 20, 0.3)


def run_one(text: str) -> str:
    return Renders(text).text(json.dumps(VARIABLES))


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    instance = Renderer(*LIMITS)
    yield instance
    instance.close()


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_cannot_leave_the_sandbox(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "made"
    with pytest.raises(BiddableError) as caught:
        run_one(ESCAPES[name].replace("FILE", str(marker)))
    assert caught.value.finding.code == "template_refused"
    assert not marker.exists()


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_cannot_run_or_grow_without_bound(name: str, renderer: Renderer) -> None:
    ((kind, why),) = renderer.ask(BOMBS[name], [json.dumps(VARIABLES)])
    assert kind == "unusable"
    assert why in (renderer.too_long, renderer.too_large) or why.startswith("writes"), why


@pytest.mark.parametrize("name", DEEP)
def test_what_is_nested_too_deep_is_refused(name: str, renderer: Renderer) -> None:
    ((kind, why),) = renderer.ask(DEEP[name], [json.dumps(VARIABLES)])
    assert kind in ("error", "invalid", "unusable")
    assert why


def test_a_bomb_costs_the_next_render_nothing(renderer: Renderer) -> None:
    honest, item = "{{ messages[0].content }}!", json.dumps(VARIABLES)
    for bomb in ("nested ranges", "text times number"):
        assert renderer.ask(honest, [item]) == [["result", "x!"]]
        assert renderer.ask(BOMBS[bomb], [item])[0][0] == "unusable"
        assert renderer.ask(honest, [item] * 3) == [["result", "x!"]] * 3


def test_of_many_renders_the_one_that_takes_too_much_is_named(renderer: Renderer) -> None:
    text = "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}{{ n }}"
    answers = renderer.ask(text, [json.dumps({"n": n}) for n in (1, 2, 3, 99999, 4, 99999)])
    assert answers == [
        ["result", "1"],
        ["result", "2"],
        ["result", "3"],
        ("unusable", renderer.too_long),
    ]


def test_renders_that_are_too_much_only_together_are_made_one_by_one(renderer: Renderer) -> None:
    text = "{{ 'x' * 1000000 }}{{ n }}"
    answers = renderer.ask(text, [json.dumps({"n": n}) for n in range(64)])
    assert [value[-2:].strip("x") for _, value in answers] == [str(n) for n in range(64)]


@pytest.mark.parametrize("bomb", ["nested ranges", "doubling lists", "power"])
def test_where_the_kernel_keeps_no_limits_a_thread_does(bomb: str) -> None:
    renderer = Renderer(*LIMITS, kernel=False)
    item = json.dumps(VARIABLES)
    assert renderer.ask("{{ messages[0].content }}", [item]) == [["result", "x"]]
    ((kind, why),) = renderer.ask(BOMBS[bomb], [item])
    assert kind == "unusable"
    assert why in (renderer.too_long, renderer.too_large)
    assert renderer.ask("{{ messages[0].content }}", [item]) == [["result", "x"]]
    renderer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a thread keeps the limits here")
def test_the_kernel_keeps_the_limit_of_memory() -> None:
    run_one("{{ 1 }}")
    process = renderer_of(os.getpid()).process
    assert process is not None
    assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_AS) == (512 << 20, 512 << 20)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_what_is_interrupted_leaves_no_answer_behind() -> None:
    renderer = Renderer(seconds=60)
    assert renderer.ask("{{ n }}", ['{"n": 1}']) == [["result", "1"]]
    timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        renderer.ask(BOMBS["nested ranges"], ["{}"])
    timer.join()
    assert renderer.process is None
    assert renderer.ask("{{ n }}", ['{"n": 2}']) == [["result", "2"]]
    renderer.close()


def test_threads_get_each_their_own_render(renderer: Renderer) -> None:
    def ask(n: int) -> bool:
        answers = renderer.ask(f"{n % 2}-{{{{ n }}}}", [json.dumps({"n": n})])
        return answers == [["result", f"{n % 2}-{n}"]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(100)))


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGINT", "SIGTERM"])
@pytest.mark.parametrize("text", ["{{ n }}", BOMBS["nested ranges"]], ids=["idle", "at work"])
def test_the_process_ends_with_the_one_that_it_serves(text: str, signal_name: str) -> None:
    script = (
        "import time\n"
        "from biddable.template.rendering import Renderer\n"
        "renderer = Renderer()\n"
        "renderer.ask('', ['{}'])\n"
        "print(renderer.process.pid, flush=True)\n"
        f"renderer.ask({text!r}, ['{{}}'])\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as caller:
        assert caller.stdout is not None
        serving = psutil.Process(int(caller.stdout.readline()))
        caller.send_signal(getattr(signal, signal_name, signal.SIGTERM))
    with suppress(psutil.NoSuchProcess):
        serving.wait(60)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *[(name, "--template") for name in ("endless macro", "far range", "answers")],
        *[(name, "--base") for name in ("text times number", "answers")],
    ],
)
def test_a_bomb_ends_the_command_before_a_base_is_loaded(
    name: str, option: str, tmp_path: Path
) -> None:
    """What loads a base takes many seconds on a busy machine, what refuses here a fraction."""
    bombs = {
        "endless macro": DEEP["recursive macro"],
        "far range": "{% for i in range(10 ** 9) %}{% endfor %}",
        "text times number": BOMBS["text times number"],
        "answers": "{% for m in messages[1:] %}{{ 'x' * 10 ** 10 }}{% endfor %}",
    }
    template, data = tmp_path / "bomb.jinja", tmp_path / "data.jsonl"
    template.write_text(bombs[name])
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": bombs[name]}))
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    script = (
        "import atexit, os, sys\n"
        "from biddable.__main__ import run\n"
        "atexit.register(lambda: 'transformers' in sys.modules and os._exit(9))\n"
        "run()\n"
    )
    command = [sys.executable, "-c", script, "check", str(data), option]
    command.append(str(base if option == "--base" else template))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "[template_unusable]" in done.stderr


def test_only_json_values_reach_a_template() -> None:
    with pytest.raises(BiddableError) as caught:
        request_of(Template("{{ x }}"), [{"role": "user", "content": object()}], False)
    assert caught.value.finding.code == "template_refused"
    assert "JSON" in caught.value.finding.message


@given(
    values=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_template_sees_the_values_that_it_is_given(values: object) -> None:
    shown = Renders("{{ x|tojson }}").text(json.dumps({"x": values}))
    assert shown == json.dumps(values, ensure_ascii=False)


def test_one_place_alone_makes_a_jinja_environment() -> None:
    calls = []
    for path in sorted(Path(biddable.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.split(".")[-1] in ("Environment", "SandboxedEnvironment", "from_string"):
                calls.append((path.name, called))
            if called.endswith("Sandbox"):
                calls.append((path.name, called))
    # pages.py writes HTML by templates of ours alone.
    pages = [("pages.py", "Environment")]
    assert calls == [*pages, ("sandbox.py", "Sandbox"), ("sandbox.py", "self.env.from_string")]
