from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rgals.data.dataset import Dataset
from rgals.data.ids import IdDictionary
from rgals.errors import InputError
from rgals.evaluation.alignment import AlignedModel, align_model
from rgals.evaluation.evaluator import evaluate
from rgals.evaluation.protocol import EvaluationOptions
from rgals.names import Factors
from rgals.numerics.sparse import InteractionRows
from tests.evaluation.problems import make_ids, random_parts, write_dataset

N_USERS, N_ITEMS = 12, 9
USER_FACTORS = np.random.default_rng(0).integers(1, 5, (N_USERS, 2)).astype(np.float32)
ITEM_FACTORS = np.random.default_rng(1).integers(-4, 5, (N_ITEMS, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    parts = random_parts(N_USERS, N_ITEMS, {"train": 0.3, "test": 0.2})
    return write_dataset(tmp_path_factory.mktemp("data") / "d", N_USERS, N_ITEMS, parts)


def align(
    dataset: Dataset,
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    *,
    fingerprint: str | None = None,
    user_factors: Factors = USER_FACTORS,
    item_factors: Factors = ITEM_FACTORS,
) -> AlignedModel:
    return align_model(
        dataset,
        name="model",
        user_factors=user_factors,
        item_factors=item_factors,
        user_ids=user_ids,
        item_ids=item_ids,
        fingerprint=fingerprint,
        solve=lambda rows, n_threads: (rows.to_scipy() @ item_factors).astype(np.float32),
        train_s=2.0,
        options={"reg": 0.5},
    )


def test_of_the_same_dataset_the_rows_coincide_and_nothing_is_copied(dataset: Dataset) -> None:
    found = align(dataset, dataset.user_ids, dataset.item_ids, fingerprint=dataset.fingerprint)
    assert found.item_factors is ITEM_FACTORS
    assert found.is_known_item is None
    assert found.notes == ()
    np.testing.assert_array_equal(found.user_factors_of(np.array([3, 0])), USER_FACTORS[[3, 0]])


def test_of_another_dataset_with_the_same_ids_the_numbers_are_the_same_and_a_note_says_so(dataset: Dataset) -> None:
    options = EvaluationOptions(cutoffs=(4,), n_resamples=0)
    same = align(dataset, dataset.user_ids, dataset.item_ids, fingerprint=dataset.fingerprint)
    other = align(dataset, dataset.user_ids, dataset.item_ids, fingerprint="f" * 64)
    values = [evaluate([model], dataset, options).values[0].by_user["ndcg@4"] for model in (same, other)]
    np.testing.assert_array_equal(*values)
    assert other.is_known_item is None
    assert "not know 0 of 12 users and 0 of 9 items" in other.notes[0]
    assert "may have been among its training" in other.notes[1]


def test_factors_follow_their_ids_and_unknown_ids_are_counted(dataset: Dataset) -> None:
    # The model's rows are shifted by two: it knows users 2 to 13 and items 3 to 11.
    found = align(dataset, make_ids("u", N_USERS, 2), make_ids("i", N_ITEMS, 3))
    np.testing.assert_array_equal(found.item_factors[3:], ITEM_FACTORS[: N_ITEMS - 3])
    np.testing.assert_array_equal(found.item_factors[:3], 0)
    assert found.is_known_item is not None
    assert found.is_known_item.tolist() == [False] * 3 + [True] * 6
    np.testing.assert_array_equal(
        found.user_factors_of(np.array([0, 1, 2, 11])), [[0, 0], [0, 0], *USER_FACTORS[[0, 9]]]
    )
    assert "not know 2 of 12 users and 3 of 9 items" in found.notes[0]


def test_unknown_users_and_items_count_as_misses_in_the_report(dataset: Dataset) -> None:
    found = align(dataset, make_ids("u", N_USERS, 2), make_ids("i", N_ITEMS, 3))
    result = evaluate([found], dataset, EvaluationOptions(cutoffs=(9,), n_resamples=0, cold_users="miss"))
    section, users = result.report.models[0], result.users
    assert section.n_items_unranked == 3
    assert section.n_users_unranked == np.count_nonzero(users.user_rows < 2)
    for position, user in enumerate(users.user_rows):
        truth = users.held_out.columns_of(position)
        expected = 0.0 if user < 2 else np.count_nonzero(truth >= 3) / truth.size
        assert result.values[0].by_user["recall@9"][position] == pytest.approx(expected)


def test_new_users_are_folded_in_from_the_items_that_the_model_knows(dataset: Dataset) -> None:
    found = align(dataset, make_ids("u", N_USERS, 2), make_ids("i", N_ITEMS, 3))
    rows = InteractionRows(
        np.array([0, 3, 4, 4]), np.array([1, 4, 8, 2], np.int32), np.array([1, 2, 3, 4], np.float32), N_ITEMS
    )
    expected = [2 * ITEM_FACTORS[1] + 3 * ITEM_FACTORS[5], np.zeros(2), np.zeros(2)]
    np.testing.assert_array_equal(found.fold_in(rows, 1), expected)
    same = align(dataset, dataset.user_ids, dataset.item_ids, fingerprint=dataset.fingerprint)
    np.testing.assert_array_equal(same.fold_in(rows, 1)[1], 4 * ITEM_FACTORS[2])


def test_a_dictionary_with_a_stranger_and_a_gap_is_matched_by_id(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", 2, 3, {"train": [(0, 0)], "test": [(1, 2)]})
    item_ids = IdDictionary.from_values(pa.array(["a stranger", "i00002", "i00000"]))  # sorted: stranger, 0, 2
    found = align(dataset, make_ids("u", 2), item_ids, user_factors=USER_FACTORS[:2], item_factors=ITEM_FACTORS[:3])
    np.testing.assert_array_equal(found.item_factors, [ITEM_FACTORS[1], [0, 0], ITEM_FACTORS[2]])


def test_a_model_without_a_common_item_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="none of the dataset's 9 items"):
        align(dataset, dataset.user_ids, make_ids("other", N_ITEMS))
