"""Which options made the difference."""

import numpy as np
import pytest

from rgals.tuning.importance import MIN_TRIALS, option_importance
from rgals.tuning.trial import TrialResult
from tests.tuning.problems import SPACE, result_of


def results(n_trials, value, seed=0):
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n_trials):
        options = SPACE.at(dict(zip(SPACE.names, generator.random(4), strict=True)))
        found.append(result_of(0.1, value(options), options=options))
    return found


def test_the_option_that_decides_gets_the_largest_share():
    found = option_importance(SPACE, results(60, lambda o: 1 - o["tilt"] ** 2))
    assert next(iter(found)) == "tilt"
    assert found["tilt"] > 0.6
    assert sum(found.values()) == pytest.approx(1)
    assert set(found) == set(SPACE.names)


def test_cut_trials_count_and_failed_ones_do_not():
    whole = results(10, lambda o: 0.5 + 0.1 * o["tilt"])
    cut = [
        TrialResult.of_curve(found.options, found.curve, 1.0, "pruned")
        for found in results(50, lambda o: 0.4 + 0.3 * (o["kind"] == "round"), seed=1)
    ]
    failed = [TrialResult.failure(found.options, "bad", 1.0) for found in results(50, lambda o: 1.0, seed=2)]
    alone, together = option_importance(SPACE, whole), option_importance(SPACE, whole + cut)
    assert together["kind"] > alone["kind"]
    assert option_importance(SPACE, whole + cut + failed) == together


def test_too_few_trials_or_equal_ones_say_nothing():
    assert option_importance(SPACE, results(MIN_TRIALS - 1, lambda o: o["tilt"])) is None
    assert option_importance(SPACE, results(MIN_TRIALS, lambda o: o["tilt"])) is not None
    assert option_importance(SPACE, results(20, lambda o: 0.5)) is None


def test_options_that_were_not_searched_are_ignored():
    plain = results(12, lambda o: o["tilt"])
    more = [TrialResult.of_curve({**found.options, "fixed": 3}, found.curve, 1.0) for found in plain]
    assert option_importance(SPACE, more) == option_importance(SPACE, plain)
