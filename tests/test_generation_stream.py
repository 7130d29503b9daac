"""Streaming: the pieces are the whole, and no piece shows what may still become a stop string."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from biddable.generation.generate import generate
from biddable.generation.sampler import make_sampler
from biddable.generation.stream import UNFINISHED, find_stop, pieces, stream
from tiny import tiny

ALPHABET = "ab\néß漢🙂"


def run(parts: Generator[str, None, bool]) -> tuple[list[str], bool]:
    texts: list[str] = []
    while True:
        try:
            texts.append(next(parts))
        except StopIteration as end:
            return texts, end.value


def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=8).map(sorted))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[bytes], list[str]]:
    text = draw(st.text(ALPHABET, max_size=14))
    stops = draw(st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3))
    return text, splits(draw, text.encode()), stops


def decoder(tokens: Sequence[bytes]):  # type: ignore[no-untyped-def]
    return lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace")


@given(cases())
def test_the_pieces_of_every_split_are_the_text_up_to_the_stop(
    case: tuple[str, list[bytes], list[str]],
) -> None:
    text, tokens, stops = case
    texts, cut = run(pieces(range(len(tokens)), decoder(tokens), stops))
    end = find_stop(text, stops)
    assert "".join(texts) == text[:end]
    assert cut == (end is not None)
    assert all(texts)


@given(cases())
def test_no_piece_ends_in_half_a_character_or_the_start_of_a_stop(
    case: tuple[str, list[bytes], list[str]],
) -> None:
    text, tokens, stops = case
    sent, read = "", 0

    def counted() -> Iterator[int]:
        nonlocal read
        for read in range(1, len(tokens) + 1):
            yield read - 1
        # The last piece may hold anything: no more can come.
        read = 0

    decode = decoder(tokens)
    for piece in pieces(counted(), decode, stops):
        sent += piece
        assert text.startswith(sent)
        known = decode(range(read)).rstrip(UNFINISHED) if read else ""
        if not read or find_stop(known, stops) is not None:
            break
        # Whatever of the known text may begin a stop string is not sent yet.
        starts = (n for stop in stops for n in range(1, len(stop)) if known.endswith(stop[:n]))
        assert len(sent) <= len(known) - max(starts, default=0)


def test_of_stop_strings_the_one_that_is_complete_first_cuts() -> None:
    assert find_stop("xabcd", ["abcd", "bc"]) == 2
    assert find_stop("xabcd", ["abc", "bc"]) == 1
    assert find_stop("xabcd", ["dd"]) is None


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    assert run(pieces([0, 1], decoder([b"a", b"\xf0\x9f"]), [])) == (["a", "\ufffd"], False)


class Letters:
    """A tokenizer with a letter for each id."""

    def decode(self, ids: list[int], **_: bool) -> str:
        return "".join(chr(64 + i) for i in ids)


def test_streaming_a_model_gives_what_generate_gives() -> None:
    model = tiny("llama", ours=True)
    for seed in range(3):
        (answer,) = generate(
            model, [[3, 4, 5]], stop_ids={2, 7}, max_new_tokens=9, temperature=1.5, seed=seed
        )
        whole = Letters().decode(list(answer.ids))
        parts = stream(
            model,
            [3, 4, 5],
            stop_ids={2, 7},
            tokenizer=Letters(),
            max_new_tokens=9,
            sample=make_sampler(1.5, 1.0, seed),
        )
        texts, finish = run(parts)  # type: ignore[arg-type]
        assert "".join(texts) == whole
        assert finish == answer.finish
        if len(whole) > 4:
            parts = stream(
                model, [3, 4, 5], stop_ids={2, 7}, stop_strings=[whole[2:4]],
                tokenizer=Letters(), max_new_tokens=9, sample=make_sampler(1.5, 1.0, seed),
            )  # fmt: skip
            texts, finish = run(parts)  # type: ignore[arg-type]
            assert ("".join(texts), finish) == (whole[: whole.find(whole[2:4])], "stop")
