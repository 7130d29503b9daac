"""Chat: commands, history, what is dropped when the context is full, what goes where."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from biddable.commands.chat import Talk, answer_once, chat, converse
from biddable.data.conversation import Message
from biddable.encoding.encode import encode_prompt
from biddable.errors import BiddableError
from biddable.generation.speaker import Speaker, load, make_speaker
from biddable.models.base import SYSTEM_PROMPT_FILE
from biddable.settings import Sampling
from biddable.template.template import Template
from letters import letters, tiny_folder
from tiny import tiny

Prompts = list[list[tuple[str, str]]]


def echo(
    prompts: Prompts, *, context: int = 1000, finish: Literal["stop", "length"] = "stop"
) -> Speaker:
    """A speaker that says the last message backwards; a prompt is its contents' characters."""

    def encode(messages: Sequence[Message]) -> list[int]:
        return [ord(c) for m in messages for c in m.content]

    def reply(messages: Sequence[Message]) -> Generator[str, None, Literal["stop", "length"]]:
        prompts.append([(m.role, m.content) for m in messages])
        if len(encode(messages)) >= context:
            raise BiddableError(
                "invalid_input", f"{len(encode(messages)) - context + 1} too many", ""
            )
        yield from messages[-1].content[::-1]
        return finish

    return Speaker("echo", encode, lambda _: reply, context)


def new_talk(speaker: Speaker, system: str | None = None, most: int = 7) -> Talk:
    return Talk(speaker, Sampling(max_new_tokens=most), io.StringIO(), io.StringIO(), system)


def run(speaker: Speaker, *lines: str, system: str | None = None, most: int = 7) -> tuple[str, str]:
    talk = new_talk(speaker, system, most)
    converse(talk, lines)
    return talk.out.getvalue(), talk.notices.getvalue()  # type: ignore[attr-defined]


def test_answers_go_to_output_and_all_else_to_the_notices() -> None:
    prompts: Prompts = []
    out, notices = run(echo(prompts), "ab\n", "\n", "cd\n")
    assert out == "ba\ndc\n"
    assert notices.startswith("type a message, or /help")
    assert prompts[1] == [("user", "ab"), ("assistant", "ba"), ("user", "cd")]


def test_reset_and_system_start_again_and_quit_ends() -> None:
    prompts: Prompts = []
    out, notices = run(
        echo(prompts),
        "ab",
        "/reset",
        "cd",
        "/system Be brief.",
        "ef",
        "/what",
        "/quit",
        "gh",
        system="S",
    )
    assert out == "ba\ndc\nfe\n"
    assert prompts == [
        [("system", "S"), ("user", "ab")],
        [("system", "S"), ("user", "cd")],
        [("system", "Be brief."), ("user", "ef")],
    ]
    assert "there is no command /what; /help lists them" in notices


def test_an_empty_system_prompt_is_not_none() -> None:
    prompts: Prompts = []
    run(echo(prompts), "ab", "/system", "cd", system="")
    assert prompts == [[("system", ""), ("user", "ab")], [("user", "cd")]]


def test_the_oldest_turns_are_dropped_until_there_is_room_and_that_is_said() -> None:
    prompts: Prompts = []
    # Each turn has 8 characters; of 30, 7 are kept free for the answer.
    _, notices = run(echo(prompts, context=30), "aaaa", "bbbb", "cccc", "dddd")
    assert prompts[2][0] == ("user", "aaaa")
    assert prompts[3][0] == ("user", "bbbb")
    assert notices.count("the oldest turn was dropped") == 1
    _, notices = run(echo(prompts, context=30), "aaaa", "bbbb", "c" * 18)
    assert prompts[-1] == [("user", "c" * 18)]
    assert "the oldest 2 turns were dropped" in notices


def test_a_question_that_fits_no_context_is_refused_and_forgotten() -> None:
    prompts: Prompts = []
    out, notices = run(echo(prompts, context=30), "x" * 40, "ab")
    assert "11 too many" in notices
    assert prompts[-1] == [("user", "ab")]
    assert out == "ba\n"


def test_one_prompt_is_answered_once_and_a_cut_is_told() -> None:
    prompts: Prompts = []
    talk = new_talk(echo(prompts, finish="length"), "S")
    answer_once(talk, "ab\n")
    assert prompts == [[("system", "S"), ("user", "ab")]]
    assert talk.out.getvalue() == "ba\n"  # type: ignore[attr-defined]
    assert "cut at 7 tokens" in talk.notices.getvalue()  # type: ignore[attr-defined]


