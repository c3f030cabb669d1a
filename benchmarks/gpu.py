"""What the lab does on this machine's GPU: is it right, how fast, does it learn. Half an hour in one command.

    python benchmarks/gpu.py [--minutes 25] [--only NAME ...] [--device cuda|cpu] [--quick] [--out FOLDER] [--again]

correctness  every family trains; captured graphs against eager autograd; a run resumed after SIGKILL; checkpoints from
             one device on the other; bfloat16; two processes on half of the memory each; exports; the tests for CUDA
speed        agents in 1, 64 and 1,024 environments, Pong, PixelCNN, VAE, DCGAN and a residual network, each beside a
             plain PyTorch loop in turn in one process, eager, captured, and compiled
learning     Pong, PixelCNN on static binarized MNIST, a residual network on Fashion-MNIST, stacked MNIST, as far as the
             minutes go (needs LAB_DATA, and ale-py for Pong)

Each measurement is a process of its own, the most valuable first. Its figures are written as soon as they are there, to
`FOLDER/gpu-<part>-<machine>.json`; what is there already is not measured again, so that a call of eight minutes can be
followed by the next one. What fails is told, and the next begins. Nothing but the lab's own dependencies is needed, and
of these neither ray nor wandb.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from form import RESULTS, machine, versions

ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 20.0
"""what a process takes beside its measurement, at most"""


class Item(NamedTuple):
    """One measurement: a function of benchmarks/on_device, its arguments, and the seconds it may take."""

    function: str
    arguments: tuple[str, ...] = ()
    seconds: float = 60.0

    @property
    def name(self) -> str:
        """What `--only` and the results call it."""
        return "-".join([self.function.partition(":")[2], *self.arguments[:1]]).replace("/", "-").replace("_", "-")


RECORDED = ("dqn/cartpole", "ppo/cartpole", "vae/digits", "classifier/digits-cnn", "pixelcnn/digits")
HALF_PRECISION = ("classifier/digits-cnn", "vae/digits", "pixelcnn/digits")
FASHION = ("data.name=fashion-mnist", "module.backbone={name: resnet}", "trainer.budget=6000000")
PUBLISHED = {
    "ppo/pong": "20.7 after 40 million frames (Schulman et al. 2017)",
    "dqn/pong": "18.9 after 200 million frames (Mnih et al. 2015)",
    "pixelcnn/binarized-mnist-gated": "PixelCNN 81.30 nats (van den Oord et al. 2016)",
    "classifier/mnist-cnn": "ResNet18 94.9 % (the list of the data set's owners)",
    "gan/stacked-mnist": "DCGAN 99 of 1,000 modes (Srivastava et al. 2017)",
}


def parts() -> dict[str, list[Item]]:
    """All measurements, the most valuable first."""
    from on_device.correctness import FAMILIES

    return {
        "correctness": [
            *(Item("correctness:engines_agree", (recipe,)) for recipe in RECORDED),
            *(Item("correctness:resumes", (recipe,), 90) for recipe in ("dqn/cartpole", "vae/digits")),
            *(Item("correctness:moves", (recipe,)) for recipe in ("dqn/cartpole", "classifier/digits-cnn")),
            *(Item("correctness:bf16", (recipe,)) for recipe in HALF_PRECISION),
            Item("correctness:channels_last"),
            Item("correctness:halves"),
            Item("correctness:exports", ("classifier/digits-cnn",), 90),
            Item("correctness:cuda_tests", (), 120),
            *(Item("correctness:trains", (recipe,), 45) for recipe in FAMILIES),
        ],
        "speed": [
            *(Item("speed:ppo", (num,), 40) for num in ("1024", "64", "1")),
            *(Item("speed:dqn", (num,), 40) for num in ("64", "1024", "1")),
            Item("speed:pong_dqn"),
            Item("speed:pong_ppo"),
            Item("speed:pixelcnn_sampling"),
            Item("speed:pixelcnn_training"),
            Item("speed:vae", (), 45),
            Item("speed:dcgan", (), 45),
            Item("speed:resnet"),
        ],
        "learning": [
            Item("learning:learns", ("ppo/pong",), 420),
            Item("learning:learns", ("pixelcnn/binarized-mnist-gated",), 300),
            Item("learning:learns", ("dqn/pong",), 420),
            Item("learning:learns", ("classifier/mnist-cnn", *FASHION), 240),
            Item("learning:learns", ("gan/stacked-mnist",), 240),
        ],
    }


def main() -> int:
    all_parts = parts()
    options = parsed(all_parts)
    began, end = time.monotonic(), time.monotonic() + 60 * options.minutes
    print(f"{machine()['name']}, device {options.device}, {options.minutes:g} minutes", flush=True)
    counts = {"done": 0, "failed": 0, "skipped": 0}
    for part, all_items in all_parts.items():
        path = options.out / f"gpu-{part}-{'cpu-' * (options.device == 'cpu')}{machine()['name']}.json"
        results = Results(path, part, options)
        items = [item for item in all_items if wanted(part, item, options.only) and not results.has(item.name)]
        for item, result in measured(items, options, end, together=part == "correctness"):
            results.add(item, result)
            counts[result["status"]] += 1
            print(f"{part} {item.name}: {told(result)}", flush=True)
    words = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{words} in {time.monotonic() - began:.0f} s; results in {options.out}")
    return 1 if counts["failed"] else 0


def parsed(all_parts: dict[str, list[Item]]) -> argparse.Namespace:
    """The command line."""
    names = [*all_parts, *(f"{part}/{item.name}" for part, items in all_parts.items() for item in items)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="begin nothing that does not fit (default: 25)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"parts or measurements: {', '.join(names)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="everything, from seconds instead of minutes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of results (default: benchmarks/results)")
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--list", action="store_true", help="say what there is, and the seconds it may take")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(names)
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: valid names are {', '.join(names)}")
    if options.list:
        for part, items in all_parts.items():
            for item in items:
                print(f"{part}/{item.name}  {item.seconds:.0f} s")
        raise SystemExit(0)
    if not 0 <= options.minutes < float("inf"):
        parser.error(f"--minutes {options.minutes}: a number of minutes, from 0")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    return options


def wanted(part: str, item: Item, only: Sequence[str] | None) -> bool:
    """Whether `--only` names a measurement or its part."""
    return only is None or part in only or f"{part}/{item.name}" in only


class Results:
    """The file of one part."""

    def __init__(self, path: Path, part: str, options: argparse.Namespace) -> None:
        self.path, self.again, self.quick = path, options.again, options.quick
        self.content: dict[str, Any] = {"benchmark": f"gpu-{part}", "machine": machine(), "items": {}}
        if path.exists():
            self.content |= _read(path)

    def has(self, name: str) -> bool:
        """Whether a measurement need not be made again. A quick one does not stand for a full one."""
        found = self.content["items"].get(name)
        return not self.again and found is not None and found["status"] == "done" and found["quick"] <= self.quick

    def add(self, item: Item, result: dict[str, Any]) -> None:
        """Write a measurement; one that failed or was cut does not take the place of one that succeeded."""
        before = self.content["items"].get(item.name)
        if result["status"] != "done" and before is not None and before["status"] == "done":
            return
        known = PUBLISHED.get(item.arguments[0]) if item.function == "learning:learns" else None
        about = {"published": known} if known else {}
        self.content["items"][item.name] = result | about | {"quick": self.quick}
        self.content["versions"] = versions()
        half = self.path.with_suffix(".tmp")
        half.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
        half.replace(self.path)


def _read(path: Path) -> dict[str, Any]:
    """A file of results. Ends with a sentence when it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if all(
            isinstance(item["status"], str) and isinstance(item["quick"], bool) for item in content["items"].values()
        ):
            return dict(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise SystemExit(f"{path} holds no results of this script; move it away, or name another folder: --out FOLDER")


def measured(items: list[Item], options: argparse.Namespace, end: float, *, together: bool) -> Any:
    """Items with their results, one after the other; where nothing is timed, several at a time."""
    workers = max(1, min(4, (os.cpu_count() or 1) // 2)) if together else 1
    pool = ThreadPoolExecutor(workers)
    try:
        begun = [(item, pool.submit(run, item, options, end)) for item in items]
        for item, future in begun:
            yield item, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run(item: Item, options: argparse.Namespace, end: float) -> dict[str, Any]:
    """One measurement in a process of its own."""
    left = end - time.monotonic()
    seconds = min(item.seconds, 3.0) if options.quick else item.seconds
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    if left < seconds + _START_SECONDS:
        return result | {"status": "skipped", "reason": f"takes {seconds:.0f} s, {max(left, 0):.0f} s are left"}
    words = [item.function, *item.arguments, "--device", options.device, "--seconds", str(seconds)]
    command = [sys.executable, str(ROOT / "benchmarks" / "on_device" / "child.py"), *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    began = time.monotonic()
    try:
        limit = min(left, 240 + 3 * seconds)
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return result | {"status": "failed", "reason": f"it did not end within {limit:.0f} s"}
    result |= {"seconds": round(time.monotonic() - began, 1)}
    lines = ended.stdout.strip().splitlines()
    if ended.returncode != 0 or not lines:
        return result | {"status": "failed", "reason": (ended.stderr or ended.stdout).strip()[-1500:]}
    return result | json.loads(lines[-1])


def told(result: dict[str, Any]) -> str:
    """A result in a line."""
    if result["status"] != "done":
        return f"{result['status']}: {result['reason'].splitlines()[-1]}"
    figures = ", ".join(f"{name} {value:.5g}" for name, value in result["figures"].items() if isinstance(value, float))
    return f"{figures} ({result['seconds']:.0f} s)"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; what was measured is written, the next call goes on", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # without waiting for measurements in progress, which the terminal has interrupted, too
