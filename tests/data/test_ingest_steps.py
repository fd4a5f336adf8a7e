"""The steps of an ingest on their own: what an executor may run side by side."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgals.data.buckets import ReducePlan, core_round, load_bucket, load_ids, place_items, reduce_bucket
from rgals.data.hashing import hash_numbers
from rgals.data.ingest_options import IngestOptions
from rgals.data.ingest_steps import filter_cores, merge_buckets
from rgals.data.sources import SourcePiece, find_sources
from rgals.data.spool import SpoolPlan, SpoolSummary, SpoolTask, TimeMark, read_spooled, spool_path, spool_pieces
from rgals.data.tasks import SequentialRunner


def write_csv(path, rows, header="user_id,item_id,weight,time"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def spool(sources, folder, options, n_buckets, place=0):
    """Run one map task over whole files."""
    folder.mkdir(exist_ok=True)
    is_official = any(source.part != "all" for source in sources)
    pieces = tuple(SourcePiece(source) for source in sources)
    return spool_pieces(SpoolPlan(folder, options, n_buckets, is_official), SpoolTask(place, pieces))


def plan(spools, folder, duplicates="max"):
    folder.mkdir(exist_ok=True)
    return ReducePlan(tuple(spools), folder, users_are_int64=True, items_are_int64=True, duplicates=duplicates)


def quiet(*_):
    pass


def test_every_event_lands_in_the_bucket_of_its_user(tmp_path):
    rows = [(user, item, 1, 0) for user in range(20) for item in range(3)]
    summary = spool(find_sources([write_csv(tmp_path / "e.csv", rows)]), tmp_path / "spool", IngestOptions(), 4)
    assert summary.n_read == 60
    seen = []
    for bucket in range(4):
        events = read_spooled([spool_path(tmp_path / "spool", 0)], bucket)
        users = events["user_number"].to_numpy()
        assert set(hash_numbers(users) % np.uint64(4)) == {bucket}
        seen += zip(users.tolist(), events["item_number"].to_pylist(), strict=True)
    assert sorted(seen) == sorted((user, item) for user, item, _, _ in rows)
    # One file and its index, however many buckets there are.
    assert len(list((tmp_path / "spool").iterdir())) == 2


@pytest.mark.parametrize("duplicates", ["max", "sum", "last", "count"])
def test_map_tasks_over_parts_of_the_sources_give_the_buckets_of_one_task(tmp_path, duplicates):
    generator = np.random.default_rng(5)
    for name in "abc":
        rows = [(*generator.integers(0, 9, 2), generator.integers(1, 5) / 2, generator.integers(9)) for _ in range(80)]
        write_csv(tmp_path / f"{name}.csv", rows)
    options = IngestOptions(weight_column="weight", duplicates=duplicates)
    sources = find_sources([tmp_path])
    spool(sources, tmp_path / "one", options, 3)
    for place, source in enumerate(sources):
        spool([source], tmp_path / "tasks", options, 3, place)
    one_task = [spool_path(tmp_path / "one", 0)]
    many_tasks = [spool_path(tmp_path / "tasks", place) for place in range(3)]
    for bucket in range(3):
        one = reduce_bucket(plan(one_task, tmp_path / "a", duplicates), bucket)
        # With positions even the order of the tasks does not matter.
        many = reduce_bucket(plan(many_tasks[::-1], tmp_path / "b", duplicates), bucket)
        assert one == many
        left, right = load_bucket(tmp_path / "a", bucket), load_bucket(tmp_path / "b", bucket)
        for name in ("users", "items", "weights"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        for side in ("user", "item"):
            assert load_ids(tmp_path / "a", side, bucket).equals(load_ids(tmp_path / "b", side, bucket))


def test_an_empty_bucket_gives_nothing(tmp_path):
    spool(find_sources([write_csv(tmp_path / "e.csv", [(1, 1, 1, 1)])]), tmp_path / "spool", IngestOptions(), 8)
    found = [reduce_bucket(plan([spool_path(tmp_path / "spool", 0)], tmp_path / "out"), bucket) for bucket in range(8)]
    assert sum(one is not None for one in found) == 1


def test_sums_do_not_depend_on_the_order_of_the_rows(tmp_path):
    values = [1e8, 1.0, 3.0, 1e-8, 7e7, 0.1, 0.2, 0.3] * 40
    options = IngestOptions(weight_column="weight", duplicates="sum")
    sums = set()
    for place in range(5):
        shuffled = np.random.default_rng(place).permutation(values)
        path = write_csv(tmp_path / f"{place}.csv", [(1, 1, repr(float(value)), 0) for value in shuffled])
        spool(find_sources([path]), tmp_path / f"s{place}", options, 1)
        reduce_bucket(plan([spool_path(tmp_path / f"s{place}", 0)], tmp_path / f"r{place}", "sum"), 0)
        sums.add(load_bucket(tmp_path / f"r{place}", 0).weights.tobytes())
    assert len(sums) == 1


def brute_force_core(pairs, user_core, item_core):
    live, before = set(pairs), None
    while live != before:
        before = live
        live = {(u, i) for u, i in live if sum(v == u for v, _ in live) >= user_core}
        live = {(u, i) for u, i in live if sum(j == i for _, j in live) >= item_core}
    return live


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40),
    user_core=st.integers(1, 4),
    item_core=st.integers(1, 4),
    n_buckets=st.integers(1, 4),
)
def test_the_core_filter_gives_the_fixed_point_for_any_buckets(
    tmp_path_factory, pairs, user_core, item_core, n_buckets
):
    folder = tmp_path_factory.mktemp("core")
    path = write_csv(folder / "e.csv", [(u, i, 1, 0) for u, i in sorted(pairs)])
    spool(find_sources([path]), folder / "spool", IngestOptions(), n_buckets)
    runner = SequentialRunner()
    merged = merge_buckets(plan([spool_path(folder / "spool", 0)], folder / "out"), n_buckets, runner, quiet)
    filtered, n_dropped = filter_cores(merged, user_core, item_core, runner, quiet)
    expected = brute_force_core(pairs, user_core, item_core)
    assert n_dropped == len(pairs) - len(expected)
    assert sorted(filtered.live_user_ids().to_pylist()) == sorted({u for u, _ in expected})
    assert filtered.live_item_ids().to_pylist() == sorted({i for _, i in expected})


def test_a_core_round_drops_users_first_and_counts_items_of_the_rest():
    users, items = np.array([0, 0, 1, 1, 2], np.int32), np.array([0, 1, 0, 1, 0], np.int32)
    live, degrees = core_round(users, items, np.ones(3, bool), np.array([True, True, True]), 2)
    assert live.tolist() == [True, True, False]
    assert degrees.tolist() == [2, 2, 0]
    live, degrees = core_round(users, items, live, np.array([True, False, True]), 2)
    assert live.tolist() == [False, False, False]
    assert degrees.tolist() == [0, 0, 0]


def test_the_items_of_a_bucket_are_placed_among_all_items(tmp_path):
    rows = [(user, 7 * user + item, 1, 0) for user in range(30) for item in range(9)]
    spool(find_sources([write_csv(tmp_path / "e.csv", rows)]), tmp_path / "spool", IngestOptions(), 4)
    made = plan([spool_path(tmp_path / "spool", 0)], tmp_path / "out")
    merged = merge_buckets(made, 4, SequentialRunner(), quiet)
    assert merged.item_ids.to_pylist() == sorted({item for _, item, _, _ in rows})
    for one in merged.buckets:
        for _ in range(2):  # worked out, then kept
            places = place_items(tmp_path / "out", one.bucket)
            assert merged.item_ids.take(pa.array(places)).equals(load_ids(tmp_path / "out", "item", one.bucket))


def test_summaries_of_map_tasks_add_up_to_that_of_one_task(tmp_path):
    write_csv(tmp_path / "a.csv", [("u", "1", 3, 50), ("", "1", 3, 60), ("7", "1", 1, 70)])
    write_csv(tmp_path / "b.csv", [("8", "2", 3, 90), ("", "1", 3, 99), ("7", "1", "x", 7)])
    options = IngestOptions(weight_column="weight", time_column="time", minimum_rating=2, reject_limit=1.0)
    sources = [
        *find_sources([tmp_path / "a.csv"], part="train"),
        *find_sources([tmp_path / "b.csv"], part="test", first_index=1),
    ]
    one = spool(sources, tmp_path / "one", options, 2)
    total = SpoolSummary()
    for place, source in enumerate(sources):
        total.add(spool([source], tmp_path / f"t{place}", options, 2))
    assert total == one
    assert one.rejected == {"missing user id": 2, "weight is not a number": 1}
    assert one.first_rejects["missing user id"].source.endswith("a.csv")
    assert one.latest_train == TimeMark(50_000_000, sources[0].path, 2)
    assert one.earliest_test == TimeMark(90_000_000, sources[1].path, 2)
    assert (one.users_can_be_int64, one.items_can_be_int64, one.n_rejected) == (False, True, 3)


def test_only_what_the_options_need_is_spooled(tmp_path):
    path = write_csv(tmp_path / "e.csv", [("u", "i", 2, 3)])
    spool(find_sources([path]), tmp_path / "plain", IngestOptions(), 1)
    assert read_spooled([spool_path(tmp_path / "plain", 0)], 0).column_names == [
        "user_number",
        "user_text",
        "item_number",
        "item_text",
    ]
    options = IngestOptions(weight_column="weight", duplicates="last")
    spool(find_sources([path], part="test"), tmp_path / "last", options, 1)
    events = read_spooled([spool_path(tmp_path / "last", 0)], 0)
    assert events.column_names[4:] == ["weight", "position", "is_test"]
    assert events["is_test"].to_pylist() == [True]
    assert isinstance(events, pa.Table)
