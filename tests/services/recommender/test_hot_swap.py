"""Models replaced underneath: no failed request, no mixed answer, bad models refused."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rgals.artifact.item_index import IndexOptions
from rgals.artifact.model import Model
from rgals.artifact.registry import rollback
from rgals.artifact.registry_index import attach_index, build_index
from services.recommender.slot import read_worker_states
from tests.artifact.catalog import write_catalog
from tests.artifact.model_factory import Parts, ids_of
from tests.services.recommender.harness import publish_model, running, wait_until

LIST = "/v1/users/5/recommendations?k=5&exclude_seen=false"


def make(folder: Path, seed: int) -> Model:
    return Parts(12, 40, 3, seed=seed, kind="int64").write(folder)


@pytest.fixture
def registry(tmp_path):
    publish_model(tmp_path / "registry", make(tmp_path / "m1", 1))
    return tmp_path / "registry"


def version_of(client) -> str:
    return client.get("/v1/model").json()["model_version"]


def damage(folder: Path, name: str = "item_factors.npy") -> None:
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 0xFF
    (folder / name).write_bytes(content)


def test_a_new_version_and_a_rollback_are_seen(registry, tmp_path):
    with running(registry=str(registry)) as client:
        assert version_of(client) == "v00001"
        first = client.get(LIST).json()
        publish_model(registry, make(tmp_path / "m2", 2))
        wait_until(lambda: version_of(client) == "v00002", 10)
        assert client.get(LIST).json()["items"] != first["items"]
        rollback(registry)
        wait_until(lambda: version_of(client) == "v00001", 10)
        assert client.get(LIST).json() == first
        described = client.get("/v1/model").json()
        assert described["judgement"]["metric"] == "ndcg@20"
        assert described["since"] is not None


def test_a_damaged_version_is_refused_and_the_old_one_keeps_serving(registry, tmp_path):
    with running(registry=str(registry), poll_s=3600) as client:
        publish_model(registry, make(tmp_path / "m2", 2))
        damage(registry / "v00002")
        found = client.post("/v1/admin/reload").json()
        assert (found["outcome"], found["model_version"]) == ("refused", "v00001")
        assert "SHA-256" in found["detail"]
        assert client.get(LIST).json()["model_version"] == "v00001"
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["problem"]) == (200, "version v00002 was refused")
        assert 'rgals_model_reloads_total{outcome="refused"} 1.0' in client.get("/metrics").text
        publish_model(registry, make(tmp_path / "m3", 3))
        assert client.post("/v1/admin/reload").json()["outcome"] == "swapped"
        assert client.get("/readyz").json()["problem"] is None
        assert client.post("/v1/admin/reload").json()["outcome"] == "unchanged"


def _without_finite(folder: Path) -> None:
    """A model whose checksums fit and whose factors are not finite, as no rgals writes it."""
    import hashlib
    import json

    factors = np.load(folder / "item_factors.npy")
    factors[3, 1] = np.nan
    np.save(folder / "item_factors.npy", factors)
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / "item_factors.npy").read_bytes()
    manifest["files"]["item_factors.npy"] = {"n_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_without_finite, "NaN or infinite"),
        (lambda folder: (folder / "seen_columns.npy").unlink(), "missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "bytes"),
    ],
)
def test_a_service_does_not_start_to_serve_what_is_broken(tmp_path, change: Callable[[Path], Any], expected):
    make(tmp_path / "m", 1)
    change(tmp_path / "m")
    with running(model=str(tmp_path / "m"), waits=False) as client:
        detail = client.post("/v1/admin/reload").json()
        assert detail["outcome"] == "refused"
        assert expected in detail["detail"]
        assert client.get("/livez").status_code == 200
        for path in ("/readyz", LIST):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:rgals:not-ready")
            assert answer.headers["retry-after"] == "1"
            assert str(tmp_path) not in answer.text


def test_a_service_waits_for_the_first_version(tmp_path):
    with running(registry=str(tmp_path / "registry"), waits=False) as client:
        assert client.get("/readyz").status_code == 503
        publish_model(tmp_path / "registry", make(tmp_path / "m", 1))
        wait_until(lambda: client.get("/readyz").status_code == 200, 10)


def test_a_registry_that_goes_away_for_a_while_changes_nothing(registry):
    with running(registry=str(registry)) as client:
        pointer = registry / "CURRENT"
        content = pointer.read_bytes()
        pointer.write_bytes(b"{")
        wait_until(lambda: client.get("/readyz").json()["problem"] is not None, 10)
        assert client.get(LIST).status_code == 200
        pointer.write_bytes(content)
        wait_until(lambda: client.get("/readyz").json()["problem"] is None, 10)


def test_the_versions_and_the_workers_are_listed(registry, tmp_path):
    publish_model(registry, make(tmp_path / "m2", 2), value=0.25)
    with running(registry=str(registry)) as client:
        found = client.get("/v1/admin/versions").json()
        assert [(v["version"], v["is_current"], v["value"]) for v in found["versions"]] == [
            ("v00001", False, 0.2),
            ("v00002", True, 0.25),
        ]
        assert [worker["version"] for worker in found["workers"]] == ["v00002"]
        state_dir = client.app.state.worker.state_dir
        assert read_worker_states(state_dir)
    assert not state_dir.exists()


def test_an_index_that_was_judged_well_enough_is_used_and_told(tmp_path):
    model = write_catalog(tmp_path / "model")
    publish_model(tmp_path / "registry", model)
    with build_index(model, IndexOptions(gate=0.9, n_users=50), 1) as built:
        attach_index(tmp_path / "registry", model, built)
    batch = {"requests": [{"user_id": user} for user in range(5)]}
    with running(registry=str(tmp_path / "registry")) as client:
        found = [client.get(f"/v1/users/{user}/recommendations").json() for user in range(20)]
        several = client.post("/v1/recommendations", json=batch).json()["answers"]
        named = client.post("/v1/recommendations", json={"requests": [{"user_id": 1, "candidates": [1, 2]}]}).json()
    with running(registry=str(tmp_path / "registry"), uses_index=False) as client:
        exact = [client.get(f"/v1/users/{user}/recommendations").json() for user in range(20)]
    assert not any(answer["exact"] for answer in found)
    assert all(answer["exact"] for answer in [*exact, *several, *named["answers"]])
    pairs = [
        ({i["item_id"] for i in a["items"]}, {i["item_id"] for i in b["items"]})
        for a, b in zip(found, exact, strict=True)
    ]
    assert sum(len(a & b) for a, b in pairs) > 0.95 * 200


def test_a_damaged_index_keeps_its_version_from_being_served(registry, tmp_path):
    with running(registry=str(registry), poll_s=3600) as client:
        model = write_catalog(tmp_path / "large")
        publish_model(registry, model)
        with build_index(model, IndexOptions(gate=0.9, n_users=50), 1) as built:
            attach_index(registry, model, built)
        (path,) = (registry / "indexes").glob("*/index.usearch")
        path.write_bytes(path.read_bytes()[:-5])
        found = client.post("/v1/admin/reload").json()
        assert (found["outcome"], found["model_version"]) == ("refused", "v00001")


def test_under_load_swaps_fail_no_request_and_mix_no_answer(registry, tmp_path):
    """Every answer is wholly that of the version it names, and versions go forward or to the rollback."""
    models = {"v00001": Model.open(tmp_path / "m1")}
    users = [str(user) for user in ids_of(models["v00001"].user_ids)]
    batch = {"requests": [{"user_id": user, "k": 5, "exclude_seen": False} for user in users]}
    answers: list[Any] = []
    is_over = threading.Event()

    with running(registry=str(registry)) as client:

        def ask() -> None:
            while not is_over.is_set():
                answers.append(client.post("/v1/recommendations", json=batch))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for seed in range(2, 6):
                models[f"v{seed:05d}"] = make(tmp_path / f"m{seed}", seed)
                version = publish_model(registry, models[f"v{seed:05d}"])
                if seed == 4:
                    damage(registry / version)
                    client.post("/v1/admin/reload")
                    continue
                wait_until(lambda wanted=version: version_of(client) == wanted, 20)
            rollback(registry, "v00003")
            wait_until(lambda: version_of(client) == "v00003", 20)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()

    expected = {
        version: [[str(item) for item in found.items] for found in model.recommend(users, 5, exclude_seen=False)]
        for version, model in models.items()
    }
    assert len(answers) > 20
    for answer in answers:
        assert answer.status_code == 200
        found = answer.json()
        lists = [[item["item_id"] for item in each["items"]] for each in found["answers"]]
        assert lists == expected[found["model_version"]]
        assert found["model_version"] == answer.headers["x-model-version"]
    assert {answer.json()["model_version"] for answer in answers} >= {"v00001", "v00003"}
    assert "v00004" not in {answer.json()["model_version"] for answer in answers}
