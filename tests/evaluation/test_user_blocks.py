"""Blocks of users as tasks: the same report whoever ranks, and little that is sent."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rgals.data.dataset import Dataset
from rgals.errors import NumericalError
from rgals.evaluation import evaluator
from rgals.evaluation.alignment import AlignedModel, align_model
from rgals.evaluation.evaluator import Evaluation, evaluate
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.evaluation.user_blocks import RankingInputs, UserBlocks
from rgals.execution import Executor, InProcessExecutor
from rgals.names import Factors
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from tests.evaluation.problems import PlainModel, make_ids, random_parts, whole_numbered, write_dataset
from tests.executors import PicklingExecutor

N_USERS, N_ITEMS = 90, 40
OPTIONS = EvaluationOptions(cutoffs=(3, 10), n_resamples=20)


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


def trained(dataset: Dataset, first_item: int = 0, name: str = "trained") -> AlignedModel:
    """A model that can be sent; with ``first_item`` above 0 it lacks the first items of the dataset."""
    rng = np.random.default_rng(5)
    n_items = N_ITEMS - first_item
    items = rng.standard_normal((n_items, 5), dtype=np.float32)
    return align_model(
        dataset,
        name=name,
        user_factors=rng.standard_normal((N_USERS, 5), dtype=np.float32),
        item_factors=items,
        user_ids=dataset.user_ids,
        item_ids=make_ids("i", n_items, first_item),
        fingerprint=None if first_item else dataset.fingerprint,
        solve=UserSystem.build(items, Loss("rgx", 1.0, 0.1), np.arange(1, n_items + 1)).solve,
        train_s=1.0,
        options={},
    )


def comparable(found: Evaluation) -> dict[str, object]:
    content = found.report.model_dump()
    for model in content["models"]:
        del model["evaluate_s"]
    return content


def assert_same(found: Evaluation, expected: Evaluation) -> None:
    assert comparable(found) == comparable(expected)
    for mine, theirs in zip(found.values, expected.values, strict=True):
        assert mine.by_user.keys() == theirs.by_user.keys()
        for key, values in mine.by_user.items():
            np.testing.assert_array_equal(values, theirs.by_user[key])


@pytest.mark.parametrize("executor", [InProcessExecutor(2), PicklingExecutor(1), PicklingExecutor(3, 2)])
def test_the_report_does_not_depend_on_who_ranks(dataset: Dataset, executor: Executor) -> None:
    cold = trained(dataset, name="cold")
    cold.model_user_factors[::3] = 0
    models = [trained(dataset), trained(dataset, 4, "other"), cold]
    assert_same(evaluate(models, dataset, OPTIONS, executor=executor), evaluate(models, dataset, OPTIONS, n_threads=1))


@pytest.mark.parametrize("executor", [InProcessExecutor(2), PicklingExecutor(1), PicklingExecutor(3, 2)])
@pytest.mark.parametrize("first_item", [0, 4])
def test_new_users_get_the_same_lists_whoever_solves_them(
    new_users: Dataset, executor: Executor, first_item: int
) -> None:
    model = trained(new_users, first_item)
    found = evaluate([model], new_users, OPTIONS, executor=executor)
    assert found.report.protocol.generalization == "strong"
    assert_same(found, evaluate([model], new_users, OPTIONS, n_threads=1))


def test_a_model_that_cannot_be_sent_solves_new_users_here(new_users: Dataset) -> None:
    @dataclass
    class Local(PlainModel):
        """A local class: pickle refuses it."""

    model = Local(np.zeros((N_USERS, 3), np.float32), whole_numbered(N_USERS, N_ITEMS).item_factors)
    executor = PicklingExecutor()
    found = evaluate([model], new_users, OPTIONS, executor=executor)
    assert sum(rows.n_rows for rows in model.folded_in) == found.users.n_users
    assert len(model.folded_in) == len(executor.task_bytes) > 1
    assert_same(found, evaluate([model], new_users, OPTIONS))


def test_user_factors_travel_with_their_block_alone(dataset: Dataset) -> None:
    executor = PicklingExecutor(2)
    wide = PlainModel(np.ones((N_USERS, 512), np.float32), np.ones((N_ITEMS, 512), np.float32))
    evaluate([wide], dataset, OPTIONS, executor=executor)
    assert executor.shared_bytes[0] < wide.item_factors.nbytes + 20_000
    assert len(executor.task_bytes) > 4
    assert max(executor.task_bytes) < 16 * 512 * 4 + 10_000


def test_blocks_are_made_when_they_are_asked_for(dataset: Dataset) -> None:
    asked: list[int] = []

    class Telling(PlainModel):
        def user_factors_of(self, user_rows: np.ndarray) -> Factors:  # type: ignore[type-arg]
            asked.append(len(user_rows))
            return super().user_factors_of(user_rows)

    plain = whole_numbered(N_USERS, N_ITEMS)
    model = Telling(plain.user_factors, plain.item_factors)
    n_made: list[int] = []
    found = evaluate([model], dataset, OPTIONS, n_threads=1, progress=lambda *_: n_made.append(len(asked)))
    assert n_made == list(range(1, len(asked) + 1))
    assert sum(asked) == found.users.n_users


def test_blocks_can_be_taken_by_position_and_slice(dataset: Dataset) -> None:
    model, users = whole_numbered(N_USERS, N_ITEMS), EvaluatedUsers.read(dataset, "test")
    blocks = UserBlocks(model, users, RankingInputs.gather(model, users, OPTIONS), 25, 1)
    assert len(blocks) == -(-users.n_users // 25)
    sizes = [block.held_out.n_rows for block in blocks[:]]
    assert sizes == [25] * (len(blocks) - 1) + [users.n_users - 25 * (len(blocks) - 1)]
    assert blocks.stop_of(len(blocks) - 1) == users.n_users
    last = blocks[-1]
    assert last.factors is not None
    np.testing.assert_array_equal(last.factors, model.user_factors[users.user_rows[-sizes[-1] :]])


def test_a_task_that_fails_ends_the_evaluation(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    model.user_factors[70:] = np.inf
    with pytest.raises(NumericalError, match="user rows have factors that are NaN or infinite"):
        evaluate([model], dataset, OPTIONS, executor=PicklingExecutor())


@pytest.mark.parametrize(("n_users", "n_workers", "n_threads", "expected"), [
    (10**6, 1, 2, 8192),
    (10**6, 50, 2, 5000),
    (8000, 2, 1, 1000),
    (100, 2, 1, 256),
    (10**6, 4, 64, 16384),
])  # fmt: skip
def test_every_thread_of_every_worker_gets_users(
    monkeypatch: pytest.MonkeyPatch, n_users: int, n_workers: int, n_threads: int, expected: int
) -> None:
    monkeypatch.undo()
    assert evaluator._block_users(n_users, PicklingExecutor(n_workers, n_threads)) == expected


def test_users_are_read_from_many_shards_as_from_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = {
        part: list(zip(*(side.tolist() for side in np.nonzero(rng.random((1500, 9)) < share)), strict=True))
        for part, share in (("train", 0.4), ("validation", 0.1), ("test", 0.02))
    }
    many = write_dataset(tmp_path / "many", 1500, 9, pairs, n_shards=3)
    one = write_dataset(tmp_path / "one", 1500, 9, pairs, n_shards=1)
    assert (len(many.shard_ranges("user")), len(one.shard_ranges("user"))) == (3, 1)
    train = one.read_part("train")
    for part in ("test", "validation"):
        found, expected = (EvaluatedUsers.read(dataset, part) for dataset in (many, one))  # type: ignore[arg-type]
        for rows, same in ((found.seen, expected.seen), (found.held_out, expected.held_out)):
            np.testing.assert_array_equal(rows.indptr, same.indptr)
            np.testing.assert_array_equal(rows.columns, same.columns)
        np.testing.assert_array_equal(found.popularity[:, 0], train.transpose().degrees)
        np.testing.assert_array_equal(found.popularity, expected.popularity)
    own = EvaluatedUsers.read(many, "validation")
    for position, user in enumerate(own.user_rows):
        np.testing.assert_array_equal(own.seen.columns_of(position), train.columns_of(int(user)))


def test_pairs_are_compared_in_blocks_of_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rgals.evaluation import protocol

    parts = random_parts(50, 9, {"train": 0.4, "validation": 0.2, "test": 0.2})
    parts["test"] += parts["train"][::7]
    parts["validation"] += parts["train"][::5]
    dataset = write_dataset(tmp_path / "d", 50, 9, parts)
    expected = EvaluatedUsers.read(dataset, "test")
    monkeypatch.setattr(protocol, "_BLOCK_USERS", 7)
    found = EvaluatedUsers.read(dataset, "test")
    np.testing.assert_array_equal(found.seen.indptr, expected.seen.indptr)
    np.testing.assert_array_equal(found.seen.columns, expected.seen.columns)
    assert found.n_held_out_seen == len(parts["train"][::7])


def test_rows_without_any_interactions_stack_to_none() -> None:
    from rgals.evaluation.protocol import unite

    nothing = InteractionRows(np.zeros(1, np.int64), np.zeros(0, np.int32), None, 5)
    assert (unite(nothing, nothing).n_rows, unite(nothing, nothing).n_columns) == (0, 5)
