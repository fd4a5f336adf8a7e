from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.errors import InputError, NumericalError
from rgals.names import BoolArray, Factors
from rgals.numerics import topk
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import TopK, top_k


def random_factors(n_rows: int, n_factors: int, seed: int) -> Factors:
    return np.random.default_rng(seed).standard_normal((n_rows, n_factors)).astype(np.float32)


def random_seen(n_users: int, n_items: int, density: float, seed: int) -> InteractionRows:
    is_seen = np.random.default_rng(seed).random((n_users, n_items)) < density
    users, items = np.nonzero(is_seen)
    return InteractionRows.from_pairs(users, items, None, n_users, n_items)


def twin(
    scores: np.ndarray[Any, Any], k: int, seen: InteractionRows | None = None, is_allowed: BoolArray | None = None
) -> TopK:
    """Sort the whole score matrix of each user."""
    items = np.full((len(scores), k), -1, dtype=np.int32)
    values = np.full((len(scores), k), -np.inf, dtype=np.float32)
    for user in range(len(scores)):
        eligible = np.ones(scores.shape[1], dtype=bool) if is_allowed is None else is_allowed.copy()
        if seen is not None:
            eligible[seen.columns_of(user)] = False
        order = [item for item in np.argsort(-scores[user], kind="stable") if eligible[item]][:k]
        items[user, : len(order)] = order
        values[user, : len(order)] = scores[user, order]
    return TopK(items, values)


def assert_same(found: TopK, expected: TopK) -> None:
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n_users=st.integers(1, 12), n_items=st.integers(1, 80), k=st.integers(1, 90))
def test_lists_equal_a_full_sort_with_ties_by_item_row(data: st.DataObject, n_users: int, n_items: int, k: int) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    users = generator.integers(-3, 4, (n_users, 3)).astype(np.float32)
    items = generator.integers(-3, 4, (n_items, 3)).astype(np.float32)
    seen = random_seen(n_users, n_items, data.draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])), seed)
    is_allowed = generator.random(n_items) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    found = top_k(users, items, k, seen=seen, is_allowed=is_allowed, n_threads=1)
    assert_same(found, twin(users @ items.T, k, seen, is_allowed))


def test_lists_equal_a_full_sort_over_several_tiles_of_items_and_users() -> None:
    generator = np.random.default_rng(5)
    users = generator.integers(-3, 4, (300, 4)).astype(np.float32)
    items = generator.integers(-3, 4, (2500, 4)).astype(np.float32)
    seen = random_seen(300, 2500, 0.05, 6)
    is_allowed = np.ones(2500, dtype=bool)
    is_allowed[1000:2100] = False  # a whole tile is out
    found = top_k(users, items, 30, seen=seen, is_allowed=is_allowed, n_threads=2)
    assert_same(found, twin(users @ items.T, 30, seen, is_allowed))


@pytest.mark.parametrize("n_factors", [1, 3, 64, 130, 384])
def test_one_user_alone_gets_the_bits_that_it_gets_in_a_batch(n_factors: int) -> None:
    users, items = random_factors(270, n_factors, 1), random_factors(1100, n_factors, 2)
    together = top_k(users, items, 25, n_threads=1)
    for user in (0, 1, 7, 100, 239, 240, 255, 256, 269):
        alone = top_k(users[user : user + 1], items, 25, n_threads=1)
        assert_same(alone, TopK(together.items[user : user + 1], together.scores[user : user + 1]))


@pytest.mark.parametrize("n_users", [2, 20, 40, 300])
def test_lists_do_not_depend_on_threads_or_on_the_order_of_users(n_users: int) -> None:
    users, items = random_factors(n_users, 48, 3), random_factors(1500, 48, 4)
    seen = random_seen(n_users, 1500, 0.02, 5)
    expected = top_k(users, items, 20, seen=seen, n_threads=1)
    assert_same(top_k(users, items, 20, seen=seen, n_threads=2), expected)
    assert_same(top_k(users, items, 20, seen=seen, n_threads=5), expected)
    order = np.random.default_rng(6).permutation(n_users)
    shuffled = top_k(users[order], items, 20, seen=seen.take(order), n_threads=2)
    assert_same(shuffled, TopK(expected.items[order], expected.scores[order]))


def test_appended_items_do_not_change_the_scores_of_the_others() -> None:
    users, items = random_factors(5, 32, 7), random_factors(1400, 32, 8)
    is_old = np.arange(1400) < 900
    assert_same(top_k(users, items, 10, is_allowed=is_old), top_k(users, items[:900], 10))


def test_without_a_trusted_blas_the_lists_are_the_same_for_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "_choose_tiles", lambda n_factors: ((8, 32, 256), False))
    users, items = random_factors(40, 5, 9), random_factors(70, 5, 10)
    together = top_k(users, items, 10)
    alone = top_k(users[33:34], items, 10)
    assert_same(alone, TopK(together.items[33:34], together.scores[33:34]))
    np.testing.assert_allclose(together.scores, twin(users @ items.T, 10).scores, rtol=1e-5)


