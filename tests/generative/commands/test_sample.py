import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lab.config.overrides import resolve
from lab.training.train import train

TINY = ["tracking.mode=disabled", "trainer.budget=128", "data.batch_size=64", "data.batches_per_step=1"]


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(resolve("vae/digits", [*TINY, "module.conditional=true"]), run_dir=folder / "vae").run.path


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(resolve("vae/digits", TINY), run_dir=folder / "plain").run.path


@pytest.fixture(scope="module")
def classifier_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(resolve("classifier/digits-cnn", TINY), run_dir=folder / "classifier").run.path


def test_sample_writes_the_same_picture_for_the_same_seed(lab, vae_run, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        done = lab("sample", vae_run, "--n", 6, "--seed", seed, "--out", tmp_path / f"{name}.png")
        assert done.code == 0, done.err
        assert "6 images of vae/digits" in done.out
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.shape == (2 * 58 + 2, 3 * 58 + 2)


def test_sample_takes_classes_and_writes_arrays(lab, vae_run, tmp_path):
    done = lab("sample", vae_run, "--n", 5, "--class", "3,7", "--temperature", 0, "--out", tmp_path / "a.npz")
    assert done.code == 0, done.err
    images = np.load(tmp_path / "a.npz")["images"]
    assert images.shape == (5, 1, 8, 8)
    assert np.array_equal(images[0], images[2])  # without noise only the class differs
    assert not np.array_equal(images[0], images[1])


def test_sample_interpolates(lab, vae_run, tmp_path):
    done = lab("sample", vae_run, "--interpolate", "--n", 2, "--out", tmp_path / "rows.png")
    assert done.code == 0, done.err
    assert Image.open(tmp_path / "rows.png").size == (10 * 58 + 2, 2 * 58 + 2)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = ["module.backbone.hidden=16", "data.window=8", "data.validation=0.001", "data.test=0.001"]
    tiny = [word for word in TINY if "batch_size" not in word]
    return train(resolve("lm/reference-gru", [*tiny, *small]), run_dir=folder / "lm").run.path


def test_a_language_model_is_sampled_as_text(lab, text_run, tmp_path):
    first = lab("sample", text_run, "--length", 40, "--prompt", "The ")
    assert first.code == 0, first.err
    assert first.out.startswith("The ")
    assert len(first.out) == 4 + 40 + 1
    assert lab("sample", text_run, "--length", 40, "--prompt", "The ").out == first.out
    assert lab("sample", text_run, "--length", 40, "--prompt", "The ", "--seed", 1).out != first.out
    done = lab("sample", text_run, "--n", 3, "--length", 10, "--out", tmp_path / "a.txt")
    assert done.code == 0, done.err
    assert "3 texts of lm/reference-gru" in done.out
    assert len((tmp_path / "a.txt").read_text()) == 3 * 10 + 2 * 2 + 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--class", "3"], "--class is not for a language model"),
        (["--interpolate"], "--interpolate is not for a language model"),
        (["--out", "a.png"], "writes a .txt"),
        (["--length", "0"], "--length 0"),
        (["--prompt", "\u2603"], "alphabet"),
    ],
)
def test_bad_options_of_texts_are_said_in_a_sentence(lab, text_run, words, said):
    done = lab("sample", text_run, *words)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "a"], "--prompt is not for a model of images"),
        (["--out", "a.txt"], "a model of images writes .png"),
        (["--temperature", "nan"], "--temperature nan"),
        (["--n", "0"], "--n 0"),
        (["--class", "eleven"], "unknown class 'eleven'"),
        (["--temperature", "-1"], "--temperature"),
        (["--out", "grid.tiff"], "Valid choices: .png"),
        (["--out", "no/such/folder/grid.png"], "cannot be written"),
        (["--interpolate", "--class", "3"], "do not go together"),
        (["--columns", "0"], "--columns 0"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_bad_options_are_said_in_a_sentence(lab, vae_run, words, said):
    done = lab("sample", vae_run, *words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_class_for_a_model_without_classes_and_a_model_without_samples(lab, plain_run, classifier_run, tmp_path):
    done = lab("sample", plain_run, "--class", "3", "--out", tmp_path / "a.png")
    assert done.code == 2
    assert "not conditional" in done.err
    done = lab("sample", classifier_run, "--out", tmp_path / "a.png")
    assert done.code == 2
    assert "nothing to sample" in done.err
    assert lab("sample", tmp_path / "nowhere").code == 2


def test_help_does_not_import_torch():
    script = "import sys; from lab.cli import main\ntry: main(['sample', '--help'])\nexcept SystemExit: pass\n"
    script += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=True)
    assert "--interpolate" in done.stdout
    assert done.stdout.strip().endswith("False")
