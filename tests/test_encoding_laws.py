"""Laws of encoding that hold for every content, every template and every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biddable import BiddableError, Conversation, Example, Message, Template, encode, encode_prompt
from biddable.encoding.encode import make_encoder, stop_token_ids
from encoding_tokenizers import SPECIALS, tokenizers

BOS_CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' +"
    " message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '[U]' + message.content|trim + '[/U]' }}{% elif message.role == 'assistant' %}"
    "{{ ' ' + message.content|trim + eos_token }}{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}"
)
TEMPLATES = {
    "plain": Template.frame("plain"),
    "chatml": Template.frame("chatml"),
    "llama2": Template.frame("llama2"),
    "chatml with BOS": Template(BOS_CHATML),
    "trimmed": Template(TRIMMED),
}

# Ordinary words and all that has ever broken a boundary: white space, combining marks, emoji,
# whole control tokens, their halves, and what a template may glue them to.
WORDS = ["two plus two", "Four.", " ", "\n", "\n\n", "\t", "e\u0301", "\u0301", "🙂", "日本", "."]
HALVES = [part for token in SPECIALS for part in (token, token[:4], token[4:])]
ODD = ["👩\u200d👧", "<|", "|>", "[U]", "\u00a0", "\u2028", "</think>", "{{", "\\n"]
MARKS = ["\ue000", "\U000f0000", "\U00100000"]
PIECES = st.sampled_from(WORDS + HALVES + ODD + MARKS)
CONTENT = st.lists(PIECES, max_size=6).map("".join)
ANSWER = CONTENT.map(lambda text: text + "x")


def conversation_of(system: str, turns: list[tuple[str, str]]) -> Conversation:
    messages = [Message("system", system)] if system.strip() else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(messages)


CONVERSATION = st.builds(
    conversation_of, CONTENT, st.lists(st.tuples(CONTENT, ANSWER), min_size=1, max_size=3)
)
LAW = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
CASES = [
    (template, kind)
    for template in TEMPLATES
    for kind in tokenizers()
    if template in ("chatml", "plain") or kind.startswith(("byte", "llama"))
]


def examples_of(conversation: Conversation, tokenizer: Any, template: Template) -> list[Example]:
    """Its examples; none where it is refused, which is never wrong but must be rare."""
    try:
        return encode(conversation, tokenizer, template)
    except BiddableError as error:
        if error.finding.code not in ("stop_token_untrained", "stop_token_inside"):
            raise
        return []


@pytest.mark.parametrize(("template", "kind"), CASES)
@given(conversation=CONVERSATION)
@LAW
def test_training_ids_begin_with_what_is_served(
    template: str, kind: str, conversation: Conversation
) -> None:
    chat_template, tokenizer = TEMPLATES[template], tokenizers()[kind]
    for example in examples_of(conversation, tokenizer, chat_template):
        served = encode_prompt(conversation.messages[: example.turn], tokenizer, chat_template)
        assert list(example.input_ids[: len(served)]) == served
        assert all(weight == 1 for weight in example.weights[len(served) :])
        assert len(example.weights) == len(example.input_ids)


@pytest.mark.parametrize(("template", "kind"), CASES)
@given(conversation=CONVERSATION)
@LAW
def test_prompt_ids_are_the_tokenizers_own_where_no_content_looks_like_control_text(
    template: str, kind: str, conversation: Conversation
) -> None:
    chat_template, tokenizer = TEMPLATES[template].bound(tokenizers()[kind]), tokenizers()[kind]
    prompt = conversation.messages[:-1]
    text = chat_template.render(prompt, add_generation_prompt=True)
    words = chat_template.render([Message(m.role, "w") for m in prompt], add_generation_prompt=True)
    if sum(map(text.count, SPECIALS)) == sum(map(words.count, SPECIALS)):
        own = tokenizer.encode(text, add_special_tokens=False)
        assert encode_prompt(prompt, tokenizer, chat_template) == own


@pytest.mark.parametrize(("template", "kind"), CASES)
@given(conversation=CONVERSATION)
@LAW
def test_control_tokens_come_from_the_template_alone(
    template: str, kind: str, conversation: Conversation
) -> None:
    chat_template, tokenizer = TEMPLATES[template], tokenizers()[kind]
    control = set(make_encoder(tokenizer, chat_template).rules.codec.control.values())
    control.discard(tokenizer.convert_tokens_to_ids("<unk>"))
    control.discard(tokenizer.convert_tokens_to_ids("[UNK]"))
    # The last turn alone, so that the number of examples does not depend on merges.
    wanted = last_alone(conversation, lambda text: "wx" if text.strip() else "")
    if any(not message.content for message in wanted.messages):
        return

    def control_ids(examples: list[Example]) -> list[list[int]]:
        return [[i for i in example.input_ids if i in control] for example in examples]

    got = examples_of(last_alone(conversation, str), tokenizer, chat_template)
    if got:
        assert control_ids(got) == control_ids(examples_of(wanted, tokenizer, chat_template))


def last_alone(conversation: Conversation, change: Callable[[str], str]) -> Conversation:
    """The conversation with changed contents and weight on the last message only."""
    *before, last = conversation.messages
    context = [Message(m.role, change(m.content), 0.0) for m in before]
    return Conversation([*context, Message(last.role, change(last.content))])


@pytest.mark.parametrize("kind", ["byte-level", "byte-level with BOS"])
@given(conversation=CONVERSATION)
@LAW
def test_decoding_shows_every_content_literally(kind: str, conversation: Conversation) -> None:
    tokenizer = tokenizers()[kind]
    for example in examples_of(conversation, tokenizer, TEMPLATES["chatml"]):
        text = tokenizer.decode(example.input_ids, skip_special_tokens=False)
        for message in conversation.messages[: example.turn + 1]:
            assert message.content in text


@pytest.mark.parametrize(("template", "kind"), CASES)
@given(conversation=CONVERSATION)
@LAW
def test_there_is_one_bos_at_most_and_one_where_the_tokenizer_writes_one(
    template: str, kind: str, conversation: Conversation
) -> None:
    chat_template, tokenizer = TEMPLATES[template], tokenizers()[kind]
    writes = (
        tokenizer.encode("")[:1] == [tokenizer.bos_token_id] or "bos_token" in chat_template.text
    )
    for example in examples_of(conversation, tokenizer, chat_template):
        assert list(example.input_ids).count(tokenizer.bos_token_id) == int(writes)


@pytest.mark.parametrize(("template", "kind"), CASES)
@given(conversation=CONVERSATION)
@LAW
def test_every_answer_ends_in_its_first_stop_token(
    template: str, kind: str, conversation: Conversation
) -> None:
    chat_template, tokenizer = TEMPLATES[template], tokenizers()[kind]
    stops = stop_token_ids(tokenizer, chat_template)
    for example in examples_of(conversation, tokenizer, chat_template):
        served = encode_prompt(conversation.messages[: example.turn], tokenizer, chat_template)
        answer = list(example.input_ids[len(served) :])
        assert [place for place, i in enumerate(answer) if i in stops] == [len(answer) - 1]
