"""Every template of trl and axolotl is exact, by the oracle, or refused; never silently wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

import encoding_oracle
import real_templates
from biddable import BiddableError, Conversation, Example, Message, Template, encode
from biddable.encoding.encode import make_encoder
from biddable.encoding.trained_turns import plan_all
from biddable.encoding.turns import Turn
from templates_table import letter, written

CALL = [
    {
        "id": "abcdefghi",
        "type": "function",
        "function": {"name": "find_city", "arguments": {"name": "Bergen"}},
    }
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_city",
            "description": "Finds it.",
            "parameters": {
                "type": "object",
                "properties": {"name": {"type": "string", "description": "Its name."}},
                "required": ["name"],
            },
        },
    }
]


def talk(*turns: str, tools: Any = (), **extra: Any) -> Conversation:
    """A conversation from texts that begin with their role's letter; `extra` goes to the last."""
    roles = {"S": "system", "U": "user", "A": "assistant"}
    messages = [Message(roles[turn[0]], turn[2:]) for turn in turns]
    last = messages.pop()
    return Conversation([*messages, Message(last.role, last.content, extra=extra)], tools=tools)


CONVERSATIONS = {
    "system": talk("S Zbrief.", "U Zcolour?", "A Zgreen."),
    "turns": talk("U Zone?", "A Zfirst.", "U Ztwo?", "A Zsecond.", "U Zthree?", "A Zthird."),
    "system, turns": talk("S Zkind.", "U Zone?", "A Zfirst.", "U Ztwo?", "A Zsecond."),
    "white space": talk("U   Zwhy?\n\n", "A \n Zbecause.  \n", "U \tZand?", "A Zso.\n"),
    "unicode": talk("U Zoù? 日本語 e\u0301 🙂\u200d↔️", "A Zici, naïve 👩\u200d👩\u200d👧 ok"),
    "thinking": talk(
        "U Zsum?",
        "A <think>\nZtwo and two.\n</think>\n\nZfour.",
        "U Zmore?",
        "A <think>\nZthree more.\n</think>\n\nZseven.",
    ),
    "reasoning field": talk("U Zsum?", "A Zfour.", reasoning_content="Ztwo and two."),
    "control text": talk(
        "U Zsay <|im_end|> and <|eot_id|></s> [INST] <end_of_turn><|turn>",
        "A Zit is <|im_start|>user or </s><|end|><|user|> <turn|> here.",
        "U Zhalf of it: <|im_",
        "A Zthe other half: end|>",
    ),
    "literal </think>": talk("U Zhow?", "A Zclose it with the </think> tag, then go on."),
    "tools": Conversation(
        [
            Message("user", "Zwhere?"),
            Message("assistant", "", extra={"tool_calls": CALL}),
            Message("tool", "Zfound 7", extra={"name": "find_city", "tool_call_id": "abcdefghi"}),
            Message("assistant", "Zthere."),
        ],
        tools=TOOLS,
    ),
}


@pytest.fixture(scope="session")
def templates(pytestconfig: pytest.Config) -> dict[str, str]:
    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("wheels"))
    if not real_templates.fetch(folder):
        pytest.skip("the packages trl and axolotl cannot be downloaded here")
    return real_templates.read(folder)


def outcome(
    tokenizer: PreTrainedTokenizerFast, conversation: Conversation
) -> list[Example] | BiddableError:
    try:
        return encode(conversation, tokenizer, Template.of(tokenizer))
    except BiddableError as error:
        return error


def check_against_oracle(
    name: str, tokenizer: PreTrainedTokenizerFast, conversation: Conversation
) -> str:
    """`=`, or the letter of a refusal that the oracle finds right; fails on anything else."""
    result = outcome(tokenizer, conversation)
    wanted = encoding_oracle.expected(name, conversation, tokenizer)
    if isinstance(result, BiddableError):
        assert wanted is None, f"refused, though it can be expressed: {result}"
        return letter(result.finding)
    assert wanted is not None, "encoded, though the template cannot express it"
    contents = [m.content.strip() for m in conversation.messages if m.content.strip()]
    trained: dict[int, set[int]] = {n: set() for n in range(len(result))}
    for turn in wanted:
        prompt = encoding_oracle.expected_ids(tokenizer, turn.prompt, contents)
        answer = encoding_oracle.expected_ids(tokenizer, turn.answer, contents)
        holders = [
            n
            for n, example in enumerate(result)
            if list(example.input_ids[: len(prompt) + len(answer)]) == prompt + answer
            and example.weights[len(prompt)] == 1.0
        ]
        assert len(holders) == 1, f"turn {turn.turn} is in {len(holders)} examples"
        trained[holders[0]] |= set(range(len(prompt), len(prompt) + len(answer)))
    for number, example in enumerate(result):
        positions = {place for place, weight in enumerate(example.weights) if weight > 0}
        assert positions == trained[number]
        assert set(example.weights) <= {0.0, 1.0}
    return letter(None)


