"""``rgals plan``: from a dataset or from sizes, printed, as JSON, and refused."""

import json

import pytest
import typer
from typer.testing import CliRunner

from jobs import cli
from jobs import plan as job
from rgals.data.ingest import IngestOptions, ingest
from rgals.errors import CapacityError, ClusterError, InputError, RgalsError
from rgals.execution import ClusterStatus, NodeStatus
from rgals.numerics.threads import available_threads

SIZES = ("--users", "1e6", "--items", "200_000", "--interactions", "100000000")
CLUSTER = ("--workers", "4", "--worker-cpus", "8", "--nodes", "4")

app = typer.Typer()
app.command()(job.plan)


def invoke(*arguments, is_quick=True):
    extra = ("--no-calibration",) if is_quick else ()
    return CliRunner().invoke(app, [*map(str, arguments), *extra], env={"COLUMNS": "150"})


def run_plan(*arguments, is_quick=True):
    found = invoke(*arguments, is_quick=is_quick)
    if isinstance(found.exception, RgalsError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def run_json(*arguments, is_quick=True):
    return json.loads(run_plan(*arguments, "--json", is_quick=is_quick))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    lines = [f"u{user},i{(user * 7 + k) % 40}" for user in range(700) for k in range(5)]
    (folder / "events.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    ingest([folder / "events.csv"], folder / "dataset", IngestOptions())
    return folder / "dataset"


def test_sizes_are_read_in_every_spelling_and_planned():
    document = run_json(*SIZES, *CLUSTER, "--memory-gb", "128")
    asked = document["asked"]
    assert (asked["n_users"], asked["n_items"], asked["n_interactions"]) == (10**6, 200_000, 10**8)
    assert (asked["n_workers"], asked["worker_cpus"], asked["n_nodes"]) == (4, 8, 4)
    assert (asked["n_factors"], asked["n_sweeps"], asked["keep_checkpoints"]) == (64, 8, 2)
    assert not asked["is_in_process"]
    for part in ("worker", "object_store", "driver", "disk"):
        assert document[f"{part}_bytes"] == sum(item["n_bytes"] for item in document[part])
    asked = run_json(*SIZES, *CLUSTER, "--checkpoint-seconds", "0")["asked"]
    assert asked["keep_checkpoints"] == 0
    assert document["network_bytes_per_sweep"] == 1_200_000 * 64 * 4 * 3 // 4
    assert document["limits"]["memory_bytes"] == 128 * 10**9
    assert document["shortages"] == []
    assert document["sweep_s"] is None


def test_the_table_shows_each_part_and_a_verdict():
    output = run_plan(*SIZES, *CLUSTER, "--memory-gb", "128", "--patience", "2", "--weights", "--checkpoint-every", "1")
    for words in (
        "1,000,000 users, 200,000 items, 100,000,000 interactions with weights, 64 factors",
        "4 Ray workers with 8 CPUs each on 4 nodes",
        "memory of each worker",
        "the fixed side",
        "object store of a node",
        "best sweep",
        "memory of the driver",
        "checkpoints",
        "network, each node, each sweep    230 MB",
        "fits on the nodes that were asked for (memory 128 GB)",
    ):
        assert words in output
    assert "a sweep:" not in output


def test_without_workers_it_is_planned_as_training_in_this_process():
    document = run_json(*SIZES)
    assert document["asked"]["is_in_process"]
    assert document["asked"]["worker_cpus"] == available_threads()
    assert document["object_store"] == []
    assert document["limits"]["where"] == "this machine"
    assert document["limits"]["memory_bytes"] > 0
    assert document["limits"]["disk_bytes"] > 0
    assert run_json(*SIZES, "--threads", "3")["asked"]["worker_cpus"] == 3
    output = run_plan(*SIZES, "--threads", "3")
    assert "in this process, 3 threads" in output
    assert "memory of the process" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--executor", "ray"), (1, 1, available_threads())),
        (("--workers", "2"), (2, 1, max(1, available_threads() // 2))),
        (("--nodes", "3"), (3, 3, available_threads())),
        (("--nodes", "2", "--workers", "4", "--worker-cpus", "16"), (4, 2, 16)),
    ],
)
def test_workers_default_to_one_on_each_node_with_all_its_cpus(arguments, expected):
    asked = run_json(*SIZES, *arguments)["asked"]
    assert (asked["n_workers"], asked["n_nodes"], asked["worker_cpus"]) == expected
    assert not asked["is_in_process"]


def test_other_nodes_are_not_compared_with_this_machine():
    output = run_plan("--users", "1e9", "--items", "1e6", "--interactions", "1e11", *CLUSTER)
    assert "not compared with any limit: give --memory-gb and --disk-gb of a node" in output


def test_what_does_not_fit_is_printed_and_refused():
    found = invoke(*SIZES, *CLUSTER, "--memory-gb", "1.5", "--factors", "128")
    assert isinstance(found.exception, CapacityError)
    assert "does not fit on the nodes that were asked for (memory 1.5 GB)" in found.output
    assert "memory of a node: " in str(found.exception)
    assert "1.5 GB available\nwhat fits instead:\n" in str(found.exception)


def test_the_refusal_ends_the_command_line_with_code_1(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rgals", "plan", *SIZES, "--memory-gb", "1", "--no-calibration"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("rgals: error: the training does not fit on ")


def test_settings_that_are_suggested_are_accepted():
    arguments = (*SIZES, *CLUSTER, "--memory-gb", "2", "--factors", "128")
    with pytest.raises(CapacityError) as caught:
        run_plan(*arguments)
    option = next(line for line in str(caught.value).splitlines() if line.startswith("  --n-factors"))
    run_plan(*arguments, *option.split())


def test_limits_can_be_given_apart():
    limits = run_json(*SIZES, *CLUSTER, "--memory-gb", "100", "--object-store-gb", "30", "--disk-gb", "5")["limits"]
    assert limits["memory_bytes"] == 70 * 10**9
    assert limits["object_store_bytes"] == 30 * 10**9
    assert limits["disk_bytes"] == 5 * 10**9
    with pytest.raises(CapacityError, match="object store of a node"):
        run_plan(*SIZES, "--workers", "1", "--object-store-gb", "0.1")
    with pytest.raises(
        CapacityError, match=r"disk: .* needed \(dataset .*, checkpoints .*, model .*\), 1 MB available"
    ):
        run_plan(*SIZES, "--disk-gb", "0.001")


def test_a_dataset_is_planned_with_its_own_sizes(dataset):
    asked = run_json(dataset, "--n-factors", "8", "--n-sweeps", "3")["asked"]
    assert (asked["n_users"], asked["n_items"], asked["n_interactions"]) == (700, 40, 3500)
    assert (asked["n_factors"], asked["n_sweeps"]) == (8, 3)
    assert asked["user_shards"]["n_shards"] == 2
    assert asked["dataset_bytes"] > 0
    assert not asked["has_weights"]
    assert run_json(dataset, "--weights")["asked"]["has_weights"]


def test_seconds_are_predicted_from_a_measurement(dataset, monkeypatch):
    monkeypatch.setattr("rgals.training.calibration._WORK", 1 << 15)
    monkeypatch.setattr("rgals.training.calibration._FIXED_FLOATS", 1 << 15)
    document = run_json(dataset, "--factors", "8", "--workers", "2", "--hottest-row", "300", is_quick=False)
    seconds = document["sweep_s"]
    assert document["asked"]["hottest_row"] == 300
    assert seconds["total_s"] == pytest.approx(seconds["solve_s"] + seconds["rotate_s"] + seconds["network_s"])
    assert seconds["solve_s"] > 0
    output = run_plan(dataset, "--factors", "8", "--workers", "2", is_quick=False)
    assert "a sweep: " in output
    assert "8 sweeps: " in output
    assert "the most popular item alone" not in output
    assert document["run_s"] == pytest.approx(8 * seconds["total_s"])
    output = run_plan(dataset, "--factors", "8", "--hottest-row", "1e6", is_quick=False)
    assert "the most popular item alone takes " in output


def test_the_sweeps_of_rg_softmax_are_told_apart(dataset, monkeypatch):
    for name in ("_WORK", "_FIXED_FLOATS", "_PASS_WORK"):
        monkeypatch.setattr(f"rgals.training.calibration.{name}", 1 << 15)
    options = ("--loss", "rg-softmax", "--factors", "8", "--start-sweeps", "5")
    sampled = ("--pass-fraction", "0.5", "--sampled-sweeps", "1")
    output = " ".join(run_plan(dataset, *options, *sampled, is_quick=False).split())
    assert output.count("an expanded sweep: ") == 1
    assert ", passes over all scores " in output
    assert "8 sweeps, 5 of them of the start, " in output
    assert " each, 1 with sampled passes, " in output
    document = run_json(dataset, *options, *sampled, is_quick=False)
    assert 0 < document["sweep_s"]["pass_s"] < document["run_s"]
    assert document["asked"]["sampled_sweeps"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a dataset, or --users, --items, --interactions; missing: --users, --items, --interactions"),
        (("--users", "5", "--items", "5"), "missing: --interactions"),
        (("--users", "1e6.5", "--items", "5", "--interactions", "5"), "--users: expected a whole number"),
        (("--users", "0", "--items", "5", "--interactions", "5"), "--users: expected a whole number"),
        (("--users", "nan", "--items", "5", "--interactions", "5"), "--users: expected a whole number"),
        (("--users", "1.5", "--items", "5", "--interactions", "5"), "--users: expected a whole number"),
        ((*SIZES, "--hottest-row", "many"), "--hottest-row: expected a whole number"),
        ((*SIZES, "--executor", "dask"), "executor: expected in-process or ray"),
        ((*SIZES, "--executor", "in-process", "--nodes", "2"), "--nodes: only with --executor ray"),
        ((*SIZES, "--nodes", "3", "--workers", "2"), "2 workers on 3 nodes"),
        ((*SIZES, "--memory-gb", "-1"), "--memory-gb: expected a positive number"),
        ((*SIZES, "--disk-gb", "nan"), "--disk-gb: expected a positive number"),
        ((*SIZES, "--memory-gb", "1", "--object-store-gb", "2"), "--object-store-gb: expected less than"),
        ((*SIZES, "--factors", "0"), "n_factors"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        run_plan(*arguments)


def test_a_dataset_has_sizes_of_its_own(dataset):
    with pytest.raises(InputError, match=r"--users: the dataset .* has sizes of its own"):
        run_plan(dataset, "--users", "5")


def answer(monkeypatch, status):
    monkeypatch.setattr("rgals.execution.ray_backend.cluster_status", lambda address, timeout_s: status)


def test_a_running_cluster_gives_nodes_and_limits(monkeypatch):
    nodes = tuple(NodeStatus(f"n{i}", f"10.0.0.{i}", 6, 40 * 10**9, 20 * 10**9) for i in range(3))
    answer(monkeypatch, ClusterStatus(True, "token", "2.60.0", "3.11.9", nodes, "Ray at 10.0.0.0:6379: 3 nodes"))
    document = run_json(*SIZES, "--executor", "ray", "--address", "10.0.0.0:6379")
    asked, limits = document["asked"], document["limits"]
    assert (asked["n_workers"], asked["n_nodes"], asked["worker_cpus"]) == (3, 3, 6)
    assert (limits["memory_bytes"], limits["object_store_bytes"]) == (40 * 10**9, 20 * 10**9)
    asked = run_json(*SIZES, "--address", "10.0.0.0:6379", "--workers", "2")["asked"]
    assert (asked["n_workers"], asked["n_nodes"], asked["worker_cpus"]) == (2, 2, 6)
    asked = run_json(*SIZES, "--address", "10.0.0.0:6379", "--workers", "6")["asked"]
    assert (asked["n_workers"], asked["n_nodes"], asked["worker_cpus"]) == (6, 3, 3)
    with pytest.raises(InputError, match="the cluster has nodes of its own"):
        run_plan(*SIZES, "--address", "10.0.0.0:6379", "--nodes", "2")


def test_a_cluster_that_is_not_there_is_an_error(monkeypatch):
    answer(monkeypatch, ClusterStatus(False, "unknown", None, None, (), "Ray at 10.0.0.0:6379: no Ray answers there"))
    with pytest.raises(ClusterError, match="no Ray answers there"):
        run_plan(*SIZES, "--address", "10.0.0.0:6379")
    answer(monkeypatch, ClusterStatus(True, "token", "2.60.0", "3.11.9", (), "Ray at 10.0.0.0:6379: 0 nodes"))
    with pytest.raises(ClusterError, match="expected a node with CPUs"):
        run_plan(*SIZES, "--address", "10.0.0.0:6379")


def test_the_module_runs_on_its_own(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["plan", *SIZES, "--users", "none"])
    with pytest.raises(SystemExit) as stopped:
        job.main()
    assert stopped.value.code == 1
    assert "rgals: error: --users" in capsys.readouterr().err
