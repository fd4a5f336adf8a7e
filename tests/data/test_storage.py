"""Folders: whole or not at all, nothing of others deleted, every damage named."""

import errno
import json
import pickle
import resource
import traceback
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from rgals.data import folder as folder_module
from rgals.data import storage
from rgals.data.storage import (
    FileEntry,
    Folder,
    check_output,
    new_folder,
    read_manifest,
    redact,
    replace_file,
    resolve_location,
    verify_file,
    write_manifest,
)
from rgals.errors import ChecksumError, DataError, FormatVersionError, InputError, OutputExistsError
from rgals.names import MANIFEST_NAME
from tests.data.object_store import ObjectStore, object_store


def write_folder(location, content=b"content", *, overwrite=False):
    with new_folder(location, overwrite=overwrite) as staged:
        staged.write_bytes("data.bin", content)
        write_manifest(staged, "dataset", 1, {"answer": 42})


def everything_below(path):
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


@contextmanager
def largest_file(n_bytes):
    """Let the operating system refuse every write beyond ``n_bytes``, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk(monkeypatch):
    """Make every written stream fail as on a full disk, once it is opened."""

    class FullStream:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "open_output", lambda folder, name: FullStream())


@pytest.fixture(params=["local disk", "object store"])
def target(request, tmp_path):
    """A folder that is not there yet."""
    return (
        Folder.at(tmp_path / "target") if request.param == "local disk" else Folder(object_store()[1], "bucket/target")
    )


def fail_half_way(location, error, *, overwrite=False):
    with new_folder(location, overwrite=overwrite) as staged:
        staged.write_bytes("sub/data.bin", b"half")
        raise error


def test_a_folder_appears_whole_under_its_name(tmp_path):
    final = tmp_path / "deep" / "target"
    with new_folder(final) as staged:
        staged.write_bytes("sub/data.bin", b"content")
        assert not final.exists()
        assert staged.local_path.parent == final.parent
        write_manifest(staged, "dataset", 1, {})
    assert everything_below(tmp_path) == [
        "deep",
        "deep/target",
        f"deep/target/{MANIFEST_NAME}",
        "deep/target/sub",
        "deep/target/sub/data.bin",
    ]


def test_manifest_and_files_come_back_on_every_filesystem(target):
    write_folder(target)
    payload, files = read_manifest(target, "dataset", 1)
    assert payload == {"answer": 42}
    assert list(files) == ["data.bin"]
    verify_file(target, "data.bin", files)
    assert target.read_bytes("data.bin") == b"content"
    assert target.n_bytes("data.bin") == 7
    with target.open_input("data.bin") as stream:
        assert stream.read(3) == b"con"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(type(error)):
        fail_half_way(tmp_path / "target", error)
    assert everything_below(tmp_path) == []


def test_an_exception_in_an_object_store_leaves_nothing_behind():
    store, filesystem = object_store()
    folder = Folder(filesystem, "bucket/target")
    with pytest.raises(ValueError, match="bad"):
        fail_half_way(folder, ValueError("bad"))
    assert store.log == ["bucket/target/.rgals-writing", "bucket/target/sub/data.bin"]
    assert store.keys == {}
    with pytest.raises(DataError, match="not a finished rgals dataset"):
        read_manifest(folder, "dataset", 1)


def test_in_an_object_store_the_manifest_is_uploaded_last_and_nothing_is_renamed():
    store, filesystem = object_store()
    store.keys["bucket/other/data.bin"] = b"of somebody else"
    folder = Folder(filesystem, "bucket/target")
    write_folder(folder)
    write_folder(folder, b"new", overwrite=True)
    names = (".rgals-writing", "data.bin", MANIFEST_NAME)
    assert store.log == [f"bucket/target/{name}" for name in names] * 2
    assert sorted(folder.file_names()) == ["data.bin", MANIFEST_NAME]
    assert folder.read_bytes("data.bin") == b"new"
    assert store.keys["bucket/other/data.bin"] == b"of somebody else"


def test_an_exception_keeps_what_stood_there(tmp_path):
    write_folder(tmp_path / "target", b"old")
    with pytest.raises(ValueError, match="bad"):
        fail_half_way(tmp_path / "target", ValueError("bad"), overwrite=True)
    assert (tmp_path / "target" / "data.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    write_folder(tmp_path / "target", b"old")
    original = Path.rename

    def fail_for_staged(path, to):
        if ".partial-" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return original(path, to)

    monkeypatch.setattr(Path, "rename", fail_for_staged)
    with pytest.raises(DataError, match="Input/output error"):
        write_folder(tmp_path / "target", b"new", overwrite=True)
    assert (tmp_path / "target" / "data.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_overwriting_replaces_every_file_of_the_old_folder(tmp_path):
    with new_folder(tmp_path / "target") as staged:
        staged.write_bytes("old.bin", b"old")
        write_manifest(staged, "dataset", 1, {})
    write_folder(tmp_path / "target", b"new", overwrite=True)
    assert everything_below(tmp_path / "target") == ["data.bin", MANIFEST_NAME]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_every_file_is_synced_before_the_folder_takes_its_name(tmp_path, monkeypatch):
    events = []
    sync, rename = storage._sync, Path.rename
    monkeypatch.setattr(storage, "_sync", lambda path: (events.append(path.name.split("-")[0]), sync(path)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append("rename"), rename(path, to))[1])
    write_folder(tmp_path / "target")
    assert sorted(events[:3]) == sorted(["data.bin", MANIFEST_NAME, ".target.partial"])
    assert events[3:] == ["rename", tmp_path.name.split("-")[0]]


def test_a_full_disk_is_a_data_error_and_leaves_nothing(tmp_path, full_disk):
    with pytest.raises(DataError, match=r"writing failed .*No space left on device.*; nothing was left behind"):
        write_folder(tmp_path / "target")
    assert everything_below(tmp_path) == []


def test_a_write_that_the_system_refuses_leaves_the_old_folder(tmp_path):
    write_folder(tmp_path / "target", b"old")
    with largest_file(1 << 12), pytest.raises(DataError, match="writing failed"):
        write_folder(tmp_path / "target", b"new" * 100_000, overwrite=True)
    assert (tmp_path / "target" / "data.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_writer_that_forgets_the_manifest_is_a_bug_and_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no manifest"), new_folder(tmp_path / "target") as staged:
        staged.write_bytes("data.bin", b"content")
    assert everything_below(tmp_path) == []


def test_an_existing_folder_needs_overwrite(target):
    write_folder(target)
    with pytest.raises(OutputExistsError, match="exists already; choose another output or pass --overwrite"):
        write_folder(target, b"new")
    assert target.read_bytes("data.bin") == b"content"


def test_an_empty_folder_needs_no_overwrite(tmp_path):
    (tmp_path / "target").mkdir()
    write_folder(tmp_path / "target")
    assert (tmp_path / "target" / "data.bin").exists()


def test_a_folder_of_somebody_else_is_never_replaced(target):
    target.write_bytes("thesis.tex", b"years of work")
    with pytest.raises(OutputExistsError, match="not written by rgals and is not replaced"):
        write_folder(target, overwrite=True)
    assert target.read_bytes("thesis.tex") == b"years of work"


def test_a_location_where_nothing_is_may_be_written(tmp_path):
    assert check_output(tmp_path / "new", overwrite=False).path == str(tmp_path / "new")


def test_the_manifest_promises_size_and_checksum_of_every_file(tmp_path):
    folder = Folder.at(tmp_path)
    folder.write_bytes("b.bin", b"bb")
    folder.write_bytes("sub/a.bin", b"")
    files = write_manifest(folder, "model", 3, {"x": [1, None]})
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files["sub/a.bin"] == FileEntry(0, empty)
    document = json.loads(folder.read_bytes(MANIFEST_NAME))
    assert document["kind"] == "model"
    assert document["format_version"] == 3
    assert document["x"] == [1, None]
    assert list(document["files"]) == ["b.bin", "sub/a.bin"]


def test_a_manifest_never_holds_a_number_that_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(Folder.at(tmp_path), "model", 1, {"loss": float("nan")})


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, DataError, "no manifest.json, so this is not a finished rgals dataset"),
        ("", DataError, "not a readable manifest"),
        ("{", DataError, "not a readable manifest"),
        ("[]", DataError, "not a readable manifest"),
        ('{"kind": "dataset", "format_version": 1}', DataError, "not a readable manifest .*files"),
        ('{"kind": "dataset", "format_version": "x", "files": {}}', DataError, "not a readable manifest"),
        ('{"kind": "dataset", "format_version": 1, "files": {"a": {"n_bytes": 1}}}', DataError, "sha256"),
        ('{"kind": "model", "format_version": 1, "files": {}}', DataError, "expected a dataset, found a model"),
        ('{"kind": "dataset", "format_version": 8, "files": {}}', FormatVersionError, "format version 8.*up to 7"),
    ],
)
def test_a_folder_that_is_not_what_is_expected_is_refused_with_its_path(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(error, match=message) as caught:
        read_manifest(Folder.at(tmp_path), "dataset", 7)
    assert str(tmp_path) in str(caught.value)


def test_older_format_versions_are_read(tmp_path):
    write_manifest(Folder.at(tmp_path), "dataset", 1, {"answer": 42})
    assert read_manifest(Folder.at(tmp_path), "dataset", 2)[0] == {"answer": 42}


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: path.write_bytes(b"CONTENT"), ChecksumError, "expected SHA-256 .*, found .*; the file is corrup"),
        (lambda path: path.write_bytes(b"cont"), ChecksumError, "expected 7 bytes, found 4"),
        (lambda path: path.unlink(), DataError, "the file is missing"),
    ],
)
def test_a_damaged_file_is_found_and_named(tmp_path, damage, error, message):
    write_folder(tmp_path / "target")
    _, files = read_manifest(Folder.at(tmp_path / "target"), "dataset", 1)
    damage(tmp_path / "target" / "data.bin")
    with pytest.raises(error, match=message) as caught:
        verify_file(Folder.at(tmp_path / "target"), "data.bin", files)
    assert str(tmp_path / "target" / "data.bin") in str(caught.value)


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path):
    with pytest.raises(DataError, match="not listed in manifest"):
        verify_file(Folder.at(tmp_path), "data.bin", {})


def test_a_file_is_hashed_in_pieces_to_the_same_checksum(tmp_path, monkeypatch):
    folder = Folder.at(tmp_path)
    folder.write_bytes("data.bin", bytes(range(256)) * 10)
    whole = folder.sha256("data.bin")
    monkeypatch.setattr(folder_module, "_HASH_BLOCK_BYTES", 7)
    assert folder.sha256("data.bin") == whole


@pytest.mark.parametrize("read", [Folder.read_bytes, Folder.open_input, Folder.n_bytes, Folder.sha256])
def test_a_missing_file_is_a_data_error_with_its_path(target, read):
    with pytest.raises(DataError, match="missing") as caught:
        read(target, "nothing.bin")
    assert target.file_path("nothing.bin") in str(caught.value)


def test_folders_list_their_files_and_children(tmp_path):
    folder = Folder.at(tmp_path)
    assert folder.file_names() == []
    folder.write_bytes("b/2.bin", b"")
    folder.write_bytes("b/1.bin", b"")
    folder.write_bytes("a/x/3.bin", b"")
    folder.write_bytes("0.bin", b"")
    assert folder.file_names() == ["0.bin", "a/x/3.bin", "b/1.bin", "b/2.bin"]
    assert folder.child_names() == ["a", "b"]
    assert folder.child("b").file_names() == ["1.bin", "2.bin"]
    assert folder.child("nothing").file_names() == []
    assert folder.exists()
    assert folder.exists("a/x")
    assert not folder.exists("a/y")
    folder.child("a").remove()
    folder.child("a").remove()
    assert folder.child_names() == ["b"]


def test_locations_are_local_paths_or_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem, path = resolve_location("data/set")
    assert isinstance(filesystem, pafs.LocalFileSystem)
    assert path == str(tmp_path / "data" / "set")
    assert resolve_location(f"file://{tmp_path}/x")[1] == f"{tmp_path}/x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_location("~/x")[1] == str(tmp_path / "x")
    folder = Folder.at(tmp_path)
    assert Folder.at(folder) is folder
    assert str(folder) == str(tmp_path)


@pytest.mark.parametrize("location", ["nosuch://bucket/x", "file://relative/x"])
def test_a_uri_that_cannot_be_opened_is_an_input_error(location):
    with pytest.raises(InputError, match="not a location that pyarrow can open") as caught:
        resolve_location(location)
    assert location in str(caught.value)


def test_replacing_a_file_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "CURRENT"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    with largest_file(1 << 12), pytest.raises(DataError, match="writing failed"):
        replace_file(path, b"x" * 100_000)
    assert path.read_bytes() == b"new"
    assert [found.name for found in path.parent.iterdir()] == ["CURRENT"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "target").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="a file is in the way"):
        write_folder(tmp_path / "target", overwrite=overwrite)
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_a_file_above_the_output_is_a_data_error(tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(DataError, match="writing failed"):
        write_folder(tmp_path / "file" / "target")
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_filesystems_with_folders_but_without_rename_get_the_folders_they_need(tmp_path):
    filesystem = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    with new_folder(Folder(filesystem, "deep/target")) as staged:
        staged.write_bytes("sub/data.bin", b"content")
        write_manifest(staged, "dataset", 1, {})
    assert (tmp_path / "deep" / "target" / "sub" / "data.bin").read_bytes() == b"content"


def test_what_a_killed_process_left_in_an_object_store_may_be_replaced():
    store, filesystem = object_store()
    folder = Folder(filesystem, "bucket/target")
    with new_folder(folder) as staged:
        staged.write_bytes("data.bin", b"half")
        left = dict(store.keys)
        write_manifest(staged, "dataset", 1, {})
    store.keys.clear()
    store.keys.update(left)  # as if the process had been killed before the manifest
    write_folder(folder, b"new")
    assert sorted(folder.file_names()) == ["data.bin", MANIFEST_NAME]
    assert folder.read_bytes("data.bin") == b"new"


def test_a_process_killed_while_it_replaces_a_folder_leaves_one_that_may_be_replaced():
    class KilledError(BaseException):
        pass

    store, filesystem = object_store()
    folder = Folder(filesystem, "bucket/target")
    for n_done in range(5):
        store.keys.clear()
        with new_folder(folder) as staged:
            staged.write_bytes("sub/data.bin", b"old")
            staged.write_bytes("data.bin", b"old")
            write_manifest(staged, "dataset", 1, {})
        states = []

        def watch(handler, path, states=states, delete=ObjectStore.delete_file):
            delete(handler, path)
            states.append(dict(handler.keys))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ObjectStore, "delete_file", watch)
            with new_folder(folder, overwrite=True) as staged:
                write_manifest(staged, "dataset", 1, {})
        if n_done >= len(states):
            break
        store.keys.clear()
        store.keys.update(states[n_done])
        write_folder(folder, b"new", overwrite=True)
        assert folder.read_bytes("data.bin") == b"new"
    assert n_done > 1


def test_a_manifest_is_removed_before_anything_else():
    filesystem = object_store()[1]
    folder = Folder(filesystem, "bucket/target")
    write_folder(folder)
    removed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "delete_file", lambda handler, path: removed.append((path, len(handler.keys))))
        folder.remove()
    assert removed == [(f"bucket/target/{MANIFEST_NAME}", 2)]


class Refusing(ObjectStore):
    """A store that lists and refuses everything else."""

    def get_file_info(self, paths):
        raise OSError(errno.EACCES, "AWS Error ACCESS_DENIED")

    def open_output_stream(self, path, metadata):
        raise OSError(errno.EACCES, "AWS Error ACCESS_DENIED")


@pytest.mark.parametrize(
    "work",
    [
        lambda folder: folder.exists(),
        lambda folder: folder.n_bytes("data.bin"),
        lambda folder: folder.write_bytes("data.bin", b""),
        lambda folder: read_manifest(folder, "dataset", 1),
        write_folder,
    ],
)
def test_what_an_object_store_refuses_is_a_data_error_that_names_the_object(work):
    folder = Folder(pafs.PyFileSystem(Refusing()), "bucket/target")
    with pytest.raises(DataError, match=r"^bucket/target.*ACCESS_DENIED.*credentials"):
        work(folder)


def test_a_store_that_refuses_in_the_midst_is_named_too():
    store, filesystem = object_store()

    def break_off():
        with new_folder(Folder(filesystem, "bucket/target")):
            store.get_file_info = Refusing().get_file_info
            raise OSError("broken off")

    with pytest.raises(DataError, match=r"writing failed \(.*broken off.*\); what was left has no manifest"):
        break_off()


SECRETS = [
    "s3://KEY:SECRET@bucket/a",
    "s3://KEY:SECRET%2FSECRET@bucket/a",
    "s3://KEY:SECRET/SECRET@bucket/a",
    "s3://KEY:SECRET+SECRET=@bucket/a@b?region=x",
    "gs://SECRET@bucket/a",
    "hdfs://SECRET:SECRET@host:8020/a",
    "abfs://file@account/a?client_secret=SECRET&tenant_id=1",
    "abfs://a?account_key=SECRET",
    "rgals train s3://KEY:SECRET@bucket/a --output 's3://KEY:SECRET@bucket/b c'",
]


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_are_not_shown(text):
    shown = redact(text)
    assert "SECRET" not in shown
    assert "KEY:" not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b",
        "s3://bucket/a:b@c",
        "s3://bucket/a?region=eu&endpoint_override=127.0.0.1:9000&scheme=http",
        "hdfs://host:8020/a@b",
        "mail to someone@example.com",
        "/a:b@c",
        "monkey=5",
    ],
)
def test_a_location_without_credentials_is_shown_as_it_is(text):
    assert redact(text) == text


@pytest.mark.parametrize("text", SECRETS[:5])
def test_an_error_about_a_location_does_not_show_its_credentials(text):
    with pytest.raises(InputError) as raised:
        resolve_location(text + ("&" if "?" in text else "?") + "no_such_option=1")
    shown = "".join(traceback.format_exception(raised.value))
    assert "SECRET" not in shown


def test_a_folder_is_opened_again_in_another_process(tmp_path):
    for location in (tmp_path, str(tmp_path), tmp_path.as_uri()):
        folder = Folder.at(location).child("sub").beside(".old")
        folder.write_bytes("data.bin", b"content")
        again = pickle.loads(pickle.dumps(folder))
        assert again.read_bytes("data.bin") == b"content"
        assert again.path == str(tmp_path / "sub.old")
        assert again.child("x").path == str(tmp_path / "sub.old" / "x")
