"""lab check: what a careful person looks at before believing a run, in seconds.

Gradients against differences of the loss, the first loss, twenty samples learned by heart, rates, units, inputs.
"""

from __future__ import annotations

import argparse
import json
import math

from lab.cli import add_override_arguments

EXAMPLE = "lab check classifier/digits-cnn module.optimizer.lr=0.1"
ORDER = 45
_MARKS = {"ok": "ok", "warning": "warning", "wrong": "WRONG", "not applicable": "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(
        parser, "a recipe (lab list), package.module:recipe, or an experiment.yaml", completes=["recipes"]
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all numbers")


def run(arguments: argparse.Namespace) -> int:
    from lab.config.overrides import resolve

    experiment = resolve(arguments.target, arguments.overrides)

    from lab.diagnostics.examine import examine  # this loads torch; a wrong name is answered before
    from lab.diagnostics.finding import conclusion
    from lab.training.progress import showing_work

    with showing_work():
        findings = examine(experiment)
    code = int(any(finding.verdict == "wrong" for finding in findings))
    if arguments.json:
        checks = [{**finding._asdict(), "numbers": _finite(finding.numbers)} for finding in findings]
        print(json.dumps({"recipe": experiment.name, "checks": checks, "conclusion": conclusion(findings)}, indent=2))
        return code
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{_MARKS[finding.verdict]:<7}  {finding.name:<{width}}  {finding.sentence}")
    print(conclusion(findings))
    return code


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    """What JSON can say of numbers: None where they are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