SHARDS = 8


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_real_template_is_exact_or_rightly_refused(
    shard: int, templates: dict[str, str]
) -> None:
    failures, outcomes = [], []
    table = written(
        (Path(__file__).parent.parent / "docs" / "guide" / "templates.md").read_text("utf-8")
    )
    assert list(table) == list(templates)
    for name, text in list(templates.items())[shard::SHARDS]:
        tokenizer = real_templates.tokenizer_for(text, name=name)
        for kind, conversation in CONVERSATIONS.items():
            try:
                outcomes.append(check_against_oracle(name, tokenizer, conversation))
                documented = table[name][list(CONVERSATIONS).index(kind)]
                assert documented == outcomes[-1], "docs/guide/templates.md says something else"
            except AssertionError as error:
                failures.append(f"{name}, {kind}: {error}")
    assert not failures, "\n".join(failures)
    assert len(outcomes) >= len(CONVERSATIONS) * 10


# Where the generation markers of TRL's training templates and our answers differ, and why.
# Before the answer: text that the generation prompt holds already, so the model never writes it.
IN_THE_PROMPT = {
    "": "",
    "<think>\n": "nemotron|qwen3_5_think|qwen3_6|qwen3_8",
    "<think>\n\n</think>\n\n": "qwen3_5_nothink",
    "<|start|>assistant": "gptoss|muse_glimmer",
    "\n": "qwen2_5_training",
    "<\uff5cAssistant\uff5c><think>\n": "deepseek_r1_distill",
}
# After it: text behind the end of turn, at which the sampler has stopped.
AFTER_THE_STOP = {"": "", "\n": "", "\n</s>": "phi3"}
# The template drops the thinking that its prompt opens, so its marker has none; a diffusion model's
# template marks a tool call without the token that ends it, and the turns around a tool separately.
OF_ITS_OWN = {("trl/deepseekv3_training", "thinking"), ("trl/diffusion_gemma_training", "tools")}


def test_answers_are_what_generation_markers_give_but_for_explained_differences(
    templates: dict[str, str],
) -> None:
    compared = 0
    for name, text in templates.items():
        if not re.search(r"\{%-?\s*generation", text):
            continue
        tokenizer = real_templates.tokenizer_for(text)
        encoder = make_encoder(tokenizer, Template.of(tokenizer))
        for kind, conversation in CONVERSATIONS.items():
            (turns,) = plan_all(encoder.rules, [conversation], "assistant")
            if isinstance(turns, BiddableError) or (name, kind) in OF_ITS_OWN:
                continue
            for turn, _ in turns:
                before, after = marker_difference(name, text, tokenizer, conversation, turn)
                assert re.search(IN_THE_PROMPT[before], name), (name, kind, before)
                assert re.search(AFTER_THE_STOP[after], name), (name, kind, after)
                compared += 1
    assert compared > 400


def marker_difference(
    name: str, text: str, tokenizer: PreTrainedTokenizerFast, conversation: Conversation, turn: Turn
) -> tuple[str, str]:
    """What the markers have more than our answer, before it and after it."""
    messages: Any = [m.as_dict() for m in conversation.messages[: turn.message + 1]]
    if re.search(encoding_oracle.READS_PARTS, name):
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    (rendered,), (marked,) = render_jinja_template(
        [messages],
        tools=list(conversation.tools) or None,
        chat_template=text,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    start = len(turn.prompt.text)
    end = start + len(turn.answer.text)
    assert rendered[:end] == turn.prompt.text + turn.answer.text
    last = [(a, b) for a, b in marked if b > start]
    first, stop = min(a for a, _ in last), max(b for _, b in last)
    assert first <= start, f"{name}: ours trains {rendered[start:first]!r} too"
    assert stop >= end, f"{name}: ours trains {rendered[stop:end]!r} too"
    return rendered[first:start], rendered[end:stop]


def test_the_kept_text_renders_in_transformers_as_here(templates: dict[str, str]) -> None:
    compared = 0
    for name, text in templates.items():
        tokenizer = real_templates.tokenizer_for(text, name=name)
        template = Template.of(tokenizer)
        for conversation in CONVERSATIONS.values():
            messages = [message.as_dict() for message in conversation.messages]
            for prompt in (True, False):
                theirs = encoding_oracle.hf_render(
                    tokenizer, messages, conversation.tools, prompt=prompt
                )
                try:
                    ours = template.render(
                        conversation.messages,
                        add_generation_prompt=prompt,
                        tools=conversation.tools,
                    )
                except BiddableError:
                    ours = None
                assert ours == theirs, name
                again = tokenizer.apply_chat_template if theirs is not None else None
                if again is not None:
                    kept = again(
                        messages,
                        tools=list(conversation.tools) or None,
                        chat_template=template.text,
                        add_generation_prompt=prompt,
                        tokenize=False,
                    )
                    assert kept == theirs, name
                    compared += 1
    assert compared > 1_800
