import sys
import time

import numpy as np
import pytest
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from rgals.baselines.implicit_als import IalsOptions, fit_ials
from rgals.baselines.model import FittedBaseline, Round
from rgals.errors import InputError, MissingDependencyError, NumericalError
from rgals.numerics.sparse import InteractionRows
from tests.baselines.test_simple import random_rows

OPTIONS = IalsOptions(n_factors=4, reg=0.1, alpha=3.0, n_sweeps=6, use_cg=False, seed=5)


def test_the_factors_are_implicits_own() -> None:
    rows = random_rows()
    found = fit_ials(rows, OPTIONS, n_threads=1)
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=4, regularization=0.1, alpha=3.0, iterations=6, use_cg=False, random_state=5, num_threads=1
        )
        model.fit(scipy.sparse.csr_matrix(rows.to_scipy()), show_progress=False)
    np.testing.assert_array_equal(found.user_factors, model.user_factors)
    np.testing.assert_array_equal(found.item_factors, model.item_factors)
    assert found.name == "ials"
    assert found.train_s > 0
    assert found.options["alpha"] == 3.0
    assert found.options["library"] == "implicit"


def test_a_user_is_folded_in_by_the_normal_equations_of_the_weighted_squared_loss() -> None:
    found = fit_ials(random_rows(), OPTIONS, n_threads=1)
    rows = random_rows(5, 12, seed=9)
    items = found.item_factors.astype(np.float64)
    for user, factors in enumerate(found.fold_in(rows, 2)):
        observed = items[rows.columns_of(user)]
        confidence = OPTIONS.alpha * rows.weights_of(user).astype(np.float64)
        system = items.T @ items + (observed.T * (confidence - 1)) @ observed + OPTIONS.reg * np.eye(4)
        np.testing.assert_allclose(factors, np.linalg.solve(system, observed.T @ confidence), rtol=2e-3, atol=1e-4)


def test_a_user_without_interactions_has_zero_factors() -> None:
    rows = random_rows()
    rows = rows.take(np.arange(29))
    empty = InteractionRows(np.append(rows.indptr, rows.indptr[-1]), rows.columns, rows.weights, 12)
    for use_cg in (True, False):
        found = fit_ials(empty, OPTIONS.model_copy(update={"use_cg": use_cg}), n_threads=1)
        np.testing.assert_array_equal(found.user_factors[29], 0)
    np.testing.assert_array_equal(found.fold_in(empty.row_slice(29, 30), 1), np.zeros((1, 4)))


def test_rows_without_weights_count_one_each() -> None:
    weighted = random_rows()
    plain = InteractionRows(weighted.indptr, weighted.columns, None, 12)
    ones = InteractionRows(weighted.indptr, weighted.columns, np.ones(weighted.n_interactions, np.float32), 12)
    np.testing.assert_array_equal(
        fit_ials(plain, OPTIONS, n_threads=1).item_factors, fit_ials(ones, OPTIONS, n_threads=1).item_factors
    )


def test_the_interactions_are_not_changed_by_fitting() -> None:
    rows = random_rows()
    assert rows.weights is not None
    before = rows.indptr.copy(), rows.columns.copy(), rows.weights.copy()
    fit_ials(rows, OPTIONS)
    for array, copy in zip((rows.indptr, rows.columns, rows.weights), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_without_implicit_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(MissingDependencyError, match=r"pip install rgals\[baselines\]"):
        fit_ials(random_rows(), OPTIONS)


def test_factors_that_are_not_finite_are_refused() -> None:
    rows = random_rows()
    huge = InteractionRows(rows.indptr, rows.columns, np.full(rows.n_interactions, 3e38, np.float32), 12)
    with pytest.raises(NumericalError, match=r"reg=0\.1"), np.errstate(all="ignore"):
        fit_ials(huge, OPTIONS, n_threads=1)


@pytest.mark.parametrize(
    "options", [{"n_factors": 0}, {"reg": -1}, {"alpha": 0}, {"n_sweeps": 0}, {"seed": -1}, {"k": 1}]
)
def test_options_out_of_bounds_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        IalsOptions.model_validate(options)


@pytest.mark.parametrize("use_cg", [True, False])
def test_each_round_is_what_a_fit_of_so_many_sweeps_gives(use_cg: bool) -> None:
    rows, options = random_rows(), OPTIONS.model_copy(update={"use_cg": use_cg})
    new = random_rows(5, 12, seed=9)
    seen: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []  # type: ignore[type-arg]

    def watch(found: Round) -> bool:
        model = found.model()
        assert isinstance(model, FittedBaseline)
        assert (found.loss, model.train_s) == (None, found.train_s)
        seen.append((found.number, model.user_factors.copy(), model.item_factors.copy(), model.fold_in(new, 1)))
        return True

    last = fit_ials(rows, options, n_threads=1, watch=watch)
    assert [number for number, *_ in seen] == [1, 2, 3, 4, 5, 6]
    for number, users, items, folded in seen:
        alone = fit_ials(rows, options.model_copy(update={"n_sweeps": number}), n_threads=1)
        np.testing.assert_array_equal(users, alone.user_factors)
        np.testing.assert_array_equal(items, alone.item_factors)
        np.testing.assert_array_equal(folded, alone.fold_in(new, 1))
    np.testing.assert_array_equal(last.item_factors, seen[-1][2])
    np.testing.assert_array_equal(last.fold_in(new, 1), seen[-1][3])


def test_a_watch_ends_the_fit_and_its_time_does_not_count() -> None:
    def watch(found: Round) -> bool:
        time.sleep(0.2)
        return found.number < 3

    stopped = fit_ials(random_rows(), OPTIONS, n_threads=1, watch=watch)
    alone = fit_ials(random_rows(), OPTIONS.model_copy(update={"n_sweeps": 3}), n_threads=1)
    np.testing.assert_array_equal(stopped.item_factors, alone.item_factors)
    assert 0 < stopped.train_s < 0.2


def test_an_error_in_a_watch_is_not_swallowed() -> None:
    def watch(found: Round) -> bool:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit_ials(random_rows(), OPTIONS, n_threads=1, watch=watch)


@pytest.mark.parametrize("use_cg", [True, False])
def test_factors_do_not_depend_on_threads(use_cg: bool) -> None:
    rows, options = random_rows(300, 80), OPTIONS.model_copy(update={"use_cg": use_cg})
    one, three = (fit_ials(rows, options, n_threads=n_threads) for n_threads in (1, 3))
    np.testing.assert_array_equal(one.user_factors, three.user_factors)
    np.testing.assert_array_equal(one.item_factors, three.item_factors)
    np.testing.assert_array_equal(one.fold_in(rows, 1), one.fold_in(rows, 3))


def test_factors_that_are_not_finite_are_refused_before_a_watch_sees_them() -> None:
    rows = random_rows()
    huge = InteractionRows(rows.indptr, rows.columns, np.full(rows.n_interactions, 3e38, np.float32), 12)
    seen: list[int] = []
    with pytest.raises(NumericalError, match="choose a larger reg"), np.errstate(all="ignore"):
        fit_ials(huge, OPTIONS, n_threads=1, watch=lambda found: bool(seen.append(found.number)))  # type: ignore[func-returns-value]
    assert seen == []


def test_more_interactions_than_implicit_counts_are_refused() -> None:
    many = InteractionRows(np.array([0, 2**31]), np.zeros(1, np.int32), None, 12)
    with pytest.raises(InputError, match="at most 2,147,483,647 interactions, found 2,147,483,648"):
        fit_ials(many, OPTIONS)
