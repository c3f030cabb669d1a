"""Words as numbers, and back."""

from __future__ import annotations

import pytest

from lab.data.language.vocabulary import END, PAD, SPECIAL, START, UNKNOWN, Vocabulary, cut

TEXTS = [["the", "cat", "sat"], ["the", "dog", "sat"], ["The", "end"]]


def test_the_most_frequent_words_come_first_and_others_are_unknown() -> None:
    known = Vocabulary.of(TEXTS)
    assert known.symbols == (*SPECIAL, "sat", "the", "The", "cat", "dog", "end")
    assert known.numbers(["the", "bird", "sat"]) == [5, UNKNOWN, 4]
    assert known.words([START, 5, 7, 4, END, 4]) == ["the", "cat", "sat"]
    assert known.text([5, 7, PAD, PAD]) == "the cat"


def test_a_vocabulary_may_be_small_and_blind_to_capitals() -> None:
    assert Vocabulary.of(TEXTS, lower=True, least=2).symbols[4:] == ("the", "sat")
    assert Vocabulary.of(TEXTS, most=1).symbols[4:] == ("sat",)
    assert Vocabulary.of(TEXTS, lower=True).numbers(["THE"]) == [4]


def test_special_symbols_of_a_text_are_not_taken_for_its_own() -> None:
    assert Vocabulary.of([["<pad>", "</s>", "a"]]).symbols == (*SPECIAL, "a")


@pytest.mark.parametrize(
    ("text", "unit", "punctuation", "expected"),
    [
        ("It's a  film, too.", "words", False, ["It's", "a", "film,", "too."]),
        ("It's a  film, too.", "words", True, ["It's", "a", "film", ",", "too", "."]),
        ("naïve (日本) 1.5", "words", True, ["naïve", "(", "日本", ")", "1", ".", "5"]),
        ("a b", "characters", False, ["a", " ", "b"]),
        (" \t ", "words", True, []),
    ],
)
def test_texts_are_cut(text: str, unit: str, punctuation: bool, expected: list[str]) -> None:
    assert cut(text, unit, punctuation) == expected  # type: ignore[arg-type]
