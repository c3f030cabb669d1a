"""lab predict: inputs as people have them, read as the run's data were; the numbers are the model's own."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.commands.predict import _line
from lab.config.overrides import resolve
from lab.data.images import load_images
from lab.training.answer import Answer
from lab.training.restore import restore
from lab.training.train import train

pytestmark = pytest.mark.slow
QUICK = ["tracking.mode=disabled", "trainer.num_threads=1", "trainer.film=false", "trainer.device=cpu"]


def trained(folder: Path, recipe: str, *overrides: str) -> Path:
    return train(resolve(recipe, [*QUICK, *overrides]), run_dir=folder / recipe.replace("/", "-")).run.path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs"), "classifier/digits-cnn", "trainer.budget=12800")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 30 test digits as PNG, named by their classes; some larger, some in colour, one in a deeper folder."""
    folder = tmp_path_factory.mktemp("pictures")
    x, y = load_images("digits").test
    for i in range(30):
        image = Image.fromarray((x[i] * (255 / 16)).round().astype(np.uint8))
        if i % 3 == 1:
            image = image.convert("RGB")
        path = folder / ("deep" if i == 29 else ".") / f"{i:02}-{y[i]}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
    (folder / ".DS_Store").write_bytes(b"litter")
    return folder


class Typed:
    """What stands on standard input."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        return False


def test_pictures_get_the_models_own_probabilities(classifier: Path, pictures: Path, lab: Any, tmp_path: Path) -> None:
    done = lab("predict", classifier, pictures, "--json", "--batch-size", 7, "--csv", tmp_path / "a.csv")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert len(told) == 30
    _, data, module, _ = restore(classifier)
    (batch,) = data.batches("test")
    with torch.no_grad():
        p = module.net(batch.x[:30]).softmax(1)
    by_name = {Path(row["input"]).name: row for row in told}
    for i, name in enumerate(sorted(by_name)):
        row = by_name[name]
        assert row["prediction"] == str(int(p[i].argmax()))
        values = [row["probabilities"][str(k)] for k in range(10)]
        assert values == pytest.approx(p[i].tolist(), abs=1e-5)
    right = sum(row["prediction"] == Path(row["input"]).stem[-1] for row in told)
    assert right > 24
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-10:] == [f"probability of {number}" for number in range(10)]
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in told]
    assert float(rows[3]["probability of 7"]) == told[3]["probabilities"]["7"]


def test_a_table_and_a_picture_for_a_person(classifier: Path, pictures: Path, lab: Any, tmp_path: Path) -> None:
    files = sorted(pictures.glob("*.png"))[:5]
    done = lab("predict", classifier, *files, "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == [str(file) for file in files]
    assert all("probability 0." in line or "probability 1" in line for line in lines)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > image.height


def test_arrays_other_sizes_and_standard_input(
    classifier: Path, pictures: Path, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = load_images("digits").test
    grey = (x[:4] * (255 / 16)).round().astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=grey, other=np.zeros(3))
    large = tmp_path / "large.png"
    Image.fromarray(grey[0]).resize((80, 80), Image.Resampling.BOX).save(large)
    file = sorted(pictures.glob("*.png"))[0]
    monkeypatch.setattr(sys, "stdin", Typed(file.read_bytes()))
    told = json.loads(lab("predict", classifier, tmp_path / "a.npz", large, "-", "--json").out)
    assert [row["input"] for row in told] == [*(f"{tmp_path / 'a.npz'}[{i}]" for i in range(4)), str(large), "-"]
    assert told[5]["probabilities"] == pytest.approx(told[0]["probabilities"], abs=1e-5)
    assert told[4]["probabilities"] == pytest.approx(told[0]["probabilities"], abs=0.02)


def test_rows_of_a_table(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = zip(rng.normal(size=200), rng.choice(["u", "v"], 200), strict=True)
    lines = [f"{a:.4f},{word},{3 * a + (word == 'u'):.4f}" for a, word in rows]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    run = trained(tmp_path, "regression/diabetes", f"data.name={tmp_path / 't.csv'}", "trainer.budget=20000")
    (tmp_path / "new.csv").write_text("b;a\nu;1\nv;-1\n?;0\n")
    told = json.loads(lab("predict", run, tmp_path / "new.csv", "--json").out)
    assert [row["input"] for row in told] == [f"{tmp_path / 'new.csv'}:{line}" for line in (2, 3, 4)]
    assert [row["values"]["y"] for row in told] == pytest.approx([4, -3, 0], abs=0.6)
    monkeypatch.setattr(sys, "stdin", Typed(b"a,b\n1,u\n"))
    assert json.loads(lab("predict", run, "--json").out)[0]["values"] == told[0]["values"]
    for text, part in (
        ("a\n1\n", "column 'b' is missing; there are a"),
        ("a,b\nmany,u\n", "column 'a', line 2: 'many' is no number"),
        ("", "is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a;b\n1,5;u\n", "line 2: '1,5' has a decimal comma"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        done = lab("predict", run, tmp_path / "bad.csv")
        assert done.code == 2
        assert part in done.err
        assert "bad.csv" in done.err


def test_texts(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcd" * 800)
    sizes = ["data.window=8", "data.batch_size=4", "module.backbone.hidden=24", "trainer.budget=40000"]
    run = trained(tmp_path, "lm/reference-gru", f"data.name={tmp_path / 't.txt'}", *sizes)
    (tmp_path / "a.txt").write_text("abcdabcdab")
    (row,) = json.loads(lab("predict", run, tmp_path / "a.txt", "--json").out)
    assert row["prediction"] == "'c'"
    assert row["probabilities"]["c"] > 0.9
    assert 0 < row["bits_per_char"] < 0.5
    (tmp_path / "b.txt").write_text("abz")
    done = lab("predict", run, tmp_path / "b.txt")
    assert (done.code, "b.txt': character 'z' does not occur" in done.err) == (2, True)


def test_observations_of_agents(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, "dqn/cartpole", "trainer.budget=2000", "data.learning_starts=100")
    obs = [[0.0, 0.1, 0.02, -0.3], [0.0, -0.1, -0.02, 0.3]]
    (tmp_path / "one.json").write_text(json.dumps(obs[0]))
    (tmp_path / "two.json").write_text(json.dumps(obs))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, obs)))
    np.save(tmp_path / "two.npy", np.array(obs))
    told = json.loads(
        lab("predict", run, *(tmp_path / n for n in ("one.json", "two.json", "lines.jsonl", "two.npy")), "--json").out
    )
    _, data, module, _ = restore(run)
    data.close()
    with torch.no_grad():
        scores = module.policy.preferences(torch.tensor(obs)).scores
        actions = module.policy.act(torch.tensor(obs)).action.flatten()
    for row, i in zip(told, (0, 0, 1, 0, 1, 0, 1), strict=True):
        assert list(row["q_values"].values()) == pytest.approx(scores[i].tolist(), rel=1e-5)
        assert row["prediction"] == str(int(actions[i]))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**37,)})
    (tmp_path / "claims.npy").write_bytes(file.getvalue() + b"12345678")
    done = lab("predict", run, tmp_path / "claims.npy")
    assert (done.code, "claims 137,438,953,472 values" in done.err) == (2, True)
    for text, part in (
        ("[1, 2, 3]", "has shape (4,), not (3,)"),
        ("[1, 2, 3, null]", "is no array of numbers"),
        ("nonsense", "neither JSON"),
        ("[1, 2, 3, Infinity]", "not finite"),
        ("[1, 2, 3, 1e39]", "too large"),
        ("", "holds no observations"),
    ):
        monkeypatch.setattr(sys, "stdin", Typed(text.encode()))
        done = lab("predict", run, "-")
        assert done.code == 2, done.out
        assert part in done.err


def test_how_likely_images_are(lab: Any, pictures: Path, tmp_path: Path) -> None:
    small = ["module.backbone.channels=8", "module.backbone.layers=2", "module.conditional=false"]
    run = trained(tmp_path, "pixelcnn/digits", "trainer.budget=640", *small)
    told = json.loads(lab("predict", run, pictures, "--json").out)
    _, data, module, _ = restore(run)
    batch = next(data.batches("test"))
    with torch.no_grad():
        nll = module.per_sample(batch)["eval/nll_nats"][:30]
    by_name = sorted(told, key=lambda row: Path(row["input"]).name)
    assert [row["nll_nats"] for row in by_name] == pytest.approx(nll.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["no.png"], "there is no file or folder 'no.png'"),
        (["--batch-size", 0], "--batch-size 0 is not valid"),
        (["--out", "a.csv"], "'a.csv' cannot be written: it needs the ending .png"),
        (["--csv", "no/such/a.csv"], "cannot be written"),
        (["data.fit=stretch"], "unknown value for data.fit: 'stretch'"),
    ],
)
def test_bad_input_is_one_sentence(classifier: Path, pictures: Path, lab: Any, words: list[Any], part: str) -> None:
    done = lab("predict", classifier, pictures, *words)
    assert done.code == 2
    assert part in done.err
    assert "Traceback" not in done.err


def test_no_input_is_written_over(classifier: Path, lab: Any, tmp_path: Path) -> None:
    picture = tmp_path / "folder" / "a.png"
    picture.parent.mkdir()
    Image.new("L", (8, 8)).save(picture)
    before = picture.read_bytes()
    for source in (picture, picture.parent):
        done = lab("predict", classifier, source, "--out", picture)
        assert (done.code, "cannot be written: it is one of the inputs" in done.err) == (2, True)
        assert picture.read_bytes() == before
    assert lab("predict", classifier, picture, "--out", tmp_path / "folder" / "b.png").code == 0


@pytest.mark.parametrize("name", ["p", "probability"])
def test_a_line_leaves_out_only_the_number_that_is_the_label(name: str) -> None:
    assert _line(Answer(name, {"probability": 1.0})) == f"{name}  probability 1"
    assert _line(Answer("elbo_nats -139.17", {"elbo_nats": -139.1732, "kl": 2.0})) == "elbo_nats -139.17  kl 2"


def test_a_damaged_picture_is_named(classifier: Path, lab: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    done = lab("predict", classifier, tmp_path)
    assert (done.code, "a.png' cannot be read" in done.err) == (2, True)
    (tmp_path / "b.npz").write_bytes(b"PK")
    done = lab("predict", classifier, tmp_path / "b.npz")
    assert (done.code, "b.npz' is absent, damaged, or not" in done.err) == (2, True)


def test_models_that_answer_nothing_say_so(lab: Any, pictures: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, "gan/digits", "trainer.budget=640")
    done = lab("predict", run, pictures)
    assert done.code == 2
    assert "gan" in done.err
