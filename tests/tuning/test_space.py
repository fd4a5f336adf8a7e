"""Dimensions and spaces: bounds, values at positions, what Optuna is asked."""

import math

import optuna
import pytest

from rgals.errors import InputError
from rgals.tuning.space import Dimension, SearchSpace
from tests.tuning.problems import SPACE


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "", "low": 0, "high": 1, "default": 0.5}, "expected a name"),
        ({"name": "a", "default": 0.5}, "expected finite bounds in order, found None and None"),
        ({"name": "a", "low": 1, "high": 1, "default": 1}, "expected finite bounds in order, found 1 and 1"),
        ({"name": "a", "low": 0, "high": math.inf, "default": 1}, "expected finite bounds"),
        ({"name": "a", "low": 0, "high": 1, "default": 0.5, "log": True}, "expected bounds above 0 on a log scale"),
        ({"name": "a", "low": 0, "high": 1}, "expected a default from 0 to 1, found None"),
        ({"name": "a", "low": 0, "high": 1, "default": 2}, "expected a default from 0 to 1, found 2"),
        ({"name": "a", "low": 0, "high": 1, "default": True}, "expected a default from 0 to 1, found True"),
        ({"name": "a", "low": 0.5, "high": 3, "default": 1, "is_int": True}, "expected whole numbers as bounds"),
        ({"name": "a", "low": 0, "high": 3, "default": 1.5, "is_int": True}, "expected a whole number as default"),
        ({"name": "a", "choices": ()}, "expected different choices"),
        ({"name": "a", "choices": ("x", "x"), "default": "x"}, "expected different choices"),
        ({"name": "a", "choices": ("x", "y"), "default": "z"}, "expected a default in"),
        ({"name": "a", "choices": ("x", "y"), "default": "x", "low": 0}, "expected bounds or choices, found both"),
    ],
)
def test_a_dimension_that_cannot_be_searched_is_refused(options, expected):
    with pytest.raises(InputError, match=r"^search space, ") as found:
        Dimension(**options)
    assert expected in str(found.value)
    assert "correct the space" in str(found.value)


def test_positions_run_from_low_to_high_in_the_scale_of_the_dimension():
    rate, tilt, depth, kind = SPACE.dimensions
    assert [rate.at(x) for x in (0, 0.5, 1)] == pytest.approx([1e-3, math.sqrt(1e-3), 1.0], rel=1e-12)
    assert rate.at(0) >= 1e-3
    assert rate.at(1) <= 1.0
    assert [tilt.at(x) for x in (0, 0.25, 1)] == [-1.0, -0.5, 1.0]
    assert [kind.at(x) for x in (0, 0.49, 0.5, 1)] == ["flat", "flat", "round", "round"]
    found = [depth.at((k + 0.5) / 1000) for k in range(1000)]
    assert {number: found.count(number) for number in range(1, 11)} == dict.fromkeys(range(1, 11), 100)
    assert all(isinstance(number, int) for number in found)


def test_whole_numbers_on_a_log_scale_reach_both_bounds():
    dimension = Dimension("batch", 1, 64, log=True, default=8, is_int=True)
    found = [dimension.at(k / 200) for k in range(201)]
    assert found[0] == 1
    assert found[-1] == 64
    assert found == sorted(found)


def test_a_space_asks_optuna_for_each_option_and_gives_its_values():
    fixed = {"rate": 0.25, "tilt": -0.5, "depth": 4, "kind": "round"}
    trial = optuna.trial.FixedTrial(fixed)
    assert SPACE.sample(trial) == fixed
    assert trial.distributions == SPACE.distributions()
    assert trial.distributions["rate"] == optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)
    assert trial.distributions["depth"] == optuna.distributions.IntDistribution(1, 10)


def test_a_space_describes_itself_in_json_values():
    assert SPACE.describe() == {
        "rate": {"low": 1e-3, "high": 1.0, "log": True, "choices": None, "default": 0.03},
        "tilt": {"low": -1.0, "high": 1.0, "log": False, "choices": None, "default": 0.0},
        "depth": {"low": 1, "high": 10, "log": False, "choices": None, "default": 3},
        "kind": {"low": None, "high": None, "log": False, "choices": ["flat", "round"], "default": "flat"},
    }
    assert SPACE.defaults() == {"rate": 0.03, "tilt": 0.0, "depth": 3, "kind": "flat"}


def test_part_of_a_space_keeps_the_order_that_is_asked_for():
    assert SPACE.select(("depth", "rate")).names == ("depth", "rate")
    with pytest.raises(InputError, match="expected options of rate, tilt, depth, kind, found speed"):
        SPACE.select(("depth", "speed"))
    with pytest.raises(InputError, match="expected different names"):
        SearchSpace((SPACE.dimensions[0], SPACE.dimensions[0]))


def test_known_settings_are_checked_and_go_with_the_part_that_is_chosen():
    setting = {"rate": 0.5, "tilt": 0.25, "depth": 2, "kind": "round"}
    space = SearchSpace(SPACE.dimensions, (setting,))
    assert space.select(("tilt", "rate")).known == ({"tilt": 0.25, "rate": 0.5},)
    for wrong in ({"rate": 0.5}, {**setting, "speed": 1}, {**setting, "rate": 2.0}, {**setting, "kind": "square"}):
        with pytest.raises(InputError, match="search space"):
            SearchSpace(SPACE.dimensions, (wrong,))
