"""The rule that the objective falls, and what its falls are measured against."""

import pytest

from rgals.errors import NumericalError
from rgals.training.config import TrainingConfig
from rgals.training.history import RISE_TOLERANCE, SweepSummary, check_half_step, objective_scale, relative_fall

CONFIG = TrainingConfig(alpha=2.5, reg=0.125)


def test_a_fall_and_a_rise_within_rounding_pass():
    check_half_step(1, "user", 10.0, 9.0, 10.0, CONFIG)
    check_half_step(1, "user", 10.0, 10.0 + 0.9 * RISE_TOLERANCE * 10, 10.0, CONFIG)


def test_a_rise_beyond_rounding_names_sweep_side_values_and_hyperparameters():
    with pytest.raises(NumericalError) as caught:
        check_half_step(7, "item", 10.0, 10.0 + 1.1 * RISE_TOLERANCE * 10, 10.0, CONFIG)
    for part in ("sweep 7, item half-step", "from 10.0 to 10.00011", "alpha 2.5", "reg 0.125", "loss rg2", "raise reg"):
        assert part in str(caught.value)


@pytest.mark.parametrize("values", [(float("nan"), 1.0), (1.0, float("nan")), (1.0, float("-inf"))])
def test_an_objective_that_is_not_finite_is_refused(values):
    with pytest.raises(NumericalError, match="finite objective"):
        check_half_step(1, "user", *values, 1.0, CONFIG)


def test_falls_are_measured_against_the_largest_objective_of_the_run_even_near_zero():
    history = [SweepSummary(1, 100.0, 10.0, 1.0, 0.1), SweepSummary(2, 1.0, 0.0, -0.5, 0.1)]
    scale = objective_scale(history, -0.5)
    assert scale == 100
    assert relative_fall(-0.5, -1.5, scale) == 0.01


def test_a_run_that_starts_at_zero_has_a_positive_scale():
    assert objective_scale([], 0.0) > 0
    assert objective_scale([]) > 0


def test_the_present_sweep_counts_so_that_a_long_fall_from_near_zero_is_at_most_twice_the_scale():
    scale = objective_scale([SweepSummary(1, 1.0, 0.5, 0.1, 0.1)], 0.1, -50.0, -80.0)
    assert scale == 80
    assert relative_fall(0.1, -80.0, scale) < 1.01
