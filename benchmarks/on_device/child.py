"""One measurement of benchmarks/gpu.py: `child.py MODULE:FUNCTION ARGUMENT ... --device D --seconds S`.

The last line is JSON: `figures` by name; or why it was skipped.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib import import_module

from on_device.common import Setting, Skipped


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("function")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for runs that are to repeat to the bit
    module, _, name = options.function.partition(":")
    function = getattr(import_module(f"on_device.{module}"), name)
    try:
        figures = function(Setting(options.device, options.seconds), *options.arguments)
        print(json.dumps({"status": "done", "figures": figures}))
    except Skipped as reason:
        print(json.dumps({"status": "skipped", "reason": str(reason)}))


if __name__ == "__main__":
    main()
