"""What is tried first."""

import numpy as np

from rgals.tuning.sampling import N_STARTING_POINTS, starting_point
from rgals.tuning.space import Dimension, SearchSpace

PLANE = SearchSpace((Dimension("x", 0, 1, default=0.5), Dimension("y", 0, 1, default=0.5)))


def points(seed):
    found = [starting_point(PLANE, seed, number) for number in range(1, N_STARTING_POINTS)]
    return np.array([[point["x"], point["y"]] for point in found])


def test_the_defaults_come_first_then_points_spread_over_the_space():
    assert starting_point(PLANE, 0, 0) == {"x": 0.5, "y": 0.5}
    assert starting_point(PLANE, 0, N_STARTING_POINTS) is None
    for seed in range(20):
        halves = points(seed) > 0.5
        # A Sobol sequence fills each half of each dimension evenly: of five points two or three.
        assert set(halves.sum(axis=0)) <= {2, 3}


def test_the_points_depend_on_the_seed_alone():
    assert np.array_equal(points(1), points(1))
    assert not np.array_equal(points(1), points(2))


def test_known_settings_come_right_after_the_defaults():
    known = ({"y": 0.25, "x": 0.125}, {"x": 0.75, "y": 1.0})
    space = SearchSpace(PLANE.dimensions, known)
    assert [starting_point(space, 1, number) for number in (0, 1, 2)] == [{"x": 0.5, "y": 0.5}, *known]
    assert list(starting_point(space, 1, 1)) == ["x", "y"]
    assert starting_point(space, 1, 3) == starting_point(PLANE, 1, 1)
    assert starting_point(space, 1, N_STARTING_POINTS) is None
