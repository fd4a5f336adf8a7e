"""Checkpoints: whole or not there, verified, and refused by any other run."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rgals.data.storage import Folder, read_manifest
from rgals.errors import ChecksumError, DataError, FormatVersionError, OutputExistsError, StaleCheckpointError
from rgals.training import checkpoint as checkpoint_module
from rgals.training.checkpoint import BestSweep, Checkpoint, CheckpointStore, RunIdentity, check_writable
from rgals.training.history import SweepSummary

IDENTITY = RunIdentity("d" * 64, {"alpha": 1.0, "n_factors": 4}, None)


def factors(seed, n_rows=5):
    return np.random.default_rng(seed).normal(size=(n_rows, 4)).astype(np.float32)


def state_at(sweep, best=None):
    history = tuple(SweepSummary(s, 1 / 3 / s, 0.2 / s, 0.1 / s, 0.25, ndcg=0.1 * s) for s in range(1, sweep + 1))
    return Checkpoint(sweep, factors(sweep), factors(sweep + 100, 3), history, best)


def store_at(place, identity=IDENTITY, keep=2):
    return CheckpointStore(place, identity, keep)


def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path):
    saved = state_at(3, BestSweep(2, 0.1 + 0.2, (factors(7), factors(8, 3))))
    store_at(tmp_path / "c").save(saved)
    found = store_at(tmp_path / "c").load_latest()
    assert (found.sweep, found.history) == (3, saved.history)
    assert (found.best.sweep, found.best.ndcg) == (2, 0.1 + 0.2)
    pairs = [(found.user_factors, saved.user_factors), (found.item_factors, saved.item_factors)]
    pairs += list(zip(found.best.factors, saved.best.factors, strict=True))
    for left, right in pairs:
        assert left.dtype == np.float32
        assert left.flags.c_contiguous
        assert left.flags.writeable
        assert left.tobytes() == right.tobytes()


def test_best_factors_are_stored_once_when_the_best_sweep_is_the_last(tmp_path):
    saved = state_at(3)
    folder = store_at(tmp_path).save(replace(saved, best=BestSweep(3, 0.5, (saved.user_factors, saved.item_factors))))
    assert not [name for name in folder.file_names() if name.startswith("best_")]
    best = store_at(tmp_path).load_latest().best
    assert best.factors[0].tobytes() == saved.user_factors.tobytes()


def test_a_best_sweep_without_kept_factors_stays_without(tmp_path):
    store_at(tmp_path).save(state_at(3, BestSweep(2, 0.5)))
    assert store_at(tmp_path).load_latest().best == BestSweep(2, 0.5, None)


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert store_at(tmp_path).load_latest() is None
    assert store_at(tmp_path / "missing").load_latest() is None


def test_factors_without_any_row_are_kept(tmp_path):
    store_at(tmp_path).save(replace(state_at(1), user_factors=np.zeros((0, 4), np.float32)))
    assert store_at(tmp_path).load_latest().user_factors.shape == (0, 4)


def test_only_the_newest_are_kept(tmp_path):
    store = store_at(tmp_path, keep=2)
    for sweep in (1, 2, 9, 10):
        store.save(state_at(sweep))
    assert store.sweeps() == [9, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep-00009", "sweep-00010"]
    assert store.load_latest().sweep == 10


def test_saving_a_sweep_again_replaces_it(tmp_path):
    store = store_at(tmp_path)
    store.save(state_at(1))
    store.save(replace(state_at(1), user_factors=factors(50)))
    assert store.load_latest().user_factors.tobytes() == factors(50).tobytes()


def test_a_folder_without_manifest_is_not_a_checkpoint(tmp_path):
    store = store_at(tmp_path)
    store.save(state_at(1))
    store.save(state_at(2))
    (tmp_path / "sweep-00002" / "manifest.json").unlink()
    (tmp_path / ".sweep-00003.partial-abc").mkdir()
    (tmp_path / "notes").mkdir()
    assert store.sweeps() == [1]
    assert store.load_latest().sweep == 1


def test_an_interrupted_save_leaves_the_older_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    store = store_at(tmp_path)
    store.save(state_at(1))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(state_at(2))
    assert [path.name for path in tmp_path.iterdir()] == ["sweep-00001"]


def test_a_full_disk_is_a_data_error_and_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    store = store_at(tmp_path)
    store.save(state_at(1))

    def fill_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "write_array", fill_disk)
    with pytest.raises(DataError, match="No space left"):
        store.save(state_at(2))
    assert store.sweeps() == [1]


def test_another_dataset_is_stale_and_both_are_named(tmp_path):
    store_at(tmp_path).save(state_at(1))
    with pytest.raises(StaleCheckpointError, match="belongs to dataset dddddddddddd, this run trains eeeeeeeeeeee"):
        store_at(tmp_path, replace(IDENTITY, dataset="e" * 64)).load_latest()


def test_other_options_are_stale_and_both_values_are_named(tmp_path):
    store_at(tmp_path).save(state_at(1))
    other = replace(IDENTITY, options={"alpha": 2.0, "seed": 1})
    with pytest.raises(StaleCheckpointError) as caught:
        store_at(tmp_path, other).load_latest()
    for part in ("alpha 1.0 there, 2.0 here", "seed None there, 1 here", "n_factors 4 there, None here", "choose an"):
        assert part in str(caught.value)


def test_another_validation_sample_is_stale(tmp_path):
    store_at(tmp_path).save(state_at(1))
    with pytest.raises(StaleCheckpointError, match="validation sample none, this run has ffffffffffff"):
        store_at(tmp_path, replace(IDENTITY, validation="f" * 64)).load_latest()


def test_a_flipped_byte_is_a_checksum_error_that_names_the_way_out(tmp_path):
    store = store_at(tmp_path)
    store.save(state_at(1))
    store.save(state_at(2))
    path = tmp_path / "sweep-00002" / "item_factors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"item_factors\.npy.*remove .*sweep-00002 to go on from sweep 1"):
        store.load_latest()


def test_a_truncated_file_is_a_checksum_error(tmp_path):
    store = store_at(tmp_path)
    store.save(state_at(1))
    path = tmp_path / "sweep-00001" / "user_factors.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ChecksumError, match=r"remove .*sweep-00001 to begin anew"):
        store.load_latest()


def test_a_missing_file_is_a_data_error(tmp_path):
    store_at(tmp_path).save(state_at(1))
    (tmp_path / "sweep-00001" / "state.json").unlink()
    with pytest.raises(DataError, match=r"state\.json: the file is missing"):
        store_at(tmp_path).load_latest()


def test_a_newer_format_is_refused(tmp_path):
    store_at(tmp_path).save(state_at(1))
    path = tmp_path / "sweep-00001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(FormatVersionError, match="upgrade rgals"):
        store_at(tmp_path).load_latest()


def test_the_manifest_names_sweep_dataset_and_options(tmp_path):
    folder = store_at(tmp_path).save(state_at(1))
    payload, files = read_manifest(folder, "checkpoint", 1)
    assert payload == {
        "sweep": 1,
        "dataset": IDENTITY.dataset,
        "options": dict(IDENTITY.options),
        "validation": None,
    }
    assert set(files) == {"user_factors.npy", "item_factors.npy", "state.json"}


def test_existing_checkpoints_are_refused_until_they_are_cleared(tmp_path):
    store = store_at(tmp_path)
    store.refuse_existing()
    store.save(state_at(4))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="up to sweep 4; pass --resume"):
        store.refuse_existing()
    store.clear()
    store.refuse_existing()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_writable_place_is_left_as_it_was(tmp_path):
    check_writable(tmp_path / "not" / "there" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another place"):
        check_writable(tmp_path / "file" / "model")


def test_a_place_on_another_filesystem_is_probed(tmp_path):
    check_writable(Folder.at(f"file://{tmp_path}/x"))
    assert list(tmp_path.iterdir()) == []
