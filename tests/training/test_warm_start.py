"""Warm start: factors follow ids, not rows."""

import numpy as np
import pyarrow as pa
import pytest

from rgals.data.ids import IdDictionary
from rgals.errors import InputError
from rgals.numerics.initial import initial_factors
from rgals.training.warm_start import match_by_id


def ids(*values):
    return IdDictionary.from_values(pa.array(values))


def match(user_ids, item_ids, known_users, known_items, n_factors=2):
    return match_by_id(
        user_ids,
        item_ids,
        known_user_ids=known_users,
        known_item_ids=known_items,
        known_user_factors=np.arange(len(known_users) * n_factors, dtype=np.float32).reshape(-1, n_factors),
        known_item_factors=-1 - np.arange(len(known_items) * n_factors, dtype=np.float32).reshape(-1, n_factors),
    )


def test_rows_of_known_ids_are_copied_and_the_others_start_cold():
    warm = match(ids("b", "c", "d"), ids("x", "y", "z"), ids("a", "b", "d", "e"), ids("w", "y"))
    state = warm.starting_state(3, 3, 2, seed=5)
    cold = initial_factors(3, 2, 5)
    np.testing.assert_array_equal(state.user_factors, np.float32([[2, 3], [0, 0], [4, 5]]))
    np.testing.assert_array_equal(state.item_factors, np.stack([cold[0], np.float32([-3, -4]), cold[2]]))
    assert state.sweep == 0


def test_integer_ids_match_their_text():
    warm = match(ids(7, 40), ids(1, 2), ids("40", "7"), ids("2"))
    np.testing.assert_array_equal(warm.user_rows, [0, 1])
    np.testing.assert_array_equal(warm.user_factors, np.float32([[2, 3], [0, 1]]))
    np.testing.assert_array_equal(warm.item_rows, [1])


def test_users_may_all_be_new():
    warm = match(ids("n"), ids("x"), ids("a"), ids("x"))
    assert warm.user_rows.size == 0
    np.testing.assert_array_equal(warm.starting_state(1, 1, 2, 0).user_factors, np.zeros((1, 2)))


def test_a_model_of_another_catalog_is_refused():
    with pytest.raises(InputError, match="found none of 2; use a model of the same catalog"):
        match(ids("a"), ids("x"), ids("a"), ids("p", "q"))


def test_another_number_of_factors_is_refused_with_the_number_to_set():
    warm = match(ids("a"), ids("x"), ids("a"), ids("x"), n_factors=2)
    with pytest.raises(InputError, match="expected 64 factors, found 2 of users and 2 of items; set n_factors to 2"):
        warm.starting_state(1, 1, 64, 0)
