"""What a check says: whether something is wrong, by which numbers, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["ok", "warning", "wrong", "not applicable"]


class Finding(NamedTuple):
    """The result of one check.

    sentence: what is the case; where something is wrong, also what to try
    """

    name: str
    verdict: Verdict
    sentence: str
    numbers: dict[str, float] = {}


def not_applicable(name: str, why: str) -> Finding:
    """The finding of a check that makes no sense for what is trained."""
    return Finding(name, "not applicable", why)


def conclusion(findings: Sequence[Finding]) -> str:
    """One sentence: the first thing that is wrong, else the first warning; findings stand in the order of causes."""
    for verdict in ("wrong", "warning"):
        for finding in findings:
            if finding.verdict == verdict:
                return f"{finding.name}: {finding.sentence}"
    return "nothing was found that is wrong"
