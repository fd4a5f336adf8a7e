from collections.abc import Callable

import numpy as np
import pytest

from rgals.baselines.model import FittedBaseline, Round
from rgals.baselines.simple import RandomOptions, fit_popularity, fit_random
from rgals.errors import InputError
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k


def random_rows(n_users: int = 30, n_items: int = 12, seed: int = 0, density: float = 0.3) -> InteractionRows:
    users, items = np.nonzero(np.random.default_rng(seed).random((n_users, n_items)) < density)
    weights = np.random.default_rng(seed).uniform(1, 9, users.size)
    return InteractionRows.from_pairs(users, items, weights, n_users, n_items)


def lists_of(model: FittedBaseline, n_users: int, k: int) -> np.ndarray:
    return top_k(model.user_factors_of(np.arange(n_users)), model.item_factors, k).items


def test_popularity_ranks_by_degree_then_by_item_row_for_every_user() -> None:
    rows = random_rows()
    model = fit_popularity(rows)
    degrees = np.bincount(rows.columns, minlength=12)
    expected = np.argsort(-degrees, kind="stable")
    np.testing.assert_array_equal(lists_of(model, 30, 12), np.tile(expected, (30, 1)))
    assert model.name == "popularity"
    assert model.train_s >= 0
    assert model.is_known_item is None


def test_popularity_tells_degrees_apart_that_float32_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    degrees = np.array([2**24, 2**24 + 1, 2**24 - 1])
    rows = random_rows(2, 3)
    monkeypatch.setattr(np, "bincount", lambda columns, minlength: degrees)
    model = fit_popularity(rows)
    assert top_k(model.user_factors, model.item_factors, 3).items.tolist() == [[1, 0, 2]] * 2


def test_popularity_ranks_for_new_users_and_for_users_without_interactions() -> None:
    model = fit_popularity(random_rows())
    nobody = InteractionRows(np.zeros(3, np.int64), np.empty(0, np.int32), None, 12)
    np.testing.assert_array_equal(model.fold_in(nobody, 1), np.ones((2, 1)))


def test_random_lists_differ_between_users_and_seeds_and_are_repeatable() -> None:
    rows = random_rows()
    first, again, other = (lists_of(fit_random(rows, RandomOptions(seed=seed)), 30, 12) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, lists_of(fit_random(rows, seed=1), 30, 12))
    assert (first != other).any(axis=1).all()
    assert len({tuple(row) for row in first}) == 30


def test_random_lists_put_every_item_first_about_equally_often() -> None:
    counts = np.bincount(lists_of(fit_random(random_rows(6000, 12)), 6000, 1)[:, 0], minlength=12)
    assert counts.min() > 50


def test_random_factors_of_new_users_do_not_depend_on_who_is_asked_for_together() -> None:
    model = fit_random(random_rows())
    rows = random_rows(10, 12, seed=5)
    together = model.fold_in(rows, 1)
    np.testing.assert_array_equal(model.fold_in(rows.row_slice(4, 5), 2), together[4:5])
    assert together.dtype == np.float32
    assert together.shape == (10, model.item_factors.shape[1])


def test_rows_over_other_items_are_refused() -> None:
    with pytest.raises(InputError, match="12 items, found 11"):
        fit_popularity(random_rows()).fold_in(random_rows(2, 11), 1)


@pytest.mark.parametrize("fit", [fit_popularity, fit_random])
def test_a_fit_is_looked_at_once(fit: Callable[..., FittedBaseline]) -> None:
    rounds: list[Round] = []
    model = fit(random_rows(), n_threads=1, watch=lambda found: bool(rounds.append(found)))  # type: ignore[func-returns-value]
    assert [(found.number, found.loss) for found in rounds] == [(1, None)]
    np.testing.assert_array_equal(rounds[0].model().item_factors, model.item_factors)  # type: ignore[union-attr]
