"""Models that give scores instead of factors: the same report as their factors would give, whoever ranks."""

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from rgals.baselines.ease import EaseOptions, fit_ease
from rgals.baselines.item_item import ItemItemOptions, fit_item_item
from rgals.data.dataset import Dataset
from rgals.errors import InputError, NumericalError
from rgals.evaluation import evaluator, user_blocks
from rgals.evaluation.evaluator import Evaluation, evaluate
from rgals.evaluation.protocol import (
    BlockScoringModel,
    EvaluatedModel,
    EvaluatedUsers,
    EvaluationOptions,
    ScoringModel,
    count_items,
)
from rgals.evaluation.user_blocks import RankingInputs, UserBlock, rank_block
from rgals.execution import Executor, InProcessExecutor
from rgals.names import BoolArray, Factors, Offsets
from rgals.numerics.sparse import InteractionRows
from tests.evaluation.problems import PlainModel, random_parts, whole_numbered, write_dataset
from tests.executors import PicklingExecutor
from tests.training.executors import PicklingExecutor as ReversingExecutor

N_USERS, N_ITEMS = 90, 40
OPTIONS = EvaluationOptions(cutoffs=(3, 10), n_resamples=20)
EXECUTORS: list[Executor] = [InProcessExecutor(2), PicklingExecutor(3, 2), ReversingExecutor(1)]


