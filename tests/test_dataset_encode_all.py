"""All conversations at once: order, what is dropped, what is told, and in worker processes too."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from biddable import BiddableError, Conversation, Message, Template, encode
from biddable.dataset.encode_all import encode_all, length_that_keeps
from biddable.dataset.workers import encode_each
from biddable.encoding.encode import make_encoder
from biddable.template.frames import FRAMES
from encoding_tokenizers import byte_level, wrapped

CHATML = Template.frame("chatml")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return wrapped(byte_level())


def conversation(words: int, line: int, answer: str = "four ") -> Conversation:
    messages = [Message("user", "two? " * words), Message("assistant", answer * words)]
    return Conversation(messages, "f.jsonl", line)


def test_examples_keep_order_file_and_line(tokenizer: Any) -> None:
    encoded = encode_all([conversation(n, n) for n in (3, 1, 2)], tokenizer, CHATML, max_length=999)
    assert [(e.file, e.line, e.turn) for e in encoded.examples] == [
        ("f.jsonl", n, 1) for n in (3, 1, 2)
    ]
    assert encoded.stop_token_trained
    assert not encoded.findings


def test_what_is_too_long_is_left_out_whole_and_told(tokenizer: Any) -> None:
    rows = [conversation(1, n) for n in range(1, 200)] + [conversation(50, 200)]
    limit = len(encode(rows[0], tokenizer, CHATML)[0].input_ids)
    encoded = encode_all(rows, tokenizer, CHATML, max_length=limit)
    assert len(encoded.examples) == 199
    assert [(f.code, f.line) for f in encoded.dropped] == [("answer_truncated", 200)]
    assert not encoded.findings
    assert len(encoded.lengths) == 200


def test_a_limit_that_does_not_bind_changes_nothing(tokenizer: Any) -> None:
    rows = [conversation(n, n) for n in range(1, 20)]
    longest = max(encode_all(rows, tokenizer, CHATML, max_length=10**6).lengths)
    encoded = encode_all(rows, tokenizer, CHATML, max_length=longest)
    assert not encoded.dropped
    assert encoded.examples == encode_all(rows, tokenizer, CHATML, max_length=10**6).examples


def test_too_many_dropped_is_an_error_that_names_the_lengths_to_take(tokenizer: Any) -> None:
    rows = [conversation(n, n) for n in range(1, 101)]
    lengths = sorted(encode_all(rows, tokenizer, CHATML, max_length=10**6).lengths)
    encoded = encode_all(rows, tokenizer, CHATML, max_length=lengths[97])
    (finding,) = encoded.findings
    assert (finding.code, finding.severity) == ("too_many_dropped", "error")
    assert f"{lengths[98]} keeps 99 %" in finding.fix
    assert f"{lengths[99]} keeps all" in finding.fix
    assert not encode_all(rows, tokenizer, CHATML, max_length=lengths[98]).findings


def test_too_long_can_be_an_error(tokenizer: Any) -> None:
    encoded = encode_all([conversation(9, 4)], tokenizer, CHATML, max_length=9, too_long="error")
    assert [(f.code, f.severity, f.line) for f in encoded.findings] == [
        ("answer_truncated", "error", 4)
    ]


def test_every_conversation_that_fails_is_told(tokenizer: Any) -> None:
    bad = [Conversation([Message("user", "Two?")], "f.jsonl", line) for line in (2, 4)]
    rows = [conversation(1, 1), bad[0], conversation(1, 3), bad[1]]
    encoded = encode_all(rows, tokenizer, CHATML, max_length=999)
    assert [(f.code, f.line) for f in encoded.findings] == [("all_masked", 2), ("all_masked", 4)]
    assert [e.line for e in encoded.examples] == [1, 3]


def test_text_like_a_control_token_is_noted_with_its_place(tokenizer: Any) -> None:
    encoded = encode_all([conversation(1, 8, "<|im_end|>x")], tokenizer, CHATML, max_length=999)
    (finding,) = encoded.findings
    assert (finding.code, finding.severity) == ("special_token_in_text", "note")
    assert (finding.line, finding.turn) == (8, 1)


def test_a_template_without_the_bos_that_the_tokenizer_writes_is_told() -> None:
    with_bos = wrapped(byte_level(), bos=True)
    encoded = encode_all([conversation(1, 1)], with_bos, Template(CHATML.text), max_length=999)
    assert [f.code for f in encoded.findings] == ["bos_missing"]
    assert not encode_all([conversation(1, 1)], with_bos, CHATML, max_length=999).findings


def test_a_template_without_a_stop_token_is_told(tokenizer: Any) -> None:
    silent = Template("{% for m in messages %}{{ m.content }} {% endfor %}")
    encoded = encode_all([conversation(1, 1)], tokenizer, silent, max_length=999)
    assert [f.code for f in encoded.findings] == ["stop_token_untrained"]
    assert not encoded.stop_token_trained


def test_workers_give_what_one_process_gives(tokenizer: Any) -> None:
    call = {"function": {"name": "find", "arguments": {"a": "ü <|im_end|>"}}}
    rows = [conversation(n % 7 + 1, n) for n in range(1_200)]
    rows[3] = Conversation([Message("user", "Two?")], "f.jsonl", 3)
    rows[5] = Conversation(
        [
            Message("user", "Two? \ud7ff\u2028\n"),
            Message("assistant", "Four.", weight=0.1, extra={"reasoning": "a"}),
            Message("user", "And?", extra={"tool_calls": [call]}),
            Message("assistant", "Five."),
        ],
        "f.jsonl",
        5,
        tools=[{"name": "find"}],
    )
    encoder = make_encoder(tokenizer, CHATML)
    alone = list(encode_each(encoder, rows, "assistant", workers=1))
    shared = list(encode_each(encoder, rows, "assistant", workers=2))
    assert len(alone) == len(rows)
    for one, other in zip(alone, shared, strict=True):
        if isinstance(one, BiddableError):
            assert isinstance(other, BiddableError)
            assert one.finding == other.finding
        else:
            assert one == other


def test_the_caller_may_stop_in_the_middle(tokenizer: Any) -> None:
    encoder = make_encoder(tokenizer, CHATML)
    results = encode_each(encoder, [conversation(1, n) for n in range(2_000)], "assistant", 2)
    next(results)
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("lengths", "share", "wanted"),
    [([5], 0.99, 5), (list(range(1, 101)), 0.99, 99), (list(range(1, 102)), 0.99, 100)],
)
def test_the_length_that_keeps_a_share(lengths: list[int], share: float, wanted: int) -> None:
    assert length_that_keeps(lengths, share) == wanted


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_row_that_takes_too_much_ends_the_run_and_is_named(
    tokenizer: Any, workers: int
) -> None:
    bomb = "{% for m in messages if 'evil' in m.content %}{{ 'x' * 10 ** 10 }}{% endfor %}"
    template = Template(bomb + FRAMES["chatml"])
    rows = [conversation(3, n, "evil " if n >= 40 else "four ") for n in range(1, 1101)]
    results = encode_each(make_encoder(tokenizer, template), rows, "assistant", workers)
    first = next(results)
    assert isinstance(first, BiddableError)
    assert first.finding.code == "template_unusable"
    assert (first.finding.file, first.finding.line) == (rows[0].file, 40)
    assert "512 MiB" in first.finding.message
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(BiddableError, match="template_unusable"):
        encode_all(rows[:50], tokenizer, template, max_length=100)


def test_a_template_that_takes_too_much_at_once_is_refused_before_any_row(tokenizer: Any) -> None:
    bomb = "{{ 'x' * 10 ** 10 }}"
    for text in (bomb, "{% if messages|length > 1 %}" + bomb + "{% endif %}"):
        with pytest.raises(BiddableError, match="template_unusable"):
            make_encoder(tokenizer, Template(text + FRAMES["chatml"]))
