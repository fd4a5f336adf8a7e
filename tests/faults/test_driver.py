"""The command itself is killed and run again; a cluster refuses what does not fit."""

import re
import subprocess
import sys
import time

from rgals.artifact.model import Model
from rgals.execution import ExecutorOptions, InProcessExecutor, open_executor
from rgals.training.trainer import train
from tests.faults.conftest import slow_config, write_dataset
from tests.faults.test_lost_workers import check_same

SLOW = ["--n-factors", "160", "--solver", "cholesky", "--alpha", "0.5", "--n-sweeps", "4", "--softmax-users", "0"]
QUICK = ["--n-factors", "16", "--n-sweeps", "2"]


def command(dataset, model, *options):
    return [sys.executable, "-m", "jobs.train", str(dataset), "--output", str(model), *SLOW, *options]


def wait_for(path, process, deadline_s=120):
    end = time.monotonic() + deadline_s
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)


def finish(arguments):
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=200)


def objectives(model):
    return [one["objective_after_items"] for one in Model.open(model).metrics["history"]]


def checksum(output):
    return re.search(r"^Factors (\w+)$", output, re.MULTILINE)[1]


def test_a_killed_driver_goes_on_where_it_was_and_writes_the_same_model(two_nodes, tmp_path):
    dataset = write_dataset(tmp_path / "dataset", seed=0)
    on_ray = ["--executor", "ray", "--address", two_nodes.address, "--workers", "2", "--worker-cpus", "1"]
    checkpoints = ["--checkpoint-every", "1", "--resume", "auto", "--events", str(tmp_path / "events.jsonl")]
    killed = subprocess.Popen(
        command(dataset, tmp_path / "model", *on_ray, *checkpoints),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(tmp_path / "model.checkpoints" / "sweep-00002" / "manifest.json", killed)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "model").exists()
    again = finish(command(dataset, tmp_path / "model", *on_ray, *checkpoints))
    assert again.returncode == 0, again.stderr
    assert re.search(r"resumed after sweep [23]", again.stderr)
    alone = finish(command(dataset, tmp_path / "alone"))
    assert checksum(again.stdout) == checksum(alone.stdout)
    assert objectives(tmp_path / "model") == objectives(tmp_path / "alone")


def test_the_model_is_the_same_for_any_number_of_workers(cluster_of, tmp_path):
    cluster = cluster_of(1, node_cpus=4)
    dataset = write_dataset(tmp_path / "dataset", seed=0)
    alone = finish(command(dataset, tmp_path / "alone", *QUICK))
    checksums = {checksum(alone.stdout)}
    for n_workers in (1, 2, 4):
        on_ray = ["--executor", "ray", "--address", cluster.address, "--workers", str(n_workers), "--worker-cpus", "1"]
        found = finish(command(dataset, tmp_path / f"with-{n_workers}", *QUICK, *on_ray))
        assert found.returncode == 0, found.stderr
        assert ("slowest" in found.stderr) == (n_workers > 1)
        checksums.add(checksum(found.stdout))
    assert len(checksums) == 1


def test_an_object_store_that_is_too_small_is_refused_with_numbers(cluster_of, tmp_path):
    cluster = cluster_of(1, store_bytes=80 << 20)
    dataset = write_dataset(tmp_path / "dataset", seed=0)
    refused = finish(
        command(
            dataset,
            tmp_path / "model",
            *("--executor", "ray", "--address", cluster.address),
            *("--n-factors", "4096"),
        )
    )
    assert refused.returncode == 1
    assert "object store" in refused.stderr
    assert re.search(r"--n-factors \d+", refused.stderr)
    assert not (tmp_path / "model").exists()


def test_an_object_store_that_is_too_small_all_the_same_gives_the_right_factors(cluster_of, source):
    """Blocks go to disk and come back: slow, but right."""
    config = slow_config(n_factors=1536, n_sweeps=1, solver="cg", cg_steps=1)
    here = train(source, config, executor=InProcessExecutor(2))
    expected = here.user_factors.copy(), here.item_factors.copy(), here.history
    cluster = cluster_of(1, store_bytes=80 << 20)
    with open_executor(ExecutorOptions("ray", address=cluster.address)) as executor:
        check_same(train(source, config, executor=executor), expected)
