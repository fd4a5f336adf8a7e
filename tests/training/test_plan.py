"""What a run needs: each term by hand, growth in every argument, and settings near a plan that fit."""

import dataclasses
import importlib.util
import math
from pathlib import Path

import psutil
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rgals.data.dataset import Dataset
from rgals.data.ingest import IngestOptions, ingest
from rgals.data.shards import InMemoryInteractions, ShardRange, default_shard_count
from rgals.errors import CapacityError, ClusterError, InputError
from rgals.execution import ClusterStatus, NodeStatus
from rgals.training import capacity, plan_terms
from rgals.training.capacity import Limits, check_plan, find_shortages, nearest_fits
from rgals.training.config import TrainingConfig
from rgals.training.plan import Plan, PlanInput, ShardShape, kept_checkpoints, make_plan, plan_training
from rgals.training.sweep_time import Calibration, Rates, SweepTime
from tests.training.runs import N_ITEMS, N_USERS, planted

# Sizes that can be multiplied in the head: a block is at most 600 rows, a shard 25,000 interactions.
USER_SHARDS, ITEM_SHARDS = ShardShape(10, 600, 20_000), ShardShape(5, 500, 25_000)
SMALL = PlanInput(
    n_users=5_000,
    n_items=2_000,
    n_interactions=100_000,
    n_factors=10,
    n_workers=5,
    worker_cpus=2,
    n_nodes=5,
    user_shards=USER_SHARDS,
    item_shards=ITEM_SHARDS,
)
MEASURED = Calibration((Rates(1, 4e-9, 3e-9, 2e-11, 8e-11), Rates(4, 1e-9, 1e-9, 1e-11, 3e-11)))


def changed(**fields):
    return dataclasses.replace(SMALL, **fields)


def items_of(items):
    return {item.name: item.n_bytes for item in items}


