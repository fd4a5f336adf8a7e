"""All checks in one go."""

import pytest

from rgals.execution import doctor, doctor_cluster
from rgals.execution.doctor import Finding, examine
from rgals.execution.finding import readable_bytes
from rgals.execution.status import ClusterStatus, NodeStatus

ALWAYS = [
    "versions",
    "processors",
    "thread variables",
    "linear algebra",
    "kernel cache",
    "memory",
    "swap",
    "shared memory",
    "open files",
    "processes",
    "temporary files",
    "clock",
    "ports",
    "Ray exposure",
    "Ray token",
]


def test_every_check_has_its_finding(tmp_path):
    findings = examine(environment={"HOME": str(tmp_path)})
    assert [finding.name for finding in findings] == ALWAYS
    assert not [finding for finding in findings if "could not be looked at" in finding.found]
    assert all(finding.found for finding in findings)
    assert all(bool(finding.advice) == (finding.status != "ok") for finding in findings)


def test_a_dataset_and_an_output_are_looked_at_where_they_are_named(tmp_path):
    names = {
        finding.name: finding
        for finding in examine(
            environment={"HOME": str(tmp_path)}, output=tmp_path / "out", dataset=str(tmp_path / "no")
        )
    }
    assert list(names) == [*ALWAYS, "output", "dataset"]
    assert names["dataset"].status == "problem"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "environment", "expected"),
    [
        ("head:1", {}, ["head:1"]),
        (None, {"RAY_ADDRESS": "head:2"}, ["head:2"]),
        ("head:1", {"RAY_ADDRESS": "head:2"}, ["head:1"]),
        (None, {}, []),
    ],
)
def test_a_cluster_is_looked_at_where_one_is_named(monkeypatch, address, environment, expected):
    asked = []

    def ask(address, timeout_s):
        asked.append(address)
        return ClusterStatus(False, "unknown", None, None, (), "nobody there")

    monkeypatch.setattr(doctor_cluster, "_ask_ray", ask)
    findings = examine(address=address, environment=environment)
    assert asked == expected
    assert ("cluster" in {finding.name for finding in findings}) == bool(expected)


@pytest.mark.parametrize(("authentication", "version", "n_started"), [("off", None, 1), ("token", "2.0.0", 0)])
def test_workers_are_started_where_the_versions_fit(monkeypatch, authentication, version, n_started):
    started = []
    status = ClusterStatus(True, authentication, version, None, (NodeStatus("a", "192.0.2.1", 2, 1, 1),), "one node")
    monkeypatch.setattr(doctor_cluster, "_ask_ray", lambda address, timeout_s: status)
    monkeypatch.setattr(
        doctor_cluster, "check_workers", lambda *asked: started.append(asked) or Finding("w", "ok", "1")
    )
    examine(address="head:1", environment={}, timeout_s=3.0)
    assert started == [("head:1", 3.0)] * n_started


def test_a_system_that_is_not_known_gives_warnings_and_no_traceback(tmp_path):
    findings = {finding.name: finding for finding in examine(root=tmp_path, environment={})}
    for name in ("processors", "memory", "ports", "Ray exposure"):
        assert findings[name].status == "warning"
        assert "could not be looked at" in findings[name].found


def test_a_bug_in_a_check_is_not_hidden(monkeypatch):
    monkeypatch.setattr(doctor.machine, "check_swap", lambda memory: memory.no_such_field)
    with pytest.raises(AttributeError):
        examine(environment={})


def test_the_token_is_in_no_finding(tmp_path):
    token = "0123456789abcdef" * 4
    findings = examine(environment={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": str(tmp_path)})
    assert next(finding for finding in findings if finding.name == "Ray token").status == "ok"
    assert token not in str(findings)


def test_a_finding_needs_no_advice():
    assert Finding("clock", "ok", "set").advice == ""


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (7_430_000_000, "7.43 GB"), (2e16, "20,000 TB")],
)
def test_sizes_are_readable(n_bytes, text):
    assert readable_bytes(n_bytes) == text
