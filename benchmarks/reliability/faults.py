"""What goes wrong around a run: each fault ends in a sentence, in bounded time, and the run goes on afterwards.

    python benchmarks/reliability/faults.py [--quick]

disk        a file system of a few megabytes that fills up, at another byte each time, then has room again
read-only   a runs folder that cannot be written
memory      a limit on the process's memory, in the middle of training
clock       the wall clock moves back an hour in every look at it
tracking    a W&B service that refuses, answers 500, or never answers
environment one that raises, hangs, or gives NaN, in the training process and in remote collectors

"the run goes on" is `lab resume` to the end, with the weights of an undisturbed run. The disk is a tmpfs and needs the
right to mount one; without it a limit on the size of files takes its place.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))
from form import Benchmark

_SECONDS = 120.0
_WORDS = ["vae/digits", "trainer.budget=20000", "trainer.eval_period=5000", "trainer.log_period=500"]
_OPTIONS = ["trainer.num_threads=1", "trainer.checkpoint_seconds=0.2", "trainer.film=false", "--quiet"]
_ENVIRONMENT = """
import time
import gymnasium as gym
import numpy as np

class Faulty(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault="none", at=40):
        self.fault, self.at, self.steps = fault, at, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs, reward = np.zeros(3, np.float32), 1.0
        if self.steps >= self.at:
            if self.fault == "raises":
                raise RuntimeError("the simulator lost its licence")
            if self.fault == "hangs":
                time.sleep(10_000)
            if self.fault == "nan":
                obs, reward = np.full(3, np.nan, np.float32), float("nan")
        return obs, reward, self.steps % 10 == 0, False, {}

gym.register("Faulty-v0", Faulty)
"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None
    seconds: float
    said: str


def lab(*words: object, seconds: float = _SECONDS, limit: Callable[[], None] | None = None, **more: str) -> Ended:
    """A lab command in a process of its own; its code is None when it did not end in time."""
    began = time.monotonic()
    command = [sys.executable, "-m", "lab.cli", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, preexec_fn=limit
    )
    try:
        said, _ = process.communicate(timeout=seconds)
        return Ended(process.returncode, time.monotonic() - began, said)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        return Ended(None, time.monotonic() - began, said)


def weights(run: Path) -> Any:
    """A run's last weights."""
    from lab.runs import checkpoint

    return checkpoint.load(run / "checkpoints" / "last.ckpt")["state_dict"]


def judged(name: str, ended: Ended, codes: tuple[int, ...], *says: str) -> list[str]:
    """What is wrong with how a fault ended."""
    wrong = []
    if ended.code not in codes:
        wrong.append(f"{name}: exit code {ended.code} after {ended.seconds:.0f} s: {ended.said[-300:]}")
    if "Traceback" in ended.said or "(--debug shows where)" in ended.said:
        wrong.append(f"{name}: a traceback: {ended.said[-300:]}")
    wrong += [f"{name}: does not say {word!r}: {ended.said[-300:]}" for word in says if word not in ended.said]
    return wrong


def goes_on(name: str, run: Path, undisturbed: Any) -> list[str]:
    """Whether a disturbed run ends as the undisturbed one."""
    import torch

    if (run / "experiment.yaml").is_file():
        ended = lab("resume", run, "--quiet")
    else:
        shutil.rmtree(run, ignore_errors=True)
        ended = lab("train", *_WORDS, *_OPTIONS, "tracking.mode=disabled", "--out", run)
    wrong = judged(f"{name}, resumed", ended, (0,))
    if not wrong:
        own = weights(run)
        wrong += [f"{name}: {key} differs" for key in undisturbed if not torch.equal(own[key], undisturbed[key])]
    return wrong


