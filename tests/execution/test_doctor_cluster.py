"""Checks of a cluster and of a dataset."""

import importlib.metadata
import os
import platform

import pytest

from rgals.errors import ClusterError
from rgals.execution import doctor_cluster as elsewhere
from rgals.execution.executor import Executor
from rgals.execution.options import ExecutorOptions
from rgals.execution.status import ClusterStatus, NodeStatus


def status(**changed):
    fields = {
        "is_reachable": True,
        "authentication": "token",
        "ray_version": importlib.metadata.version("ray"),
        "python_version": platform.python_version(),
        "nodes": (NodeStatus("a", "192.0.2.1", 4, 10**9, 10**9), NodeStatus("b", "192.0.2.2", 4, 10**9, 10**9)),
        "message": "two nodes",
    }
    return ClusterStatus(**{**fields, **changed})


def cluster(**changed):
    asked = []
    findings = elsewhere.check_cluster("head:6379", 5.0, lambda *question: asked.append(question) or status(**changed))
    assert asked == [("head:6379", 5.0)]
    return {finding.name: finding for finding in findings}


def test_a_cluster_that_is_fit():
    found = cluster()
    assert [finding.status for finding in found.values()] == ["ok", "ok", "ok"]
    assert found["cluster"].found == "head:6379: 2 nodes, 8 CPUs, 2 GB of object store"


def test_a_cluster_that_does_not_answer_is_a_problem():
    found = cluster(is_reachable=False, message="no answer in 5 s")
    assert list(found) == ["cluster"]
    assert found["cluster"].status == "problem"
    assert found["cluster"].found == "no answer in 5 s"


def test_a_cluster_without_nodes_is_a_problem():
    assert cluster(nodes=())["cluster"].status == "problem"


def test_without_ray_the_cluster_cannot_be_asked():
    def ask(address, timeout_s):
        raise ModuleNotFoundError("No module named 'ray'")

    (finding,) = elsewhere.check_cluster("head:6379", 5.0, ask)
    assert finding.status == "problem"
    assert "No module named 'ray'" in finding.found
    assert "rgals[ray]" in finding.advice


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"ray_version": "2.9.0"}, "problem"),
        ({"python_version": "3.12.1"}, "problem"),
        ({"python_version": None}, "warning"),
    ],
)
def test_other_versions_on_the_cluster(changed, expected):
    assert cluster(**changed)["cluster versions"].status == expected


LOCAL = (NodeStatus("a", "127.0.0.1", 4, 10**9, 10**9),)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"authentication": "off"}, "problem"),
        ({"authentication": "off", "nodes": LOCAL}, "warning"),
        ({"authentication": "unknown"}, "warning"),
    ],
)
def test_a_cluster_that_asks_for_no_token(changed, expected):
    finding = cluster(**changed)["cluster token"]
    assert finding.status == expected
    assert finding.advice


class Nodes(Executor):
    """Two workers whose clocks are off by given seconds, and who take one second to answer."""

    def __init__(self, *offsets_s):
        self.offsets_s = offsets_s
        self.now_s = 1000.0
        self.is_closed = False

    def on_each_worker(self, function, shared):
        self.now_s += 0.5
        found = [(function(shared, i, self)[0], self.now_s + offset) for i, offset in enumerate(self.offsets_s)]
        self.now_s += 0.5
        return found

    worker = "node 192.0.2.1"
    n_workers = n_threads = 1

    def close(self):
        self.is_closed = True

    def map_ordered(self, *arguments, **options):
        raise NotImplementedError

    map_blocks = put = fetch_each = release = map_ordered


@pytest.mark.parametrize(
    ("offsets_s", "expected"),
    [((0.0, 0.3), "ok"), ((0.0, -1.0), "ok"), ((0.0, 5.0), "warning"), ((-5.0, 0.0), "warning"), ((0, 600), "problem")],
)
def test_the_clocks_of_the_nodes(offsets_s, expected):
    nodes, asked = Nodes(*offsets_s), []
    finding = elsewhere.check_workers(
        "head:6379", 7.0, lambda options: asked.append(options) or nodes, lambda: nodes.now_s
    )
    assert finding.status == expected
    assert "2 started" in finding.found
    assert nodes.is_closed
    assert asked == [ExecutorOptions("ray", address="head:6379", worker_cpus=1, start_timeout_s=7.0)]


def test_a_cluster_that_starts_no_worker_is_a_problem():
    def refuse(options):
        raise ClusterError("no worker in 7 s")

    finding = elsewhere.check_workers("head:6379", 7.0, refuse)
    assert (finding.status, finding.found) == ("problem", "no worker in 7 s")


def test_a_dataset_that_is_there_and_one_that_is_not(tmp_path):
    from rgals.data.ingest import IngestOptions, ingest

    (tmp_path / "events.csv").write_text("user_id,item_id\na,x\na,y\nb,x\n")
    ingest([tmp_path / "events.csv"], tmp_path / "dataset", IngestOptions())
    found = elsewhere.check_dataset(str(tmp_path / "dataset"))
    assert found.status == "ok"
    assert found.found.startswith("2 users, 2 items, 3 interactions")
    absent = elsewhere.check_dataset(str(tmp_path / "other"))
    assert absent.status == "problem"
    assert str(tmp_path / "other") in absent.found


def test_a_dataset_with_broken_ids_is_a_problem(tmp_path):
    from rgals.data.ingest import IngestOptions, ingest

    (tmp_path / "events.csv").write_text("user_id,item_id\na,x\na,y\nb,x\n")
    ingest([tmp_path / "events.csv"], tmp_path / "dataset", IngestOptions())
    ids = next(path for path in (tmp_path / "dataset").rglob("*") if "item" in path.name and path.is_file())
    ids.write_bytes(os.urandom(ids.stat().st_size))
    assert elsewhere.check_dataset(str(tmp_path / "dataset")).status == "problem"
