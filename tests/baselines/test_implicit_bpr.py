import sys
from typing import Any

import numpy as np
import pytest
from implicit.cpu.bpr import BayesianPersonalizedRanking
from pydantic import ValidationError

from rgals.baselines import implicit_bpr
from rgals.baselines.implicit_bpr import BprOptions, fit_bpr
from rgals.baselines.implicit_library import to_csr
from rgals.baselines.model import FittedBaseline, Round
from rgals.errors import MissingDependencyError, NumericalError
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k
from tests.baselines.test_simple import random_rows

OPTIONS = BprOptions(n_factors=4, learning_rate=0.1, reg=0.02, n_epochs=12, seed=5)


def with_options(**changes: Any) -> BprOptions:
    return OPTIONS.model_copy(update=changes)


def two_tastes(n_users: int = 60, n_items: int = 20) -> InteractionRows:
    """Users of even rows like items of even rows, and vice versa; each has half of them."""
    generator = np.random.default_rng(3)
    users, items = np.nonzero(generator.random((n_users, n_items)) < 0.5)
    is_liked = users % 2 == items % 2
    return InteractionRows.from_pairs(users[is_liked], items[is_liked], None, n_users, n_items)


def test_the_factors_are_implicits_own_and_scores_its_own_with_bias() -> None:
    rows = random_rows()
    found = fit_bpr(rows, OPTIONS, n_threads=1)
    model = BayesianPersonalizedRanking(
        factors=4, learning_rate=0.1, regularization=0.02, iterations=12, num_threads=1, random_state=5
    )
    model.fit(to_csr(rows), show_progress=False)
    has_items = rows.degrees > 0
    np.testing.assert_array_equal(found.user_factors[has_items], model.user_factors[has_items])
    np.testing.assert_array_equal(found.item_factors, model.item_factors)
    assert found.item_factors.shape == (12, 5)
    np.testing.assert_array_equal(found.user_factors[:, 4], has_items)
    items, scores = model.recommend(7, to_csr(rows)[7], N=12, filter_already_liked_items=False)
    ranked = top_k(found.user_factors_of(np.array([7])), found.item_factors, 12)
    np.testing.assert_array_equal(ranked.items[0], items)
    np.testing.assert_allclose(ranked.scores[0], scores, rtol=1e-5)
    assert (found.name, found.options["library"], found.options["reg"]) == ("bpr", "implicit", 0.02)
    assert found.train_s > 0


def test_a_fit_with_one_thread_is_repeatable_and_one_with_several_says_that_it_is_not() -> None:
    rows = random_rows()
    first, again, other = (fit_bpr(rows, with_options(seed=seed), n_threads=1) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.item_factors, again.item_factors)
    assert (first.item_factors != other.item_factors).any()
    assert first.notes == ()
    assert "2 threads" in fit_bpr(rows, OPTIONS, n_threads=2).notes[0]


def test_each_round_is_what_a_fit_of_so_many_epochs_gives_and_a_watch_ends_it() -> None:
    rows = random_rows()
    seen: list[tuple[int, np.ndarray]] = []  # type: ignore[type-arg]

    def watch(found: Round) -> bool:
        model = found.model()
        assert isinstance(model, FittedBaseline)
        seen.append((found.number, model.item_factors.copy()))
        return found.number < 3

    stopped = fit_bpr(rows, OPTIONS, n_threads=1, watch=watch)
    assert [number for number, _ in seen] == [1, 2, 3]
    for number, items in seen:
        alone = fit_bpr(rows, with_options(n_epochs=number), n_threads=1)
        np.testing.assert_array_equal(items, alone.item_factors)
    np.testing.assert_array_equal(stopped.item_factors, seen[-1][1])


def test_a_user_without_interactions_has_zero_factors_in_every_round() -> None:
    rows = random_rows().take(np.arange(29))
    empty = InteractionRows(np.append(rows.indptr, rows.indptr[-1]), rows.columns, rows.weights, 12)
    n_zero: list[int] = []

    def watch(found: Round) -> bool:
        model = found.model()
        assert isinstance(model, FittedBaseline)
        n_zero.append(int((~model.user_factors.any(axis=1)).sum()))
        return True

    found = fit_bpr(empty, with_options(n_epochs=3), n_threads=1, watch=watch)
    assert n_zero == [(empty.degrees == 0).sum()] * 3
    np.testing.assert_array_equal(found.user_factors[29], 0)
    np.testing.assert_array_equal(found.fold_in(empty.row_slice(29, 30), 1), np.zeros((1, 5)))
    unseen = fit_bpr(empty, with_options(n_epochs=3), n_threads=1)
    np.testing.assert_array_equal(found.item_factors, unseen.item_factors)