@contextlib.contextmanager
def small_disk(megabytes: float) -> Iterator[Path | None]:
    """A folder on a file system of a few megabytes; None where none can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="lab-disk-"))
    options = ["-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def disk(root: Path, undisturbed: Any, quick: bool) -> tuple[int, list[str]]:
    """The disk is full at another byte each time."""
    wrong: list[str] = []
    from lab.runs.directory import Run

    whole = sum(path.stat().st_size for path in (root / "undisturbed").rglob("*") if path.is_file()) / 2**20
    shares = (0.05, 0.5, 0.9) if quick else [share / 40 for share in range(1, 48)]
    for share in shares:
        with small_disk(whole * share) as folder:
            run = (folder or root) / "run"
            limit = None
            if folder is None:
                size = int(whole * share * 2**20 / 4)
                limit = lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
            ended = lab("train", *_WORDS, *_OPTIONS, "tracking.mode=disabled", "--out", run, limit=limit)
            name = f"disk of {whole * share:.2f} MB"
            wrong += judged(name, ended, (0, 1, 2))
            aside = root / "aside"
            shutil.rmtree(aside, ignore_errors=True)
            if (run / "experiment.yaml").is_file() and (run / "result.json").is_file():
                Run.open(run)
            if run.is_dir():
                shutil.copytree(run, aside)
            wrong += goes_on(name, aside, undisturbed)
    return len(shares), wrong


def read_only(root: Path) -> tuple[int, list[str]]:
    """A runs folder that nobody may write to (root may, so a file stands in its place)."""
    (root / "file").write_text("")
    ended = lab("train", *_WORDS, *_OPTIONS, "tracking.mode=disabled", LAB_RUNS=str(root / "file"))
    return 1, judged("read-only", ended, (2,), "cannot be made")


def memory(root: Path, undisturbed: Any) -> tuple[int, list[str]]:
    """No more memory than a process of the lab has when it begins."""
    wrong = []
    for megabytes in (600, 1_200, 2_000):
        run = root / f"memory-{megabytes}"

        def limit(size: int = megabytes * 2**20) -> None:
            resource.setrlimit(resource.RLIMIT_DATA, (size, size))

        ended = lab("train", *_WORDS, *_OPTIONS, "tracking.mode=disabled", "--out", run, limit=limit)
        if ended.code is None:
            wrong.append(f"memory of {megabytes} MB: it did not end")
        wrong += goes_on(f"memory of {megabytes} MB", run, undisturbed)
    return 3, wrong


def clock(root: Path, undisturbed: Any) -> tuple[int, list[str]]:
    """Every look at the wall clock is an hour before the last one."""
    script = (
        "import time, sys; real = time.time; looks = []\n"
        "def back(): looks.append(1); return real() - 3600 * len(looks)\n"
        "time.time = back\nfrom lab.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    run = root / "clock"
    words = ["train", *_WORDS, *_OPTIONS, "tracking.mode=disabled", "--out", str(run)]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    wrong = judged("clock", Ended(done.returncode, 0.0, done.stdout + done.stderr), (0,))
    return 1, wrong + goes_on("clock", run, undisturbed)


@contextlib.contextmanager
def service(how: str) -> Iterator[str]:
    """The address of a tracking service that answers 500, never, or not at all."""
    if how == "refuses":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{probe.getsockname()[1]}"
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if how == "hangs":
                time.sleep(10_000)
            self.send_error(500)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def tracking(root: Path, undisturbed: Any) -> tuple[int, list[str]]:
    """A run that is tracked online ends, or says why it does not begin."""
    wrong = []
    for how in ("refuses", "answers 500", "hangs"):
        run = root / f"tracking-{how[0]}"
        with service(how.replace("answers 500", "errs")) as address:
            keys = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
            ended = lab("train", *_WORDS, *_OPTIONS, "tracking.mode=online", "--out", run, seconds=300, **keys)
        wrong += judged(f"a tracking service that {how}", ended, (0, 1, 2))
        if run.is_dir() and (run / "experiment.yaml").is_file():
            shutil.rmtree(run / "wandb", ignore_errors=True)
            with contextlib.suppress(OSError):
                ended = lab("resume", run, "tracking.mode=disabled", "--quiet")
            wrong += judged(f"after a tracking service that {how}", ended, (0, 2))  # 2: it is complete already
    return 3, wrong


def environments(root: Path) -> tuple[int, list[str]]:
    """One that raises or gives NaN is a sentence; one that hangs is one where collectors are remote."""
    package = root / "package"
    package.mkdir()
    (package / "faulty_envs.py").write_text(_ENVIRONMENT)
    common = ["ppo/cartpole", "data.env=faulty_envs:Faulty-v0", "data.num_envs=2", "data.num_steps=16"]
    common += ["--import", "faulty_envs", "trainer.budget=4000", "tracking.mode=disabled", "trainer.num_threads=1"]
    remote = ["data.collector.kind=remote", "data.collector.num=2", "data.collector.num_cpus=0.5"]
    cases = [
        ("raises", [], (1,), "lost its licence"),
        ("nan", [], (1,), "finite"),
        ("raises", remote, (1,), "lost its licence"),
        ("nan", remote, (1,), "finite"),
        ("hangs", [*remote, "data.collector.timeout_seconds=3"], (1,), "gave no rollout within"),
    ]
    wrong = []
    for index, (fault, words, codes, says) in enumerate(cases):
        where = "remote" if words else "local"
        out = root / f"environment-{index}"
        ended = lab(
            "train",
            *common,
            *words,
            f"data.env_options={{fault: {fault}}}",
            "--quiet",
            "--out",
            out,
            PYTHONPATH=_path(package),
        )
        said = ended._replace(said=ended.said.replace("(--debug shows where)", "")) if fault == "raises" else ended
        wrong += judged(f"an environment that {fault}, {where}", said, codes, says)
    return len(cases), wrong


def _path(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


def main() -> None:
    bench = Benchmark("reliability_faults", __doc__)
    root = Path(tempfile.mkdtemp(prefix="lab-faults-"))
    ended = lab("train", *_WORDS, *_OPTIONS, "tracking.mode=disabled", "--out", root / "undisturbed")
    assert ended.code == 0, ended.said
    undisturbed = weights(root / "undisturbed")
    kinds: dict[str, Callable[[], tuple[int, list[str]]]] = {
        "disk": lambda: disk(root, undisturbed, bench.quick),
        "read-only": lambda: read_only(root),
        "memory": lambda: memory(root, undisturbed),
        "clock": lambda: clock(root, undisturbed),
        "tracking": lambda: tracking(root, undisturbed),
        "environment": lambda: environments(root),
    }
    total, faults, details = 0, 0, {}
    for name, call in kinds.items():
        cases, wrong = call()
        total, faults, details[name] = total + cases, faults + len(wrong), wrong
        print(f"{name}: {cases} cases, {len(wrong)} faults", *wrong, sep="\n  ", flush=True)
    shutil.rmtree(root, ignore_errors=True)
    bench.finish({"cases": total, "unbounded_faults": faults}, {"unbounded_faults": 0}, details)


if __name__ == "__main__":
    main()
