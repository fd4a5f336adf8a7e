"""A registry: what publishing, rolling back and deleting do to it, and what is written down."""

import json
from datetime import UTC, datetime
from functools import cache

import pytest

from rgals.artifact import registry as registry_module
from rgals.artifact.model import Model
from rgals.artifact.registry import list_versions, publish, read_current, read_history, rollback
from rgals.data.storage import Folder
from rgals.errors import ChecksumError, DataError, FormatVersionError, InputError
from tests.artifact.model_factory import Parts
from tests.artifact.registry_problems import accept, judgement, refuse
from tests.data.object_store import object_store


@pytest.fixture(params=["local", "object store"])
def registry(request, tmp_path):
    """Give the place of a registry that is not there yet."""
    return tmp_path / "registry" if request.param == "local" else Folder(object_store()[1], "bucket/registry")


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Make models by seed, once; no test changes them."""
    folder = tmp_path_factory.mktemp("models")
    return cache(lambda seed: Parts(seed=seed).write(folder / f"model-{seed}"))


def names_of(registry):
    return [version.name for version in list_versions(registry)]


def actions_of(registry):
    return [(event.action, event.version, event.previous) for event in read_history(registry)]


def test_the_first_version_is_a_copy_of_the_model_and_current(registry, model_of):
    model, before = model_of(1), datetime.now(UTC)
    found = publish(registry, model, accept)
    assert found.is_published
    assert (found.event.version, found.event.previous, found.removed) == ("v00001", None, ())
    current = read_current(registry)
    assert current.version == "v00001"
    assert before <= current.since <= datetime.now(UTC)
    assert current.event == found.event
    for name in (*Folder.at(model.location).file_names(), "manifest.json"):
        assert current.folder.read_bytes(name) == model.contents.folder.read_bytes(name)
    assert current.folder.file_names() == model.contents.folder.file_names()
    opened = current.open()
    assert opened.factor_checksum == model.factor_checksum
    assert opened.recommend(["user-é001"], 3) == model.recommend(["user-é001"], 3)


def test_an_event_says_who_did_what_when_with_which_model_and_numbers(registry, model_of, monkeypatch):
    monkeypatch.setattr(registry_module.getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(registry_module.socket, "gethostname", lambda: "engine")
    model = model_of(1)
    publish(registry, model, accept, command="rgals publish s3://key:secret@bucket/m REGISTRY")
    (event,) = read_history(registry)
    assert (event.action, event.by, event.is_forced) == ("publish", "ada@engine", False)
    assert event.command == "rgals publish s3://***@bucket/m REGISTRY"
    assert datetime.fromisoformat(event.at).tzinfo == UTC
    assert event.judgement == judgement()
    assert event.model is not None
    assert event.model.factor_sha256 == model.factor_checksum
    assert event.model.manifest_sha256 == Folder.at(model.location).sha256("manifest.json")
    assert (event.model.loss, event.model.n_factors, event.model.n_users) == ("rg2", 3, 7)
    assert event.model.source == model.location


def test_a_user_without_a_name_is_recorded_by_number(registry, model_of, monkeypatch):
    def fail():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(registry_module.getpass, "getuser", fail)
    monkeypatch.setattr(registry_module.os, "getuid", lambda: 1234)
    assert publish(registry, model_of(1), accept).event.by.startswith("uid 1234@")


def test_a_refused_model_changes_nothing_and_is_recorded(registry, model_of):
    publish(registry, model_of(1), accept)
    before = read_current(registry)
    found = publish(registry, model_of(2), refuse)
    assert not found.is_published
    assert read_current(registry) == before
    assert names_of(registry) == ["v00001"]
    assert actions_of(registry) == [("publish", "v00001", None), ("refused", None, "v00001")]
    refused = read_history(registry)[-1]
    assert refused.judgement is not None
    assert refused.judgement.reasons == ("it is worse",)
    assert refused.model is not None
    assert Model.open(refused.model.source).factor_checksum == refused.model.factor_sha256


def test_a_first_model_can_be_refused_as_well(registry, model_of):
    assert not publish(registry, model_of(1), refuse).is_published
    assert names_of(registry) == []
    with pytest.raises(DataError, match="no version is published yet; run rgals publish"):
        read_current(registry)
    with pytest.raises(DataError, match="no version is published yet; there is nothing to roll back"):
        rollback(registry)


def test_force_publishes_what_the_judge_objects_to_and_keeps_the_objection(registry, model_of):
    publish(registry, model_of(1), accept)
    event = publish(registry, model_of(2), refuse, force=True).event
    assert (event.action, event.version, event.is_forced) == ("publish", "v00002", True)
    assert event.judgement is not None
    assert event.judgement.reasons == ("it is worse",)
    assert read_current(registry).version == "v00002"


def test_force_is_not_recorded_where_it_was_not_needed(registry, model_of):
    assert not publish(registry, model_of(1), accept, force=True).event.is_forced


def test_the_judge_is_shown_the_current_version(registry, model_of):
    shown = []

    def judge(current):
        shown.append(None if current is None else (current.version, current.open().factor_checksum))
        return judgement()

    models = [model_of(seed) for seed in (1, 2)]
    for model in models:
        publish(registry, model, judge)
    assert shown == [None, ("v00001", models[0].factor_checksum)]


def test_a_rollback_goes_to_the_version_before_and_a_second_one_further_back(registry, model_of):
    models = [model_of(seed) for seed in (1, 2, 3)]
    for model in models:
        publish(registry, model, accept)
    for expected, seed in (("v00002", 1), ("v00001", 0)):
        event = rollback(registry, command="rgals rollback")
        assert (event.action, event.version, event.judgement) == ("rollback", expected, None)
        current = read_current(registry)
        assert current.version == expected
        assert current.open().factor_checksum == models[seed].factor_checksum
    assert names_of(registry) == ["v00001", "v00002", "v00003"]
    assert [version.is_current for version in list_versions(registry)] == [True, False, False]
    with pytest.raises(InputError, match=r"nothing was current before v00001.*it holds v00002, v00003"):
        rollback(registry)


def test_a_version_that_was_rolled_back_is_passed_over_by_a_later_rollback(registry, model_of):
    for seed in (1, 2, 3):
        publish(registry, model_of(seed), accept)
    rollback(registry)
    assert publish(registry, model_of(4), accept).event.version == "v00004"
    assert rollback(registry).version == "v00002"


def test_a_rollback_can_name_a_version_forwards_too(registry, model_of):
    for seed in (1, 2, 3):
        publish(registry, model_of(seed), accept)
    assert rollback(registry, "v00001").previous == "v00003"
    assert rollback(registry, "v00003").previous == "v00001"
    with pytest.raises(InputError, match="v00003 is current already"):
        rollback(registry, "v00003")
    with pytest.raises(InputError, match=r"no version v00007.*it holds v00001, v00002"):
        rollback(registry, "v00007")
    assert [action for action, *_ in actions_of(registry)] == ["publish"] * 3 + ["rollback"] * 2


def test_a_damaged_version_is_not_rolled_back_to(registry, model_of):
    for seed in (1, 2):
        publish(registry, model_of(seed), accept)
    folder = list_versions(registry)[0].folder
    content = bytearray(folder.read_bytes("item_factors.npy"))
    content[-1] ^= 1
    folder.write_bytes("item_factors.npy", bytes(content))
    with pytest.raises(ChecksumError, match=r"v00001/item_factors\.npy"):
        rollback(registry)
    assert read_current(registry).version == "v00002"
    assert len(read_history(registry)) == 2


def test_a_version_whose_manifest_is_another_ones_is_not_opened(registry, model_of):
    for seed in (1, 2):
        publish(registry, model_of(seed), accept)
    old, new = (version.folder for version in list_versions(registry))
    for name in new.file_names():
        old.write_bytes(name, new.read_bytes(name))
    with pytest.raises(ChecksumError, match=r"manifest\.json.*as it was published"):
        rollback(registry)
    read_current(registry).open()
    new.write_bytes("manifest.json", new.read_bytes("manifest.json") + b" ")
    with pytest.raises(ChecksumError, match="a version is never changed"):
        read_current(registry).open(verify="manifest")


def test_old_versions_are_deleted_but_never_the_current_one_or_the_one_to_go_back_to(registry, model_of):
    for seed in (1, 2, 3, 4):
        publish(registry, model_of(seed), accept)
    rollback(registry, "v00002")
    found = publish(registry, model_of(5), accept, keep=2)
    # v00005 is current, v00004 is the second newest, v00002 is where a rollback goes to.
    assert found.removed == ("v00001", "v00003")
    assert names_of(registry) == ["v00002", "v00004", "v00005"]
    assert actions_of(registry)[-2:] == [("removed", "v00001", "v00005"), ("removed", "v00003", "v00005")]
    assert not Folder.at(registry).child("v00001").file_names()
    assert rollback(registry).version == "v00002"
    with pytest.raises(InputError, match="nothing was current before v00002"):
        rollback(registry)


def test_numbers_of_deleted_versions_are_not_used_again(registry, model_of):
    for seed in (1, 2, 3):
        publish(registry, model_of(seed), accept)
    rollback(registry, "v00001")
    Folder.at(registry).child("v00003").remove()
    assert publish(registry, model_of(4), accept).event.version == "v00004"


def test_a_rollback_passes_over_versions_that_are_gone(registry, model_of):
    for seed in (1, 2, 3):
        publish(registry, model_of(seed), accept)
    Folder.at(registry).child("v00002").remove()
    assert names_of(registry) == ["v00001", "v00003"]
    assert rollback(registry).version == "v00001"


def test_a_current_version_that_is_gone_is_named(registry, model_of):
    publish(registry, model_of(1), accept)
    Folder.at(registry).child("v00001").remove()
    with pytest.raises(DataError, match="v00001: the version is gone"):
        read_current(registry).open()


@pytest.mark.parametrize("keep", [-1, 0, 1])
def test_fewer_than_two_versions_are_not_kept(registry, model_of, keep):
    with pytest.raises(InputError, match=f"keep: expected at least 2, .* found {keep}"):
        publish(registry, model_of(1), accept, keep=keep)
    assert not Folder.at(registry).exists()


def test_a_folder_with_other_things_does_not_become_a_registry(tmp_path, model_of):
    model = model_of(1)
    with pytest.raises(InputError, match=r"no registry\.json, so it is not a registry"):
        publish(model.location, model, accept)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="is a file"):
        publish(tmp_path / "file", model, accept)
    assert Model.open(model.location).factor_checksum == model.factor_checksum


def test_a_folder_that_is_no_registry_is_refused_by_every_reader(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        for read in (read_current, read_history, list_versions, rollback):
            with pytest.raises(DataError, match=r"no registry\.json.*check the path"):
                read(place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["CURRENT", "registry.json"])
@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"{", DataError, "not .*readable"),
        (b"[]", DataError, "not .*readable"),
        (b'{"kind": "registry", "format_version": 2}', FormatVersionError, "reads up to 1; upgrade rgals"),
        (b'{"kind": "zoo", "format_version": 1}', DataError, "field version|expected a registry"),
    ],
)
def test_records_that_cannot_be_read_are_named(tmp_path, model_of, name, content, error, message):
    publish(tmp_path / "r", model_of(1), accept)
    (tmp_path / "r" / name).write_bytes(content)
    with pytest.raises(error, match=rf"r/{name}: .*({message})"):
        read_current(tmp_path / "r")


def test_a_record_of_the_history_that_cannot_be_read_is_named(tmp_path, model_of):
    event = publish(tmp_path / "r", model_of(1), accept).event
    path = tmp_path / "r" / "history" / f"{event.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "action": "burnt"}))
    with pytest.raises(DataError, match=rf"{event.id}\.json: field action"):
        read_history(tmp_path / "r")


def test_fields_of_later_versions_are_ignored(tmp_path, model_of):
    publish(tmp_path / "r", model_of(1), accept)
    path = tmp_path / "r" / "CURRENT"
    path.write_text(json.dumps({**json.loads(path.read_text()), "region": "north"}))
    assert read_current(tmp_path / "r").version == "v00001"
