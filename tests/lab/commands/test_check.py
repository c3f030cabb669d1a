"""lab check: what it prints, as lines and as JSON, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Lab = Callable[..., Any]


def test_bad_input_is_a_sentence(lab: Lab) -> None:
    done = lab("check", "regression/diabetis")
    assert done.code == 2
    assert "regression/diabetes" in done.err


@pytest.mark.slow
def test_a_clean_recipe_passes_in_lines(lab: Lab) -> None:
    done = lab("check", "regression/diabetes")
    *lines, last = done.out.splitlines()
    assert done.code == 0
    assert last == "nothing was found that is wrong"
    assert [line.split()[0] for line in lines] == ["ok", "-", *["ok"] * 7]


@pytest.mark.slow
def test_a_wrong_rate_is_the_conclusion_in_json(lab: Lab) -> None:
    done = lab("check", "regression/diabetes", "module.optimizer.lr=1e-7", "--json")
    told = json.loads(done.out, parse_constant=pytest.fail)
    assert done.code == 1
    assert told["recipe"] == "regression/diabetes"
    assert told["conclusion"].startswith("update to weight: the learning rate of net (1e-07) is too low")
    verdicts = {check["name"]: check["verdict"] for check in told["checks"]}
    assert verdicts["gradient check"] == "ok"
    assert verdicts["twenty samples by heart"] == "wrong"
