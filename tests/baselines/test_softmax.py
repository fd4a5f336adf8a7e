import pickle
from functools import cache

import numpy as np
import pytest
from pydantic import ValidationError

from rgals.baselines.model import FittedBaseline, Round
from rgals.baselines.simple import fit_popularity
from rgals.baselines.softmax import SoftmaxOptions, fit_softmax
from rgals.errors import CapacityError, NumericalError
from rgals.execution.doctor_machine import Memory
from rgals.numerics.ranking import ranking_metrics
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k
from tests.numerics.softmax_twin import user_losses

SMALL = SoftmaxOptions(
    n_factors=8, n_epochs=6, batch_users=50, learning_rate=0.05, user_learning_rate=0.05, decay="constant", seed=1
)


@cache
def taste_rows(n_users: int = 400, n_items: int = 150, seed: int = 0) -> tuple[InteractionRows, InteractionRows]:
    """Draw items by low-rank tastes and some popularity; give a training part and five held-out items each."""
    rng = np.random.default_rng(seed)
    scores = 1.2 * rng.standard_normal((n_users, 6)) @ rng.standard_normal((6, n_items)) + rng.standard_normal(n_items)
    ranked = np.argsort(-(scores + rng.gumbel(size=scores.shape)), axis=1)[:, :20]
    mixed = rng.permuted(ranked, axis=1)
    users = np.repeat(np.arange(n_users), 15)
    train = InteractionRows.from_pairs(users, mixed[:, :15].ravel(), None, n_users, n_items)
    held_out = InteractionRows.from_pairs(
        np.repeat(np.arange(n_users), 5), mixed[:, 15:].ravel(), None, n_users, n_items
    )
    return train, held_out


def ndcg(model: FittedBaseline) -> float:
    train, held_out = taste_rows()
    ranked = top_k(model.user_factors_of(np.arange(train.n_rows)), model.item_factors, 10, seen=train).items
    return float(ranking_metrics(ranked, held_out, [10])["ndcg@10"].mean())


@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_the_loss_falls_and_the_ranking_beats_popularity(scores: str) -> None:
    train, _ = taste_rows()
    rounds: list[Round] = []
    options = SMALL.model_copy(update={"scores": scores, "n_epochs": 25, "temperature": 0.2, "l2": 0.01})

    def watch(seen: Round) -> bool:
        rounds.append(seen)
        return True

    model = fit_softmax(train, options, watch=watch)
    losses = [one.loss for one in rounds]
    assert [one.number for one in rounds] == list(range(1, 26))
    assert losses[-1] < losses[10] < losses[1] < losses[0]
    assert ndcg(model) > 1.3 * ndcg(fit_popularity(train))
    assert model.name == ("softmax" if scores == "dot" else "softmax-cosine")


@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_a_fit_does_not_depend_on_the_number_of_threads(scores: str) -> None:
    train, _ = taste_rows(300, 1100)
    options = SMALL.model_copy(update={"scores": scores, "n_epochs": 2, "l2": 0.01})
    expected = fit_softmax(train, options, n_threads=1)
    for n_threads in (2, 3):
        found = fit_softmax(train, options, n_threads=n_threads)
        np.testing.assert_array_equal(found.user_factors, expected.user_factors)
        np.testing.assert_array_equal(found.item_factors, expected.item_factors)


def test_the_seed_decides_the_fit() -> None:
    train, _ = taste_rows()
    first, again = fit_softmax(train, SMALL), fit_softmax(train, SMALL)
    np.testing.assert_array_equal(first.item_factors, again.item_factors)
    other = fit_softmax(train, SMALL.model_copy(update={"seed": 2}))
    assert not np.array_equal(first.item_factors, other.item_factors)


def test_the_loss_of_the_first_batch_is_that_of_the_definition() -> None:
    train, _ = taste_rows()
    losses = []
    options = SMALL.model_copy(update={"batch_users": 400, "n_epochs": 1, "temperature": 0.2})
    fit_softmax(train, options, watch=lambda seen: losses.append(seen.loss) is None)
    items = np.random.default_rng([1, 0]).standard_normal((150, 8), dtype=np.float32)
    users = train.to_scipy() @ items
    assert losses[0] == pytest.approx(user_losses(users, items, train, 0.2).sum() / train.n_interactions, rel=1e-5)


def test_weights_count_as_that_many_interactions() -> None:
    train, _ = taste_rows()
    options = SMALL.model_copy(update={"scores": "dot", "l2": 0.1})
    plain = fit_softmax(train, options)
    threes = InteractionRows(train.indptr, train.columns, np.full(train.n_interactions, 3, np.float32), 150)
    np.testing.assert_allclose(fit_softmax(threes, options).item_factors, plain.item_factors, atol=1e-3)
    weights = np.where(train.columns < 75, 5, 0.2).astype(np.float32)
    uneven = fit_softmax(InteractionRows(train.indptr, train.columns, weights, 150), options)
    lists = top_k(uneven.user_factors, uneven.item_factors, 10).items
    assert (lists < 75).mean() > 0.8


