"""The same program on implicit's model and on ours: what code written for implicit counts on."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from implicit.evaluation import ndcg_at_k, precision_at_k
from implicit.utils import ParameterWarning
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from rgals import RankingALS
from tests.estimator.matrices import make_checkerboard

NO_SCORE = np.finfo(np.float32).min
SIZE = 50


def make_implicit():
    return AlternatingLeastSquares(factors=32, regularization=0, random_state=23)


def make_rg2():
    return RankingALS(n_factors=32, alpha=1, reg=0.01, n_sweeps=15, random_state=23)


def make_rgx():
    return RankingALS(n_factors=32, loss="rgx", alpha=1, reg=0.01, n_sweeps=15, random_state=23)


def make_ials():
    return RankingALS(n_factors=32, loss="ials", alpha=1, reg=0.01, n_sweeps=15, random_state=23)


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    """Keep implicit from warning about a BLAS with threads of its own."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module", params=[make_implicit, make_rg2, make_rgx, make_ials])
def make(request):
    return request.param


@pytest.fixture
def board():
    """One for each test: implicit's recommend with items writes zeros into the matrix it is given."""
    return make_checkerboard(SIZE)


@pytest.fixture(scope="module")
def model(make):
    """Shared and read only."""
    return fit(make, make_checkerboard(SIZE))


def fit(make, matrix):
    model = make()
    model.fit(matrix, show_progress=False)
    return model


