from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rgals.errors import InputError
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions, read_training, unite
from rgals.numerics.sparse import InteractionRows
from tests.evaluation.problems import Pairs, random_parts, write_dataset


def pairs_of(rows: InteractionRows) -> Pairs:
    return [(row, int(column)) for row in range(rows.n_rows) for column in rows.columns_of(row)]


def test_under_a_split_of_interactions_train_is_seen_and_users_without_truth_are_counted(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", 4, 5, {"train": [(0, 0), (1, 1), (3, 2)], "test": [(1, 3), (3, 0), (2, 4)]})
    users = EvaluatedUsers.read(dataset, "test")
    assert users.generalization == "weak"
    assert users.user_rows.tolist() == [1, 2, 3]
    assert pairs_of(users.held_out) == [(0, 3), (1, 4), (2, 0)]
    assert pairs_of(users.seen) == [(0, 1), (2, 2)]
    assert users.fold_in is None
    assert users.seen_parts == ("train",)
    assert (users.n_without_held_out, users.n_without_history, users.n_held_out_seen) == (1, 1, 0)


def test_validation_items_are_seen_on_test_unless_they_shall_be_ranked(tmp_path: Path) -> None:
    parts: dict[str, Pairs] = {"train": [(0, 0), (1, 4)], "validation": [(0, 3), (1, 1)], "test": [(0, 2)]}
    dataset = write_dataset(tmp_path / "d", 2, 5, parts)
    both = EvaluatedUsers.read(dataset, "test")
    assert pairs_of(both.seen) == [(0, 0), (0, 3)]
    assert both.seen_parts == ("train", "validation")
    train_only = EvaluatedUsers.read(dataset, "test", filter_validation=False)
    assert pairs_of(train_only.seen) == [(0, 0)]
    assert train_only.seen_parts == ("train",)


def test_an_opponent_is_fitted_on_what_the_model_was_trained_on_and_never_on_what_judges_it(tmp_path: Path) -> None:
    parts: dict[str, Pairs] = {"train": [(0, 0), (1, 4)], "validation": [(0, 3)], "test": [(0, 2)]}
    dataset = write_dataset(tmp_path / "d", 2, 5, parts)
    both, names = read_training(dataset, "test", ["train", "validation"])
    assert (pairs_of(both), names) == ([(0, 0), (0, 3), (1, 4)], ("train", "validation"))
    for part, trained_on in (("test", ["train"]), ("test", []), ("validation", ["train", "validation"])):
        rows, names = read_training(dataset, part, trained_on)  # type: ignore[arg-type]
        assert (pairs_of(rows), names) == ([(0, 0), (1, 4)], ("train",))
    kept_back = {"train": [(0, 0)], "validation_fold_in": [(1, 1)], "validation": [(1, 2)], "test": [(0, 3)]}
    for place, other in enumerate(({"train": [(0, 0)], "test": [(0, 2)]}, kept_back)):
        rows, names = read_training(write_dataset(tmp_path / f"{place}", 2, 5, other), "test", ["train", "validation"])
        assert (pairs_of(rows), names) == ([(0, 0)], ("train",))


def test_on_validation_only_train_is_seen_and_test_items_stay_in_the_catalog(tmp_path: Path) -> None:
    parts: dict[str, Pairs] = {"train": [(0, 0)], "validation": [(0, 3)], "test": [(0, 2)]}
    users = EvaluatedUsers.read(write_dataset(tmp_path / "d", 1, 5, parts), "validation")
    assert pairs_of(users.seen) == [(0, 0)]
    assert pairs_of(users.held_out) == [(0, 3)]


@pytest.mark.parametrize("part", ["test", "validation"])
def test_under_the_held_out_users_split_the_fold_in_part_is_seen(tmp_path: Path, part: str) -> None:
    parts: dict[str, Pairs] = {
        "train": [(0, 0), (0, 1)],
        f"{part}_fold_in": [(1, 2), (2, 3), (3, 3)],
        part: [(1, 4), (2, 0)],
    }
    users = EvaluatedUsers.read(write_dataset(tmp_path / "d", 5, 5, parts), part)  # type: ignore[arg-type]
    assert users.generalization == "strong"
    assert users.user_rows.tolist() == [1, 2]
    assert users.fold_in is users.seen
    assert pairs_of(users.seen) == [(0, 2), (1, 3)]
    assert users.seen_parts == (f"{part}_fold_in",)
    assert users.n_without_held_out == 1  # user 3; user 0 is of the training, user 4 of nothing


def test_held_out_interactions_that_are_seen_too_are_counted(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", 1, 5, {"train": [(0, 0), (0, 1)], "test": [(0, 1), (0, 2)]})
    assert EvaluatedUsers.read(dataset, "test").n_held_out_seen == 1


def test_a_part_that_the_dataset_does_not_have_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", 1, 2, {"train": [(0, 0)]})
    with pytest.raises(InputError, match="test"):
        EvaluatedUsers.read(dataset, "test")


def test_the_union_of_two_parts_holds_each_pair_once() -> None:
    def rows_of(pairs: Pairs) -> InteractionRows:
        users, items = (np.array(side) for side in zip(*pairs, strict=True))
        return InteractionRows.from_pairs(users, items, None, 20, 9)

    parts = random_parts(20, 9, {"left": 0.3, "right": 0.2})
    overlapping = parts["right"] + parts["left"][:5]
    united = unite(rows_of(parts["left"]), rows_of(overlapping))
    assert pairs_of(united) == sorted(set(parts["left"]) | set(overlapping))
    assert united.n_columns == 9


@pytest.mark.parametrize(
    "options",
    [
        {"cutoffs": []},
        {"cutoffs": [0]},
        {"cutoffs": [5, 5]},
        {"part": "train"},
        {"gains": "cubic"},
        {"n_resamples": -1},
        {"k": 3},
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EvaluationOptions.model_validate(options)