def test_a_dataset_without_interactions_ranks_for_nobody() -> None:
    nothing = InteractionRows(np.zeros(4, np.int64), np.zeros(0, np.int32), None, 5)
    found = fit_bpr(InteractionRows(np.array([0, 1, 1]), np.zeros(1, np.int32), None, 5), OPTIONS, n_threads=1)
    np.testing.assert_array_equal(found.fold_in(nothing, 1), np.zeros((3, 5)))


def test_tastes_are_learned_and_new_users_are_told_apart() -> None:
    rows = two_tastes()
    model = fit_bpr(rows, BprOptions(n_factors=4, learning_rate=0.1, n_epochs=200), n_threads=1)
    new = two_tastes(40)
    for factors, seen in ((model.user_factors, rows), (model.fold_in(new, 2), new)):
        lists = top_k(factors, model.item_factors, 3, seen=seen).items
        assert (lists % 2 == np.arange(len(lists))[:, None] % 2).mean() > 0.95


def pair_loss_gradient(
    user: np.ndarray[Any, Any], history: np.ndarray[Any, Any], items: np.ndarray[Any, Any], drawn: Any, reg: float
) -> np.ndarray[Any, Any]:
    others = drawn[~np.isin(drawn, history)]
    differences = items[history][:, None, :-1] - items[others][None, :, :-1]
    biases = items[history][:, None, -1] - items[others][None, :, -1]
    slopes = 1 / (1 + np.exp(differences @ user + biases))
    return np.asarray(reg * user - (slopes[..., None] * differences).mean(axis=(0, 1)))


def test_a_new_user_gets_the_optimum_of_the_pairs_of_their_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_bpr, "_FOLD_IN_TOLERANCE", 1e-6)
    monkeypatch.setattr(implicit_bpr, "_FOLD_IN_STEPS", 5000)
    model = fit_bpr(random_rows(), OPTIONS, n_threads=1)
    items = model.item_factors.astype(np.float64)
    drawn = implicit_bpr._draw_negatives(random_rows(), OPTIONS.seed)
    rows = random_rows(8, 12, seed=9)
    solved = model.fold_in(rows, 1)
    assert (rows.degrees > 0).sum() > 5
    for row in np.flatnonzero(rows.degrees):
        vector = solved[row]
        history = rows.columns_of(row)
        start = pair_loss_gradient(np.zeros(4), history, items, drawn, OPTIONS.reg)
        end = pair_loss_gradient(vector[:4].astype(np.float64), history, items, drawn, OPTIONS.reg)
        assert np.linalg.norm(end) < 1e-5 * np.linalg.norm(start)
        assert vector[4] == 1


def test_new_users_do_not_depend_on_threads_or_on_who_is_asked_for_together() -> None:
    model = fit_bpr(random_rows(), OPTIONS, n_threads=1)
    rows = random_rows(100, 12, seed=9)
    together = model.fold_in(rows, 1)
    np.testing.assert_array_equal(model.fold_in(rows, 3), together)
    np.testing.assert_array_equal(model.fold_in(rows.row_slice(70, 72), 1), together[70:72])


def test_a_new_user_who_has_every_drawn_item_gets_the_bias_alone() -> None:
    train = InteractionRows(np.array([0, 1, 2]), np.array([3, 3], np.int32), None, 5)
    model = fit_bpr(train, with_options(n_epochs=1), n_threads=1)
    everything = InteractionRows(np.array([0, 5]), np.arange(5, dtype=np.int32), None, 5)
    np.testing.assert_array_equal(model.fold_in(everything, 1), [[0, 0, 0, 0, 1]])


def test_factors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NumericalError, match=r"learning_rate=1e\+30.*choose a smaller learning rate"):
        fit_bpr(random_rows(), with_options(learning_rate=1e30), n_threads=1)


def test_without_implicit_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.bpr", None)
    with pytest.raises(MissingDependencyError, match=r"BPR baseline .* pip install rgals\[baselines\]"):
        fit_bpr(random_rows(), OPTIONS)


@pytest.mark.parametrize(
    "options", [{"n_factors": 0}, {"learning_rate": 0}, {"reg": -1}, {"n_epochs": 0}, {"seed": -1}, {"k": 1}]
)
def test_options_out_of_bounds_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BprOptions.model_validate(options)
