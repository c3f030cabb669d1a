"""Words or characters as numbers. The vocabulary is that of the training split; what it lacks is `<unk>`.

T tokens of a sequence, C characters of a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

Unit = Literal["words", "characters"]
PAD, UNKNOWN, START, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
"""what stands before all words: filling after a sequence's end, a word that training lacks, and a sequence's ends"""
_WORDS_AND_MARKS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


class Vocabulary:
    """Numbers of words, or of characters, from the most frequent one on, after those of SPECIAL.

    Args:
        symbols: the words without SPECIAL.
        unit: what a text is cut into.
        lower: take capitals for small letters.
        punctuation: words end at punctuation marks, which are words themselves; else at spaces alone.
    """

    def __init__(
        self, symbols: Sequence[str], unit: Unit = "words", *, lower: bool = False, punctuation: bool = False
    ) -> None:
        self.symbols = (*SPECIAL, *symbols)
        self.unit, self.lower, self.punctuation = unit, lower, punctuation
        self._numbers = {symbol: number for number, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def __repr__(self) -> str:
        return f"a vocabulary of {len(self):,} {self.unit}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(
        cls,
        sequences: Iterable[Sequence[str]],
        unit: Unit = "words",
        *,
        lower: bool = False,
        punctuation: bool = False,
        least: int = 1,
        most: int | None = None,
    ) -> Vocabulary:
        """The words that occur at least so often in sequences that are cut already; at most so many, the most frequent.

        Words of one count stand in the order of the alphabet.
        """
        counts = Counter(word.lower() if lower else word for words in sequences for word in words)
        frequent = sorted((-count, word) for word, count in counts.items() if count >= least and word not in SPECIAL)
        return cls([word for _, word in frequent[:most]], unit, lower=lower, punctuation=punctuation)

    def cut(self, text: str) -> list[str]:
        """The words of a text, or its characters."""
        return cut(text, self.unit, self.punctuation)

    def numbers(self, words: Iterable[str]) -> list[int]:
        """A number for each word, UNKNOWN for what is not known."""
        get = self._numbers.get
        return [get(word.lower() if self.lower else word, UNKNOWN) for word in words]

    def words(self, numbers: Iterable[int]) -> list[str]:
        """The words of numbers, up to the first END, without START and PAD."""
        words = []
        for number in numbers:
            if number == END:
                break
            if number not in (PAD, START):
                words.append(self.symbols[number])
        return words

    def text(self, numbers: Iterable[int]) -> str:
        """The text of numbers: words with spaces between, or characters side by side."""
        return (" " if self.unit == "words" else "").join(self.words(numbers))


def cut(text: str, unit: Unit, punctuation: bool = False) -> list[str]:
    """The characters of a text, or its words: between spaces, or also apart from punctuation marks."""
    if unit == "characters":
        return list(text)
    return _WORDS_AND_MARKS.findall(text) if punctuation else text.split()
