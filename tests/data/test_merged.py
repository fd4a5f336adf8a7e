"""Training and validation part as one source: shards, weights, checkpoints told apart, sent to other processes."""

import pickle

import numpy as np
import pytest
import scipy.sparse

from rgals.data.merged import TrainAndValidation
from rgals.data.shards import InMemoryInteractions
from rgals.data.splits import PART_NAMES
from rgals.errors import InputError
from rgals.execution import InProcessExecutor
from rgals.names import SIDES
from rgals.numerics.sparse import InteractionRows
from rgals.training.config import TrainingConfig
from rgals.training.trainer import train
from tests.data.dataset_problems import N_ITEMS, N_USERS, assert_same, make_entries, write

TRAIN, VALIDATION, TEST = (PART_NAMES.index(name) for name in ("train", "validation", "test"))


def entries_of(*codes):
    entries = make_entries()
    kept = np.isin(entries["part"], codes)
    return {name: values[kept] for name, values in entries.items()}


def expected_rows(*, weights):
    found = entries_of(TRAIN, VALIDATION)
    values = found["weight"] if weights else np.ones(found["user"].size)
    matrix = scipy.sparse.coo_array((values, (found["user"], found["item"])), shape=(N_USERS, N_ITEMS))
    return InteractionRows.from_scipy(matrix.tocsr())


@pytest.mark.parametrize("weights", [True, False])
def test_shards_and_the_whole_hold_both_parts(tmp_path, weights):
    dataset = write(tmp_path / "d", entries_of(TRAIN, VALIDATION, TEST), n_shards=3, weights=weights)
    merged, expected = TrainAndValidation(dataset), expected_rows(weights=weights)
    assert_same(merged.read_all(), expected)
    assert merged.n_interactions == expected.n_interactions > dataset.n_interactions
    for side, whole in zip(SIDES, (expected, expected.transpose()), strict=True):
        ranges = merged.shard_ranges(side)
        assert len(ranges) > 1
        for index, shard in enumerate(ranges):
            loaded = merged.load_shard(side, index)
            assert_same(loaded, whole.row_slice(shard.start, shard.stop))
            assert loaded.n_interactions == shard.n_interactions


def test_a_pair_of_both_parts_counts_once_with_the_weight_of_the_training_part(tmp_path):
    entries = entries_of(TRAIN, VALIDATION)
    pair = {name: values[entries["part"] == TRAIN][:1] for name, values in entries.items()}
    pair["part"], pair["weight"] = np.array([VALIDATION]), pair["weight"] + 5
    both = {name: np.concatenate([entries[name], pair[name]]) for name in entries}
    assert_same(TrainAndValidation(write(tmp_path / "d", both)).read_all(), expected_rows(weights=True))


def test_it_trains_as_the_same_interactions_in_memory(tmp_path):
    dataset = write(tmp_path / "d", entries_of(TRAIN, VALIDATION, TEST), n_shards=2)
    config = TrainingConfig(n_factors=4, n_sweeps=2, softmax_users=0)
    with InProcessExecutor(1) as executor:
        found = train(TrainAndValidation(dataset), config, executor=executor)
        expected = train(InMemoryInteractions(expected_rows(weights=True)), config, executor=executor)
        np.testing.assert_array_equal(found.item_factors, expected.item_factors)


def test_it_is_told_apart_from_the_training_part_and_survives_being_sent(tmp_path):
    dataset = write(tmp_path / "d", entries_of(TRAIN, VALIDATION))
    merged = TrainAndValidation(dataset)
    assert merged.fingerprint != dataset.fingerprint
    sent = pickle.loads(pickle.dumps(merged))
    assert sent.fingerprint == merged.fingerprint
    assert_same(sent.load_shard("item", 0), merged.load_shard("item", 0))


def test_a_dataset_without_such_a_part_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a validation part"):
        TrainAndValidation(write(tmp_path / "a", entries_of(TRAIN, TEST)))
    with pytest.raises(InputError, match="users that no training sees"):
        TrainAndValidation(write(tmp_path / "b", make_entries()))
