"""Samples of rows that stand for all of them."""

import numpy as np
import pytest

from rgals.numerics.row_sample import RowSample, draw_rows
from rgals.numerics.sparse import InteractionRows


@pytest.mark.parametrize("total", [0, 1])
def test_a_sum_over_a_sample_is_right_on_average_and_the_spread_tells_its_variance(total: int) -> None:
    rng = np.random.default_rng(0)
    weight_sums = total * rng.pareto(1.0, size=400)
    values = rng.exponential(size=400)
    estimates, variances = [], []
    for draw in range(2000):
        sample = draw_rows(weight_sums, 0.2, (3, draw))
        weighted = np.exp(sample.log_weights.astype(np.float64)) * values[sample.rows]
        estimates.append(weighted.sum())
        variances.append(float(sample.spreads @ weighted**2))
    error = np.std(estimates) / np.sqrt(2000)
    assert abs(np.mean(estimates) - values.sum()) < 4 * error
    # Draws that are spread evenly vary less than independent ones.
    assert 0.3 * np.mean(variances) < np.var(estimates) < 1.1 * np.mean(variances)


def test_a_row_of_much_weight_is_in_every_sample_and_no_weight_is_above_twice_that_of_a_uniform_one() -> None:
    weight_sums = np.ones(1000)
    weight_sums[17] = 1e4
    for draw in range(20):
        sample = draw_rows(weight_sums, 0.1, (draw,))
        assert sample.log_weights[sample.rows == 17] == 0
        # A row that lies across two stretches can be drawn twice.
        assert np.exp(sample.log_weights).max() <= 2 * 2 * 1000 / 100 + 1e-3


def test_a_fraction_of_one_gives_every_row_once() -> None:
    sample = draw_rows(np.array([3.0, 0.0, 1.0, 9.0]), 1.0, (0,))
    np.testing.assert_array_equal(sample.rows, np.arange(4))
    np.testing.assert_array_equal(sample.log_weights, 0)
    np.testing.assert_array_equal(sample.spreads, 0)


def test_a_tiny_fraction_gives_one_row_or_two() -> None:
    for draw in range(20):
        assert draw_rows(np.ones(50), 1e-9, (draw,)).rows.size in (0, 1, 2)


def test_the_key_decides_what_is_drawn() -> None:
    weight_sums = np.arange(1.0, 301)
    first, again, other = (draw_rows(weight_sums, 0.3, key) for key in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.log_weights, again.log_weights)
    assert not np.array_equal(first.rows, other.rows)


def test_entries_in_a_sample_have_their_place_in_it() -> None:
    rows = InteractionRows.from_pairs(np.array([0, 0, 2, 2, 2]), np.array([1, 4, 0, 4, 5]), None, 3, 6)
    sample = RowSample(np.array([1, 4, 5], dtype=np.int32), np.zeros(3, dtype=np.float32), 6)
    found = sample.places_of(rows)
    np.testing.assert_array_equal(found.indptr, [0, 2, 2, 4])
    np.testing.assert_array_equal(found.columns, [0, 1, 1, 2])
    assert (found.n_columns, found.weights) == (3, None)
