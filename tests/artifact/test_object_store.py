"""Models and lists on filesystems that are not the local one."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from rgals.artifact import layout, output_file
from rgals.artifact.batch import recommend_all
from rgals.artifact.model import Model
from rgals.data import arrays
from rgals.data.storage import Folder
from rgals.errors import ChecksumError, DataError, OutputExistsError
from tests.artifact.model_factory import Parts, ids_of
from tests.artifact.object_store import object_store, remote_folder


def test_a_model_is_written_to_and_read_from_an_object_store(tmp_path):
    local = Parts(has_weights=True).write(tmp_path / "local")
    remote = Parts(has_weights=True).write(remote_folder(tmp_path))
    assert remote.location == "bucket/model"
    for model in (remote, Model.open(remote_folder(tmp_path))):
        assert model.factor_checksum == local.factor_checksum
        np.testing.assert_array_equal(model.user_factors, local.user_factors)
        np.testing.assert_array_equal(model.seen.weights, local.seen.weights)
        users, items = ids_of(local.user_ids), ids_of(local.item_ids)
        assert model.recommend(users, 5) == local.recommend(users, 5)
        assert model.recommend_history(items[:2], 5) == local.recommend_history(items[:2], 5)
        assert model.similar_items(items[0], 5) == local.similar_items(items[0], 5)


def test_arrays_of_an_object_store_are_in_memory_and_not_writable(tmp_path):
    model = Parts().write(remote_folder(tmp_path))
    for array in (model.user_factors, model.item_factors, model.seen.columns, model.popularity):
        assert not arrays.is_memory_mapped(array)
        assert not array.flags.writeable


def test_the_files_are_the_same_on_every_filesystem(tmp_path):
    Parts(has_weights=True).write(tmp_path / "local")
    Parts(has_weights=True).write(remote_folder(tmp_path))
    names = Folder.at(tmp_path / "local").file_names()
    assert remote_folder(tmp_path).file_names() == names
    for name in names:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "bucket/model" / name).read_bytes()


def test_the_manifest_is_the_last_file_written(tmp_path):
    filesystem, handler = object_store(tmp_path)
    Parts().write(Folder(filesystem, "bucket/model"))
    assert handler.written[-1] == "bucket/model/manifest.json"
    assert handler.written.count("bucket/model/manifest.json") == 1


def test_an_existing_model_on_an_object_store_is_replaced_only_on_request(tmp_path):
    Parts(seed=0).write(remote_folder(tmp_path))
    with pytest.raises(OutputExistsError):
        Parts(seed=1).write(remote_folder(tmp_path))
    replaced = Parts(seed=1).write(remote_folder(tmp_path), overwrite=True)
    np.testing.assert_array_equal(replaced.user_factors, Parts(seed=1).arguments()["user_factors"])


def test_a_failure_half_way_leaves_no_model_on_an_object_store(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("connection lost")

    monkeypatch.setattr(Folder, "write_bytes", fail)
    with pytest.raises(DataError, match="connection lost"):
        Parts().write(remote_folder(tmp_path))
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Model.open(remote_folder(tmp_path))


def test_a_truncated_file_on_an_object_store_is_found(tmp_path):
    Parts().write(remote_folder(tmp_path))
    path = tmp_path / "bucket/model" / layout.USER_FACTORS
    path.write_bytes(path.read_bytes()[:-5])
    for verify in (True, "manifest"):
        with pytest.raises(ChecksumError, match="user_factors"):
            Model.open(remote_folder(tmp_path), verify=verify)
    with pytest.raises(DataError, match=r"user_factors.npy: not a readable NumPy file"):
        Model.open(remote_folder(tmp_path), verify=False)


def test_lists_of_all_users_are_written_to_an_object_store_under_a_temporary_name(tmp_path, monkeypatch):
    model = Parts(20, 30, 3).write(tmp_path / "model")
    recommend_all(model, tmp_path / "local.parquet", 3)
    filesystem, handler = object_store(tmp_path)
    monkeypatch.setattr(output_file, "resolve_location", lambda _: (filesystem, "bucket/lists.parquet"))
    recommend_all(model, "s3://bucket/lists.parquet", 3)
    assert len(handler.written) == 1
    assert handler.written[0].startswith("bucket/.lists.parquet.partial-")
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == ["lists.parquet"]
    assert pq.read_table(tmp_path / "bucket/lists.parquet").equals(pq.read_table(tmp_path / "local.parquet"))


def test_an_interrupted_batch_leaves_nothing_on_an_object_store(tmp_path, monkeypatch):
    model = Parts(20, 30, 3).write(tmp_path / "model")
    filesystem, _ = object_store(tmp_path)
    monkeypatch.setattr(output_file, "resolve_location", lambda _: (filesystem, "bucket/lists.parquet"))

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_all(model, "s3://bucket/lists.parquet", 3, progress=interrupt)
    assert list((tmp_path / "bucket").iterdir()) == []
