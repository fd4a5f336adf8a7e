"""A pointer that cannot be written: the copied model is taken back, unless it may be current all the same."""

import pytest

from rgals.artifact import registry_store
from rgals.artifact.registry import list_versions, publish, read_current
from rgals.data.storage import Folder, replace_file
from rgals.errors import DataError
from tests.artifact.model_factory import Parts
from tests.artifact.registry_problems import accept
from tests.data.object_store import object_store


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Give models that no test changes."""
    folder = tmp_path_factory.mktemp("models")
    return [Parts(seed=seed).write(folder / f"model-{seed}") for seed in range(2)]


def fails_at_the_pointer(*, is_moved):
    """Write a small file as always, but for the pointer: it fails before or after it has moved."""

    def write(path, content):
        if path.name != "CURRENT" or is_moved:
            replace_file(path, content)
        if path.name == "CURRENT":
            raise DataError(f"{path}: writing failed (no space left)")

    return write


def everything_below(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def test_a_copy_whose_pointer_could_not_be_written_is_taken_back(tmp_path, models, monkeypatch):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    before = everything_below(registry)
    with monkeypatch.context() as patched:
        patched.setattr(registry_store, "replace_file", fails_at_the_pointer(is_moved=False))
        for _ in range(2):
            with pytest.raises(DataError, match="no space left"):
                publish(registry, models[1], accept)
            assert everything_below(registry) == before
    assert publish(registry, models[1], accept).event.version == "v00002"
    read_current(registry).open()


def test_a_first_copy_is_taken_back_too(tmp_path, models, monkeypatch):
    monkeypatch.setattr(registry_store, "replace_file", fails_at_the_pointer(is_moved=False))
    with pytest.raises(DataError, match="no space left"):
        publish(tmp_path / "registry", models[0], accept)
    assert everything_below(tmp_path / "registry") == [".lock", "registry.json"]


def test_a_copy_whose_pointer_moved_before_the_error_is_the_version(tmp_path, models, monkeypatch):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    with monkeypatch.context() as patched:
        patched.setattr(registry_store, "replace_file", fails_at_the_pointer(is_moved=True))
        with pytest.raises(DataError, match="no space left"):
            publish(registry, models[1], accept)
    assert read_current(registry).version == "v00002"
    assert read_current(registry).open().factor_checksum == models[1].factor_checksum


def test_on_an_object_store_the_copy_stays_as_a_failed_write_may_still_arrive(models, monkeypatch):
    _, filesystem = object_store()
    registry = Folder(filesystem, "bucket/registry")
    publish(registry, models[0], accept)
    real = Folder.write_bytes

    def write_bytes(folder, name, content):
        if name == "CURRENT":
            raise OSError("timed out")
        return real(folder, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write_bytes", write_bytes)
        with pytest.raises(DataError, match="timed out"):
            publish(registry, models[1], accept)
    assert registry.exists("v00002/manifest.json")
    assert [version.name for version in list_versions(registry)] == ["v00001"]
