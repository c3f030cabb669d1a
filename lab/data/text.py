"""Text as characters or words, resident on the device.

`data.name` is a registered text (`lab list datasets`) or the path of a UTF-8 file, itself or below `root`, which is
`data.root`, else the environment variable LAB_DATA, else `./data`.

Training reads B places of the text in parallel, window after window of T symbols, so that a recurrent state can be
carried from one window to the next. After the last window a new pass starts elsewhere, and the state with it.
B streams, T symbols in a window, N symbols of a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from lab.data.datasets import DataSet, load_named
from lab.data.items import Item
from lab.data.items import text as text_of
from lab.data.language.vocabulary import SPECIAL, Unit, Vocabulary
from lab.data.module import LabDataModule
from lab.data.resident import Chunk, evenly
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Symbols
from lab.errors import UserError
from lab.experiment import DataConfig, Shared
from lab.ranks import ranks
from lab.registry import Registry
from lab.seeding import derive_seed

Text = DataSet[str]
TEXTS: Registry[Text] = Registry("register_text", "text", "datasets")
_WORDS = re.compile(r"\n|[^\s]+")
"""words lie between spaces; the end of a line is one of them"""
_UNKNOWN = "<unk>"
"""stands, as the first symbol, for words that the training text lacks"""
_PIECE = 256
"""symbols of each piece of a sample of the training text"""


class Window(NamedTuple):
    """Symbols x (T, B), the symbols y (T, B) that follow each, and whether the text before x is another."""

    x: Tensor
    y: Tensor
    starts: bool


def register_text(name: str) -> Callable[[Text], Text]:
    """Register a function `root -> str` as the text `name`. Raises ValueError for a taken name."""
    return TEXTS.register(name)


class TextData(DataConfig):
    """The characters or the words of a text, in order."""

    kind: Literal["text"] = "text"
    name: str = "python-reference"
    """a registered text, or the path of a UTF-8 file"""
    root: str | None = None
    """folder of data files; by default LAB_DATA, else ./data"""
    unit: Unit = "characters"
    """what the text is cut into; words lie between spaces, and the end of a line is one"""
    lower: bool = False
    """words: take capitals for small letters"""
    least: PositiveInt = 1
    """words: how often one must occur in training to be known"""
    batch_size: Annotated[PositiveInt, Shared("equal")] = 32
    """places of the text read in parallel"""
    window: PositiveInt = 64
    """symbols through which gradients flow back"""
    batches_per_step: PositiveInt = 4
    """windows in one training step"""
    validation: float = Field(default=0.05, gt=0, lt=0.5)
    """share of the text held out for validation, before the test part"""
    test: float = Field(default=0.05, ge=0, lt=0.5)
    """share of the text held out for testing, its end; with 0, testing uses the validation part"""

    @model_validator(mode="after")
    def _check_unit(self) -> TextData:
        for field in ("lower", "least"):
            if self.unit == "characters" and getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(f"{field} is of unit=words, not of characters")
        return self

    def build(self, seed: int) -> TextModule:
        """Load the text. Raises UserError for one that is absent, not UTF-8, or too short for the windows."""
        return TextModule(self, load_text(self.name, self.root), seed)


class TextModule(LabDataModule):
    """Windows of training text; validation and test text whole."""

    def __init__(self, config: TextData, text: str, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        symbols = text if config.unit == "characters" else self._words(text)
        num_val, num_test = round(len(symbols) * config.validation), round(len(symbols) * config.test)
        self.alphabet = self._alphabet(symbols, len(symbols) - num_val - num_test)
        target = Symbols(self.alphabet, config.unit, config.lower)
        self.spec = DataSpec(TensorSpec((), torch.int64, 0, len(self.alphabet) - 1), target=target)
        codes = self.encode(text)
        train, val, test = codes.split([len(codes) - num_val - num_test, num_val, num_test])
        self._splits = {"train": train, "val": val, "test": test if num_test else val}
        num_streams = config.batch_size * ranks.num_ranks()
        self.stream_length = len(train) // num_streams
        if self.stream_length <= config.window or min(map(len, self._splits.values())) < 2:
            raise UserError(
                f"text {config.name!r} has {len(symbols):,} {config.unit}, too few for data.batch_size={num_streams} "
                f"streams with windows of data.window={config.window}."
            )
        self.windows_a_pass = (self.stream_length - 1) // config.window
        self.drawn = 0

    def encode(self, text: str) -> Tensor:
        """The places (N,) of the symbols in the alphabet. Raises UserError for a character that it lacks."""
        if self.config.unit == "words":
            numbers = {word: number for number, word in enumerate(self.alphabet)}
            return torch.tensor([numbers.get(word, 0) for word in self._words(text)], dtype=torch.int64)
        known = np.array([ord(character) for character in self.alphabet])
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        places = np.searchsorted(known, points).clip(max=len(known) - 1)
        strange = points != known[places]
        if strange.any():
            raise UserError(f"character {chr(points[strange][0])!r} does not occur in text {self.config.name!r}.")
        return torch.from_numpy(places.astype(np.int64))

    def _words(self, text: str) -> Sequence[str]:
        return cut_text(text.lower() if self.config.lower else text, "words")

    def _alphabet(self, symbols: Sequence[str], num_train: int) -> Sequence[str]:
        """All characters of the text, or the words of its training part, from the most frequent one on."""
        if self.config.unit == "characters":
            return "".join(sorted(set(symbols)))
        words = Vocabulary.of([symbols[:num_train]], least=self.config.least).symbols
        return (_UNKNOWN, *words[len(SPECIAL) :])

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._splits = {name: codes.to(device) for name, codes in self._splits.items()}

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Texts, each a file or standard input, as places (N,) in the alphabet."""
        for source in sources:
            whole = text_of(source)
            if not whole:
                raise UserError(f"{source!r} is empty.")
            try:
                codes = self.encode(whole)
                if not len(codes):
                    raise UserError(f"it holds no {self.config.unit}.")
                yield Item(source, codes)
            except UserError as error:
                raise UserError(f"{source!r}: {error}") from None

    def texts(self, texts: Sequence[str]) -> Iterator[Item]:
        for text in texts:
            codes = self.encode(text)
            if not len(codes):
                raise UserError("an empty text says nothing.")
            yield Item(text, codes)

    def next_chunk(self) -> Chunk[Window]:
        return Chunk(self._draw(), self.config.batches_per_step)

    def split(self, name: Literal["train", "val", "test"]) -> Tensor:
        """The symbols (N,) of a split."""
        return self._splits[name]

    def training_sample(self, num: int) -> Tensor:
        """Pieces of the training text, spread over it evenly, as one text (N,)."""
        train = self._splits["train"]
        num = max(2, min(num, len(self._splits["val"]), len(train)))
        num_pieces = max(1, num // _PIECE)
        starts = evenly(len(train) - num // num_pieces + 1, num_pieces).tolist()
        return torch.cat([train[start : start + num // num_pieces] for start in starts])

    def fixed_tensors(self) -> Iterable[Tensor]:
        return self._splits.values()

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn = state_dict["drawn"]

    def _draw(self) -> Iterator[Window]:
        for _ in range(self.config.batches_per_step):
            number, window = divmod(self.drawn, self.windows_a_pass)
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "pass", number))
            codes = self._splits["train"]
            shift = int(torch.randint(len(codes), (), generator=generator))
            first = ranks.rank() * self.config.batch_size
            streams = torch.arange(first, first + self.config.batch_size, device=self.device)
            starts = shift + streams * self.stream_length
            steps = torch.arange(self.config.window + 1, device=self.device) + window * self.config.window
            piece = codes[(starts[None, :] + steps[:, None]) % len(codes)]  # (T + 1, B)
            self.drawn += 1
            yield Window(piece[:-1], piece[1:], window == 0)


def cut_text(text: str, unit: Unit) -> Sequence[str]:
    """The symbols of a text."""
    return text if unit == "characters" else _WORDS.findall(text)


def load_text(name: str, root: str | None = None) -> str:
    """A registered text or a file's content. Raises UserError for one that is absent, empty or not UTF-8."""
    return load_named(TEXTS, name, root, read_text)


def read_text(path: Path) -> str:
    """The content of a UTF-8 file. Raises UserError when it is absent, a folder, empty or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no {str(path)!r}; set LAB_DATA or data.root to the folder that holds it.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"text file {str(path)!r} is not UTF-8 (byte {error.start:,}).") from None
    except OSError as error:
        raise UserError(f"text file {str(path)!r} cannot be read: {error.strerror}.") from None
    if not text:
        raise UserError(f"text file {str(path)!r} is empty.")
    return text


@register_text("python-reference")
def python_reference(root: Path) -> str:
    """The language reference that Python itself carries for `help()`: half a million characters, no file needed."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


@register_text("tiny-shakespeare")
def tiny_shakespeare(root: Path) -> str:
    """Tiny Shakespeare: 1.1 million characters of his plays (Karpathy 2015), from input.txt in LAB_DATA."""
    folder = root / "tiny-shakespeare"
    return read_text((folder if folder.is_dir() else root) / "input.txt")
