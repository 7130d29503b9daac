"""Every template of trl and axolotl is exact, by the oracle, or refused; never silently wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import chat_oracle
import real_templates
from biddable import BiddableError, Conversation, Example, Message, Template, encode

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
    """`exact`, or the code of a refusal that the oracle finds right; fails on anything else."""
    result = outcome(tokenizer, conversation)
    wanted = chat_oracle.expected(name, conversation, tokenizer)
    if isinstance(result, BiddableError):
        assert wanted is None, f"refused, though it can be expressed: {result}"
        return result.finding.code
    assert wanted is not None, "encoded, though the template cannot express it"
    contents = [m.content.strip() for m in conversation.messages if m.content.strip()]
    trained: dict[int, set[int]] = {n: set() for n in range(len(result))}
    for turn in wanted:
        prompt = chat_oracle.expected_ids(tokenizer, turn.prompt, contents)
        answer = chat_oracle.expected_ids(tokenizer, turn.answer, contents)
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
    return "exact"


SHARDS = 8


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_real_template_is_exact_or_rightly_refused(
    shard: int, templates: dict[str, str]
) -> None:
    failures, outcomes = [], []
    for name, text in list(templates.items())[shard::SHARDS]:
        tokenizer = real_templates.tokenizer_for(text, name=name)
        for kind, conversation in CONVERSATIONS.items():
            try:
                outcomes.append(check_against_oracle(name, tokenizer, conversation))
            except AssertionError as error:
                failures.append(f"{name}, {kind}: {error}")
    assert not failures, "\n".join(failures)
    assert len(outcomes) >= len(CONVERSATIONS) * 10
    assert outcomes.count("exact") > 0.7 * len(outcomes)
