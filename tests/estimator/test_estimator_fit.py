"""Fitting: input formats, what is learned, progress, callbacks, warm starts, determinism."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse import csr_array, csr_matrix

from rgals import RankingALS
from rgals.errors import InputError, NumericalError


def fit(matrix, **parameters):
    defaults = {"n_factors": 4, "random_state": 0, "n_sweeps": 3}
    return RankingALS(**(defaults | parameters)).fit(matrix, show_progress=False)


def test_fit_gives_the_estimator_back_and_learns(graded):
    model = RankingALS(n_factors=5, n_sweeps=4, random_state=0)
    assert model.user_factors is None
    assert model.item_factors is None
    assert model.fit(graded, show_progress=False) is model
    assert model.user_factors.shape == (30, 5)
    assert model.item_factors.shape == (20, 5)
    assert model.user_factors.dtype == model.item_factors.dtype == np.float32
    assert model.user_factors.flags.c_contiguous
    assert model.n_features_in_ == 20
    assert model.n_iter_ == 4
    np.testing.assert_array_equal(model.user_degrees_, np.diff(graded.indptr))
    np.testing.assert_array_equal(model.item_degrees_, np.diff(graded.tocsc().indptr))
    np.testing.assert_allclose(model.user_weight_sums_, np.asarray(graded.sum(axis=1)).ravel())


def test_the_objective_falls_in_every_sweep(fitted_graded):
    assert fitted_graded.objectives_.shape == (60,)
    assert (np.diff(fitted_graded.objectives_) <= 1e-6 * np.abs(fitted_graded.objectives_[1:])).all()
    assert fitted_graded.objectives_[-1] < fitted_graded.objectives_[0]


def test_degree_weights_keep_the_total_weight(graded):
    model = fit(graded, user_exponent=-0.5, item_exponent=-0.25)
    assert model.weight_scale_ != 1.0
    assert model.user_weight_sums_.sum() == pytest.approx(graded.sum(), rel=1e-5)
    assert not np.allclose(model.user_weight_sums_, np.asarray(graded.sum(axis=1)).ravel())


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int8, np.uint16])
def test_weights_of_any_numeric_type_give_the_same_model(graded, dtype):
    np.testing.assert_array_equal(fit(graded.astype(dtype)).item_factors, fit(graded).item_factors)


def test_boolean_interactions_have_weight_one(checkerboard):
    np.testing.assert_array_equal(fit(checkerboard.astype(bool)).item_factors, fit(checkerboard).item_factors)


def test_a_sparse_array_is_as_good_as_a_sparse_matrix(graded):
    np.testing.assert_array_equal(fit(csr_array(graded)).item_factors, fit(graded).item_factors)


@pytest.mark.parametrize("form", ["coo", "csc", "lil", "dok"])
def test_another_sparse_format_is_converted_with_a_warning(graded, form):
    expected = fit(graded).item_factors
    with pytest.warns(
        scipy.sparse.SparseEfficiencyWarning, match=f"found {form.upper()}, which is converted"
    ) as caught:
        model = fit(graded.asformat(form))
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(model.item_factors, expected)


def test_unsorted_and_repeated_entries_are_summed_and_zeros_dropped(graded):
    coordinates = graded.tocoo()
    order = np.random.default_rng(0).permutation(graded.nnz)
    halves = np.concatenate([coordinates.data[order], coordinates.data[order], [0.0]]) / 2
    rows = np.concatenate([coordinates.row[order], coordinates.row[order], [0]])
    columns = np.concatenate([coordinates.col[order], coordinates.col[order], [19]])
    starts = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=30))])
    messy = csr_matrix((halves[starts], columns[starts], indptr), graded.shape)
    np.testing.assert_array_equal(fit(messy).item_factors, fit(graded).item_factors)
    assert messy.nnz == 2 * graded.nnz + 1  # the caller's matrix is as it was


def test_small_integers_do_not_overflow_when_duplicates_are_summed():
    twice = csr_matrix((np.array([100, 100, 1], dtype=np.int8), np.array([0, 0, 1]), np.array([0, 2, 3])), (2, 2))
    once = csr_matrix(np.array([[200.0, 0], [0, 1]]))
    np.testing.assert_array_equal(fit(twice).item_factors, fit(once).item_factors)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_not_positive_and_finite_is_refused_with_its_place(graded, value):
    bad = graded.copy()
    bad[4, 4] = value
    with pytest.raises(InputError, match=r"user_items: row 4, column 4: expected a finite positive weight"):
        fit(bad)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 3)), r"user_items: expected a scipy sparse CSR matrix, found ndarray; convert"),
        (None, "found NoneType"),
        (csr_matrix((3, 3)), r"at least one interaction, found a matrix of shape \(3, 3\)"),
        (csr_matrix(np.eye(3) * 1j), "numeric weights, found dtype complex128"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(matrix, message):
    with pytest.raises(InputError, match=message):
        fit(matrix)


def test_rows_and_columns_without_interactions_get_finite_factors(checkerboard):
    holes = checkerboard.tolil()
    holes[[11, 39]] = 0
    holes[:, [11, 39]] = 0
    model = fit(holes.tocsr(), n_factors=16)
    assert np.isfinite(model.user_factors).all()
    assert np.isfinite(model.item_factors).all()
    assert not model.user_factors[[11, 39]].any()


@pytest.mark.parametrize("solver", ["cg", "exact"])
@pytest.mark.parametrize("loss", ["rg2", "rgx", "ials"])
def test_a_nearly_empty_matrix_gives_finite_factors(loss, solver):
    nearly_empty = scipy.sparse.random_array((100, 100), density=0.0005, format="csr", rng=np.random.default_rng(4))
    model = fit(nearly_empty, loss=loss, n_factors=32, reg=10, n_sweeps=10, solver=solver)
    assert np.isfinite(model.user_factors).all()
    assert np.isfinite(model.item_factors).all()


@pytest.mark.parametrize("loss", ["rg2", "rgx", "ials"])
def test_more_factors_than_rows_give_finite_factors(loss, graded):
    model = fit(graded, loss=loss, n_factors=48, n_sweeps=20)
    assert np.isfinite(model.item_factors).all()


def test_a_solution_that_does_not_exist_is_an_error_and_leaves_no_factors():
    model = RankingALS(n_factors=8, reg=0, solver="cholesky", random_state=0)
    with pytest.raises(NumericalError, match="raise reg"):
        model.fit(csr_matrix(np.eye(3)), show_progress=False)
    assert model.user_factors is None


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(checkerboard):
    models = [fit(checkerboard, n_threads=n) for n in (1, 2, 0, None)]
    for model in models[1:]:
        np.testing.assert_array_equal(model.user_factors, models[0].user_factors)
        np.testing.assert_array_equal(model.item_factors, models[0].item_factors)


def test_refitting_starts_anew(graded):
    model = fit(graded)
    first = model.item_factors
    np.testing.assert_array_equal(model.fit(graded, show_progress=False).item_factors, first)


def test_another_seed_gives_another_start(graded):
    assert not np.array_equal(fit(graded, random_state=1).item_factors, fit(graded, random_state=2).item_factors)


def test_no_seed_gives_another_model_each_time(graded):
    assert not np.array_equal(fit(graded, random_state=None).item_factors, fit(graded, random_state=None).item_factors)


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_a_generator_gives_a_reproducible_sequence_of_models(graded, make):
    first, second = make(7), make(7)
    one = [fit(graded, random_state=first).item_factors for _ in range(2)]
    two = [fit(graded, random_state=second).item_factors for _ in range(2)]
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one[0], one[1])


def test_a_warm_start_goes_on_where_the_fit_ended(graded):
    long = fit(graded, n_sweeps=8, solver="exact")
    model = fit(graded, n_sweeps=3, solver="exact", warm_start=True)
    model.set_params(n_sweeps=5).fit(graded, show_progress=False)
    assert model.n_iter_ == 8
    assert model.objectives_.shape == (5,)
    np.testing.assert_allclose(model.objectives_, long.objectives_[3:], rtol=1e-4)
    scores = [m.user_factors @ m.item_factors.T for m in (model, long)]
    np.testing.assert_allclose(*scores, atol=2e-3)


def test_a_warm_start_from_factors_of_another_shape_is_refused(graded):
    model = fit(graded, warm_start=True)
    with pytest.raises(InputError, match=r"item_factors|user_factors"):
        model.set_params(n_factors=5).fit(graded, show_progress=False)


def test_the_callback_gets_number_seconds_and_objective_with_the_factors_of_the_moment(graded):
    calls = []
    model = RankingALS(n_factors=4, n_sweeps=3, random_state=0)

    def callback(number, seconds, objective):
        calls.append((number, seconds, objective, model.n_iter_, model.user_factors.copy()))

    model.fit(graded, show_progress=False, callback=callback)
    assert [call[0] for call in calls] == [0, 1, 2]
    assert all(call[1] > 0 for call in calls)
    np.testing.assert_array_equal([call[2] for call in calls], model.objectives_)
    assert [call[3] for call in calls] == [1, 2, 3]
    assert not np.array_equal(calls[0][4], calls[1][4])
    np.testing.assert_array_equal(calls[-1][4], model.user_factors)


def test_a_callback_can_end_the_fit_and_the_model_keeps_what_it_learned(graded):
    def stop_after_two(number, seconds, objective):
        if number == 1:
            raise KeyboardInterrupt

    model = RankingALS(n_factors=4, n_sweeps=50, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(graded, show_progress=False, callback=stop_after_two)
    assert model.n_iter_ == 2
    np.testing.assert_array_equal(model.item_factors, fit(graded, n_sweeps=2).item_factors)


def test_progress_is_drawn_on_standard_error_only_when_asked_for(graded, capsys):
    RankingALS(n_factors=4, n_sweeps=2, random_state=0).fit(graded)
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert "objective" in shown.err
    assert shown.out == ""
    fit(graded)
    assert capsys.readouterr() == ("", "")


def test_fold_in_follows_the_loss_of_the_fit_and_not_later_parameters(graded):
    model = fit(graded)
    before = model.recalculate_user(0, graded[0])
    model.set_params(alpha=50.0, reg=9.0)
    np.testing.assert_array_equal(model.recalculate_user(0, graded[0]), before)
