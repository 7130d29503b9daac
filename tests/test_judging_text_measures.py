"""Each measure of a text against a case worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biddable.judging.text_measures import copier, normalized, repeats, similarity, words

TEXTS = st.text("ab c.\n", max_size=30)


def test_words_are_words_marks_and_single_characters_of_spaceless_scripts() -> None:
    assert words("Don't stop, Bob_2!") == ["don", "'", "t", "stop", ",", "bob_2", "!"]
    assert words("東京 is big") == ["東", "京", "is", "big"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (" The\n Cat. ", "the cat"), ("YES!!", "yes"), ("3.5", "3.5"), ("", ""), ('"Yes".', "yes"),
        ("\u201cYes.\u201d", "yes"), ("`a`", "a"), ('"', '"'), ('""', '""'), ("don't", "don't"),
        ("'tis", "'tis"), ('say "no"', 'say "no"'),
    ],
)  # fmt: skip
def test_normalized_forgets_case_space_quotes_and_a_final_mark(text: str, plain: str) -> None:
    assert normalized(text) == plain


def test_similarity_is_rouge_l_f1() -> None:
    # Longest common subsequence: the, cat, the, mat; 4 of 5 and of 6 words.
    assert similarity("the cat on the mat", "the big cat saw the mat") == pytest.approx(8 / 11)
    assert similarity("a b c", "a b c") == 1.0
    assert similarity("a b", "c d") == 0.0


@given(TEXTS, TEXTS)
def test_similarity_is_symmetric_and_between_0_and_1(a: str, b: str) -> None:
    assert 0 <= similarity(a, b) <= 1
    assert similarity(a, b) == pytest.approx(similarity(b, a))
    assert similarity(a, a) == 1.0


def test_a_loop_is_the_same_four_words_three_times() -> None:
    assert repeats("so it goes on so it goes on so it goes on")
    assert not repeats("so it goes on so it goes on and on")
    assert not repeats("a b c")
    # Overlapping: "x x x x" stands in six x three times.
    assert repeats("x x x x x x")
    assert not repeats("x x x x x")


def test_copies_are_counted_in_runs_of_eight_words_of_one_training_answer() -> None:
    copied = copier(["one two three four five six seven eight nine", "ten eleven"])
    assert copied("one two three four five six seven eight nine") == (2, 2, 9)
    assert copied("zero one two three four five six seven eight") == (1, 2, 8)
    assert copied("eight nine ten eleven") == (0, 0, 2)
    assert copied("") == (0, 0, 0)


@given(st.lists(TEXTS, max_size=4), TEXTS)
def test_the_longest_copy_is_the_longest_run_that_one_source_holds(
    sources: list[str], text: str
) -> None:
    def held(run: list[str]) -> bool:
        cut = [words(s) for s in sources]
        return any(run == s[i : i + len(run)] for s in cut for i in range(len(s) - len(run) + 1))

    of = words(text)
    runs = [of[i:j] for i in range(len(of)) for j in range(i + 1, len(of) + 1)]
    assert copier(sources)(text)[2] == max((len(r) for r in runs if held(r)), default=0)