class TestDropIn:
    """Every check runs on ``implicit.als.AlternatingLeastSquares`` and on `rgals.RankingALS`."""

    def test_there_are_no_factors_before_the_fit_and_float32_ones_after(self, make, board):
        model = make()
        assert model.user_factors is None
        assert model.item_factors is None
        model.fit(board, show_progress=False)
        assert model.user_factors.shape == model.item_factors.shape == (SIZE, 32)
        assert model.user_factors.dtype == model.item_factors.dtype == np.float32

    def test_the_withheld_item_comes_back_alone_and_in_a_batch(self, make):
        board = make_checkerboard(256)
        model = fit(make, board)
        users = np.arange(256)
        ids, scores = model.recommend(users, board, N=1)
        assert (ids.shape, scores.shape) == ((256, 1), (256, 1))
        np.testing.assert_array_equal(ids[:, 0], users)
        for user in range(0, 256, 15):
            one_ids, one_scores = model.recommend(user, board[user], N=1)
            assert one_ids.tolist() == [user]
            np.testing.assert_allclose(one_scores, scores[user], rtol=1e-3, atol=1e-5)

    def test_results_are_two_arrays_of_integers_and_floats(self, model, board):
        ids, scores = model.recommend(0, board[0], N=4)
        assert ids.shape == scores.shape == (4,)
        assert ids.dtype == np.int32
        assert scores.dtype == np.float32
        assert (np.diff(scores) <= 0).all()

    def test_scores_are_products_of_factors(self, model, board):
        ids, scores = model.recommend([3, 4], board[[3, 4]], N=6)
        products = model.user_factors[[3, 4]] @ model.item_factors.T
        np.testing.assert_allclose(scores, np.take_along_axis(products, ids.astype(int), axis=1), atol=1e-5)

    def test_more_than_there_is_begins_with_all_that_is_left(self, model, board):
        ids, scores = model.recommend(0, board[0], N=10000)
        n_left = SIZE - board[0].nnz
        assert set(ids[:n_left]) == set(range(SIZE)) - set(board[0].indices)
        assert (scores[:n_left] > NO_SCORE).all()
        assert (scores[n_left:SIZE] == NO_SCORE).all()

    def test_filtered_items_are_absent(self, model, board):
        for user, rows in ((0, board[0]), (np.array([2, 3, 4]), board[[2, 3, 4]])):
            ids, _ = model.recommend(user, rows, N=5, filter_items=[0, 2, 7])
            assert not np.isin(ids, [0, 2, 7]).any()

    def test_liked_items_come_first_when_they_are_not_filtered(self, model, board):
        users = np.arange(SIZE)
        ids, _ = model.recommend(users, board, N=5, filter_already_liked_items=False)
        assert ((ids - users[:, None]) % 2 == 0).all()
        without, _ = model.recommend(users, None, N=5, filter_already_liked_items=False)
        np.testing.assert_array_equal(ids, without)

    def test_recalculated_users_get_the_lists_of_the_training(self, model, board):
        users = np.arange(SIZE)
        batch, batch_scores = model.recommend(users, board, N=1, recalculate_user=True)
        stored, stored_scores = model.recommend(users, board, N=1)
        assert (batch == stored).mean() > 0.9
        np.testing.assert_allclose(batch_scores, stored_scores, atol=0.05)
        for user in range(0, SIZE, 7):
            ids, scores = model.recommend(0, board[user], N=1, recalculate_user=True)
            np.testing.assert_array_equal(ids, batch[user])
            np.testing.assert_allclose(scores, batch_scores[user], atol=1e-4)

    def test_given_items_are_ranked_with_the_liked_ones_last(self, model, board):
        ids, scores = model.recommend(0, board[0], items=np.arange(1, 7), N=20)
        assert len(ids) == 6
        assert set(ids[:3]) == {1, 3, 5}
        assert set(ids[3:]) == {2, 4, 6}
        assert (scores[3:] == NO_SCORE).all()
        batch, _ = model.recommend(np.arange(SIZE), board, items=np.arange(10) * 3)
        assert (np.sort(batch, axis=1) == np.arange(10) * 3).all()

    @pytest.mark.parametrize("wrong", [[-1, -3], [51, 300], [50]])
    def test_given_items_that_do_not_exist_are_an_index_error(self, model, board, wrong):
        with pytest.raises(IndexError):
            model.recommend(0, board[0], items=[1, 2, *wrong])

    def test_given_and_filtered_items_exclude_each_other(self, model, board):
        with pytest.raises(ValueError, match="filter_items"):
            model.recommend(0, board[0], items=[1], filter_items=[2])
        with pytest.raises(ValueError, match="filter_items"):
            model.similar_items(0, items=[1], filter_items=[2])
        with pytest.raises(ValueError, match="filter_users"):
            model.similar_users(0, users=[1], filter_users=[2])

    def test_a_user_beyond_the_last_is_an_index_error(self, model, board):
        with pytest.raises(IndexError):
            model.recommend(SIZE, board[0])

    @pytest.mark.parametrize("form", ["csc", "coo"])
    def test_other_formats_are_refused_by_recommend(self, model, board, form):
        with pytest.raises(ValueError, match="CSR"):
            model.recommend(0, board[0].asformat(form))

    def test_one_row_for_each_user_is_wanted(self, model, board):
        with pytest.raises(ValueError, match="row"):
            model.recommend(0, board)
        with pytest.raises(ValueError, match="row"):
            model.recommend([0, 1], board[0])
        with pytest.raises(ValueError, match="row"):
            model.recalculate_user([0, 1], board[0])
        with pytest.raises(ValueError, match="row"):
            model.partial_fit_users([0, 1], board[0])

    def test_neighbors_share_the_color_and_begin_with_the_row_itself(self, make):
        board = make_checkerboard(256)
        model = fit(make, board)
        rows = np.arange(50)
        for ids, scores in (model.similar_items(rows, N=10), model.similar_users(rows, N=10)):
            assert ids.shape == (50, 10)
            np.testing.assert_array_equal(ids[:, 0], rows)
            np.testing.assert_allclose(scores[:, 0], 1, atol=1e-4)
            assert ((ids - rows[:, None]) % 2 == 0).all()
        recalculated, _ = model.similar_items(rows, N=10, recalculate_item=True, item_users=board.T.tocsr()[rows])
        np.testing.assert_array_equal(recalculated[:, 0], rows)
        assert ((recalculated - rows[:, None]) % 2 == 0).all()

    def test_one_neighbor_list_has_one_dimension(self, model):
        for ids, scores in (model.similar_items(3, N=4), model.similar_users(3, N=4)):
            assert ids.shape == scores.shape == (4,)
            assert ids[0] == 3

    def test_neighbors_can_be_excluded_and_chosen(self, model):
        rows, excluded, chosen = np.arange(SIZE), np.arange(10) * 5, np.arange(10)
        for ids, _ in (
            model.similar_items(rows, N=10, filter_items=excluded),
            model.similar_users(rows, N=10, filter_users=excluded),
        ):
            assert (ids % 5 != 0).all()
        for ids, _ in (model.similar_items(rows, N=10, items=chosen), model.similar_users(rows, N=10, users=chosen)):
            assert (np.sort(ids, axis=1) == chosen).all()

    def test_chosen_neighbors_that_do_not_exist_are_an_index_error(self, model):
        with pytest.raises(IndexError):
            model.similar_items(0, items=[SIZE])
        with pytest.raises(IndexError):
            model.similar_users(0, users=[SIZE])

    def test_rows_and_columns_without_interactions_do_no_harm(self, make, board):
        holes = board.toarray()
        holes[[42, 49]] = 0
        holes[:, [42, 49]] = 0
        model = fit(make, csr_matrix(holes))
        assert np.isfinite(model.user_factors).all()
        assert np.isfinite(model.item_factors).all()
        ids, _ = model.similar_items(np.arange(40), N=10)
        assert not np.isin(ids, [42, 49]).any()

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int32, bool])
    def test_weights_may_have_any_type(self, make, board, dtype):
        model = make()
        model.fit(board.astype(dtype), show_progress=False)
        expected = make()
        expected.fit(board, show_progress=False)
        np.testing.assert_allclose(model.item_factors, expected.item_factors, atol=1e-4)

    def test_another_format_is_converted_by_fit_with_a_warning(self, make, board):
        kind = ParameterWarning if make is make_implicit else scipy.sparse.SparseEfficiencyWarning
        model = make()
        with pytest.warns(kind, match="CSR"):
            model.fit(board.tocoo(), show_progress=False)
        assert model.item_factors.shape == (SIZE, 32)

    def test_falling_weights_and_nearly_empty_matrices_give_finite_factors(self, make):
        falling = np.triu(np.ones((12, 12)), 1) * (1 + 1 / np.maximum(1, np.arange(12) - np.arange(12)[:, None]))
        falling[[5, 11]] = 0
        nearly_empty = scipy.sparse.random_array((100, 100), density=0.0005, rng=np.random.default_rng(42)).tocsr()
        for matrix in (csr_matrix(falling), csr_matrix(nearly_empty)):
            model = fit(make, matrix)
            assert np.isfinite(model.user_factors).all()
            assert np.isfinite(model.item_factors).all()

    def test_the_callback_gets_number_and_seconds(self, make, board):
        calls = []
        make().fit(board, show_progress=False, callback=lambda number, seconds, loss: calls.append((number, seconds)))
        assert [number for number, _ in calls] == list(range(len(calls)))
        assert len(calls) == 15
        assert all(seconds >= 0 for _, seconds in calls)

    def test_a_new_user_and_a_new_item_can_be_added(self, make):
        board = make_checkerboard(256)
        model = fit(make, board)
        model.partial_fit_users([257], board[4])
        model.partial_fit_items([257], csr_matrix(np.append(board.toarray()[:, 4], [0, 0])))
        assert model.user_factors.shape == model.item_factors.shape == (258, 32)
        assert not model.user_factors[256].any()
        ids, _ = model.recommend(257, None, N=5, filter_already_liked_items=False)
        assert (ids[ids < 256] % 2 == 0).all()
        ids, _ = model.similar_items(257, N=5)
        assert 257 in ids
        assert (ids[ids < 256] % 2 == 0).all()

    def test_explanations_list_liked_items_and_give_the_score(self, model, board):
        ids, scores = model.recommend(4, board[4], N=1, recalculate_user=True)
        score, contributions, weights = model.explain(4, board, int(ids[0]), N=SIZE)
        assert score == pytest.approx(float(scores[0]), abs=1e-3)
        assert sorted(item for item, _ in contributions) == board[4].indices.tolist()
        shares = [share for _, share in contributions]
        assert shares == sorted(shares, reverse=True)
        again, top, _ = model.explain(4, board, int(ids[0]), user_weights=weights, N=2)
        assert again == pytest.approx(score)
        assert top == contributions[:2]

    def test_saving_loading_and_pickling_keep_the_answers(self, model, board, tmp_path):
        model.save(str(tmp_path / "model.npz"))
        for copy in (type(model).load(str(tmp_path / "model.npz")), pickle.loads(pickle.dumps(model))):
            for old, new in zip(model.recommend(3, board[3]), copy.recommend(3, board[3]), strict=True):
                np.testing.assert_allclose(old, new, rtol=1e-5)

    def test_the_evaluation_of_implicit_runs(self, make):
        board = make_checkerboard(256)
        model = fit(make, board)
        withheld = csr_matrix(np.eye(256))
        assert precision_at_k(model, board, withheld, K=1, show_progress=False) == 1.0
        assert ndcg_at_k(model, board, withheld, K=5, show_progress=False) == pytest.approx(1.0)


