"""Make the LeNets that come with the lab, which `lenet_...` metrics are measured with.

    python -m generative.evaluation.make_feature_nets [--data FOLDER] [--out FOLDER] [digits mnist fashion-mnist]

Each is trained by the recipe of `feature_nets.train` on the training images of its data set, half of each minibatch as
bits. The file says how it was made, the hashes of its data and weights, and how many test images it classifies rightly.
Made again on another kind of processor, the weights differ in their last digits, and so do all distances: a file that
is replaced is a new yardstick.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from generative.evaluation.feature_nets import RECIPE, WEIGHTS, data_hash, lenet, split_arrays, train
from generative.evaluation.weight_files import save_weights
from lab.data.datasets import data_folder
from lab.data.images import ImageData
from lab.data.spec import TensorSpec

NAMES = ("digits", "mnist", "fashion-mnist")
VALIDATION = 1 / 12
"""share of MNIST's and Fashion-MNIST's training images that is left out, as in the recipes"""


def make(name: str, root: str | None, folder: Path) -> str:
    """Write the LeNet of a data set into a folder, and return a line about it."""
    accuracy, net = {}, None
    for binarize in ("none", "threshold", "dynamic"):
        data = ImageData(name=name, root=root, validation=VALIDATION, binarize=binarize).build(0)
        if net is None:
            assert isinstance(data.spec.inputs, TensorSpec)
            net = lenet(data.spec.inputs, num_classes=10)
            train(net, *split_arrays(data, "train"), with_bits=True)
        x, y = split_arrays(data, "test")
        with torch.no_grad():
            accuracy[binarize] = round(float((net(x).argmax(1) == y).double().mean()), 4)
    assert net is not None
    metadata = {
        "made_by": f"python -m generative.evaluation.make_feature_nets {name}",
        "torch": torch.__version__,
        "recipe": RECIPE,
        "data_hash": data_hash(name, str(data_folder(root))),
        "test_accuracy": accuracy,
    }
    path = folder / f"lenet-{name}.npz"
    save_weights(path, net, metadata)
    return f"{path}: {path.stat().st_size:,} bytes, accuracy on test images by data.binarize {accuracy}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"by default {', '.join(NAMES)}")
    parser.add_argument("--data", metavar="FOLDER", help="folder of data files (default: LAB_DATA, else ./data)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, metavar="FOLDER", help=f"default: {WEIGHTS.name}/")
    arguments = parser.parse_args()
    for name in arguments.names:
        print(make(name, arguments.data, arguments.out), flush=True)


if __name__ == "__main__":
    main()
