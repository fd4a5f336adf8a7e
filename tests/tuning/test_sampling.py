"""What is tried first."""

import numpy as np
import optuna

from rgals.tuning.sampling import N_STARTING_POINTS, make_sampler, starting_point
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


def test_proposals_depend_on_the_seed_and_the_number_of_the_trial():
    def proposal(seed, number):
        with_history = optuna.create_study(direction="maximize", sampler=make_sampler(seed, number))
        distributions = PLANE.distributions()
        for index, (x, y) in enumerate(points(5).tolist()):
            found = optuna.trial.create_trial(params={"x": x, "y": y}, distributions=distributions, value=index / 10)
            with_history.add_trial(found)
        return tuple(PLANE.sample(with_history.ask()).values())

    assert proposal(3, 7) == proposal(3, 7)
    assert len({proposal(3, 7), proposal(3, 8), proposal(4, 7), proposal(4, 8)}) == 4
