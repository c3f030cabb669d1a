"""The arguments that all commands about submitted jobs share."""

from __future__ import annotations

import argparse


def add_address_arguments(parser: argparse.ArgumentParser) -> None:
    """`--address` and `--insecure`: which cluster's Jobs API to talk to, and whether without a token."""
    parser.add_argument(
        "--address", metavar="URL", help="the cluster's dashboard (default: the one of lab cluster start)"
    )
    parser.add_argument("--insecure", action="store_true", help="talk to a remote address without a token")
