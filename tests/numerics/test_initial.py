"""Starting factors and observed weights."""

import numpy as np
import pytest

from rgals.numerics.initial import initial_factors
from rgals.numerics.weighting import row_weight_sums, weigh_entries
from tests.numerics.problems import random_interactions


def test_a_range_of_rows_is_a_slice_of_all_rows() -> None:
    np.testing.assert_array_equal(initial_factors(7, 5, 42, first_row=13), initial_factors(20, 5, 42)[13:])


def test_seeds_differ_and_the_distribution_is_normal() -> None:
    first, second = initial_factors(300, 16, 1), initial_factors(300, 16, 2)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    assert first.std() == pytest.approx(0.1 / 4, rel=0.05)
    assert abs(first.mean()) < 0.001
    assert (np.abs(first) < 0.1 / 4).mean() == pytest.approx(0.683, abs=0.02)


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**63)])
def test_any_64_bit_seed_works(seed: int) -> None:
    assert np.isfinite(initial_factors(3, 4, seed)).all()


@pytest.mark.parametrize("is_weighted", [False, True])
def test_weights_have_the_same_bits_in_both_orientations(is_weighted: bool) -> None:
    rows = random_interactions(0, 8, 6, is_weighted=is_weighted)
    rng = np.random.default_rng(0)
    row_factors, column_factors = rng.uniform(0.1, 3, 8), rng.uniform(0.1, 3, 6)
    by_user = weigh_entries(rows, row_factors, column_factors)
    by_item = weigh_entries(rows.transpose(), column_factors, row_factors)
    np.testing.assert_array_equal(by_user.transpose().weights, by_item.weights)
    stored = rows.to_scipy().toarray()
    expected = stored * row_factors[:, None] * column_factors
    np.testing.assert_allclose(by_user.to_scipy().toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(row_weight_sums(by_user), expected.sum(axis=1), rtol=1e-6)


def test_sums_of_absent_weights_are_degrees() -> None:
    rows = random_interactions(0, 8, 6)
    np.testing.assert_array_equal(row_weight_sums(rows), rows.degrees)