def test_user_tiles_whose_bits_differ_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "_choose_tiles", lambda n_factors: ((256,), True))
    users, items = random_factors(3, 4, 11), random_factors(60, 4, 12)
    only_largest = top_k(users, items, 10)
    monkeypatch.undo()
    assert_same(only_largest, top_k(users, items, 10))


def test_the_tile_check_finds_tiles_and_always_keeps_the_largest() -> None:
    tiles, uses_blas = topk._choose_tiles(16)
    assert tiles[-1] == topk._USER_TILES[-1]
    assert isinstance(uses_blas, bool)


def test_a_list_longer_than_the_catalog_ends_with_padding() -> None:
    found = top_k(np.ones((1, 1), np.float32), np.array([[1.0], [3.0], [2.0]], np.float32), 5)
    np.testing.assert_array_equal(found.items, [[1, 2, 0, -1, -1]])
    np.testing.assert_array_equal(found.scores, np.array([[3, 2, 1, -np.inf, -np.inf]], np.float32))
    assert found.items.dtype == np.int32
    assert found.scores.dtype == np.float32


def test_equal_scores_rank_by_item_row_even_when_the_list_is_cut_among_them() -> None:
    found = top_k(np.ones((2, 1), np.float32), np.ones((1030, 1), np.float32), 3)
    np.testing.assert_array_equal(found.items, [[0, 1, 2], [0, 1, 2]])


def test_scores_that_rise_with_the_item_row_are_ranked_right() -> None:
    items = np.arange(1300, dtype=np.float32)[:, None]
    found = top_k(np.ones((1, 1), np.float32), items, 1300)
    np.testing.assert_array_equal(found.items[0], np.arange(1299, -1, -1))


def test_a_score_that_overflows_to_minus_infinity_never_ranks() -> None:
    items = np.array([[3e38], [-3e38], [1.0]], np.float32)
    found = top_k(np.array([[10.0]], np.float32), items, 3)
    np.testing.assert_array_equal(found.items, [[0, 2, -1]])
    np.testing.assert_array_equal(found.scores, np.array([[np.inf, 10.0, -np.inf]], np.float32))


def test_a_nan_score_never_ranks() -> None:
    tile = np.array([[np.nan, 2.0, np.nan, 5.0, np.nan]], np.float32)
    items, scores = np.full((1, 3), -1, np.int32), np.full((1, 3), -np.inf, np.float32)
    nothing, zero = np.empty(0, np.int32), np.zeros(1, np.int64)
    topk.offer_tile(tile, 0, 5, nothing, zero, zero, nothing, scores, items)
    topk.sort_heaps(scores, items)
    np.testing.assert_array_equal(items, [[3, 1, -1]])


def test_no_users_and_no_items_give_empty_lists() -> None:
    assert top_k(np.empty((0, 3), np.float32), random_factors(5, 3, 1), 2).items.shape == (0, 2)
    nothing = top_k(random_factors(2, 3, 1), np.empty((0, 3), np.float32), 2)
    np.testing.assert_array_equal(nothing.items, np.full((2, 2), -1))


def test_the_inputs_are_not_changed() -> None:
    users, items, seen = random_factors(4, 3, 1), random_factors(9, 3, 2), random_seen(4, 9, 0.5, 3)
    copies = users.copy(), items.copy(), seen.indptr.copy(), seen.columns.copy()
    top_k(users, items, 3, seen=seen)
    for array, copy in zip((users, items, seen.indptr, seen.columns), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_factors_that_are_not_finite_are_refused_with_their_row(value: float) -> None:
    users, items = random_factors(300, 4, 1), random_factors(1100, 4, 2)
    bad_users, bad_items = users.copy(), items.copy()
    bad_users[[270, 280], 2] = value
    bad_items[[1050, 1060, 1070], 0] = value
    with pytest.raises(NumericalError, match=r"2 of 300 user rows .* the first is row 270"):
        top_k(bad_users, items, 3)
    with pytest.raises(NumericalError, match=r"3 of 1100 item rows .* the first is row 1050"):
        top_k(users, bad_items, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_factors": np.ones((2, 4), np.float32)}, r"found \(2, 4\) and \(5, 3\)"),
        ({"user_factors": np.ones(3, np.float32)}, r"found \(3,\)"),
        ({"k": 0}, "k of at least 1, found 0"),
        ({"seen": random_seen(3, 5, 0.5, 1)}, "2 users with 5 items, found 3 with 5"),
        ({"seen": random_seen(2, 6, 0.5, 1)}, "2 users with 5 items, found 2 with 6"),
        ({"is_allowed": np.ones(4, dtype=bool)}, "5 booleans"),
        ({"is_allowed": np.ones(5)}, "5 booleans, found float64"),
        ({"n_threads": 0}, "n_threads"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "user_factors": np.ones((2, 3), np.float32),
        "item_factors": np.ones((5, 3), np.float32),
        "k": 2,
    }
    with pytest.raises(InputError, match=message):
        top_k(**(arguments | change))
