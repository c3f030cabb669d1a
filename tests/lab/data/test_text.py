"""Text as windows of characters."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from lab.data.text import TextData, TextModule, Window, load_text
from lab.errors import UserError

TEXT = "".join(chr(ord("a") + i % 26) for i in range(3000))


def module_of(text: str = TEXT, seed: int = 0, **options: object) -> TextModule:
    options = {"batch_size": 4, "window": 10, "batches_per_step": 3, **options}
    return TextModule(TextData(**options), text, seed)  # type: ignore[arg-type]


def windows(module: TextModule, chunks: int) -> list[Window]:
    return [window for _ in range(chunks) for window in module.next_chunk()]


def test_targets_are_the_next_characters_and_windows_go_on_where_the_last_ended() -> None:
    module = module_of()
    seen = windows(module, 4)
    following = dict(zip(range(26), [*range(1, 26), 0], strict=True))
    for x, y, _ in seen:
        assert x.shape == y.shape == (10, 4)
        assert torch.equal(x[1:], y[:-1])
    for before, after in itertools.pairwise(seen):
        if not after.starts:
            assert torch.equal(after.x[0], before.y[-1])
    steps = [(int(a), int(b)) for x, y, _ in seen for a, b in zip(x.flatten(), y.flatten(), strict=True)]
    assert sum(following[a] == b for a, b in steps) >= len(steps) - 4  # but where the text's end meets its beginning


def test_a_pass_covers_the_text_and_only_its_first_window_starts() -> None:
    module = module_of()
    assert module.windows_a_pass == (2700 // 4 - 1) // 10
    flags = [window.starts for window in windows(module, 60)]
    expected = [i % module.windows_a_pass == 0 for i in range(len(flags))]
    assert flags == expected


def test_passes_begin_at_different_places() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(3000))  # every character is another one
    module = module_of(text)
    first = {}
    for i, window in enumerate(windows(module, 60)):
        if window.starts:
            first[i] = int(window.x[0, 0])
    assert len(set(first.values())) > 1


def test_the_state_resumes_the_stream() -> None:
    whole = windows(module_of(), 40)
    module = module_of()
    first = windows(module, 13)
    again = module_of()
    again.load_state_dict(module.state_dict())
    for one, other in zip(whole, first + windows(again, 27), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
        assert one.starts == other.starts


def test_seeds_differ() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(3000))
    assert not torch.equal(windows(module_of(text), 1)[0].x, windows(module_of(text, seed=1), 1)[0].x)


def test_splits_are_consecutive_and_whole() -> None:
    module = module_of(validation=0.1, test=0.2)
    parts = [module.split(name) for name in ("train", "val", "test")]  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [2100, 300, 600]
    assert "".join(module.alphabet[i] for i in torch.cat(parts).tolist()) == TEXT
    no_test = module_of(validation=0.1, test=0.0)
    assert torch.equal(no_test.split("test"), no_test.split("val"))


def test_encoding_covers_any_script_and_refuses_strangers() -> None:
    text = "aß漢🙂\n" * 200
    module = module_of(text)
    assert module.alphabet == "".join(sorted(set(text)))
    assert "".join(module.alphabet[i] for i in module.encode(text).tolist()) == text
    with pytest.raises(UserError, match="'z'"):
        module.encode("az")
    with pytest.raises(UserError, match="does not occur"):
        module.encode("\U0010ffff")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poem.txt").write_text(TEXT, encoding="utf-8")
    assert load_text(str(tmp_path / "poem.txt")) == TEXT
    assert load_text("poem.txt", str(tmp_path)) == TEXT
    (tmp_path / "tiny-shakespeare").mkdir()
    (tmp_path / "tiny-shakespeare" / "input.txt").write_text("to be", encoding="utf-8")
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    assert load_text("tiny-shakespeare") == "to be"


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "is empty"), (b"caf\xe9 caf\xe9", "not UTF-8 (byte 3)"), (b"short", "too few"), (None, "cannot be read")],
)
def test_files_that_will_not_do(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "text.txt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        TextData(name=str(path)).build(seed=0)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_texts() -> None:
    with pytest.raises(
        UserError, match=r"unknown text \(or path\) 'python-referense'. Did you mean 'python-reference'"
    ):
        load_text("python-referense")
    with pytest.raises(UserError, match="LAB_DATA"):
        load_text("tiny-shakespeare")


def test_the_embedded_text_needs_nothing() -> None:
    module = TextData().build(seed=0)
    assert sum(len(module.split(name)) for name in ("train", "val", "test")) > 300_000  # type: ignore[arg-type]
    assert module.spec.target is not None


def test_a_sample_of_the_training_text_is_made_of_pieces_of_it(tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text("".join(f"{i:06d}\n" for i in range(3_000)))
    data = TextData(name=str(path), batch_size=2, window=16).build(0)
    sample = data.training_sample(1_024)
    text = "".join(data.alphabet[code] for code in data.split("train").tolist())
    pieces = ["".join(data.alphabet[code] for code in piece.tolist()) for piece in sample.split(256)]
    places = [text.index(piece) for piece in pieces]
    assert len(sample) == 1_024
    assert places == sorted(places)
    assert places[-1] > len(text) / 2
    assert torch.equal(sample, data.training_sample(1_024))


def test_words_are_those_of_the_training_part_and_lines_end() -> None:
    text = "The cat sat\non the mat .\n" * 40 + "a dog\n" * 40
    module = module_of(text, unit="words", lower=True, window=5, validation=0.1, test=0.1)
    assert module.alphabet == ("<unk>", "\n", "the", ".", "cat", "mat", "on", "sat", "a", "dog")
    assert module.encode("The bird sat\n").tolist() == [2, 0, 7, 1]
    assert [item.x.tolist() for item in module.texts(["on the mat"])] == [[6, 2, 5]]
    assert [len(module.split(name)) for name in ("train", "val", "test")] == [384, 48, 48]
    rare = module_of(text + "end\n", unit="words", least=2, window=5, validation=0.05, test=0.05)
    assert "end" not in rare.alphabet
    with pytest.raises(ValueError, match="lower is of unit=words"):
        TextData(lower=True)
