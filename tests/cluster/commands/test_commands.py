"""Commands hold arguments and a call: what they need is loaded when they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster import commands

HEAVY = {"torch", "lightning", "numpy", "pydantic", "ray", "wandb", "rich"}


def test_parsing_any_command_loads_nothing_heavy() -> None:
    names = sorted(path.stem for path in Path(commands.__file__).parent.glob("[a-z]*.py"))
    assert {"sweep", "submit", "demo"} < set(names)
    script = "import argparse, importlib, sys\n"
    script += f"for name in {names}:\n"
    script += "    module = importlib.import_module(f'cluster.commands.{name}')\n"
    script += "    if hasattr(module, 'run'):\n"
    script += "        module.add_arguments(argparse.ArgumentParser())\n"
    script += "print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "argparse" in done.stdout.split()
    assert HEAVY & set(done.stdout.split()) == set()
