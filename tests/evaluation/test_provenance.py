from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from rgals.evaluation import provenance
from rgals.evaluation.provenance import describe_machine, describe_provenance, find_versions


def test_it_says_what_ran_where_and_with_what() -> None:
    found = describe_provenance(
        "s3://key:secret@bucket/d", "abc", command="rgals evaluate s3://key:secret@bucket/m", seconds=1.25,
        started_at=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), executor="in-process",
    )  # fmt: skip
    assert found.started_at == "2026-01-02T03:04:05+00:00"
    assert (found.dataset, found.command) == ("s3://***@bucket/d", "rgals evaluate s3://***@bucket/m")
    assert (found.fingerprint, found.seconds, found.executor) == ("abc", 1.25, "in-process")
    assert found.versions["numpy"] == np.__version__
    assert {"python", "rgals", "scipy"} <= found.versions.keys()


def test_the_machine_has_a_processor_memory_and_a_system() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert machine.n_cpus >= 1
    assert machine.memory_bytes is None or machine.memory_bytes > 1 << 28
    assert machine.os


def test_what_the_system_does_not_say_is_absent_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise OSError("no such file")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refuse)
        patched.setattr(provenance.os, "sysconf", refuse)
        machine = describe_machine()
    assert machine.cpu
    assert machine.memory_bytes is None
    monkeypatch.setattr(provenance, "_LIBRARIES", ("numpy", "no-such-library"))
    assert find_versions().keys() == {"python", "numpy"}
