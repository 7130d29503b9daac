"""Chat: commands, history, what is dropped when the context is full, what goes where."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from biddable.commands.chat import Speaker, answer_once, chat, load_speaker, make_speaker, talk
from biddable.data.conversation import Message
from biddable.encoding.encode import encode_prompt
from biddable.errors import BiddableError
from biddable.models.base import SYSTEM_PROMPT_FILE
from biddable.template.template import Template
from letters import letters, tiny_folder
from tiny import tiny

Told = list[list[tuple[str, str]]]


def echo(
    told: Told, *, context: int = 1000, room: int = 10, finish: Literal["stop", "length"] = "stop"
) -> Speaker:
    """A speaker that says the last message backwards; a prompt is its contents' characters."""

    def encode(messages: Sequence[Message]) -> list[int]:
        return [ord(c) for m in messages for c in m.content]

    def reply(messages: Sequence[Message]) -> Generator[str, None, Literal["stop", "length"]]:
        told.append([(m.role, m.content) for m in messages])
        if len(encode(messages)) >= context:
            raise BiddableError(
                "invalid_input", f"{len(encode(messages)) - context + 1} too many", ""
            )
        yield from messages[-1].content[::-1]
        return finish

    return Speaker(encode, reply, context, room, 7)


def run(speaker: Speaker, *lines: str, system: str | None = None) -> tuple[str, str]:
    out, notices = io.StringIO(), io.StringIO()
    talk(speaker, system, lines, out, notices)
    return out.getvalue(), notices.getvalue()


def test_answers_go_to_output_and_all_else_to_the_notices() -> None:
    told: Told = []
    out, notices = run(echo(told), "ab\n", "\n", "cd\n")
    assert out == "ba\ndc\n"
    assert notices.startswith("/new starts again")
    assert told[1] == [("user", "ab"), ("assistant", "ba"), ("user", "cd")]


def test_new_and_system_start_again_and_quit_ends() -> None:
    told: Told = []
    out, notices = run(
        echo(told),
        "ab",
        "/new",
        "cd",
        "/system Be brief.",
        "ef",
        "/what",
        "/quit",
        "gh",
        system="S",
    )
    assert out == "ba\ndc\nfe\n"
    assert told == [
        [("system", "S"), ("user", "ab")],
        [("system", "S"), ("user", "cd")],
        [("system", "Be brief."), ("user", "ef")],
    ]
    assert "/what is no command" in notices


def test_an_empty_system_prompt_is_not_none() -> None:
    told: Told = []
    run(echo(told), "ab", "/system", "cd", system="")
    assert told == [[("system", ""), ("user", "ab")], [("user", "cd")]]


def test_the_oldest_turns_are_dropped_until_there_is_room_and_that_is_said() -> None:
    told: Told = []
    # Each turn has 8 characters; of 30, 10 are kept free for the answer.
    _, notices = run(echo(told, context=30, room=10), "aaaa", "bbbb", "cccc", "dddd")
    assert told[2][0] == ("user", "aaaa")
    assert told[3][0] == ("user", "bbbb")
    assert notices.count("the oldest turn was dropped") == 1
    _, notices = run(echo(told, context=30, room=10), "aaaa", "bbbb", "c" * 18)
    assert told[-1] == [("user", "c" * 18)]
    assert "the oldest 2 turns were dropped" in notices


def test_a_question_that_fits_no_context_is_refused_and_forgotten() -> None:
    told: Told = []
    out, notices = run(echo(told, context=30), "x" * 40, "ab")
    assert "11 too many" in notices
    assert told[-1] == [("user", "ab")]
    assert out == "ba\n"


def test_one_prompt_is_answered_once_and_a_cut_is_told() -> None:
    told: Told = []
    out, notices = io.StringIO(), io.StringIO()
    answer_once(echo(told, finish="length"), "S", "ab\n", out, notices)
    assert told == [[("system", "S"), ("user", "ab")]]
    assert out.getvalue() == "ba\n"
    assert "cut at 7 tokens" in notices.getvalue()


def test_a_model_answers_with_the_ids_of_training() -> None:
    model = tiny("llama", ours=True)
    options = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 9, "stop": [], "seed": 0}
    speaker = make_speaker(model, letters(), Template.frame("plain"), options)  # type: ignore[arg-type]
    prompt = [Message("user", "ab?")]
    expected = encode_prompt(prompt, letters(), Template.frame("plain"))
    assert speaker.encode(prompt) == expected
    whole = "".join(speaker.reply(prompt))
    assert whole
    stopping = make_speaker(
        model,
        letters(),
        Template.frame("plain"),
        {**options, "stop": [whole[3:5]]},  # type: ignore[typeddict-item, arg-type]
    )
    assert "".join(stopping.reply(prompt)) == whole[: whole.find(whole[3:5])]


def test_the_verb_prints_one_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_folder(tmp_path)
    speaker = load_speaker(model, temperature=0.0, max_new_tokens=6)
    expected = "".join(speaker.reply([Message("user", "ab?")]))
    chat(model, prompt="ab?", temperature=0.0, max_new_tokens=6)
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")


def test_the_verb_sends_the_empty_system_prompt_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_folder(tmp_path)
    speaker = load_speaker(model, temperature=0.0, max_new_tokens=6)
    asked = Message("user", "ab?")
    bare, empty = (
        "".join(speaker.reply(m)).strip() for m in ([asked], [Message("system", ""), asked])
    )
    assert bare != empty
    (Path(model) / SYSTEM_PROMPT_FILE).write_text("")
    for given, expected in ((None, empty), ("", bare)):
        chat(model, prompt="ab?", system=given, temperature=0.0, max_new_tokens=6)
        told = capsys.readouterr()
        assert told.out.strip() == expected
        assert ("as in training: an empty one" in told.err) == (given is None)


def test_a_prompt_longer_than_the_context_says_by_how_much(tmp_path: Path) -> None:
    with pytest.raises(BiddableError, match="context of 128: 91 too many"):
        chat(tiny_folder(tmp_path), prompt="a" * 200)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"max_new_tokens": 0},
        {"stop": [""]},
        {"seed": -1},
        {"seed": 2**63},
        {"top_p": 1.5},
        {"max_new_tokens": 10**12},
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(BiddableError, match=r"--[a-z-]+ is (-?\d|empty)"):
        load_speaker("no-model", **option)  # type: ignore[arg-type]
