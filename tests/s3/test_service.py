"""The service over a registry on S3: swapped, copied once, refused where damaged, no credentials in what it says."""

import httpx2
import psutil

from rgals.artifact.item_index import IndexOptions
from rgals.artifact.registry import rollback
from rgals.artifact.registry_index import attach_index, build_index
from tests.artifact.catalog import write_catalog
from tests.artifact.model_factory import Parts
from tests.s3.conftest import KEY, SECRET
from tests.services.recommender.harness import publish_model, running, served, wait_until

LIST = "/v1/users/5/recommendations?k=3"


def version_of(client) -> str:
    return client.get("/v1/model").json()["model_version"]


def copies(cache) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_a_registry_on_s3_is_followed_with_a_copy_on_the_disk(store, tmp_path):
    bucket = store.new_bucket()
    place = f"s3://{KEY}:{SECRET}@{bucket}/registry?{store.options}"
    models = [Parts(12, 40, 3, seed=seed, kind="int64").write(tmp_path / str(seed)) for seed in range(4)]
    publish_model(place, models[0])
    with running(registry=place, cache_dir=tmp_path / "cache", poll_s=0.1) as client:
        first = client.get(LIST).json()
        assert first["model_version"] == "v00001"
        expected = models[0].recommend([5], 3)[0]
        assert [item["item_id"] for item in first["items"]] == [str(item) for item in expected.items]
        for model in models[1:3]:
            version = publish_model(place, model)
            wait_until(lambda wanted=version: version_of(client) == wanted, 20)
        assert len(copies(tmp_path / "cache")) == 2
        rollback(place, "v00001")
        wait_until(lambda: version_of(client) == "v00001", 20)
        assert client.get(LIST).json()["items"] == first["items"]

    with running(registry=place, cache_dir=tmp_path / "other", poll_s=3600) as client:
        broken = publish_model(place, models[3])
        key = f"{bucket}/registry/{broken}/item_factors.npy"
        content = bytearray(store.read(key))
        content[-1] ^= 0xFF
        store.write(key, bytes(content))
        found = client.post("/v1/admin/reload").json()
        assert (found["outcome"], found["model_version"]) == ("refused", "v00001")
        assert "SHA-256" in found["detail"]
        assert SECRET not in client.get("/v1/admin/versions").text + str(found)
    assert len(copies(tmp_path / "other")) == 1


def test_a_full_disk_keeps_the_old_version_and_leaves_nothing(store, tmp_path):
    bucket = store.new_bucket()
    place = f"s3://{KEY}:{SECRET}@{bucket}/registry?{store.options}"
    publish_model(place, Parts(12, 40, 3, seed=0, kind="int64").write(tmp_path / "small"))
    cache = tmp_path / "cache"
    with served("--registry", place, RGALS_SERVICE_CACHE_DIR=str(cache), RGALS_SERVICE_POLL_S="3600") as service:

        def reload() -> dict:
            return httpx2.post(service.url + "/v1/admin/reload").json()

        wait_until(lambda: httpx2.get(service.url + "/readyz").status_code == 200, 30)
        first = copies(cache)
        version = publish_model(place, Parts(12, 5000, 16, seed=1, kind="int64").write(tmp_path / "large"))
        # Stands for a full disk: no file may grow beyond 64 KiB, where the items need 320.
        process = psutil.Process(service.process.pid)
        process.rlimit(psutil.RLIMIT_FSIZE, (1 << 16, psutil.RLIM_INFINITY))
        found = reload()
        assert (found["outcome"], found["model_version"]) == ("refused", "v00001")
        assert "free space" in found["detail"]
        assert copies(cache) == first
        assert [path for path in cache.iterdir() if path.name not in (*first, ".lock")] == []
        assert httpx2.get(service.url + LIST).json()["model_version"] == "v00001"
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        assert reload()["model_version"] == version
        assert httpx2.get(service.url + LIST).json()["model_version"] == version


def test_an_index_on_s3_is_copied_and_used_and_only_two_are_kept(store, tmp_path):
    bucket = store.new_bucket()
    place = f"s3://{KEY}:{SECRET}@{bucket}/registry?{store.options}"
    for seed in range(3):
        model = write_catalog(tmp_path / str(seed), seed=seed)
        version = publish_model(place, model)
        with build_index(model, IndexOptions(gate=0.9, n_users=50), 1) as built:
            attach_index(place, model, built)
        with running(registry=place, cache_dir=tmp_path / "cache") as client:
            assert client.get(LIST).json()["exact"] is False
            assert version_of(client) == version
        indexes = list((tmp_path / "cache").glob("*.usearch"))
        assert len(indexes) == min(seed + 1, 2)
        assert built.record.sha256 in [path.stem for path in indexes]
    assert [path for path in (tmp_path / "cache").iterdir() if "partial" in path.name] == []
