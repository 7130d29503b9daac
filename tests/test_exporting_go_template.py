"""Chat templates in the language of Go's text/template: the same text, or refused."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from biddable import BiddableError, Message, Template
from biddable.exporting.baked import bake
from biddable.exporting.go_template import Frame, frame_of
from biddable.exporting.modelfile import modelfile
from biddable.template.frames import FRAMES

RENDER = Path(__file__).parent / "helpers" / "go_render.go"
TOKENS = (("bos_token", "<s>"), ("eos_token", "</s>"))
ORDERS = ("U", "SU", "UAU", "SUAU", "UAUAU", "SUAUAU", "UASU", "AU", "SAU", "UA")
ROLES = {"S": "system", "U": "user", "A": "assistant"}
PIECES = (
    *(" ", "\n", "\t", "\r", "\x0b", "\x1c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"),
    *("a", "Z9", "é", "漢字", "🙂\u200d", '"', "'", "\\", "\\n", "{{", "}}", "{% x %}", "<b>&"),
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_EOS = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
STRIPS = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>\n{{ m.content | trim }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
SKIPS_EMPTY = (
    "{% for m in messages %}{% if m.role != 'system' or m.content %}[{{ m.role }}]{{ m.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {
    **FRAMES,
    "with eos": WITH_EOS,
    "strips": STRIPS,
    "alternates": ALTERNATES,
    "skips empty": SKIPS_EMPTY,
    "baked": bake(CHATML, "Be brief:\n \"yes\" \\ no\u00a0\u2028é ''' {{ x }}"),
    "baked strips": bake(STRIPS, "  Be brief.\n"),
    "llama2 baked": bake(FRAMES["llama2"], "Be brief."),
}


def chats(count: int = 4) -> list[list[Message]]:
    draw = random.Random(0)
    return [
        [Message(ROLES[r], "".join(draw.choices(PIECES, k=draw.randrange(7)))) for r in order]
        for order in ORDERS
        for _ in range(count)
    ]


def in_go(templates: Sequence[str], talks: Sequence[Sequence[Message]]) -> list[list[str]]:
    """What Go's own text/template prints."""
    messages = [[{"Role": m.role, "Content": m.content} for m in talk] for talk in talks]
    body = json.dumps([{"Template": text, "Chats": messages} for text in templates])
    done = subprocess.run(
        ["go", "run", str(RENDER)], input=body, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    texts: list[list[str]] = json.loads(done.stdout)
    return texts


def knows(frame: Frame, chat: Sequence[Message]) -> bool:
    """Whether the Go template renders a chat, rather than ending in an error."""
    orders = set(pairwise(("begin", *(m.role for m in chat), "end")))
    empty = any(m.role == "system" and not m.content for m in chat)
    return orders <= set(frame.between) and (frame.empty_system or not empty)


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_go_prints_what_jinja_prints_or_ends_in_an_error() -> None:
    templates = {name: Template(text, TOKENS) for name, text in TEMPLATES.items()}
    frames = {name: frame_of(template) for name, template in templates.items()}
    talks = chats()
    printed = in_go([frame.go() for frame in frames.values()], talks)
    for (name, frame), texts in zip(frames.items(), printed, strict=True):
        equal = 0
        for talk, text in zip(talks, texts, strict=True):
            if knows(frame, talk):
                want = templates[name].render(talk, add_generation_prompt=True)
                assert text == want, (name, talk)
                equal += 1
            elif ("begin", "assistant") in frame.between or talk[-2:][0].role != "assistant":
                assert text.startswith("error: "), (name, talk)
        assert equal >= 20 or name in ("alternates", "llama2", "llama2 baked"), name
        assert equal >= 12, name


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_an_answer_that_ollama_left_in_front_is_passed_over() -> None:
    """It drops the oldest messages of a chat that is too long, one by one."""
    template = Template(ALTERNATES)
    short = [Message("user", "Q")]
    ((text,),) = in_go([frame_of(template).go()], [[Message("assistant", "A"), *short]])
    assert text == template.render(short, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (CHATML.replace("m.content", "m.content | upper"), "other texts|changes"),
        (CHATML.replace("m.content", "m.content.split('</think>')[-1]"), "changes contents"),
        (CHATML.replace("m.content", "m.content | replace('  ', ' ')"), "changes contents"),
        (CHATML.replace("m.role }}", "m.role ~ loop.index }}"), "other texts"),
        (CHATML.replace("m.content", "m.content.lstrip()"), "changes contents"),
        ("{{ messages[-1].content }}", "other texts"),
    ],
)
def test_what_the_language_cannot_say_is_refused(text: str, why: str) -> None:
    with pytest.raises(BiddableError, match=why) as error:
        frame_of(Template(text))
    assert error.value.finding.code == "not_expressible"


def test_a_bos_that_llama_cpp_writes_is_not_printed_again() -> None:
    frame = frame_of(Template(WITH_EOS, TOKENS))
    chat = [Message("user", "Q?")]
    want = Template(WITH_EOS, TOKENS).render(chat, add_generation_prompt=True)
    assert frame.render(chat) == want
    assert "<s>" + frame.without("<s>").render(chat) == want


def test_a_modelfile_holds_what_ollama_reads_as_it_is() -> None:
    text = modelfile("a.gguf", "T", "Be brief:\n yes", ["<|im_end|>", "\n"], 1 << 17)
    assert text.startswith('FROM ./a.gguf\nTEMPLATE """T"""\nSYSTEM """Be brief:\n yes"""\n')
    assert 'PARAMETER stop """<|im_end|>"""\nPARAMETER stop """\n"""\n' in text
    assert "PARAMETER num_ctx 8192\nPARAMETER temperature 0\nPARAMETER top_k 1\n" in text
    # Ollama would drop or cut these; the template has the system prompt as well.
    for system in ("no\u00a0break", 'a """\nb', None, ""):
        assert "SYSTEM" not in modelfile("a.gguf", "T", system, ["</s>"], 99)
    with pytest.raises(BiddableError, match="cannot hold its stop"):
        modelfile("a.gguf", "T", None, ["\x00"], 99)