@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_users_without_interactions_have_zero_factors_and_leave_the_others_alone(scores: str) -> None:
    train, _ = taste_rows()
    empty = InteractionRows(np.append(train.indptr, [train.indptr[-1]] * 2), train.columns, None, 150)
    model = fit_softmax(empty, SMALL.model_copy(update={"scores": scores}))
    assert not model.user_factors[-2:].any()
    assert model.user_factors[:-2].any(axis=1).all()


def test_interactions_of_nobody_leave_every_user_at_zero() -> None:
    nobody = InteractionRows(np.zeros(4, np.int64), np.empty(0, np.int32), None, 5)
    model = fit_softmax(nobody, SMALL)
    assert not model.user_factors.any()
    assert model.item_factors.shape == (5, 8)


def test_cosine_factors_are_normalized_so_that_their_products_rank() -> None:
    model = fit_softmax(taste_rows()[0], SMALL)
    for factors in (model.user_factors, model.item_factors):
        np.testing.assert_allclose(np.linalg.norm(factors, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_folding_in_the_training_rows_ranks_about_as_well_as_the_trained_users(scores: str) -> None:
    train, _ = taste_rows()
    options = SMALL.model_copy(update={"scores": scores, "n_epochs": 25, "temperature": 0.2, "l2": 0.02})
    model = fit_softmax(train, options)
    users = model.fold_in(train, 2)
    folded = FittedBaseline("folded", 0.0, {}, users, model.item_factors, model.solve)
    assert ndcg(folded) > 0.85 * ndcg(model)
    temperature = None if scores == "dot" else 0.2

    def losses(vectors: np.ndarray) -> np.ndarray:
        ridge = 0.01 * 15 * np.square(vectors).sum(axis=1) if scores == "dot" else 0.0
        return user_losses(vectors, model.item_factors, train, temperature) + ridge

    assert (losses(users) <= losses(model.user_factors) + 1e-2).mean() > 0.99


def test_the_watch_sees_the_model_ends_the_fit_and_is_not_counted_in_its_seconds() -> None:
    train, _ = taste_rows()
    values = []

    def watch(seen: Round) -> bool:
        values.append(ndcg(seen.model()))
        return seen.number < 3

    model = fit_softmax(train, SMALL, watch=watch)
    assert len(values) == 3
    assert ndcg(model) == values[-1]
    shorter = fit_softmax(train, SMALL.model_copy(update={"n_epochs": 3}))
    np.testing.assert_array_equal(shorter.item_factors, model.item_factors)


def test_a_cosine_decay_ends_with_small_steps() -> None:
    train, _ = taste_rows()
    moved = {}
    for decay in ("constant", "cosine"):
        kept: list[np.ndarray] = []
        options = SMALL.model_copy(update={"decay": decay, "n_epochs": 10})
        fit_softmax(train, options, watch=lambda seen, kept=kept: kept.append(seen.model().item_factors.copy()) is None)
        moved[decay] = np.abs(kept[-1] - kept[-2]).mean()
    assert moved["cosine"] < 0.3 * moved["constant"]


def test_a_fitted_model_can_be_pickled_and_folds_in_elsewhere() -> None:
    train, _ = taste_rows()
    model = fit_softmax(train, SMALL)
    copy = pickle.loads(pickle.dumps(model))
    few = train.row_slice(0, 3)
    np.testing.assert_array_equal(copy.fold_in(few, 1), model.fold_in(few, 1))


def test_what_does_not_fit_into_memory_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgals.baselines.softmax_fit.read_memory", lambda: Memory(10**6, 10**5, None, 0, 0))
    with pytest.raises(CapacityError, match=r"50 users by 150 items.*smaller batch_users, or the sampled softmax"):
        fit_softmax(taste_rows()[0], SMALL)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NumericalError, match=r"epoch 1.*smaller learning rate"), np.errstate(all="ignore"):
        fit_softmax(taste_rows()[0], SMALL.model_copy(update={"scores": "dot", "init_scale": 1e25}))


@pytest.mark.parametrize(
    "options",
    [
        {"n_factors": 0}, {"n_epochs": 0}, {"scores": "l2"}, {"temperature": 0}, {"learning_rate": 0}, {"l2": -1},
        {"batch_users": 0}, {"init_scale": 0}, {"seed": -1}, {"decay": "linear"}, {"user_learning_rate": 0}, {"k": 1},
    ],
)  # fmt: skip
def test_options_out_of_bounds_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SoftmaxOptions.model_validate(options)