def test_a_model_answers_with_the_ids_of_training() -> None:
    speaker = make_speaker(
        "it", tiny("llama", ours=True), letters(), Template.frame("plain").bound(letters())
    )
    prompt = [Message("user", "ab?")]
    assert speaker.encode(prompt) == encode_prompt(prompt, letters(), Template.frame("plain"))
    options = {"temperature": 0.0, "max_new_tokens": 9}
    whole = speaker.answer("ab?", **options)
    assert whole
    assert speaker.answer("ab?", **options, stop=[whole[3:5]]) == whole[: whole.find(whole[3:5])]


def test_the_verb_prints_one_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_folder(tmp_path)
    expected = load(model).answer("ab?", temperature=0.0, max_new_tokens=6)
    chat(model, prompt="ab?", temperature=0.0, max_new_tokens=6)
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")


def test_the_verb_sends_the_empty_system_prompt_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_folder(tmp_path)
    speaker, options = load(model), {"temperature": 0.0, "max_new_tokens": 6}
    asked = {"role": "user", "content": "ab?"}
    both = ("ab?", [Message("system", ""), asked])
    bare, empty = (speaker.answer(m, **options).strip() for m in both)
    assert bare != empty
    (Path(model) / SYSTEM_PROMPT_FILE).write_text("")
    for given, expected in ((None, empty), ("", bare)):
        chat(model, prompt="ab?", system=given, temperature=0.0, max_new_tokens=6)
        captured = capsys.readouterr()
        assert captured.out.strip() == expected
        assert ("as in training: an empty one" in captured.err) == (given is None)


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
        chat("no-model", **option)
    with pytest.raises(BiddableError, match=r"--[a-z-]+ is (-?\d|empty)"):
        echo([]).answer("ab", **option)


def interrupted(prompts: Prompts, after: str) -> Speaker:
    """A speaker whose answer is interrupted behind some text."""

    def reply(messages: Sequence[Message]) -> Generator[str, None, Literal["stop", "length"]]:
        prompts.append([(m.role, m.content) for m in messages])
        if after:
            yield after
        raise KeyboardInterrupt

    return Speaker("it", lambda _: [], lambda _: reply, 1000)


@pytest.mark.parametrize(("after", "kept"), [("half", ["x", "half", "y", "half"]), ("", [])])
def test_ctrl_c_during_an_answer_returns_to_the_prompt(after: str, kept: list[str]) -> None:
    prompts: Prompts = []
    talk = new_talk(interrupted(prompts, after))
    converse(talk, ["x", "y"])
    assert [m.content for m in talk.messages] == kept
    assert len(prompts) == 2
    with pytest.raises(KeyboardInterrupt):
        answer_once(new_talk(interrupted(prompts, "")), "x")


def test_retry_answers_the_last_prompt_again_and_forgets_the_first_answer() -> None:
    prompts: Prompts = []
    out, notices = run(echo(prompts), "/retry", "ab", "cd", "/retry")
    assert out == "ba\ndc\ndc\n"
    assert prompts[2] == prompts[1] == [("user", "ab"), ("assistant", "ba"), ("user", "cd")]
    assert "no prompt to answer again" in notices


def test_a_retry_that_is_interrupted_at_once_keeps_the_first_answer() -> None:
    talk = new_talk(echo([]))
    converse(talk, ["ab"])
    talk.speaker = interrupted([], "")
    converse(talk, ["/retry"])
    assert [m.content for m in talk.messages] == ["ab", "ba"]


def test_a_conversation_is_saved_as_a_row_of_data(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    save = f"/save {file}"
    _, notices = run(echo([]), save, "ab", "/save", save, save, "/save no/x", system="S")
    assert json.loads(file.read_text())["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "ba"},
    ]
    for text in ("no conversation yet", "no file is named", "saved in", "exists", "folder is not"):
        assert text in notices


@pytest.mark.parametrize(
    ("typed", "said"), [("/retyr", "did you mean /retry?"), ("/help", "/save")]
)
def test_commands_are_listed_and_suggested(typed: str, said: str) -> None:
    assert said in run(echo([]), typed)[1]
