"""Grids and ranges as typed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cluster.sweep.space import Range, parse, split_values
from lab.errors import UserError


def test_tells_fixed_values_grids_and_ranges_apart() -> None:
    space = parse(["a.b=1,2", "c=log(1e-5,1e-2)", "d=[64,64],[128]", "e=[1,2]", "f='x,y'", "g=int(1,8)"])
    assert space.grid == {"a.b": ["1", "2"], "d": ["[64,64]", "[128]"]}
    assert space.ranges == {"c": Range("log", 1e-5, 1e-2), "g": Range("int", 1, 8)}
    assert space.fixed == ("e=[1,2]", "f='x,y'")
    assert list(space.points()) == [{"a.b": b, "d": d} for b in ("1", "2") for d in ("[64,64]", "[128]")]


def test_splits_at_outer_commas_only() -> None:
    assert split_values("{a: [1, 2]},(3,4),'5,6'") == ["{a: [1, 2]}", "(3,4)", "'5,6'"]


def test_a_log_range_is_uniform_in_the_logarithm() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([Range("log", 1e-5, 1e-1).sample(generator) for _ in range(4000)])
    assert drawn.min() >= 1e-5
    assert drawn.max() <= 1e-1
    share_below = (drawn < 1e-3).mean()  # half of the decades
    assert abs(share_below - 0.5) < 4 * math.sqrt(0.25 / 4000)


def test_an_int_range_holds_both_ends() -> None:
    generator = np.random.default_rng(0)
    assert {Range("int", 1, 3).sample(generator) for _ in range(200)} == {1, 2, 3}


@pytest.mark.parametrize("around", [1e-5, 3e-4, 1e-2])
def test_a_narrowed_range_stays_inside_and_holds_the_best(around: float) -> None:
    whole = Range("log", 1e-5, 1e-2)
    part = whole.narrowed(around, 1 / 3)
    assert part.low >= whole.low * 0.999
    assert part.high <= whole.high * 1.001
    assert part.low * 0.999 <= around <= part.high * 1.001
    assert math.isclose(math.log(part.high / part.low), math.log(1e3) / 3, rel_tol=1e-2)


@pytest.mark.parametrize(
    "text", ["lr=log(0,1)", "lr=log(1,1)", "lr=uniform(2,1)", "n=int(1,2.5)", "n=logg(1,2)", "n=log(1)", "n=1,,2", "n"]
)
def test_refuses_what_is_no_range(text: str) -> None:
    with pytest.raises(UserError, match=r"^'?(n|lr)"):
        parse([text])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gamma=0.9,0.9"], "'gamma=0.9,0.9' names 0.9 twice; leave one out."),
        (["lr=1e-3,2e-3,0.001"], "names 1e-3 and 0.001, which are one value; leave one out."),
        (["name=a,b,a"], "names a twice"),
        (["seed=3,3"], "names 3 twice"),
        (["gamma=0.9", "lr=1", "gamma=0.9,0.99"], "gamma is set twice, the second time by 'gamma=0.9,0.99'"),
        (["lr=log(1e-5,1e-2)", "lr=1e-3"], "lr is set twice"),
        (["seed=log(1,3)"], "'seed=log(1,3)' is not valid: seeds are whole numbers from 0 on"),
        (["seed=-1"], "'seed=-1' is not valid"),
        (["seed=1.5,2"], "'seed=1.5,2' is not valid"),
    ],
)
def test_what_would_count_one_run_as_several_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        parse(words)
    assert sentence in str(error.value)


def test_seeds_are_no_values_to_compare() -> None:
    space = parse(["seed=3,4,17", "a=1,2"])
    assert space.seeds == (3, 4, 17)
    assert (space.grid, space.fixed) == ({"a": ["1", "2"]}, ())
