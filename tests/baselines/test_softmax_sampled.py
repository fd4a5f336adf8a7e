import numpy as np
import pytest
from pydantic import ValidationError

from rgals.baselines.sampled_softmax import SampledSoftmaxOptions, fit_sampled_softmax
from rgals.baselines.simple import fit_popularity
from rgals.baselines.softmax import SoftmaxOptions, fit_softmax
from rgals.errors import CapacityError
from rgals.execution.doctor_machine import Memory
from rgals.numerics.softmax_gradient_fold_in import softmax_fold_in
from rgals.numerics.sparse import InteractionRows
from tests.baselines.test_softmax import ndcg, taste_rows

SMALL = SampledSoftmaxOptions(
    n_factors=8,
    n_epochs=6,
    batch_users=50,
    learning_rate=0.05,
    user_learning_rate=0.05,
    decay="constant",
    seed=1,
    n_samples=60,
    l2=0.01,
    temperature=0.2,
)


@pytest.mark.parametrize("scores", ["dot", "cosine"])
@pytest.mark.parametrize("exponent", [0.0, 0.75])
def test_the_loss_falls_and_the_ranking_beats_popularity(scores: str, exponent: float) -> None:
    train, _ = taste_rows()
    losses: list[float] = []
    options = SMALL.model_copy(update={"scores": scores, "n_epochs": 25, "proposal_exponent": exponent})
    model = fit_sampled_softmax(train, options, watch=lambda seen: losses.append(seen.loss) is None)
    assert losses[-1] < losses[10] < losses[0]
    assert ndcg(model) > 1.3 * ndcg(fit_popularity(train))
    assert model.name == "sampled-softmax"


@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_with_all_items_in_the_sample_it_is_the_full_softmax(scores: str) -> None:
    train, _ = taste_rows()
    options = SMALL.model_copy(update={"scores": scores, "n_samples": 150, "n_epochs": 4})
    sampled = fit_sampled_softmax(train, options)
    shared = {name: getattr(options, name) for name in SoftmaxOptions.model_fields}
    full = fit_softmax(train, SoftmaxOptions(**shared))
    np.testing.assert_allclose(
        sampled.user_factors @ sampled.item_factors.T, full.user_factors @ full.item_factors.T, atol=2e-3
    )


def test_a_fit_does_not_depend_on_the_number_of_threads() -> None:
    train, _ = taste_rows(300, 2000)
    options = SMALL.model_copy(update={"n_samples": 1200, "n_epochs": 2})
    expected = fit_sampled_softmax(train, options, n_threads=1)
    for n_threads in (2, 3):
        found = fit_sampled_softmax(train, options, n_threads=n_threads)
        np.testing.assert_array_equal(found.user_factors, expected.user_factors)
        np.testing.assert_array_equal(found.item_factors, expected.item_factors)


@pytest.mark.parametrize(("exponent", "low", "high"), [(0.0, 0.96, 0.98), (2.0, 0.995, 1.0)])
def test_items_outside_the_samples_keep_their_starting_vectors(exponent: float, low: float, high: float) -> None:
    train, _ = taste_rows()
    wider = InteractionRows(train.indptr, train.columns, None, 5000)
    options = SMALL.model_copy(update={"scores": "dot", "n_epochs": 1, "n_samples": 20, "proposal_exponent": exponent})
    model = fit_sampled_softmax(wider, options)
    drawn = np.random.default_rng([1, 0]).standard_normal((5000, 8), dtype=np.float32) * np.float32(1 / np.sqrt(8))
    is_untouched = (model.item_factors == drawn).all(axis=1)
    assert not is_untouched[np.unique(train.columns)].any()
    # Eight batches draw 160 times among 5,000 items; nobody has observed the last 4,850.
    assert low <= is_untouched[150:].mean() <= high


@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_users_without_interactions_are_at_zero_and_new_users_are_folded_in_under_the_exact_loss(scores: str) -> None:
    train, _ = taste_rows()
    empty = InteractionRows(np.append(train.indptr, train.indptr[-1]), train.columns, None, 150)
    options = SMALL.model_copy(update={"scores": scores})
    sampled = fit_sampled_softmax(empty, options)
    assert not sampled.user_factors[-1].any()
    few = empty.row_slice(395, 401)
    found = sampled.fold_in(few, 1)
    assert not found[-1].any()
    expected = softmax_fold_in(sampled.item_factors, few, l2=0.01, temperature=None if scores == "dot" else 0.2)
    np.testing.assert_array_equal(found, expected)


def test_what_does_not_fit_into_memory_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgals.baselines.softmax_fit.read_memory", lambda: Memory(10**6, 10**4, None, 0, 0))
    with pytest.raises(CapacityError, match=r"50 users by 62 items.*fewer n_samples"):
        fit_sampled_softmax(taste_rows()[0], SMALL)


@pytest.mark.parametrize("options", [{"n_samples": 0}, {"proposal_exponent": -0.1}, {"temperature": 0}, {"k": 1}])
def test_options_out_of_bounds_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SampledSoftmaxOptions.model_validate(options)
