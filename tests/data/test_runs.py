"""Runs: any range of rows comes back, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgals.data import runs
from rgals.data.runs import read_runs, remove_run, write_run
from rgals.data.shard_files import entry_dtype, sort_records
from rgals.errors import DataError, InputError


def make_records(n, n_users, n_items, seed, *, has_times=True):
    generator = np.random.default_rng(seed)
    pairs = generator.permutation(n_users * n_items)[:n]
    records = np.zeros(pairs.size, dtype=entry_dtype(has_times=has_times))
    records["user"], records["item"] = pairs // n_items, pairs % n_items
    records["weight"] = generator.integers(1, 4, pairs.size)
    if has_times:
        records["time"] = generator.integers(0, 1 << 60, pairs.size)
    return records


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 150),
    seed=st.integers(0, 99),
    most_blocks=st.integers(1, 50),
    ends=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    n_runs=st.integers(0, 3),
)
def test_a_range_of_rows_comes_back_from_all_runs(tmp_path_factory, monkeypatch, n, seed, most_blocks, ends, n_runs):
    folder = tmp_path_factory.mktemp("runs")
    monkeypatch.setattr(runs, "_MOST_BLOCKS", most_blocks)
    records = make_records(n, 20, 30, seed)
    shares = np.array_split(records, n_runs) if n_runs else [records[:0]][:0]
    paths = [folder / f"run-{place}" for place in range(n_runs)]
    for path, share in zip(paths, shares, strict=True):
        write_run(path, "train", share, 20, 30)
    everything = np.concatenate([records[:0], *shares])
    start, stop = sorted(ends)
    for side, n_rows in (("user", 20), ("item", 30)):
        dtype = entry_dtype(has_times=side == "user")
        found = sort_records(read_runs(paths, side, start, stop, n_rows, dtype), side)
        expected = everything[(everything[side] >= start) & (everything[side] < stop)]
        expected = sort_records(expected, side)[list(dtype.names)].astype(dtype)
        assert found.tolist() == expected.tolist()


def test_a_run_says_what_it_holds_and_can_be_removed(tmp_path):
    records = make_records(40, 20, 30, 0)
    run = write_run(tmp_path / "a", "train", records, 20, 30)
    assert (run.part, run.n_interactions, run.has_weights, run.has_times) == ("train", 40, True, True)
    for side, found in (("user", run.user_degrees), ("item", run.item_degrees)):
        counts = np.bincount(records[side], minlength=30)
        assert found.rows.tolist() == np.flatnonzero(counts).tolist()
        assert found.counts.tolist() == counts[counts > 0].tolist()
    assert len(list(tmp_path.iterdir())) == 4
    remove_run(run.path)
    assert list(tmp_path.iterdir()) == []


def test_held_out_parts_are_written_by_user_only(tmp_path):
    records = make_records(40, 20, 30, 0, has_times=False)
    records["weight"] = 1
    run = write_run(tmp_path / "a", "test", records, 20, 30)
    assert (run.has_weights, run.has_times) == (False, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.user.bin", "a.user.npy"]
    remove_run(run.path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_cut_off_is_a_data_error(tmp_path):
    records = make_records(40, 20, 30, 0)
    write_run(tmp_path / "a", "train", records, 20, 30)
    path = tmp_path / "a.item.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.item\.bin: expected 40 records, found 39"):
        read_runs([tmp_path / "a"], "item", 0, 30, 30, entry_dtype(has_times=False))


def test_a_pair_there_twice_is_refused():
    records = make_records(40, 20, 30, 0)
    records[7] = records[11]
    with pytest.raises(InputError, match=f"user row {records['user'][7]}, item row {records['item'][7]}"):
        sort_records(records, "item")
