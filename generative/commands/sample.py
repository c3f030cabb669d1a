"""lab sample: sample from a trained generative model.

An image model gives a grid of images, a language model gives texts.
"""

from __future__ import annotations

import argparse

from lab.cli import add_checkpoint_argument, add_override_arguments, path_argument

EXAMPLE = "lab sample runs/vae-digits-s0-... --n 64 --out grid.png"
ORDER = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory")
    parser.add_argument(
        "--n", type=int, help="how many images, rows with --interpolate, or texts (default: 64 images, 1 text)"
    )
    parser.add_argument("--class", dest="classes", metavar="C,...", help="only these classes, by number or name")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="below 1: more typical, less varied (default: 1)"
    )
    parser.add_argument("--interpolate", action="store_true", help="rows that go from one sample to another")
    parser.add_argument("--columns", type=int, help="images in a row (default: a square)")
    parser.add_argument("--prompt", help="what texts go on from (default: a new line)")
    parser.add_argument("--length", type=int, help="characters, or words, of a text (default: 500)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw among the K likeliest characters alone")
    parser.add_argument("--beams", type=int, metavar="K", help="the likeliest text among those that K beams follow")
    add_checkpoint_argument(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument(
        "--out",
        type=path_argument,
        help="a picture, an .npz of the images themselves, or a .txt (default: samples.png; texts are printed)",
    )


def run(arguments: argparse.Namespace) -> int:
    from generative.sampling import SampleOptions, sample_run

    options = SampleOptions(**{name: getattr(arguments, name) for name in SampleOptions._fields})
    print(sample_run(arguments.target, arguments.checkpoint, arguments.overrides, options))
    return 0
