"""Image files from every source, and what is said when one is absent or damaged."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.data.image_files import read_idx
from lab.data.images import ImageData, ImageModule, load_images
from lab.data.targets import Classes
from lab.errors import UserError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
Y = (np.arange(40) % 4).astype(np.uint8)


def idx(array: Array) -> bytes:
    """The IDX encoding of a byte array."""
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, *, compress: bool, dots: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "train-images-idx3-ubyte": X[:30],
        "train-labels-idx1-ubyte": Y[:30],
        "t10k-images-idx3-ubyte": X[30:],
        "t10k-labels-idx1-ubyte": Y[30:],
    }
    for name, array in parts.items():
        name = name.replace("-idx", ".idx") if dots else name
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))


@pytest.mark.parametrize(("compress", "dots"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("below", ["mnist", "."])
def test_idx_files_gzipped_or_not(tmp_path: Path, compress: bool, dots: bool, below: str) -> None:
    write_idx(tmp_path / below, compress=compress, dots=dots)
    arrays = load_images("mnist", str(tmp_path))
    for got, expected in zip([*arrays.train, *arrays.test], [X[:30], Y[:30], X[30:], Y[30:]], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_lab_data_is_where_data_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "mnist", compress=True)
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    assert len(load_images("mnist").train[0]) == 30
    assert len(load_images("mnist", None).test[0]) == 10


@pytest.mark.parametrize("as_folder", [True, False])
@pytest.mark.parametrize(
    "names", ["x_train x_test y_train y_test", "train_images test_images train_labels test_labels"]
)
def test_npz(tmp_path: Path, names: str, as_folder: bool) -> None:
    path = tmp_path / "things" / "data.npz"
    path.parent.mkdir()
    np.savez(path, **dict(zip(names.split(), [X[:30], X[30:], Y[:30], Y[30:]], strict=True)))
    arrays = load_images(str(path.parent if as_folder else path))
    np.testing.assert_array_equal(arrays.train[0], X[:30])
    np.testing.assert_array_equal(arrays.test[1], Y[30:])


def test_npz_of_packed_bits(tmp_path: Path) -> None:
    bits = RNG.integers(0, 2, (30, 28, 28), dtype=np.uint8)
    packed = np.packbits(bits.reshape(30, 784), axis=1)
    np.savez(tmp_path / "bits.npz", train=packed[:10], valid=packed[10:20], test=packed[20:])
    arrays = load_images(str(tmp_path / "bits.npz"))
    assert arrays.levels == 2
    assert arrays.val is not None
    for (got, _), expected in zip([arrays.train, arrays.val, arrays.test], np.split(bits, 3), strict=True):
        np.testing.assert_array_equal(got, expected)
    module = ImageModule(ImageData(batch_size=4), arrays, seed=0)
    batch = next(module.batches("train"))
    assert set(batch.x.unique().tolist()) == {0.0, 1.0}


def write_folder(root: Path, mode: str = "L") -> None:
    for i in range(40):
        folder = root / f"class{Y[i]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[i]).convert(mode).save(folder / f"{i:03d}.png")


Prepare = Callable[[Path], Any]


def cut_gz(path: Path) -> None:
    write_idx(path, compress=True)
    file = path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-40])


def cut_raw(path: Path) -> None:
    write_idx(path, compress=False)
    file = path / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])


def cut_header(path: Path) -> None:
    write_idx(path, compress=False)
    (path / "train-images-idx3-ubyte").write_bytes(idx(X)[:9])


def empty_idx(path: Path) -> None:
    write_idx(path, compress=False)
    (path / "train-images-idx3-ubyte").write_bytes(b"")


def html_for_gz(path: Path) -> None:
    write_idx(path, compress=True)
    (path / "train-labels-idx1-ubyte.gz").write_bytes(b"<html>moved</html>")


def no_labels(path: Path) -> None:
    write_idx(path, compress=True)
    (path / "train-labels-idx1-ubyte.gz").unlink()


def fewer_labels(path: Path) -> None:
    write_idx(path, compress=False)
    (path / "train-labels-idx1-ubyte").write_bytes(idx(Y[:20]))


def cut_npz(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=X, y_train=Y, y_test=Y)
    (path / "a.npz").write_bytes((path / "a.npz").read_bytes()[:-300])


def pickled_npz(path: Path) -> None:
    np.savez(path / "a.npz", x_train=np.array([{}], dtype=object), x_test=X)


def other_npz(path: Path) -> None:
    np.savez(path / "a.npz", weights=X)


def float_npz(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X / 255, x_test=X / 255, y_train=Y, y_test=Y)


def flat_npz(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X.reshape(40, -1), x_test=X.reshape(40, -1), y_train=Y, y_test=Y)


def channels_first(path: Path) -> None:
    x = np.zeros((40, 3, 6, 5), np.uint8)
    np.savez(path / "a.npz", x_train=x, x_test=x, y_train=Y, y_test=Y)


def too_few(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X[:4], x_test=X[:4], y_train=Y[:4], y_test=Y[:4])


def several_labels(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=X, y_train=np.full((40, 3), 2), y_test=np.full((40, 3), 2))


def negative_labels(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=X, y_train=Y.astype(int) - 1, y_test=Y)


def endless_labels(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=X, y_train=np.full(40, 2**40), y_test=Y)


def new_class_in_test(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=X, y_train=Y, y_test=np.full(40, 9))


def new_name_in_test(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=X, y_train=np.array(["a"] * 40), y_test=np.array(["b"] * 40))


def colour_in_test(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=np.stack([X] * 3, -1), y_train=Y, y_test=Y)


def other_size_in_test(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X, x_test=X[:, :4], y_train=Y, y_test=Y)


def new_folder_in_test(path: Path) -> None:
    write_folder(path / "train")
    write_folder(path / "test")
    (path / "test" / "class0").rename(path / "test" / "class7")


def train_alone(path: Path) -> None:
    write_folder(path / "train")


def idx_bomb(path: Path) -> None:
    write_idx(path, compress=False)
    (path / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + struct.pack(">3I", 2**31, 2**10, 2**10))


def gzip_bomb(path: Path) -> None:
    write_idx(path, compress=True)
    content = b"\x00\x00\x08\x03" + struct.pack(">3I", 2, 6, 5) + bytes(50_000_000)
    (path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))


def npz_claim(path: Path) -> None:
    np.savez(path / "a.npz", x_test=X, y_train=Y, y_test=Y)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**10, 2**10)}
    )
    with zipfile.ZipFile(path / "a.npz", "a") as archive:
        archive.writestr("x_train.npy", header.getvalue() + X.tobytes())


def bomb_png(path: Path) -> None:
    write_folder(path)
    Image.new("1", (14_000, 14_000)).save(path / "class0" / "000.png")


def no_images_npz(path: Path) -> None:
    np.savez(path / "a.npz", x_train=X[:0], x_test=X[:0], y_train=Y[:0], y_test=Y[:0])


def cut_png(path: Path) -> None:
    write_folder(path)
    (path / "class0" / "000.png").write_bytes((path / "class0" / "000.png").read_bytes()[:40])


def mixed_sizes(path: Path) -> None:
    write_folder(path)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path / "class0" / "odd.png")


def no_images(path: Path) -> None:
    (path / "class0").mkdir()
    (path / "class0" / "notes.txt").write_text("nothing here")


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "part"),
    [
        (cut_gz, "interrupted download"),
        (cut_raw, "cut short"),
        (cut_header, "train-images-idx3-ubyte"),
        (empty_idx, "not an IDX file"),
        (html_for_gz, "damaged or an interrupted download"),
        (no_labels, "there is no train-labels-idx1-ubyte"),
        (fewer_labels, "30 images and 20 labels"),
        (cut_npz, "damaged"),
        (pickled_npz, "plain arrays"),
        (other_npz, "it needs x_train"),
        (float_npz, "need to be uint8"),
        (flat_npz, "(40, 30)"),
        (channels_first, "(40, 3, 6, 5)"),
        (too_few, "data.validation=0.1 holds out none of the 4 images"),
        (several_labels, "labels of int64, shape (40, 3)"),
        (negative_labels, "a number from 0 up"),
        (endless_labels, "go up to 1,099,511,627,776, for 40 samples"),
        (new_class_in_test, "the test split of"),
        (new_name_in_test, "has the class 'b'; the train split has none"),
        (colour_in_test, "(6, 5, 3), the train split of (6, 5, 1)"),
        (other_size_in_test, "(4, 5, 1), the train split of (6, 5, 1)"),
        (new_folder_in_test, "has a class 'class7' that"),
        (train_alone, "no folder test (or val)"),
        (bomb_png, "cannot be read"),
        (idx_bomb, "claims 2,251,799,813,685,248 bytes, more than it can hold"),
        (gzip_bomb, "more than 60 bytes for (2, 6, 5)"),
        (npz_claim, "x_train.npy claims 1,099,511,627,776 bytes and has"),
        (no_images_npz, "(0, 6, 5)"),
        (cut_png, "cannot be read"),
        (mixed_sizes, "differ in size"),
        (no_images, "no images"),
        (nothing, "holds neither"),
    ],
)
def test_damage_is_said_in_one_sentence(tmp_path: Path, prepare: Prepare, part: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(UserError) as caught:
        ImageData(name=str(folder), batch_size=4).build(seed=0)
    message = str(caught.value)
    assert part in message, message
    assert "\n" not in message


def test_what_is_absent_is_named_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mnist.*LAB_DATA"):
        load_images("mnist", str(tmp_path))
    with pytest.raises(UserError, match=r"unknown data set \(or path\) 'digitz'. Did you mean 'digits'"):
        load_images("digitz", str(tmp_path))
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(UserError, match=r"not an \.npz"):
        load_images(str(tmp_path / "notes.txt"))
    with pytest.raises(UserError, match="binarized-mnist"):
        load_images("binarized-mnist", str(tmp_path))


def test_the_hub_without_its_library_or_network_is_one_sentence() -> None:
    with pytest.raises(UserError, match="hub:no/such-thing"):
        load_images("hub:no/such-thing")


def test_read_idx_refuses_other_types(tmp_path: Path) -> None:
    (tmp_path / "ints").write_bytes(b"\x00\x00\x0c\x01" + struct.pack(">I", 2) + bytes(8))
    with pytest.raises(UserError, match="not an IDX file of bytes"):
        read_idx(tmp_path / "ints")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.eye(4)[Y], None),
        (np.eye(4, dtype=bool)[Y], None),
        (Y[:, None], None),
        (Y.astype(np.float32), None),
        (np.array(["cat", "dog", "emu", "fox"])[Y], ("cat", "dog", "emu", "fox")),
    ],
    ids=["one-hot", "bool", "column", "float", "names"],
)
def test_labels_as_people_write_them(tmp_path: Path, labels: Any, names: tuple[str, ...] | None) -> None:
    np.savez(tmp_path / "a.npz", x_train=X, x_test=X[:10], y_train=labels, y_test=labels[:10])
    module = ImageData(name=str(tmp_path / "a.npz"), batch_size=4).build(seed=0)
    assert next(module.batches("test")).y.tolist() == Y[:10].tolist()
    assert isinstance(module.spec.target, Classes)
    assert module.spec.target[:2] == (4, names or ("0", "1", "2", "3"))
    assert sum(module.spec.target.counts) == module.num_samples("train")
