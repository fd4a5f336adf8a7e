"""Killed publishers, publishers at the same time, readers in between, damaged sources."""

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rgals.artifact import registry_copy, registry_store
from rgals.artifact.registry import list_versions, publish, read_current, read_history, rollback
from rgals.artifact.registry_store import RegistryStore
from rgals.data.storage import Folder
from rgals.errors import ChecksumError, DataError, InputError
from tests.artifact.model_factory import Parts
from tests.artifact.registry_problems import accept, judgement
from tests.data.object_store import object_store

REPOSITORY = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal, sys
from rgals.artifact import registry_store
from rgals.artifact.model import Model
from rgals.artifact.registry import publish
from tests.artifact.registry_problems import accept

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

owner = registry_store if sys.argv[3] in vars(registry_store) else registry_store.RegistryStore
setattr(owner, sys.argv[3], die)
publish(sys.argv[1], Model.open(sys.argv[2]), accept)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Give models that no test changes."""
    folder = tmp_path_factory.mktemp("models")
    return [Parts(seed=seed).write(folder / f"model-{seed}") for seed in range(4)]


@pytest.fixture
def own_model(tmp_path):
    """Give a model to be damaged."""
    return Parts(seed=1).write(tmp_path / "model-1")


def everything_below(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


def killed_publisher(registry, model, at):
    command = [sys.executable, "-c", KILLED, str(registry), model.location, at]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert found.returncode == -signal.SIGKILL, found.stderr


@pytest.mark.parametrize("at", ["copy_model", "_take_number", "set_current"])
def test_a_publisher_killed_before_the_pointer_has_changed_nothing(tmp_path, models, at):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    before, history = read_current(registry), read_history(registry)
    killed_publisher(registry, models[1], at)
    assert read_current(registry) == before
    assert read_history(registry) == history
    assert [version.name for version in list_versions(registry)] == ["v00001"]
    after = publish(registry, models[2], accept)
    assert after.event.previous == "v00001"
    assert read_current(registry).open().factor_checksum == models[2].factor_checksum
    # The copy that was not finished is gone, one that was only never pointed at has kept its number.
    assert [path.name for path in registry.iterdir() if "candidate" in path.name] == []
    assert after.event.version == ("v00003" if at == "set_current" else "v00002")
    assert [version.name for version in list_versions(registry)] == ["v00001", after.event.version]
    if at == "set_current":
        with pytest.raises(InputError, match="no version v00002"):
            rollback(registry, "v00002")


def test_a_publisher_killed_after_the_pointer_has_published_and_the_history_is_whole(tmp_path, models):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    killed_publisher(registry, models[1], "write_event")
    current = read_current(registry)
    assert current.version == "v00002"
    assert len(list((registry / "history").iterdir())) == 1
    assert [event.version for event in read_history(registry)] == ["v00001", "v00002"]
    assert [version.name for version in list_versions(registry)] == ["v00001", "v00002"]
    publish(registry, models[2], accept)
    assert len(list((registry / "history").iterdir())) == 3
    assert [event.version for event in read_history(registry)] == ["v00001", "v00002", "v00003"]
    assert read_history(registry)[1] == current.event


def test_an_error_while_copying_leaves_nothing_behind(tmp_path, models, monkeypatch):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    before = everything_below(registry)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(registry, models[1], accept, progress=interrupt)
    monkeypatch.setattr(registry_copy, "verify_file", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(DataError, match="disk is full"):
        publish(registry, models[1], accept)
    assert everything_below(registry) == before
    assert sorted(path.name for path in registry.iterdir()) == [
        ".lock",
        "CURRENT",
        "history",
        "registry.json",
        "v00001",
    ]


@pytest.mark.parametrize("name", ["user_factors.npy", "fold_in/gram.npy", "user_ids.parquet"])
def test_a_damaged_source_is_named_and_not_published(tmp_path, own_model, name):
    path = tmp_path / "model-1" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ChecksumError, match=rf"model-1/{name}: expected SHA-256"):
        publish(tmp_path / "registry", own_model, accept)
    assert list_versions(tmp_path / "registry") == []
    assert not list((tmp_path / "registry").glob("*v0*"))


def test_what_arrives_is_read_again_and_compared(tmp_path, models, monkeypatch):
    written = Folder.open_output

    def lose_the_end(self, name):
        stream = written(self, name)
        if name == "item_factors.npy":
            stream.write(b"?")
        return stream

    monkeypatch.setattr(Folder, "open_output", lose_the_end)
    with pytest.raises(ChecksumError, match=r"item_factors\.npy: expected \d+ bytes"):
        publish(tmp_path / "registry", models[1], accept)
    assert list_versions(tmp_path / "registry") == []


def test_a_model_that_was_replaced_since_it_was_opened_is_not_published(tmp_path, own_model):
    Parts(seed=9).write(tmp_path / "model-1", overwrite=True)
    with pytest.raises(DataError, match="another model was written there"):
        publish(tmp_path / "registry", own_model, accept)


def test_a_manifest_that_names_a_file_outside_is_refused(tmp_path, own_model):
    path = tmp_path / "model-1" / "manifest.json"
    document = json.loads(path.read_text())
    document["files"]["../elsewhere/config.json"] = {"n_bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="which is not in the folder"):
        publish(tmp_path / "registry", own_model, accept)


@pytest.mark.parametrize("place", ["local", "object store"])
def test_publishers_at_once_each_get_a_version_of_their_own(tmp_path, models, place):
    registry = tmp_path / "registry" if place == "local" else Folder(object_store()[1], "bucket/registry")
    barrier, lock, judged = threading.Barrier(len(models)), threading.Lock(), []

    def judge(current):
        with lock:
            judged.append(None if current is None else current.version)
            is_first_round = len(judged) <= len(models)
        if is_first_round:
            barrier.wait(timeout=20)
        return judgement()

    with ThreadPoolExecutor(len(models)) as pool:
        found = list(pool.map(lambda model: publish(registry, model, judge), models))
    assert sorted(one.event.version for one in found) == [version.name for version in list_versions(registry)]
    assert len({one.event.version for one in found}) == len(models)
    by_version = {one.event.version: model for one, model in zip(found, models, strict=True)}
    for version in list_versions(registry):
        assert version.folder.file_names() == Folder.at(models[0].location).file_names()
    assert {event.version for event in read_history(registry)} == set(by_version)
    current = read_current(registry)
    assert current.open().factor_checksum == by_version[current.version].factor_checksum
    if place == "local":
        # Everyone but the first was overtaken, and judged against what was then current.
        assert judged[: len(models)] == [None] * len(models)
        chain = sorted((one.event.version, one.event.previous) for one in found)
        assert chain == [("v00001", None), ("v00002", "v00001"), ("v00003", "v00002"), ("v00004", "v00003")]


def test_a_publisher_that_was_overtaken_is_judged_again_and_may_be_refused(tmp_path, models):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    shown = []

    def judge(current):
        shown.append(current.version)
        if len(shown) == 1:
            publish(registry, models[1], accept)
            return judgement()
        return judgement("worse than the new one")

    copied = []
    found = publish(registry, models[2], judge, progress=lambda *amounts: copied.append(amounts))
    assert shown == ["v00001", "v00002"]
    assert not copied
    assert (found.event.action, found.event.previous) == ("refused", "v00002")
    assert read_current(registry).version == "v00002"


def test_a_publisher_that_is_always_overtaken_gives_up(tmp_path, models):
    registry = tmp_path / "registry"

    def judge(current):
        publish(registry, models[1], accept)
        return judgement()

    with pytest.raises(DataError, match="5 times while this one was judged"):
        publish(registry, models[2], judge)
    assert len(list_versions(registry)) == 5


def test_a_version_folder_that_is_there_is_never_written_to(tmp_path, models):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    foreign = registry / "v00002"
    real = RegistryStore._next_number

    def slow(self):
        number = real(self)
        foreign.mkdir()
        (foreign / "precious").write_text("kept")
        return number

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RegistryStore, "_next_number", slow)
        assert publish(registry, models[1], accept).event.version == "v00003"
    assert everything_below(foreign) == ["precious"]


def test_a_number_that_another_claims_on_an_object_store_is_left_to_it(models, monkeypatch):
    monkeypatch.setattr(registry_store.time, "sleep", lambda _: None)
    handler, filesystem = object_store()
    registry = Folder(filesystem, "bucket/registry")
    publish(registry, models[0], accept)
    real = Folder.write_bytes

    def claimed_by_another_too(self, name, content):
        real(self, name, content)
        if name.startswith(".claim-") and self.path.endswith("v00002"):
            handler.keys["bucket/registry/v00002/.claim-another"] = b""

    monkeypatch.setattr(Folder, "write_bytes", claimed_by_another_too)
    assert publish(registry, models[1], accept).event.version == "v00003"
    assert registry.child("v00002").file_names() == [".claim-another"]
    assert [version.name for version in list_versions(registry)] == ["v00001", "v00003"]


def test_numbers_claimed_without_end_are_an_error(models, monkeypatch):
    monkeypatch.setattr(registry_store.time, "sleep", lambda _: None)
    handler, filesystem = object_store()
    real = Folder.write_bytes

    def always(self, name, content):
        real(self, name, content)
        if name.startswith(".claim-"):
            handler.keys[f"{self.path}/.claim-another"] = b""

    monkeypatch.setattr(Folder, "write_bytes", always)
    with pytest.raises(DataError, match="20 version numbers in a row"):
        publish(Folder(filesystem, "bucket/registry"), models[1], accept)


def test_a_publisher_overtaken_while_it_copies_to_an_object_store_takes_its_copy_back(models):
    _, filesystem = object_store()
    registry = Folder(filesystem, "bucket/registry")
    n_judged, n_overtaken = 0, 0

    def judge(current):
        nonlocal n_judged
        n_judged += 1
        return judgement()

    def overtake(done, total):
        nonlocal n_overtaken
        if n_overtaken == 0:
            n_overtaken = 1
            publish(registry, models[1], accept)

    found = publish(registry, models[2], judge, progress=overtake)
    assert n_judged == 2
    assert found.event.previous == "v00002"
    assert not registry.child("v00001").file_names()
    assert [version.name for version in list_versions(registry)] == ["v00002", found.event.version]


def test_on_an_object_store_the_pointer_is_one_object_written_after_the_copy(models):
    handler, filesystem = object_store()
    publish(Folder(filesystem, "bucket/registry"), models[0], accept)
    written = [path.removeprefix("bucket/registry/") for path in handler.log]
    assert written.count("CURRENT") == 1
    assert written[-2] == "CURRENT"
    assert written[-1].startswith("history/")
    assert written[-3] == "v00001/manifest.json"
    assert not [path for path in handler.keys if ".claim-" in path]


def test_a_copy_that_fails_on_an_object_store_is_not_a_version(models, monkeypatch):
    _, filesystem = object_store()
    registry = Folder(filesystem, "bucket/registry")
    publish(registry, models[0], accept)
    monkeypatch.setattr(registry_copy, "verify_file", lambda *_: (_ for _ in ()).throw(DataError("connection lost")))
    with pytest.raises(DataError, match="connection lost"):
        publish(registry, models[1], accept)
    assert read_current(registry).version == "v00001"
    assert registry.child("v00002").file_names() == []


def test_a_reader_sees_the_old_version_or_the_new_one_and_both_are_whole(tmp_path, models):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    n_versions, failures, seen = 12, [], set()
    is_done = threading.Event()

    def read():
        last = ""
        while not is_done.is_set():
            try:
                current = read_current(registry)
                assert current.version >= last
                current.open(verify=False)
            except Exception as error:  # noqa: BLE001
                failures.append(error)
                return
            last = current.version
            seen.add(last)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for index in range(n_versions):
        publish(registry, models[index % 4], accept)
    is_done.set()
    for reader in readers:
        reader.join(timeout=20)
    assert not failures
    assert len(seen) > 2
    assert read_current(registry).version == f"v{n_versions + 1:05d}"


def test_where_there_are_no_locks_publishing_works_and_nothing_of_others_is_cleared_away(tmp_path, models, monkeypatch):
    def unsupported(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(registry_store.fcntl, "flock", unsupported)
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    other = registry / ".candidate-of-another"
    other.mkdir()
    assert publish(registry, models[1], accept).event.version == "v00002"
    assert other.exists()


def test_a_registry_that_cannot_be_written_to_is_named(tmp_path, models):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    (registry / ".lock").unlink()
    (registry / ".lock").mkdir()
    with pytest.raises(DataError, match="cannot be written to"):
        publish(registry, models[1], accept)


def test_what_fails_after_the_pointer_has_moved_does_not_look_like_a_failure(tmp_path, models, monkeypatch):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)

    def fail(self, event):
        raise DataError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(RegistryStore, "write_event", fail)
        found = publish(registry, models[1], accept)
    assert (found.is_published, found.event.version) == (True, "v00002")
    assert read_current(registry).version == "v00002"
    assert [event.version for event in read_history(registry)] == ["v00001", "v00002"]
    # The next one puts into the history what is missing there.
    publish(registry, models[2], accept)
    assert [event.version for event in read_history(registry)] == ["v00001", "v00002", "v00003"]
    assert len(list((registry / "history").iterdir())) == 3


def test_old_versions_that_cannot_be_deleted_are_only_told_of(tmp_path, models, monkeypatch):
    registry = tmp_path / "registry"
    for model in models[:3]:
        publish(registry, model, accept)

    def fail(self, version):
        raise DataError(f"{version} cannot be removed")

    monkeypatch.setattr(RegistryStore, "remove_version", fail)
    found = publish(registry, models[3], accept, keep=2)
    assert found.is_published
    assert found.removed == ()
    assert "v00001 cannot be removed" in found.warning
    assert read_current(registry).version == "v00004"


def test_a_refusal_against_what_is_no_longer_current_does_not_count(tmp_path, models):
    registry = tmp_path / "registry"
    publish(registry, models[0], accept)
    shown = []

    def judge(current):
        shown.append(current.version)
        if len(shown) == 1:
            publish(registry, models[1], accept)
            return judgement("worse than the old one")
        return judgement()

    found = publish(registry, models[2], judge)
    assert shown == ["v00001", "v00002"]
    assert (found.event.action, found.event.previous) == ("publish", "v00002")


def test_of_two_first_publishers_the_later_finds_the_registry_of_the_other(tmp_path, models, monkeypatch):
    registry = tmp_path / "registry"
    real, asked = Folder.exists, []

    def exists(self, *names):
        found = real(self, *names)
        if names == ("registry.json",) and not asked:
            asked.append(names)
            RegistryStore.open(registry, create=True)
        return found

    monkeypatch.setattr(Folder, "exists", exists)
    assert publish(registry, models[0], accept).event.version == "v00001"
    assert asked
