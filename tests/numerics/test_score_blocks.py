import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.errors import InputError, NumericalError
from rgals.numerics import score_blocks
from rgals.numerics.score_blocks import add_dense_rows, add_sparse_rows, top_k_of_scores, users_per_block
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k
from tests.baselines.test_simple import random_rows
from tests.numerics.test_topk import assert_same, random_factors, random_seen, twin


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n_users=st.integers(1, 40), n_items=st.integers(1, 80), k=st.integers(1, 90))
def test_lists_equal_a_full_sort_with_ties_by_item_row(data: st.DataObject, n_users: int, n_items: int, k: int) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    scores = generator.integers(-3, 4, (n_users, n_items)).astype(np.float32)
    seen = random_seen(n_users, n_items, data.draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])), seed)
    is_allowed = generator.random(n_items) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    expected = twin(scores, k, seen, is_allowed)
    assert_same(top_k_of_scores(scores.copy(), k, seen=seen, is_allowed=is_allowed, n_threads=1), expected)


def test_lists_are_those_of_the_products_that_the_scores_are() -> None:
    generator = np.random.default_rng(5)
    users = generator.integers(-3, 4, (300, 4)).astype(np.float32)
    items = generator.integers(-3, 4, (2500, 4)).astype(np.float32)
    seen = random_seen(300, 2500, 0.05, 6)
    expected = top_k(users, items, 30, seen=seen)
    for n_threads in (1, 2, None):
        assert_same(top_k_of_scores(users @ items.T, 30, seen=seen, n_threads=n_threads), expected)


def test_without_exclusions_every_item_can_appear() -> None:
    scores = random_factors(20, 9, 0)
    assert_same(top_k_of_scores(scores.copy(), 12), twin(scores, 12))
    nobody = np.zeros((0, 9), np.float32)
    assert top_k_of_scores(nobody, 3).items.shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_scores_that_are_not_finite_are_refused_with_row_and_count(value: float, n_threads: int) -> None:
    scores = random_factors(100, 9, 0)
    scores[[47, 90], [3, 0]] = value
    with pytest.raises(NumericalError, match=r"2 of 100 user rows .* the first is row 47"):
        top_k_of_scores(scores, 3, n_threads=n_threads)


def test_what_does_not_fit_is_refused() -> None:
    scores = random_factors(4, 6, 0)
    read_only = scores.copy()
    read_only.flags.writeable = False
    for wrong in (scores.astype(np.float64), scores.T, scores[0], read_only, scores[:, ::2]):
        with pytest.raises(InputError, match="expected writable float32 scores"):
            top_k_of_scores(wrong, 2)
    with pytest.raises(InputError, match="k of at least 1, found 0"):
        top_k_of_scores(scores, 0)
    with pytest.raises(InputError, match="n_threads of at least 1, found 0"):
        top_k_of_scores(scores, 1, n_threads=0)
    with pytest.raises(InputError, match=r"seen interactions of shape \(4, 6\), found \(3, 6\)"):
        top_k_of_scores(scores, 1, seen=random_seen(3, 6, 0.5, 0))
    for is_allowed in (np.ones(5, bool), np.ones(6, np.int8)):
        with pytest.raises(InputError, match="is_allowed as 6 booleans"):
            top_k_of_scores(scores, 1, is_allowed=is_allowed)


@pytest.mark.parametrize(("n_items", "expected"), [(0, 256), (1, 256), (65536, 256), (131072, 128), (10**9, 1)])
def test_a_block_of_scores_stays_small(n_items: int, expected: int) -> None:
    assert users_per_block(n_items) == expected


@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_sums_of_rows_equal_products_of_matrices(
    monkeypatch: pytest.MonkeyPatch, is_weighted: bool, n_threads: int
) -> None:
    monkeypatch.setattr(score_blocks, "_ITEM_TILE", 16)
    monkeypatch.setattr(score_blocks, "_TILE_USERS", 8)
    rows, matrix = random_rows(50, 30), random_rows(30, 41, seed=1)
    if not is_weighted:
        rows = InteractionRows(rows.indptr, rows.columns, None, 30)
        matrix = InteractionRows(matrix.indptr, matrix.columns, None, 41)
    expected = 1 + rows.to_scipy().toarray().astype(np.float64) @ matrix.to_scipy().toarray()
    dense, sparse = np.ones((50, 41), np.float32), np.ones((50, 41), np.float32)
    add_dense_rows(rows, matrix.to_scipy().toarray(), dense, n_threads=n_threads)
    add_sparse_rows(rows, matrix, sparse, n_threads=n_threads)
    np.testing.assert_allclose(dense, expected, rtol=1e-5)
    np.testing.assert_allclose(sparse, expected, rtol=1e-5)


@pytest.mark.slow
def test_sums_of_rows_have_the_same_bits_for_any_threads_and_company() -> None:
    rows, matrix = random_rows(300, 40), random_factors(40, 5000, 2)
    together = np.zeros((300, 5000), np.float32)
    add_dense_rows(rows, matrix, together, n_threads=1)
    threaded, some = np.zeros_like(together), np.zeros((20, 5000), np.float32)
    add_dense_rows(rows, matrix, threaded, n_threads=3)
    add_dense_rows(rows.row_slice(120, 140), matrix, some, n_threads=1)
    np.testing.assert_array_equal(threaded, together)
    np.testing.assert_array_equal(some, together[120:140])