@pytest.mark.parametrize(
    ("term", "asked", "expected"),
    [
        ("process_bytes", None, 400_000_000),
        # 5 workers keep a quarter each: of 4 * 100,000 + 8 * 5,000 by user, of 400,000 + 16,000 by item.
        ("resident_bytes", SMALL, 110_000 + 104_000),
        ("resident_bytes", changed(has_weights=True), (800_000 + 40_000) // 4 + (800_000 + 16_000) // 4),
        ("resident_bytes", changed(n_workers=1, n_nodes=1), 440_000 + 416_000),
        # No less than one shard of each side: 80,000 + 4,800 and 100,000 + 4,000.
        ("resident_bytes", changed(n_workers=100, n_nodes=5), 84_800 + 104_000),
        ("fixed_side_bytes", SMALL, 5_000 * 10 * 4),
        ("fixed_side_bytes", changed(n_items=9_000), 9_000 * 10 * 4),
        ("block_buffer_bytes", SMALL, 2 * 600 * 10 * 4),
        ("decoding_bytes", SMALL, 3 * 104_000),
        ("stored_factors_bytes", SMALL, 7_000 * 10 * 4 // 5),
        ("new_side_bytes", SMALL, 5_000 * 10 * 4 // 5),
        ("best_sweep_bytes", SMALL, 0),
        ("best_sweep_bytes", changed(keeps_best=True), 7_000 * 10 * 4 // 5),
        ("stored_rows_bytes", SMALL, 280_000),
        ("window_bytes", SMALL, 4 * 600 * 10 * 4),
        ("window_bytes", changed(n_workers=11), 3 * 4 * 600 * 10 * 4),
        ("window_bytes", changed(n_workers=3, n_nodes=1), 3 * 600 * 10 * 4),
        ("new_side_in_process_bytes", SMALL, 2_000 * 10 * 4),
        ("row_bytes", SMALL, 40 * 7_000),
        ("watched_items_bytes", SMALL, 2_000 * 10 * 4),
        ("ids_bytes", SMALL, 24 * 7_000),
        ("model_writing_bytes", SMALL, 3 * 600 * 10 * 4 + 3 * 84_800),
        ("dataset_disk_bytes", SMALL, 600_000 + 168_000),
        ("dataset_disk_bytes", changed(has_weights=True), 1_400_000 + 168_000),
        ("dataset_disk_bytes", changed(dataset_bytes=5), 0),
        ("checkpoint_bytes", SMALL, 3 * 280_000),
        ("checkpoint_bytes", changed(keep_checkpoints=0), 280_000),
        ("checkpoint_bytes", changed(keeps_best=True), 6 * 280_000),
        ("model_disk_bytes", SMALL, 280_000 + 168_000 + 400_000 + 40_000 + 16_000),
        ("network_bytes", SMALL, 280_000 * 4 // 5),
        ("network_bytes", changed(n_nodes=1), 0),
        ("hottest_row", SMALL, 500),
        ("hottest_row", changed(hottest_row=7), 7),
        ("hottest_row", changed(n_interactions=300), 300),
    ],
)
def test_a_term_is_its_formula(term, asked, expected):
    function = getattr(plan_terms, term)
    assert (function() if asked is None else function(asked)) == expected


def test_every_term_states_its_formula_in_one_line():
    for name in plan_terms.__all__:
        first = getattr(plan_terms, name).__doc__.splitlines()[0]
        assert first.endswith(".")
        assert ": " in first, name


def test_the_busiest_worker_has_whole_shards():
    assert plan_terms.busiest_share(SMALL, "user") == 2 / 10
    assert plan_terms.busiest_share(changed(n_workers=4, n_nodes=4), "user") == 3 / 10
    assert plan_terms.busiest_share(changed(n_workers=50), "item") == 1 / 5


def test_a_plan_adds_up_its_terms():
    plan = make_plan(SMALL)
    assert items_of(plan.worker) == {
        "the process itself": 400_000_000,
        "shards that it keeps": 214_000,
        "the fixed side": 200_000,
        "blocks in work": 48_000,
        "reading a shard": 312_000,
    }
    assert plan.worker_bytes == 400_774_000
    assert plan.block_bytes == 56_000 + 40_000 + 0 + 280_000 + 96_000
    assert plan.object_store_bytes == 1.25 * plan.block_bytes
    assert plan.driver_bytes == 400_000_000 + 280_000 + 80_000 + 168_000 + 72_000 + 3 * 84_800
    assert plan.disk_bytes == 768_000 + 840_000 + 904_000
    assert plan.node_bytes == plan.worker_bytes + plan.driver_bytes
    assert make_plan(changed(n_workers=11)).node_bytes == (
        3 * make_plan(changed(n_workers=11)).worker_bytes + plan.driver_bytes
    )
    assert plan.time is None


def test_in_one_process_the_factors_and_the_driver_are_in_it():
    plan = make_plan(changed(n_workers=1, n_nodes=1, is_in_process=True, keeps_best=True))
    assert plan.object_store == ()
    assert plan.driver == ()
    assert plan.object_store_bytes == plan.driver_bytes == 0
    assert plan.node_bytes == plan.worker_bytes
    found = items_of(plan.worker)
    assert found["factors"] == found["best sweep"] == 280_000
    # The larger side is fixed while the smaller one is new.
    assert found["the fixed side"] == 200_000
    assert found["new factors"] == 80_000
    assert "writing the model" not in found
    assert found["numbers of each row"] == 280_000
    assert [item.name for item in plan.worker].count("the process itself") == 1


GROWING = ["n_users", "n_items", "n_interactions", "n_factors", "has_weights", "keeps_best", "keep_checkpoints"]
inputs = st.builds(
    PlanInput,
    n_users=st.integers(1, 10**9),
    n_items=st.integers(1, 10**7),
    n_interactions=st.integers(1, 10**11),
    n_factors=st.integers(1, 512),
    n_workers=st.integers(64, 512),
    worker_cpus=st.integers(1, 64),
    n_nodes=st.integers(1, 64),
    has_weights=st.booleans(),
    keeps_best=st.booleans(),
    keep_checkpoints=st.integers(0, 5),
    user_shards=st.builds(ShardShape, st.integers(1, 3000), st.integers(1, 10**6), st.integers(1, 10**7)),
    item_shards=st.builds(ShardShape, st.integers(1, 3000), st.integers(1, 10**6), st.integers(1, 10**7)),
)


def sizes(asked):
    plan = make_plan(asked)
    return (plan.worker_bytes, plan.object_store_bytes, plan.driver_bytes, plan.disk_bytes, plan.network_bytes)


@given(asked=inputs, name=st.sampled_from(GROWING))
def test_no_need_falls_when_the_problem_grows(asked, name):
    value = getattr(asked, name)
    larger = dataclasses.replace(asked, **{name: True if isinstance(value, bool) else value + 1 + value // 3})
    assert all(more >= less for less, more in zip(sizes(asked), sizes(larger), strict=True))


@pytest.mark.parametrize("name", GROWING)
def test_some_need_rises_with_each_argument(name):
    value = getattr(SMALL, name)
    larger = changed(**{name: True if isinstance(value, bool) else value * 2})
    assert sum(sizes(larger)) > sum(sizes(SMALL))


@given(asked=inputs, side=st.sampled_from(["user_shards", "item_shards"]))
def test_larger_shards_need_more(asked, side):
    shape = getattr(asked, side)
    grown = ShardShape(shape.n_shards, shape.largest_rows * 2, shape.largest_interactions * 2)
    larger = dataclasses.replace(asked, **{side: grown})
    assert all(more >= less for less, more in zip(sizes(asked), sizes(larger), strict=True))


@given(asked=inputs, factor=st.integers(2, 8))
def test_more_nodes_with_as_many_workers_need_less_of_each_and_more_network(asked, factor):
    per_node, n_nodes = asked.workers_per_node, max(2, asked.n_nodes)
    asked = dataclasses.replace(asked, n_nodes=n_nodes, n_workers=per_node * n_nodes)
    larger = dataclasses.replace(asked, n_nodes=asked.n_nodes * factor, n_workers=asked.n_workers * factor)
    few, many = make_plan(asked), make_plan(larger)
    assert many.worker_bytes <= few.worker_bytes
    assert many.object_store_bytes <= few.object_store_bytes
    assert many.node_bytes <= few.node_bytes
    assert many.network_bytes >= few.network_bytes


@given(asked=inputs)
def test_the_fixed_side_does_not_shrink_with_workers(asked):
    larger = dataclasses.replace(asked, n_workers=asked.n_workers * 4)
    assert plan_terms.fixed_side_bytes(larger) == plan_terms.fixed_side_bytes(asked)
    assert make_plan(larger).worker_bytes >= asked.largest_side * asked.n_factors * 4


def limits_below(plan: Plan, fraction: float) -> Limits:
    return Limits("a test", memory_bytes=max(1, int((plan.node_bytes + plan.object_store_bytes) * fraction)))


@given(asked=inputs, fraction=st.floats(0.05, 0.999), which=st.sampled_from(["memory", "store", "disk"]))
@example(asked=SMALL, fraction=0.9, which="store")
def test_suggested_settings_fit_and_one_step_nearer_does_not(asked, fraction, which):
    asked = dataclasses.replace(asked, n_workers=asked.workers_per_node * asked.n_nodes)
    plan = make_plan(asked)
    limits = {
        "memory": limits_below(plan, fraction),
        "store": Limits("a test", object_store_bytes=max(1, int(plan.object_store_bytes * fraction))),
        "disk": Limits("a test", disk_bytes=max(1, int(plan.disk_bytes * fraction))),
    }[which]
    assume(find_shortages(plan, limits))
    for found in nearest_fits(plan, limits):
        assert not find_shortages(make_plan(found), limits)
        nearer = one_step_nearer(asked, found)
        assert nearer == asked or find_shortages(make_plan(nearer), limits)


def one_step_nearer(asked, found):
    """Change the one thing that differs by one, towards what was asked for."""
    if found.n_factors != asked.n_factors:
        return dataclasses.replace(found, n_factors=found.n_factors + 1)
    if found.keep_checkpoints != asked.keep_checkpoints:
        return dataclasses.replace(found, keep_checkpoints=found.keep_checkpoints + 1)
    if found.n_nodes != asked.n_nodes:
        n_nodes = found.n_nodes - 1
        if n_nodes == asked.n_nodes and found.workers_per_node == asked.workers_per_node:
            return asked
        return dataclasses.replace(found, n_nodes=n_nodes, n_workers=n_nodes * found.workers_per_node)
    return dataclasses.replace(found, n_workers=found.n_workers + found.n_nodes)


@given(asked=inputs, fraction=st.floats(0.3, 0.999))
def test_a_plan_is_refused_exactly_when_a_limit_does_not_hold(asked, fraction):
    plan = make_plan(asked)
    check_plan(plan, limits_below(plan, 1.0001))
    with pytest.raises(CapacityError, match="memory of a node"):
        check_plan(plan, limits_below(plan, fraction))


def test_the_refusal_names_every_limit_with_numbers_and_the_settings_that_fit():
    asked = PlanInput(10**7, 10**6, 10**9, 128, n_workers=2, worker_cpus=8, n_nodes=1, keep_checkpoints=3)
    plan = make_plan(asked)
    limits = Limits("this test", 15 * 10**9, 10 * 10**9, 10 * 10**9, 20 * 10**9)
    with pytest.raises(CapacityError) as caught:
        check_plan(plan, limits)
    text = str(caught.value)
    for name in ("memory of a node", "object store of a node", "shared memory (/dev/shm) of a node", "disk"):
        assert f"\n  {name}: " in text
    assert "10 GB available" in text
    assert "20 GB available" in text
    assert "--n-factors " in text
    # Neither more nodes nor fewer checkpoints alone make it fit the disk.
    assert "--workers" not in text
    fits = next(one for one in nearest_fits(plan, limits) if one.n_factors != 128)
    assert f"  --n-factors {fits.n_factors}" in text.splitlines()


def test_more_nodes_are_named_with_the_workers_to_type():
    plan = make_plan(PlanInput(10**7, 10**6, 10**9, 128, n_workers=2, worker_cpus=8, n_nodes=1))
    with pytest.raises(CapacityError, match="\n  --workers 8 --worker-cpus 8, with 4 nodes like these\n"):
        check_plan(plan, Limits("this test", memory_bytes=20 * 10**9))
    # Two fixed sides of 5 GB and the driver fill the memory, however many nodes there are.
    with pytest.raises(CapacityError, match=r"\n  --workers 6 --worker-cpus 16, with 6 nodes like these$"):
        check_plan(plan, Limits("this test", memory_bytes=12 * 10**9))


def test_fewer_workers_are_named_with_the_cpus_of_all():
    plan = make_plan(PlanInput(10**7, 10**6, 10**9, 128, n_workers=4, worker_cpus=4, n_nodes=1))
    with pytest.raises(CapacityError, match="\n  --workers 2 --worker-cpus 8\n"):
        check_plan(plan, Limits("this test", memory_bytes=40 * 10**9))


def test_one_process_is_told_to_take_ray_for_more_nodes():
    asked = PlanInput(10**7, 10**6, 10**9, 128, worker_cpus=8, is_in_process=True)
    with pytest.raises(CapacityError, match=r"--executor ray --workers [0-9]+ --worker-cpus 8, with [0-9]+ nodes"):
        check_plan(make_plan(asked), Limits("this test", memory_bytes=15 * 10**9))


def test_where_nothing_helps_the_refusal_says_so():
    with pytest.raises(CapacityError, match="would be enough alone"):
        check_plan(make_plan(SMALL), Limits("a watch", memory_bytes=1_000_000))


def test_the_object_store_is_part_of_the_memory_unless_it_has_a_size():
    plan = make_plan(changed(n_users=10**7))
    enough = plan.node_bytes
    assert not find_shortages(plan, Limits("x", memory_bytes=enough, object_store_bytes=plan.object_store_bytes))
    shortage = find_shortages(plan, Limits("x", memory_bytes=enough))[0]
    assert shortage.needed_bytes == enough + plan.object_store_bytes
    assert "object store" in shortage.detail


def test_unknown_limits_are_not_compared():
    check_plan(make_plan(changed(n_users=10**9)), Limits("somewhere"))
    assert nearest_fits(make_plan(SMALL), Limits("somewhere")) == []


def test_limits_of_this_machine_come_from_the_system(tmp_path):
    limits = Limits.of_this_machine(tmp_path / "not" / "there")
    assert limits.memory_bytes is not None
    assert 0 < limits.memory_bytes < psutil.virtual_memory().total * 0.96
    assert limits.disk_bytes is not None
    assert limits.disk_bytes > 0
    assert Limits.of_this_machine().disk_bytes is None
    assert Limits.of_this_machine("s3://bucket/models").disk_bytes is None


def test_without_a_system_to_ask_there_are_no_limits(monkeypatch, tmp_path):
    def fail():
        raise OSError

    monkeypatch.setattr(capacity, "read_memory", fail)
    monkeypatch.setattr(capacity, "_SHARED_MEMORY", tmp_path / "none")
    assert Limits.of_this_machine() == Limits("this machine")


def cluster(*nodes, is_reachable=True):
    return ClusterStatus(is_reachable, "token", "2.60.0", "3.11.9", nodes, "Ray at 10.0.0.1:6379: found")


def test_limits_of_a_cluster_are_its_smallest_nodes_that_work():
    status = cluster(
        NodeStatus("head", "10.0.0.1", 0, 1_000, 10),
        NodeStatus("a", "10.0.0.2", 8, 64_000, 20_000),
        NodeStatus("b", "10.0.0.3", 8, 32_000, 30_000),
    )
    limits = Limits.of_cluster(status)
    assert (limits.memory_bytes, limits.object_store_bytes, limits.disk_bytes) == (32_000, 20_000, None)
    assert "the smallest: b" in limits.where


def test_a_cluster_that_cannot_work_gives_no_limits():
    with pytest.raises(ClusterError, match=r"10\.0\.0\.1:6379"):
        Limits.of_cluster(cluster(is_reachable=False))
    with pytest.raises(ClusterError, match="expected a node with CPUs"):
        Limits.of_cluster(cluster(NodeStatus("head", "10.0.0.1", 0, 1_000, 10)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_users": 0}, "n_users: expected at least 1, found 0"),
        ({"n_factors": -1}, "n_factors"),
        ({"n_sweeps": 0}, "n_sweeps"),
        ({"keep_checkpoints": -1}, "keep_checkpoints"),
        ({"n_workers": 2, "n_nodes": 3}, "2 workers on 3 nodes"),
        ({"n_workers": 2, "n_nodes": 1, "is_in_process": True}, "expected 1 worker without Ray"),
    ],
)
def test_numbers_that_cannot_be_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        changed(**fields)


def test_expected_shards_are_those_that_ingest_writes():
    assert ShardShape.expected(10**6, 10**8) == ShardShape(100, 12_500, 1_250_000)
    assert ShardShape.expected(10**8, 10**10).n_shards == default_shard_count(10**10) == 1024
    assert ShardShape.expected(10**6, 1000).n_shards == 4
    assert ShardShape.expected(10**6, 10**8, 10).n_shards == 10
    # A side of 600 rows has two blocks of 512, one of 60 a single one, which holds everything.
    assert ShardShape.expected(600, 10**8) == ShardShape(2, 375, 62_500_000)
    assert ShardShape.expected(60, 100) == ShardShape(1, 60, 100)


def test_shards_that_are_there_are_measured():
    ranges = [ShardRange(0, 512, 100), ShardRange(512, 2048, 90)]
    assert ShardShape.of(ranges) == ShardShape(2, 1536, 100)


def test_a_run_is_planned_with_its_source_and_options(tmp_path):
    rows = planted(is_weighted=True)[0]
    config = TrainingConfig(n_factors=6, patience=2, checkpoint_every=1, keep_checkpoints=4, n_sweeps=3)
    plan = plan_training(InMemoryInteractions(rows, 2), config, n_workers=2, worker_cpus=3, n_nodes=1)
    assert plan.asked == PlanInput(
        N_USERS,
        N_ITEMS,
        rows.n_interactions,
        6,
        n_workers=2,
        worker_cpus=3,
        n_nodes=1,
        has_weights=True,
        keeps_best=True,
        keep_checkpoints=4,
        n_sweeps=3,
        user_shards=ShardShape(2, 512, plan.asked.shards("user").largest_interactions),
        item_shards=ShardShape(1, N_ITEMS, rows.n_interactions),
        dataset_bytes=0,
    )


@pytest.mark.parametrize(("exponent", "has_weights"), [(0.0, False), (-0.5, True)])
def test_weights_from_degrees_are_weights(exponent, has_weights):
    config = TrainingConfig(user_exponent=exponent)
    source = InMemoryInteractions(planted()[0])
    asked = plan_training(source, config, n_workers=1, worker_cpus=1, n_nodes=1, is_in_process=True).asked
    assert (asked.has_weights, asked.is_in_process) == (has_weights, True)


@pytest.mark.parametrize(("every", "seconds", "expected"), [(0, 0.0, 0), (2, 0.0, 3), (0, 60.0, 3)])
def test_checkpoints_count_where_they_are_asked_for(every, seconds, expected):
    config = TrainingConfig(checkpoint_every=every, checkpoint_seconds=seconds, keep_checkpoints=3)
    assert kept_checkpoints(config) == expected


def test_a_dataset_is_planned_from_its_manifest(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id,w\n" + "".join(f"u{i},i{i % 7},{i + 1}\n" for i in range(50)))
    ingest([tmp_path / "events.csv"], tmp_path / "dataset", IngestOptions(weight_column="w"))
    dataset = Dataset.open(tmp_path / "dataset")
    asked = plan_training(dataset, TrainingConfig(), n_workers=1, worker_cpus=1, n_nodes=1).asked
    assert (asked.n_users, asked.n_items, asked.n_interactions) == (50, 7, 50)
    assert asked.has_weights
    assert asked.dataset_bytes == dataset.n_bytes > 0


def test_seconds_are_rates_times_work():
    asked = changed(n_workers=2, n_nodes=2, worker_cpus=4)
    time = make_plan(asked, MEASURED, network_gbit=2.0).time.last
    assert time is not None
    work = 100_000 * 10
    # Half of ten user shards, three of five item shards.
    assert time.solve_s == pytest.approx(work * 1e-9 * 0.5 + work * 1e-9 * 0.6)
    assert time.rotate_s == pytest.approx(7_000 * 100 * 1e-11)
    assert time.network_s == pytest.approx(280_000 / 2 * 8 / 2e9)
    assert time.hottest_row_s == pytest.approx(500 * 10 * 1e-9)
    assert time.total_s == pytest.approx(time.solve_s + time.rotate_s + time.network_s)


def test_no_number_of_workers_is_faster_than_the_hottest_row():
    asked = changed(n_workers=100, n_nodes=100, worker_cpus=1, hottest_row=90_000)
    time = make_plan(asked, MEASURED).time.last
    assert time is not None
    assert time.hottest_row_s == pytest.approx(90_000 * 10 * 3e-9)
    assert time.solve_s == pytest.approx(100_000 * 10 * 4e-9 / 10 + time.hottest_row_s)


def test_rates_scale_with_threads_from_the_nearest_measurement_below():
    assert MEASURED.at(1) == Rates(1, 4e-9, 3e-9, 2e-11, 8e-11)
    assert MEASURED.at(2) == Rates(2, 2e-9, 1.5e-9, 1e-11, 4e-11)
    assert MEASURED.at(8) == Rates(8, 0.5e-9, 0.5e-9, 0.5e-11, 1.5e-11)
    assert Calibration((Rates(4, 1e-9, 1e-9, 1e-11),)).at(1) == Rates(1, 4e-9, 4e-9, 4e-11)


@pytest.mark.parametrize("threads", [[], [2, 1], [1, 1], [0]])
def test_a_calibration_has_rates_for_ascending_threads(threads):
    with pytest.raises(InputError, match="calibration"):
        Calibration(tuple(Rates(count, 1.0, 1.0, 1.0) for count in threads))


@pytest.mark.parametrize("gbit", [0.0, -1.0, math.nan])
def test_a_network_has_a_speed(gbit):
    with pytest.raises(InputError, match="network_gbit"):
        make_plan(SMALL, MEASURED, gbit)


@given(asked=inputs, factor=st.integers(2, 5))
def test_seconds_never_fall_with_more_interactions_and_never_rise_with_more_cpus(asked, factor):
    def seconds(changed_input: PlanInput) -> SweepTime:
        time = make_plan(changed_input, MEASURED).time
        assert time is not None
        return time.last

    slower = dataclasses.replace(asked, n_interactions=asked.n_interactions * factor)
    assert seconds(slower).total_s >= seconds(asked).total_s
    faster = dataclasses.replace(asked, worker_cpus=max(4, asked.worker_cpus) * factor)
    assert seconds(faster).total_s <= seconds(asked).total_s


def test_rg_softmax_needs_entries_former_users_and_passes():
    plain, expanded = (make_plan(changed(n_hard=n_hard), MEASURED) for n_hard in (None, 50))
    more = {name: n for name, n in items_of(expanded.worker).items() if name not in items_of(plain.worker)}
    entries = 100_000 + 5_000 * 50
    assert more == {
        "the former users": 5_000 * 10 * 4,
        "entries in work": 24 * entries // 4,
        "tiles of scores": 2 * (2 * 1024**2 + 1024 * 328),
    }
    stored = items_of(expanded.object_store)
    assert stored["entries and slopes"] == (36 * entries + 5_000 * 10 * 4) // 5
    assert expanded.network_bytes > 2 * plain.network_bytes
    few, many = plain.time.last, expanded.time.last
    assert few.pass_s == 0
    # Two passes of U I scores; two threads are twice as fast as one; the busiest worker has a fifth of it.
    assert many.pass_s == pytest.approx(2 * 5_000 * 2_000 * 10 * 8e-11 / 2 * 0.2, rel=0.01)
    assert many.total_s > many.pass_s + many.solve_s
    # Each user's hard negatives are entries of both half-steps.
    assert many.solve_s == pytest.approx(few.solve_s * entries / 100_000)
    sampled = make_plan(changed(n_hard=50, pass_fraction=0.25), MEASURED)
    assert sampled.time.last.pass_s == pytest.approx(many.pass_s / 4)
    with pytest.raises(InputError, match="measure it with n_hard"):
        make_plan(changed(n_hard=50), Calibration((Rates(1, 1e-9, 1e-9, 1e-11),)))


@pytest.mark.parametrize(
    ("options", "n_start", "n_sampled", "n_exact", "n_half_passes"),
    [
        # Half passes: an expanded sweep has two, and one more begins the first.
        ({}, 0, 0, 8, (0, 17)),
        ({"start_sweeps": 6}, 6, 0, 2, (0, 5)),
        ({"start_sweeps": 6, "pass_fraction": 0.25}, 6, 2, 0, (5, 0)),
        # The sampled sweep begins with a sample, and ends with the exact pass for the next one.
        ({"start_sweeps": 5, "pass_fraction": 0.25, "sampled_sweeps": 1}, 5, 1, 2, (2, 5)),
        ({"start_sweeps": 5, "pass_fraction": 0.25, "sampled_sweeps": 9}, 5, 3, 0, (7, 0)),
        ({"start_sweeps": 5, "pass_fraction": 0.25, "sampled_sweeps": 0}, 5, 0, 3, (0, 7)),
        ({"start_sweeps": 9}, 8, 0, 0, (0, 0)),
    ],
)
def test_the_seconds_of_a_run_are_those_of_the_kinds_of_sweeps_it_has(
    options, n_start, n_sampled, n_exact, n_half_passes
):
    found = make_plan(changed(n_hard=50, n_sweeps=8, **options), MEASURED).time
    assert (found.n_start, found.n_sampled, found.n_exact) == (n_start, n_sampled, n_exact)
    plain, exact, sampled = (
        make_plan(changed(n_hard=n_hard, pass_fraction=fraction), MEASURED).time.last
        for n_hard, fraction in ((None, 1.0), (50, 1.0), (50, 0.25))
    )
    half_steps = exact.total_s - exact.pass_s
    assert half_steps == pytest.approx(sampled.total_s - sampled.pass_s)
    passes = n_half_passes[0] * sampled.pass_s / 2 + n_half_passes[1] * exact.pass_s / 2
    assert found.total_s == pytest.approx(n_start * plain.total_s + (n_sampled + n_exact) * half_steps + passes)
    assert found.last.pass_s == (exact.pass_s if n_exact else sampled.pass_s if n_sampled else 0)


@pytest.mark.parametrize("fraction", [0, 1.5, float("nan")])
def test_a_share_of_the_scores_is_above_zero_and_at_most_one(fraction):
    with pytest.raises(InputError, match="pass_fraction"):
        changed(n_hard=50, pass_fraction=fraction)


def test_hard_negatives_are_no_more_than_there_are_items():
    assert plan_terms.n_entries(changed(n_hard=10**6)) == 100_000 + 5_000 * 2_000


REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "scaling.md").read_text()
NOT_ON_THE_PAGE = {"factor_bytes", "hottest_row", "shard_bytes"}


@pytest.mark.parametrize("name", sorted(set(plan_terms.__all__) - NOT_ON_THE_PAGE))
def test_the_documentation_has_the_formula_of_each_term(name):
    formula = getattr(plan_terms, name).__doc__.partition(":")[0]
    assert f"`{formula}`" in PAGE


def test_the_tables_of_the_documentation_are_those_of_the_script():
    spec = importlib.util.spec_from_file_location("scaling_table", REPOSITORY / "benchmarks" / "scaling_table.py")
    assert spec is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.tables() in PAGE
    assert script.put_tables(PAGE) == PAGE
    assert PAGE.count("10¹⁰ | 128 |") == 6
