"""A registry on S3: published, refused, rolled back, pruned; no credentials in it."""

import pytest

from rgals.artifact.registry import list_versions, read_current, read_history
from rgals.errors import DataError
from tests.artifact.registry_problems import planted_dataset, write_noisy_model
from tests.s3.commands import run
from tests.s3.conftest import KEY, SECRET

AT_5 = ("--metric", "ndcg@5", "--bootstrap", "100")


def test_a_registry_lives_on_s3(store, tmp_path):
    bucket = store.new_bucket()
    place = f"s3://{bucket}/registry"
    dataset = planted_dataset(tmp_path / "dataset")
    good = write_noisy_model(f"s3://{bucket}/good", dataset, 0.0)
    write_noisy_model(tmp_path / "fair", dataset, 1.2)
    own = f"s3://{KEY}:{SECRET}@{bucket}/registry?{store.options}"
    run("publish", tmp_path / "fair", place, "-d", tmp_path / "dataset", *AT_5)
    run("publish", f"s3://{KEY}:{SECRET}@{bucket}/good?{store.options}", own, "-d", tmp_path / "dataset", *AT_5)
    current = read_current(place)
    assert current.version == "v00002"
    assert current.open().factor_checksum == good.factor_checksum
    assert store.keys(f"{bucket}/registry/v00002") == store.keys(f"{bucket}/good")
    with pytest.raises(AssertionError, match="refused: ndcg@5"):
        run("publish", tmp_path / "fair", place, "-d", tmp_path / "dataset", *AT_5)
    found = run("publish", f"s3://{bucket}/good", place, "-d", tmp_path / "dataset", *AT_5, "--keep", 2)
    assert "Deleted v00001" in found.stdout
    assert store.keys(f"{bucket}/registry/v00001") == []
    assert "v00002 is current" in run("rollback", own).stdout
    assert read_current(place).version == "v00002"
    assert "v00003" in run("versions", place).stdout
    assert [version.name for version in list_versions(place)] == ["v00002", "v00003"]
    actions = [event.action for event in read_history(place)]
    assert actions == ["publish", "publish", "refused", "publish", "removed", "rollback"]
    keys = store.keys(f"{bucket}/registry")
    assert not [key for key in keys if "claim" in key or "writing" in key]
    records = [key for key in keys if not key.startswith("v0")]
    assert not [key for key in records if SECRET.encode() in store.read(f"{bucket}/registry/{key}")]
    with pytest.raises(DataError, match=r"NO_SUCH_BUCKET|no registry\.json"):
        run("versions", "s3://no-such-bucket/registry")
