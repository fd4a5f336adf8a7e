"""Checkpoints: whole or not there, verified, and refused by any other run."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from rgals.data.shards import ShardRange
from rgals.data.storage import Folder, read_manifest
from rgals.errors import ChecksumError, DataError, FormatVersionError, OutputExistsError, StaleCheckpointError
from rgals.execution import InProcessExecutor
from rgals.training import block_files
from rgals.training import checkpoint as checkpoint_module
from rgals.training.checkpoint import BestSweep, Checkpoint, CheckpointStore, RunIdentity, check_writable
from rgals.training.factor_blocks import BlockState, FactorReader, Layout, SideFactors
from rgals.training.history import SweepSummary

IDENTITY = RunIdentity("d" * 64, {"alpha": 1.0, "n_factors": 4}, None)


def factors(seed, n_rows=5):
    return np.random.default_rng(seed).normal(size=(n_rows, 4)).astype(np.float32)


EXECUTOR = InProcessExecutor(1)
N_ROWS = {"user": 5, "item": 3}
LAYOUTS = {side: Layout((ShardRange(0, n, n),), ((side, 0),)) for side, n in N_ROWS.items()}


def blocks(sweep, seed, user_factors=None, rotation=None):
    users = factors(seed) if user_factors is None else user_factors
    ranges = {"user": (ShardRange(0, len(users), 0),), "item": LAYOUTS["item"].ranges}
    sides = [
        SideFactors(ranges["user"], (EXECUTOR.put(users),), 4, rotation),
        SideFactors(ranges["item"], (EXECUTOR.put(factors(seed + 100, 3)),), 4),
    ]
    return BlockState(sweep, *sides)


def whole(state, side):
    return FactorReader(EXECUTOR, state).read_all(side)


def save(store, checkpoint):
    return store.save(checkpoint, EXECUTOR)


def load(store, layouts=LAYOUTS):
    return store.load_latest(EXECUTOR, layouts)


def state_at(sweep, best=None):
    history = tuple(SweepSummary(s, 1 / 3 / s, 0.2 / s, 0.1 / s, 0.25, ndcg=0.1 * s) for s in range(1, sweep + 1))
    return Checkpoint(blocks(sweep, sweep), history, best)


def store_at(place, identity=IDENTITY, keep=2):
    return CheckpointStore(place, identity, keep)


def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path):
    saved = state_at(3, BestSweep(2, 0.1 + 0.2, blocks(2, 7)))
    save(store_at(tmp_path / "c"), saved)
    found = load(store_at(tmp_path / "c"))
    assert (found.sweep, found.history) == (3, saved.history)
    assert (found.best.sweep, found.best.ndcg) == (2, 0.1 + 0.2)
    for left, right in ((found.factors, saved.factors), (found.best.factors, saved.best.factors)):
        assert left.sweep == right.sweep
        for side in ("user", "item"):
            assert whole(left, side).dtype == np.float32
            assert whole(left, side).flags.c_contiguous
            assert whole(left, side).tobytes() == whole(right, side).tobytes()


def test_a_rotation_that_is_still_to_be_applied_is_kept_to_the_bit(tmp_path):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    save(store_at(tmp_path), replace(state_at(1), factors=blocks(1, 1, rotation=rotation)))
    found = load(store_at(tmp_path)).factors
    assert found.users.rotation.tobytes() == rotation.tobytes()
    assert found.items.rotation is None
    assert whole(found, "user").tobytes() == whole(blocks(1, 1, rotation=rotation), "user").tobytes()


@pytest.mark.parametrize("cuts", [(0, 5), (0, 2, 5), (0, 1, 2, 3, 4, 5)])
def test_a_checkpoint_is_read_into_any_number_of_blocks(tmp_path, cuts):
    stored = tuple(ShardRange(a, b, 0) for a, b in ((0, 3), (3, 4), (4, 5)))
    side = SideFactors(stored, tuple(EXECUTOR.put(factors(1)[one.start : one.stop]) for one in stored), 4)
    save(store_at(tmp_path), replace(state_at(1), factors=BlockState(1, side, blocks(1, 1).items)))
    wanted = tuple(ShardRange(a, b, 0) for a, b in itertools.pairwise(cuts))
    layout = Layout(wanted, tuple(("user", index) for index in range(len(wanted))))
    found = load(store_at(tmp_path), {**LAYOUTS, "user": layout}).factors.users
    assert found.ranges == wanted
    assert found.keys == layout.keys
    assert [EXECUTOR.fetch(block).tobytes() for block in found.blocks] == [
        factors(1)[one.start : one.stop].tobytes() for one in wanted
    ]


def test_the_worker_hashes_what_it_wrote(tmp_path):
    folder = save(store_at(tmp_path), state_at(1))
    _, files = read_manifest(folder, "checkpoint", 2)
    for name, entry in files.items():
        assert (folder.n_bytes(name), folder.sha256(name)) == (entry.n_bytes, entry.sha256)


def test_best_factors_are_stored_once_when_the_best_sweep_is_the_last(tmp_path):
    saved = state_at(3)
    folder = save(store_at(tmp_path), replace(saved, best=BestSweep(3, 0.5, saved.factors)))
    assert not [name for name in folder.file_names() if name.startswith("best-")]
    best = load(store_at(tmp_path)).best
    assert whole(best.factors, "user").tobytes() == factors(3).tobytes()


def test_a_best_sweep_without_kept_factors_stays_without(tmp_path):
    save(store_at(tmp_path), state_at(3, BestSweep(2, 0.5)))
    assert load(store_at(tmp_path)).best == BestSweep(2, 0.5, None)


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert load(store_at(tmp_path)) is None
    assert load(store_at(tmp_path / "missing")) is None


def test_factors_without_any_row_are_kept(tmp_path):
    save(store_at(tmp_path), replace(state_at(1), factors=blocks(1, 1, np.zeros((0, 4), np.float32))))
    layout = Layout((ShardRange(0, 0, 0),), (0,))
    assert whole(load(store_at(tmp_path), {**LAYOUTS, "user": layout}).factors, "user").shape == (0, 4)


def test_only_the_newest_are_kept(tmp_path):
    store = store_at(tmp_path, keep=2)
    for sweep in (1, 2, 9, 10):
        save(store, state_at(sweep))
    assert store.sweeps() == [9, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep-00009", "sweep-00010"]
    assert load(store).sweep == 10


def test_saving_a_sweep_again_replaces_it(tmp_path):
    store = store_at(tmp_path)
    save(store, state_at(1))
    save(store, replace(state_at(1), factors=blocks(1, 50)))
    assert whole(load(store).factors, "user").tobytes() == factors(50).tobytes()


def test_a_folder_without_manifest_is_not_a_checkpoint(tmp_path):
    store = store_at(tmp_path)
    save(store, state_at(1))
    save(store, state_at(2))
    (tmp_path / "sweep-00002" / "manifest.json").unlink()
    (tmp_path / ".sweep-00003.partial-abc").mkdir()
    (tmp_path / "notes").mkdir()
    assert store.sweeps() == [1]
    assert load(store).sweep == 1


def test_an_interrupted_save_leaves_the_older_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    store = store_at(tmp_path)
    save(store, state_at(1))

    def interrupt(*arguments, **known):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(store, state_at(2))
    assert [path.name for path in tmp_path.iterdir()] == ["sweep-00001"]


def test_a_full_disk_is_a_data_error_and_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    store = store_at(tmp_path)
    save(store, state_at(1))

    def fill_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(block_files, "write_array", fill_disk)
    with pytest.raises(DataError, match="No space left"):
        save(store, state_at(2))
    assert store.sweeps() == [1]


def test_another_dataset_is_stale_and_both_are_named(tmp_path):
    save(store_at(tmp_path), state_at(1))
    with pytest.raises(StaleCheckpointError, match="belongs to dataset dddddddddddd, this run trains eeeeeeeeeeee"):
        load(store_at(tmp_path, replace(IDENTITY, dataset="e" * 64)))


def test_other_options_are_stale_and_both_values_are_named(tmp_path):
    save(store_at(tmp_path), state_at(1))
    other = replace(IDENTITY, options={"alpha": 2.0, "seed": 1})
    with pytest.raises(StaleCheckpointError) as caught:
        load(store_at(tmp_path, other))
    for part in ("alpha 1.0 there, 2.0 here", "seed None there, 1 here", "n_factors 4 there, None here", "choose an"):
        assert part in str(caught.value)


def test_another_validation_sample_is_stale(tmp_path):
    save(store_at(tmp_path), state_at(1))
    with pytest.raises(StaleCheckpointError, match="validation sample none, this run has ffffffffffff"):
        load(store_at(tmp_path, replace(IDENTITY, validation="f" * 64)))


def test_a_flipped_byte_is_a_checksum_error_that_names_the_way_out(tmp_path):
    store = store_at(tmp_path)
    save(store, state_at(1))
    save(store, state_at(2))
    path = tmp_path / "sweep-00002" / "item-00000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"item-00000\.npy.*remove .*sweep-00002 to go on from sweep 1"):
        load(store)


def test_a_truncated_file_is_a_checksum_error(tmp_path):
    store = store_at(tmp_path)
    save(store, state_at(1))
    path = tmp_path / "sweep-00001" / "user-00000.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ChecksumError, match=r"remove .*sweep-00001 to begin anew"):
        load(store)


def test_a_missing_file_is_a_data_error(tmp_path):
    save(store_at(tmp_path), state_at(1))
    (tmp_path / "sweep-00001" / "state.json").unlink()
    with pytest.raises(DataError, match=r"state\.json: the file is missing"):
        load(store_at(tmp_path))


def test_a_newer_format_is_refused(tmp_path):
    save(store_at(tmp_path), state_at(1))
    path = tmp_path / "sweep-00001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(FormatVersionError, match="upgrade rgals"):
        load(store_at(tmp_path))


def test_the_manifest_names_sweep_dataset_and_options(tmp_path):
    folder = save(store_at(tmp_path), state_at(1))
    payload, files = read_manifest(folder, "checkpoint", 2)
    assert payload == {
        "sweep": 1,
        "dataset": IDENTITY.dataset,
        "options": dict(IDENTITY.options),
        "validation": None,
        "n_factors": 4,
        "blocks": {"user": [[0, 5]], "item": [[0, 3]]},
    }
    assert set(files) == {"user-00000.npy", "item-00000.npy", "state.json"}


def test_existing_checkpoints_are_refused_until_they_are_cleared(tmp_path):
    store = store_at(tmp_path)
    store.refuse_existing()
    save(store, state_at(4))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="up to sweep 4; pass --resume auto"):
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
