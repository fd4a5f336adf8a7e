from pathlib import Path

import numpy as np
import pyarrow as pa

from rgals.data.dataset import Dataset, DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.splits import PART_NAMES
from rgals.data.storage import new_folder
from rgals.evaluation.evaluator import Evaluation, evaluate
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.evaluation.samples import choose_sample_users
from tests.evaluation.problems import PlainModel, random_parts, whole_numbered, write_dataset

N_USERS, N_ITEMS = 60, 40


def evaluate_two(dataset: Dataset, **options: object) -> Evaluation:
    models = [whole_numbered(dataset.n_users, dataset.n_items, name, seed) for seed, name in enumerate(("a", "b"))]
    return evaluate(models, dataset, EvaluationOptions.model_validate({"cutoffs": (6, 3), "n_resamples": 0, **options}))


def random_dataset(path: Path, n_users: int = N_USERS, **parts: float) -> Dataset:
    return write_dataset(path, n_users, N_ITEMS, random_parts(n_users, N_ITEMS, {"train": 0.3, **parts}))


def test_one_user_is_chosen_from_each_tenth_by_activity(tmp_path: Path) -> None:
    users = EvaluatedUsers.read(random_dataset(tmp_path / "d", test=0.1), "test")
    chosen = choose_sample_users(users)
    degrees = users.seen.degrees
    assert len(set(chosen.tolist())) == 10
    assert (np.diff(degrees[chosen]) >= 0).all()
    tenths = np.array_split(np.sort(degrees), 10)
    assert [tenth[0] for tenth in tenths] != degrees[chosen].tolist()  # not the least active of each
    for tenth, position in zip(tenths, chosen, strict=True):
        assert tenth[0] <= degrees[position] <= tenth[-1]
    assert not (np.diff(np.sort(chosen)) == users.n_users // 10).all()  # hashed, not every sixth


def test_the_choice_depends_on_nothing_but_the_users(tmp_path: Path) -> None:
    dataset = random_dataset(tmp_path / "d", test=0.1)
    shown = [[user.user_id for user in evaluate_two(dataset, seed=seed).report.sample_users] for seed in (0, 1)]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 10


def test_fewer_users_than_ten_are_all_shown(tmp_path: Path) -> None:
    found = evaluate_two(random_dataset(tmp_path / "d", 4, test=0.2))
    assert found.users.n_users <= 4
    assert {user.user_id for user in found.report.sample_users} == {f"u{row:05d}" for row in found.users.user_rows}


def test_a_sample_user_shows_history_truth_and_the_list_of_each_model(tmp_path: Path) -> None:
    dataset = random_dataset(tmp_path / "d", validation=0.1, test=0.1)
    found = evaluate_two(dataset)
    parts = {name: dataset.read_part(name) for name in ("train", "validation", "test")}  # type: ignore[arg-type]
    for user in found.report.sample_users:
        row = int(user.user_id[1:])
        seen = sorted({*parts["train"].columns_of(row).tolist(), *parts["validation"].columns_of(row).tolist()})
        truth = parts["test"].columns_of(row).tolist()
        assert (user.n_seen, user.seen) == (len(seen), [f"i{item:05d}" for item in seen[:20]])
        assert user.held_out == [f"i{item:05d}" for item in truth]
        assert list(user.lists) == ["a", "b"]
        for seed, name in enumerate(user.lists):
            model: PlainModel = whole_numbered(N_USERS, N_ITEMS, name, seed)
            scores = model.item_factors @ model.user_factors[row]
            scores[seen] = -np.inf
            expected = np.argsort(-scores, kind="stable")[:6].tolist()
            assert [item.item_id for item in user.lists[name]] == [f"i{item:05d}" for item in expected]
            assert [item.is_hit for item in user.lists[name]] == [item in truth for item in expected]


def write_timed(path: Path, ids: IdDictionary) -> Dataset:
    """User 0 took item i at time 100 - i; user 1 took 25 items at one time and item 30, of validation, later."""
    users = np.array([0] * 3 + [1] * 25)
    items = np.array([*range(3), *range(25)])
    times = np.array([100, 99, 98, *[50] * 25])
    with new_folder(path) as staged:
        writer = DatasetWriter(staged, ids, ids, None, path.with_name("scratch"))
        for part, some_users, some_items, some_times in (
            ("train", users, items, times),
            ("validation", np.array([1]), np.array([30]), np.array([70])),
            ("test", np.array([0, 1]), np.array([20, 29]), np.array([200, 200])),
        ):
            weights = np.ones(some_users.size)
            writer.add(PART_NAMES.index(part), some_users, some_items, weights, some_times)
        writer.finish()
    return Dataset.open(path)


def test_the_most_recent_items_come_first_where_there_are_times_and_integer_ids_are_text(tmp_path: Path) -> None:
    dataset = write_timed(tmp_path / "d", IdDictionary.from_values(pa.array(range(100, 131))))
    first, second = evaluate_two(dataset).report.sample_users
    assert (first.user_id, first.seen, first.held_out) == ("100", ["100", "101", "102"], ["120"])
    assert (second.user_id, second.n_seen) == ("101", 26)
    assert second.seen == ["130", *[str(item) for item in range(100, 119)]]


def test_new_users_show_what_they_were_folded_in_from(tmp_path: Path) -> None:
    train = [(user, (user + step) % 9) for user in range(6) for step in range(4)]
    parts = {"train": train, "test_fold_in": [(6, 1), (6, 5), (7, 2)], "test": [(6, 3), (7, 8)]}
    dataset = write_dataset(tmp_path / "d", 8, 9, parts)
    shown = evaluate_two(dataset).report.sample_users
    assert [(user.user_id, user.seen) for user in shown] == [("u00007", ["i00002"]), ("u00006", ["i00001", "i00005"])]