@dataclass
class DenseTwin:
    """The scores of a factor model, spelled out."""

    model: PlainModel
    name: str = "plain"
    train_s: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_known_item: BoolArray | None = None
    n_items: int = N_ITEMS
    n_rows_asked: list[int] = field(default_factory=list)

    def score_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        self.n_rows_asked.append(len(user_rows))
        return self.model.user_factors_of(user_rows) @ self.model.item_factors.T

    def score_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        self.n_rows_asked.append(rows.n_rows)
        return self.model.fold_in(rows, n_threads) @ self.model.item_factors.T


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "_BLOCK_USERS", 16)
    monkeypatch.setattr(evaluator, "_THREAD_USERS", 4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    parts = random_parts(N_USERS, N_ITEMS, {"train": 0.2, "validation": 0.05, "test": 0.05})
    return write_dataset(tmp_path_factory.mktemp("data") / "weak", N_USERS, N_ITEMS, parts)


@pytest.fixture(scope="module")
def new_users(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Under the held-out-users split: users 0 to 59 are new, the others are of the training."""
    parts = random_parts(60, N_ITEMS, {"test_fold_in": 0.2, "test": 0.1})
    train = random_parts(N_USERS, N_ITEMS, {"train": 0.2}, seed=1)["train"]
    parts["train"] = [(user, item) for user, item in train if user >= 60]
    return write_dataset(tmp_path_factory.mktemp("data") / "strong", N_USERS, N_ITEMS, parts, lambda u, i: 1.0 + i % 3)


def cold_model() -> PlainModel:
    """Without factors for every fourth user."""
    model = whole_numbered(N_USERS, N_ITEMS)
    model.user_factors[::4] = 0
    return model


def assert_same(found: Evaluation, expected: Evaluation) -> None:
    contents = [result.report.model_dump() for result in (found, expected)]
    for content in contents:
        content.pop("created_at", None)
        for model in content["models"]:
            del model["evaluate_s"]
    assert contents[0] == contents[1]
    for mine, theirs in zip(found.values, expected.values, strict=True):
        np.testing.assert_array_equal(mine.is_ranked, theirs.is_ranked)
        for key, values in mine.by_user.items():
            np.testing.assert_array_equal(values, theirs.by_user[key])


@pytest.mark.parametrize("cold_users", ["popular", "miss"])
@pytest.mark.parametrize("is_known_item", [None, np.arange(N_ITEMS) % 5 > 0])
def test_scores_are_ranked_as_the_factors_that_they_come_from(
    dataset: Dataset, cold_users: str, is_known_item: BoolArray | None
) -> None:
    options = EvaluationOptions.model_validate(OPTIONS.model_dump() | {"cold_users": cold_users})
    model = cold_model()
    model.is_known_item = is_known_item
    expected = evaluate([model], dataset, options)
    assert 0 < (~expected.values[0].is_ranked).sum() < expected.users.n_users
    assert_same(evaluate([DenseTwin(model, is_known_item=is_known_item)], dataset, options), expected)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_report_does_not_depend_on_who_ranks(dataset: Dataset, executor: Executor) -> None:
    train = dataset.read_part("train")
    models: list[EvaluatedModel] = [
        fit_item_item(train, ItemItemOptions(n_neighbors=5)),
        fit_ease(train, EaseOptions(reg=5)),
        cold_model(),
    ]
    assert_same(evaluate(models, dataset, OPTIONS, executor=executor), evaluate(models, dataset, OPTIONS, n_threads=1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_new_users_are_scored_by_their_histories_whoever_ranks(new_users: Dataset, executor: Executor) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    expected = evaluate([model], new_users, OPTIONS)
    assert expected.report.protocol.generalization == "strong"
    assert_same(evaluate([DenseTwin(model)], new_users, OPTIONS, executor=executor), expected)
    train = new_users.read_part("train")
    for form in ("items", "users"):
        ease = fit_ease(train, EaseOptions(form=form))  # type: ignore[arg-type]
        assert_same(evaluate([ease], new_users, OPTIONS, executor=executor), evaluate([ease], new_users, OPTIONS))


def test_few_users_are_scored_at_a_time(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    expected = evaluate([model], dataset, OPTIONS)
    monkeypatch.setattr(user_blocks, "users_per_block", lambda n_items: 5)
    twin = DenseTwin(model)
    assert_same(evaluate([twin], dataset, OPTIONS), expected)
    assert max(twin.n_rows_asked) == 5
    assert sum(twin.n_rows_asked) == expected.users.n_users


def test_a_scorer_is_sent_once_and_blocks_name_rows_alone(dataset: Dataset) -> None:
    executor = PicklingExecutor(2)
    train = dataset.read_part("train")
    model = fit_ease(train, EaseOptions(form="items"))
    evaluate([model], dataset, OPTIONS, executor=executor)
    assert len(executor.shared_bytes) == 1
    assert executor.shared_bytes[0] < len(pickle.dumps(model)) + 20_000
    assert len(executor.task_bytes) > 4
    assert max(executor.task_bytes) < 5_000


def test_scores_that_are_not_finite_end_the_evaluation(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    model.user_factors[70:] = np.nan
    with pytest.raises(NumericalError, match="user rows have scores that are NaN or infinite"):
        evaluate([DenseTwin(model)], dataset, OPTIONS)


def test_a_model_over_other_items_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="plain: expected a model of the dataset's 40 items, found 39"):
        evaluate([DenseTwin(whole_numbered(N_USERS, N_ITEMS), n_items=39)], dataset, OPTIONS)


def test_scores_of_another_shape_are_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"plain: expected scores of shape \(\d+, 40\) .* found \(\d+, 38\)"):
        evaluate([DenseTwin(whole_numbered(N_USERS, 38))], dataset, OPTIONS)


def test_which_kind_of_model_it_is_shows_in_what_it_can_do() -> None:
    plain = whole_numbered(N_USERS, 7)
    twin = DenseTwin(plain)
    assert isinstance(twin, BlockScoringModel)
    assert not isinstance(plain, BlockScoringModel)
    models: list[ScoringModel | BlockScoringModel] = [plain, twin]
    assert [count_items(model) for model in models] == [7, N_ITEMS]


def test_blocks_of_the_wrong_kind_are_a_bug(dataset: Dataset) -> None:
    users = EvaluatedUsers.read(dataset, "test")
    model = whole_numbered(N_USERS, N_ITEMS)
    nothing = UserBlock(None, None, users.seen, users.held_out)
    for asked in (model, DenseTwin(model)):
        inputs = RankingInputs.gather(asked, users, OPTIONS)
        with pytest.raises(TypeError, match="expected a block with"):
            rank_block(inputs, nothing, _Context())  # type: ignore[arg-type]


class _Context:
    n_threads = 1
