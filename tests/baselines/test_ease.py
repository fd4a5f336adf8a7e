import numpy as np
import pytest
from pydantic import ValidationError

from rgals.baselines import ease
from rgals.baselines.ease import EaseOptions, fit_ease
from rgals.baselines.ease_kernels import fill_gram, quadratic_forms
from rgals.baselines.model import FittedScorer
from rgals.errors import CapacityError, InputError, NumericalError
from rgals.execution.doctor_machine import Memory
from rgals.numerics.sparse import InteractionRows
from tests.baselines.test_simple import random_rows
from tests.training.executors import through_pickle

FORMS = ["items", "users"]


def definition(train: InteractionRows, reg: float) -> np.ndarray:  # type: ignore[type-arg]
    """B as the paper writes it, in float64."""
    x = train.to_scipy().toarray().astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + reg * np.eye(x.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return np.asarray(weights)


def without_weights(rows: InteractionRows) -> InteractionRows:
    return InteractionRows(rows.indptr, rows.columns, None, rows.n_columns)


def scores_of(model: FittedScorer, n_users: int, n_threads: int = 1) -> np.ndarray:  # type: ignore[type-arg]
    return model.score_users(np.arange(n_users), n_threads)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize(("n_users", "n_items"), [(40, 25), (25, 40), (150, 130)])
def test_scores_are_those_of_the_definition(n_users: int, n_items: int, is_weighted: bool, form: str) -> None:
    train, new = random_rows(n_users, n_items), random_rows(7, n_items, seed=9)
    if not is_weighted:
        train, new = without_weights(train), without_weights(new)
    reg = 60.0 if is_weighted else 2.5
    weights = definition(train, reg)
    model = fit_ease(train, EaseOptions(reg=reg, form=form), n_threads=1)
    for rows, found in ((train, scores_of(model, n_users)), (new, model.score_histories(new, 1))):
        expected = rows.to_scipy().toarray() @ weights
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        assert (found.dtype, found.shape) == (np.float32, (rows.n_rows, n_items))
        assert found.flags.writeable


@pytest.mark.parametrize(("n_users", "n_items", "form"), [(8, 9, "users"), (9, 8, "items"), (8, 8, "items")])
def test_the_smaller_matrix_is_inverted(n_users: int, n_items: int, form: str) -> None:
    model = fit_ease(random_rows(n_users, n_items))
    assert model.options == {"reg": 100.0, "form": form}
    assert (model.name, model.n_items, model.is_known_item) == ("ease", n_items, None)
    assert model.train_s > 0


@pytest.mark.parametrize("form", FORMS)
def test_an_item_does_not_speak_for_itself(form: str) -> None:
    model = fit_ease(without_weights(random_rows(30, 12)), EaseOptions(reg=1.0, form=form), n_threads=1)
    alone = InteractionRows(np.arange(13), np.arange(12, dtype=np.int32), None, 12)
    np.testing.assert_allclose(np.diag(model.score_histories(alone, 1)), 0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_who_has_no_items_cannot_be_ranked_for(form: str) -> None:
    train = random_rows().take(np.arange(29))
    train = InteractionRows(np.append(train.indptr, train.indptr[-1]), train.columns, train.weights, 12)
    model = fit_ease(train, EaseOptions(form=form))
    is_ranked = scores_of(model, 30).any(axis=1)
    np.testing.assert_array_equal(is_ranked, train.degrees > 0)
    assert not is_ranked[29]
    assert not model.score_histories(train.row_slice(29, 30), 1).any()


@pytest.mark.parametrize("form", FORMS)
def test_an_item_without_users_gets_no_score(form: str) -> None:
    rows = random_rows(30, 11)
    train = InteractionRows(rows.indptr, rows.columns, rows.weights, 12)
    np.testing.assert_allclose(scores_of(fit_ease(train, EaseOptions(form=form)), 30)[:, 11], 0, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_scores_do_not_depend_on_threads_or_on_a_journey_to_a_worker(form: str) -> None:
    train = random_rows(300, 200, density=0.1)
    model = fit_ease(train, EaseOptions(form=form), n_threads=1)
    np.testing.assert_array_equal(
        scores_of(fit_ease(train, EaseOptions(form=form), n_threads=3), 300), scores_of(model, 300)
    )
    sent = through_pickle(model)
    for score in (scores_of, lambda model, n_users, n_threads: model.score_histories(train, n_threads)):
        expected = score(model, 300, 1)
        np.testing.assert_array_equal(score(model, 300, 3), expected)
        np.testing.assert_array_equal(score(sent, 300, 2), expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_is_looked_at_once_and_the_clock_stands_still(form: str) -> None:
    train, rounds = random_rows(), []
    model = fit_ease(train, EaseOptions(form=form), watch=lambda found: bool(rounds.append(found)))  # type: ignore[func-returns-value]
    assert [found.number for found in rounds] == [1]
    np.testing.assert_array_equal(scores_of(rounds[0].model(), 30), scores_of(model, 30))
    assert 0 < model.train_s <= rounds[0].train_s


def test_what_does_not_fit_is_refused_with_numbers_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ease, "read_memory", lambda: Memory(2**34, 3 * 10**8, None, 0, 0))
    monkeypatch.setattr(ease, "_invert_gram", None)
    with pytest.raises(CapacityError, match=r"expected 1\.[0-9] GB .* 16,000 x 16,000 users, found 0\.3 GB"):
        fit_ease(InteractionRows(np.zeros(16_001, np.int64), np.zeros(0, np.int32), None, 50_000))
    with pytest.raises(CapacityError, match="50,000 x 50,000 items"):
        fit_ease(InteractionRows(np.zeros(9, np.int64), np.zeros(0, np.int32), None, 50_000), EaseOptions(form="items"))


def test_a_system_that_does_not_tell_its_memory_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Memory:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(ease, "read_memory", refuse)
    assert fit_ease(random_rows()).n_items == 12


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_that_rounding_spoils_is_refused(form: str) -> None:
    rows = random_rows(10, 40) if form == "items" else random_rows(40, 10)
    huge = InteractionRows(rows.indptr, rows.columns, np.full(rows.n_interactions, 1e6, np.float32), rows.n_columns)
    with pytest.raises(NumericalError, match=r"reg=1e-09.*choose a larger reg"):
        fit_ease(huge, EaseOptions(reg=1e-9, form=form))


def test_histories_over_other_items_are_refused() -> None:
    with pytest.raises(InputError, match="ease: expected rows over 12 items, found 11"):
        fit_ease(random_rows()).score_histories(random_rows(2, 11), 1)


@pytest.mark.parametrize("options", [{"reg": 0}, {"reg": float("inf")}, {"form": "both"}, {"lambda": 1}])
def test_options_out_of_bounds_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EaseOptions.model_validate(options)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_kernels_equal_their_dense_twins(n_threads: int) -> None:
    rows = random_rows(200, 90, density=0.2)
    dense = rows.to_scipy().toarray().astype(np.float64)
    gram = np.zeros((200, 200), np.float32)
    fill_gram(rows, rows.transpose(), 0.5, gram, n_threads=n_threads)
    expected = dense @ dense.T + 0.5 * np.eye(200)
    np.testing.assert_allclose(gram, np.tril(expected), rtol=1e-5)
    gram = expected.astype(np.float32)
    forms = quadratic_forms(rows.transpose(), gram, n_threads=n_threads)
    np.testing.assert_allclose(forms, np.einsum("ui,uv,vi->i", dense, gram.astype(np.float64), dense), rtol=1e-10)