@pytest.mark.parametrize("weights", [1.0, 3.0])
def test_the_ials_member_takes_the_same_sweep_as_the_exact_solver_of_implicit(weights):
    random = np.random.default_rng(9)
    liked = csr_matrix((random.random((60, 45)) < 0.2) * (weights * random.integers(1, 4, (60, 45))))
    starts = [random.normal(0, 0.1, (n, 8)).astype(np.float32) for n in (60, 45)]
    alpha, reg = 0.8, 0.3
    theirs = AlternatingLeastSquares(factors=8, regularization=reg, iterations=2, use_cg=False)
    theirs.user_factors, theirs.item_factors = starts[0].copy(), starts[1].copy()
    confidences = liked.copy()
    confidences.data = 1 + alpha * confidences.data
    theirs.fit(confidences, show_progress=False)
    ours = RankingALS(n_factors=8, loss="ials", alpha=alpha, reg=reg, nu=0, n_sweeps=2, solver="exact", warm_start=True)
    ours.user_factors, ours.item_factors = starts[0].copy(), starts[1].copy()
    ours.fit(liked, show_progress=False)
    expected = theirs.user_factors @ theirs.item_factors.T
    np.testing.assert_allclose(ours.user_factors @ ours.item_factors.T, expected, rtol=1e-4, atol=2e-5)
    ids, scores = ours.recommend(7, liked[7], N=10, recalculate_user=True)
    their_ids, their_scores = theirs.recommend(7, confidences[7], N=10, recalculate_user=True)
    np.testing.assert_array_equal(ids, their_ids)
    np.testing.assert_allclose(scores, their_scores, atol=1e-4)


def test_without_a_ridge_and_with_enough_factors_the_ials_member_reconstructs_the_matrix():
    liked = csr_matrix(np.tri(6))
    model = RankingALS(n_factors=6, loss="ials", alpha=1, reg=0, solver="exact", n_sweeps=30, random_state=1)
    model.fit(liked, show_progress=False)
    np.testing.assert_allclose(model.user_factors @ model.item_factors.T, liked.toarray(), atol=1e-3)
