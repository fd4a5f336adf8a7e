"""Where a location on S3 leads: the path without its options, the same store below, no secrets."""

import pickle
import traceback

import pyarrow.fs as pafs
import pytest

from rgals.data.storage import Folder, new_folder, read_manifest, resolve_location, write_manifest
from rgals.errors import DataError, InputError
from tests.s3.conftest import KEY, SECRET


@pytest.fixture(scope="module")
def bucket(store):
    return store.new_bucket()


def test_the_path_carries_no_options(store, bucket):
    filesystem, path = resolve_location(f"s3://{bucket}/a/b?{store.options}")
    assert isinstance(filesystem, pafs.S3FileSystem)
    assert path == f"{bucket}/a/b"


def test_a_child_is_on_the_same_store(store, bucket):
    folder = Folder.at(f"s3://{bucket}/parent/?{store.options}")
    folder.child("child").write_bytes("x/data.bin", b"content")
    folder.beside(".checkpoints").child("one").write_bytes("data.bin", b"content")
    assert store.keys(f"{bucket}/parent") == ["child/x/data.bin"]
    assert store.keys(f"{bucket}/parent.checkpoints") == ["one/data.bin"]
    assert folder.child_names() == ["child"]
    assert folder.file_names() == ["child/x/data.bin"]


def test_variables_lead_to_the_store(store, bucket):
    Folder.at(f"s3://{bucket}/variables").write_bytes("data.bin", b"content")
    assert store.read(f"{bucket}/variables/data.bin") == b"content"


def test_the_variable_for_s3_goes_before_the_one_for_all_services(store, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{store.port}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    Folder.at(f"s3://{bucket}/for-s3").write_bytes("data.bin", b"content")
    assert store.read(f"{bucket}/for-s3/data.bin") == b"content"


def test_a_location_goes_before_the_variables(store, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    folder = Folder.at(f"s3://{bucket}/said?{store.options}")
    folder.write_bytes("data.bin", b"content")
    assert folder.filesystem.region == "us-east-1"
    assert store.read(f"{bucket}/said/data.bin") == b"content"


def test_the_region_comes_from_its_variable(bucket, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert Folder.at(f"s3://{bucket}/a").filesystem.region == "eu-west-2"


def test_a_name_with_spaces_and_signs(store, bucket):
    folder = Folder.at(f"s3://{bucket}/a%20b+c/%C3%A9?{store.options}")
    folder.write_bytes("data=1 é.bin", b"content")
    assert store.read(f"{bucket}/a b+c/é/data=1 é.bin") == b"content"
    assert str(folder) == f"s3://{bucket}/a b+c/é"


def test_a_folder_in_another_process_takes_the_credentials_that_are_there(store, bucket):
    folder = Folder.at(f"s3://{bucket}/sent").child("on").beside(".old")
    folder.write_bytes("data.bin", b"content")
    sent = pickle.dumps(folder)
    assert SECRET.encode() not in sent
    assert KEY.encode() not in sent
    assert b"S3FileSystem" not in sent  # it would carry the credentials that it found
    again = pickle.loads(sent)
    assert again.read_bytes("data.bin") == b"content"
    assert str(again) == f"s3://{bucket}/sent/on.old"
    assert again.child("deeper").path == f"{bucket}/sent/on.old/deeper"


def test_credentials_of_a_location_open_it_and_are_not_shown(store, bucket):
    location = f"s3://{KEY}:{SECRET}@{bucket}/own?{store.options}"
    folder = Folder.at(location)
    folder.write_bytes("data.bin", b"content")
    assert str(folder) == f"s3://{bucket}/own"
    with pytest.raises(DataError) as raised:
        folder.read_bytes("other.bin")
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(InputError) as refused:
        Folder.at(location + "&no_such_option=1")
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_an_error_names_the_object(store, bucket):
    folder = Folder.at(f"s3://{bucket}/nothing")
    with pytest.raises(DataError, match=rf"^s3://{bucket}/nothing/data.bin: the file is missing"):
        folder.open_input("data.bin")
    with pytest.raises(DataError, match=rf"^s3://{bucket}/nothing/data.bin: the file is missing"):
        folder.n_bytes("data.bin")
    with pytest.raises(DataError, match=rf"^s3://{bucket}/nothing: no manifest.json"):
        read_manifest(folder, "dataset", 1)


@pytest.mark.parametrize("work", [lambda folder: folder.write_bytes("data.bin", b""), lambda folder: folder.remove()])
def test_a_bucket_that_does_not_exist_is_named(store, work):
    with pytest.raises(DataError, match=r"^s3://no-such-bucket/a.*NO_SUCH_BUCKET.*check the bucket"):
        work(Folder.at("s3://no-such-bucket/a"))


def test_a_folder_in_a_bucket_that_does_not_exist_is_a_data_error(store):
    def write():
        with new_folder("s3://no-such-bucket/a") as staged:
            write_manifest(staged, "dataset", 1, {})

    with pytest.raises(DataError, match=r"^s3://no-such-bucket/a.*NO_SUCH_BUCKET"):
        write()


def test_an_interrupted_write_leaves_no_folder(store, bucket):
    def write():
        with new_folder(f"s3://{bucket}/half") as staged:
            staged.write_bytes("data.bin", b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert store.keys(f"{bucket}/half") == []
    assert not Folder.at(f"s3://{bucket}/half").exists()


def test_a_killed_write_is_no_folder_and_may_be_written_again(store, bucket):
    store.write(f"{bucket}/killed/.rgals-writing", b"")
    store.write(f"{bucket}/killed/users/part-0", b"half")
    folder = Folder.at(f"s3://{bucket}/killed")
    with pytest.raises(DataError, match="not a finished rgals dataset"):
        read_manifest(folder, "dataset", 1)
    with new_folder(folder) as staged:
        write_manifest(staged, "dataset", 1, {})
    assert store.keys(f"{bucket}/killed") == ["manifest.json"]


def test_files_of_somebody_else_are_not_replaced(store, bucket):
    store.write(f"{bucket}/somebody/thesis.tex", b"years of work")
    with pytest.raises(InputError, match=rf"s3://{bucket}/somebody: holds files but no manifest.json"):
        new_folder(f"s3://{bucket}/somebody", overwrite=True).__enter__()
    assert store.keys(f"{bucket}/somebody") == ["thesis.tex"]


def test_a_key_that_is_not_known_is_refused_by_name(store, bucket):
    store.ask_for_credentials(0)
    try:
        with pytest.raises(DataError, match=rf"^s3://{bucket}/a/manifest.json: .*check the bucket, the credentials"):
            Folder.at(f"s3://{bucket}/a").exists("manifest.json")
    finally:
        store.ask_for_credentials(float("inf"))
    assert not Folder.at(f"s3://{bucket}/a").exists("manifest.json")
