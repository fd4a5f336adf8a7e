"""The services of docker-compose.yml, run as processes: they come up, train, evaluate, refuse, and end."""

import json
import secrets
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest

from rgals.artifact.model import Model
from tests.deploy.processes import Container, Deployment, start_order, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def deployment(pytestconfig: pytest.Config) -> Iterator[Deployment]:
    assert pytestconfig.cache is not None
    made = Deployment(pytestconfig.cache.mkdir("compose-kernels"))
    yield made
    made.remove()


@pytest.fixture(scope="module")
def nodes(deployment: Deployment) -> list[Container]:
    """Give a head and two workers, all healthy."""
    started = deployment.up(["ray-worker"], scale={"ray-worker": 2})
    assert [container.name for container in started] == ["ray-head-1", "ray-worker-2", "ray-worker-3"]
    return started


@pytest.fixture(scope="module")
def dataset(deployment: Deployment) -> str:
    """Give the dataset that the service ingest makes of generated events."""
    events = deployment.create("ingest")
    events.service["entrypoint"] = ["rgals", "synthesize"]
    size = ["--users=300", "--items=200", "--interactions=6000"]
    assert events.start("--output=/data/events.parquet", *size).wait(120) == 0, events.output()
    ingest = deployment.run("ingest", "/data/events.parquet", "--split=random", "--output", "/data/dataset")
    assert ingest.wait(0) == 0, ingest.output()
    return "/data/dataset"


def test_services_start_after_those_they_depend_on() -> None:
    assert start_order(["train"]) == ["ray-head", "ray-worker", "train"]
    assert start_order(["evaluate", "ingest"]) == ["evaluate", "ingest"]


def test_a_training_runs_on_the_workers_and_its_model_is_evaluated(
    deployment: Deployment, nodes: list[Container], dataset: str
) -> None:
    options = ["--n-factors=8", "--n-sweeps=2"]
    train = deployment.run("train", dataset, "--output", "/data/model", *options)
    assert train.wait(0) == 0, train.output()
    model = Model.open(deployment.data / "model")
    assert model.n_factors == 8
    assert model.metrics["n_sweeps"] == 2

    evaluate = deployment.run("evaluate")
    assert evaluate.wait(0) == 0, evaluate.output()
    report = json.loads((deployment.data / "report.json").read_text())
    assert [entry["name"] for entry in report["models"]] == ["model", "popularity", "ials"]

    alone = deployment.create("evaluate")
    alone.service["entrypoint"] = ["rgals", "train"]
    assert alone.start(dataset, "--output", "/data/alone", *options).wait(240) == 0, alone.output()
    assert Model.open(deployment.data / "alone").factor_checksum == model.factor_checksum


def test_the_api_serves_what_was_published_and_follows_the_registry(deployment: Deployment, dataset: str) -> None:
    """A training job's model, published by the service publish, is served by the service api, and the next one too."""
    for number in (1, 2):
        train = deployment.create("evaluate")
        train.service["entrypoint"] = ["rgals", "train"]
        options = ["--n-factors=8", f"--seed={number}", "--overwrite"]
        assert train.start(dataset, "--output", "/data/served", *options).wait(240) == 0, train.output()
        publish = deployment.run("publish", "/data/served", "/data/registry", "--dataset", dataset, "--force")
        assert publish.wait(0) == 0, publish.output()
        if number == 1:
            api = deployment.create("api").start()
            api.wait_healthy()
    url = f"http://127.0.0.1:{deployment.variables['API_PORT']}"
    headers = {"x-api-key": deployment.api_key}
    assert httpx2.get(url + "/v1/model").status_code == 401
    wait_until(
        lambda: httpx2.get(url + "/v1/model", headers=headers).json()["model_version"] == "v00002", 30, api.output
    )
    served = Model.open(deployment.data / "registry" / "v00002")
    (user,) = served.user_ids.ids_of(np.array([0]))
    found = httpx2.get(f"{url}/v1/users/{user}/recommendations", headers=headers).json()
    expected = served.recommend([user])[0]
    assert [item["item_id"] for item in found["items"]] == [str(item) for item in expected.items]
    assert deployment.api_key not in api.log.read_text()
    assert api.stop() == 0


def test_a_job_leaves_no_node_behind(deployment: Deployment, nodes: list[Container]) -> None:
    job = deployment.create("train")
    job.service["entrypoint"] = [*job.service["entrypoint"][:3], "python", "-c"]
    script = "import sys, ray; ray.init(); print(len([n for n in ray.nodes() if n['Alive']]), flush=True); sys.exit(7)"
    assert job.start(script).wait(120) == 7, job.output()
    assert job.output().splitlines()[-1] == "4"  # the head, two workers and the job's own
    wait_until(lambda: not deployment.leftovers_of(job), 30, job.output)


def test_a_stopped_training_writes_a_checkpoint_and_ends(
    deployment: Deployment, nodes: list[Container], dataset: str
) -> None:
    train = deployment.create("train")
    train.start(dataset, "--output", "/data/long", "--n-factors=8", "--n-sweeps=100000", "--events", "/data/long.jsonl")
    events = deployment.data / "long.jsonl"
    wait_until(lambda: events.exists() and events.read_text().count("\n") > 3, 120, train.output)
    assert train.stop() == 130, train.output()
    assert (deployment.data / "long.checkpoints").is_dir()
    assert not (deployment.data / "long").exists()
    wait_until(lambda: not deployment.leftovers_of(train), 30, train.output)


def test_another_token_is_refused(deployment: Deployment, nodes: list[Container], dataset: str) -> None:
    wrong = deployment.folder / "wrong"
    wrong.write_text(secrets.token_hex(32))
    worker = deployment.create("ray-worker", wrong).start()
    health = worker.check_health()
    assert health.returncode == 1
    assert "it asks for a token" in health.stdout
    assert worker.wait(120) != 0
    worker.end_rest()
    assert "Authentication token is missing or incorrect" in worker.output()

    train = deployment.create("train", wrong).start(dataset, "--output", "/data/refused")
    assert train.wait(120) == 1
    assert "it asks for a token" in train.output()
    assert not (deployment.data / "refused").exists()
    assert nodes[0].check_health().returncode == 0


def test_a_killed_worker_is_unhealthy_and_the_others_are_not(deployment: Deployment, nodes: list[Container]) -> None:
    head, first, second = nodes
    second.kill()
    wait_until(lambda: second.check_health().returncode == 1, 60, second.output)
    assert "this container is not one of them" in second.check_health().stdout
    assert [node.check_health().returncode for node in (head, first)] == [0, 0]
    wait_until(lambda: not deployment.leftovers_of(second), 30, second.output)


def test_without_a_head_all_are_unhealthy_and_they_come_back_with_it(
    deployment: Deployment, nodes: list[Container]
) -> None:
    head, first, _ = nodes
    head.kill()
    assert [node.check_health().returncode for node in (head, first)] == [1, 1]
    assert "no Ray answers there" in head.check_health().stdout
    assert first.wait(120) != 0  # by itself; the restart policy starts it again
    first.end_rest()
    wait_until(lambda: not deployment.leftovers(), 30, lambda: str(deployment.leftovers()))

    head = deployment.create("ray-head", number=1).start()
    head.wait_healthy()
    worker = deployment.create("ray-worker").start()
    worker.wait_healthy()
    for node in (worker, head):
        node.stop()
        assert "shutting down" in node.output()
    assert head.check_health().returncode == 1
    wait_until(lambda: not deployment.leftovers(), 30, lambda: str(deployment.leftovers()))
