"""A chat template is untrusted code: it reaches nothing and can neither stall nor fill memory."""

from __future__ import annotations

import ast
import threading
import time
from pathlib import Path

import pytest

import biddable
from biddable import BiddableError
from biddable.dialogue.sandbox import render

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
    "private name in a namespace": "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "frame of a generator": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "random": "{{ [1, 2]|random }}",
    "debug": "{% debug %}",
}

GROW = "{% set n = namespace(x=START) %}{% for i in range(60) %}{% set n.x = STEP %}{% endfor %}"
BIG = "{% set x = 'a' * 4000000 %}{% for i in range(99999) %}BODY{% endfor %}"
BOMBS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "text times number": "{{ 'x' * 1000000000 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "large numbers": GROW.replace("START", "10").replace("STEP", "n.x * n.x"),
    "doubling by +": GROW.replace("START", "'a'").replace("STEP", "n.x + n.x"),
    "doubling by ~": GROW.replace("START", "'a'").replace("STEP", "n.x ~ n.x"),
    "doubling lists": GROW.replace("START", "[1]").replace("STEP", "n.x + n.x"),
    "lists in lists": GROW.replace("START", "[1]").replace("STEP", "[n.x, n.x]"),
    "lists times 2": GROW.replace("START", "[1]").replace("STEP", "[n.x] * 2") + "{{ n.x }}",
    "dicts in dicts": GROW.replace("START", "1").replace("STEP", "dict(a=n.x, b=n.x)"),
    "equal lists in lists": GROW.replace("START", "[1]").replace("STEP", "[n.x] + [n.x]")
    + "{{ n.x == n.x }}",
    "doubling blocks": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "recursive macro": "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "branching macro": "{% macro m(x) %}{% if x %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for x in [[[]]] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "replace filter": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "replace method": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "join filter": "{{ ([('a' * 100000)] * 10000)|join }}",
    "join method": "{{ 'x'.join([('a' * 100000)] * 10000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(tabsize=1000000000) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "percent precision": "{{ '%.999999999f' % 1.5 }}",
    "indent": "{{ 'a\nb'|indent(1000000000) }}",
    "tojson indent": "{{ [1]|tojson(indent=1000000000) }}",
    "tojson separators": "{{ ([1] * 100000)|tojson(separators=('x' * 100000, 'y')) }}",
    "map": "{{ ([('a' * 1000000)] * 10000)|map('upper')|list|length }}",
    "map with replace": "{{ range(99999)|map('string')|map('replace', '9', 'b' * 9999)|list }}",
    "center": "{{ 'a'|center(1000000000) }}",
    "batch": "{{ [1]|batch(1000000000, 'x')|list }}",
    "literal text": "{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "search": BIG.replace("BODY", "{{ 'b' in x }}"),
    "count": BIG.replace("BODY", "{{ x.count('b') }}"),
    "slice": BIG.replace("BODY", "{% set y = x[1:] %}"),
    "split": BIG.replace("BODY", "{% set y = x.split() %}"),
    "sort": "{% for i in range(99999) %}{{ range(99999)|sort|first }}{% endfor %}",
    "max": "{% for i in range(99999) %}{{ range(99999)|max }}{% endfor %}",
    "in range": "{% for i in range(99999) %}{{ 'q' in range(99999) }}{% endfor %}",
    "arguments": "{% macro m() %}{{ varargs|length }}{% endmacro %}{% set x = [1] * 100000 %}"
    "{% for i in range(9999) %}{{ m(*x) }}{% endfor %}",
    "deep nesting": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "long text": "x" * 1_000_001,
}


def run(text: str) -> str:
    message = {"role": "user", "content": "x"}
    return render(text, {"messages": [message], "add_generation_prompt": True}, 10)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_cannot_leave_the_sandbox(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(BiddableError) as caught:
        run(ESCAPES[name].replace("FILE", str(made)))
    assert caught.value.finding.code == "template_refused"
    assert not made.exists()


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_cannot_run_or_grow_without_bound(name: str) -> None:
    start = time.process_time()
    with pytest.raises(BiddableError):
        run(BOMBS[name])
    assert time.process_time() - start < 2


def test_the_bound_holds_in_any_thread_and_always_at_the_same_place() -> None:
    said: list[str] = []

    def bomb() -> None:
        with pytest.raises(BiddableError) as caught:
            run(BOMBS["nested ranges"])
        said.append(str(caught.value))

    threads = [threading.Thread(target=bomb) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 2
    assert len(set(said)) == 1


def test_a_long_conversation_stays_within_the_bound() -> None:
    messages = [{"role": "user", "content": "word " * 200}] * 1_000
    text = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content|trim ~ '\n' }}{% endif %}"
    made = render(text + "{% endfor %}", {"messages": messages}, 1_000_000)
    assert len(made) == 1_000_000


def test_one_place_alone_makes_a_jinja_environment() -> None:
    made = []
    for path in sorted(Path(biddable.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.split(".")[-1] in ("Environment", "SandboxedEnvironment", "from_string"):
                made.append((path.name, called))
            if called.endswith("Sandbox"):
                made.append((path.name, called))
    assert made == [("sandbox.py", "Sandbox"), ("sandbox.py", "env.from_string")]
