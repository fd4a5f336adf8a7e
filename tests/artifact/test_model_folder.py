import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.artifact import layout
from rgals.artifact.model import Model
from rgals.artifact.model_writer import factor_checksum, write_model
from rgals.data import arrays
from rgals.data.storage import Folder, write_manifest
from rgals.errors import (
    ChecksumError,
    DataError,
    FormatVersionError,
    InputError,
    NumericalError,
    OutputExistsError,
)
from rgals.numerics.loss import Loss
from tests.artifact.model_factory import Parts, ids_of, make_ids


def file_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def files_of_a_model() -> list[str]:
    arrays = (
        layout.USER_FACTORS,
        layout.ITEM_FACTORS,
        layout.SEEN_INDPTR,
        layout.SEEN_COLUMNS,
        layout.SEEN_WEIGHTS,
        layout.POPULARITY,
    )
    records = (layout.CONFIG, layout.METRICS, layout.LINEAGE)
    fold_in = (layout.FOLD_IN_GRAM, layout.FOLD_IN_BASIS, layout.FOLD_IN_EIGENVALUES, layout.FOLD_IN_LINEAR)
    return [*arrays, *records, *fold_in, "user_ids.parquet", "item_ids.parquet"]


def rewrite_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remake_manifest(folder: Path) -> None:
    """Give a changed folder a manifest that agrees with it, so that only its content is wrong."""
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    payload = {key: value for key, value in document.items() if key not in ("kind", "format_version", "files")}
    write_manifest(Folder.at(folder), layout.KIND, layout.FORMAT_VERSION, payload)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from(["string", "int64"]),
    st.booleans(),
    st.floats(0, 1),
    st.sampled_from(["rg2", "rgx", "ials"]),
)
def test_saving_and_opening_is_the_identity(
    tmp_path_factory, n_users, n_items, n_factors, kind, has_weights, density, name
):
    loss = Loss(name, alpha=0.5, reg=0.03, nu=0.9, beta=0.1, user_exponent=-0.5, item_exponent=0.25)
    parts = Parts(n_users, n_items, n_factors, kind=kind, has_weights=has_weights, density=density, loss=loss)
    arguments = parts.arguments()
    location = tmp_path_factory.mktemp("models") / "model"
    written = parts.write(location)
    opened = Model.open(location)
    for model in (written, opened):
        np.testing.assert_array_equal(model.user_factors, arguments["user_factors"])
        np.testing.assert_array_equal(model.item_factors, arguments["item_factors"])
        np.testing.assert_array_equal(model.seen.indptr, arguments["seen"].indptr)
        np.testing.assert_array_equal(model.seen.columns, arguments["seen"].columns)
        assert (model.seen.weights is None) == (not has_weights)
        if has_weights:
            np.testing.assert_array_equal(model.seen.weights, arguments["seen"].weights)
        np.testing.assert_array_equal(model.popularity, arguments["item_degrees"])
        assert ids_of(model.user_ids) == ids_of(arguments["user_ids"])
        assert ids_of(model.item_ids) == ids_of(arguments["item_ids"])
        assert model.loss == loss
        assert model.weight_scale == 1.0
        assert model.config["n_factors"] == n_factors
        assert model.metrics == arguments["metrics"]
        assert model.lineage == arguments["lineage"]
        assert (model.n_users, model.n_items, model.n_factors) == (n_users, n_items, n_factors)


def test_the_arrays_of_a_local_model_are_memory_mapped_and_not_writable(tmp_path):
    model = Parts(has_weights=True).write(tmp_path / "model")
    assert model.seen.weights is not None
    opened = [
        model.user_factors,
        model.item_factors,
        model.seen.indptr,
        model.seen.columns,
        model.seen.weights,
        model.popularity,
        model.contents.fold_in_arrays.gram,
        model.contents.fold_in_arrays.linear,
    ]
    for array in opened:
        assert type(array) is np.ndarray
        assert arrays.is_memory_mapped(array)
        assert not array.flags.writeable
    assert not arrays.is_memory_mapped(np.zeros(3))


def test_a_model_holds_no_pickle(tmp_path):
    model = Parts(has_weights=True).write(tmp_path / "model")
    names = file_names(tmp_path / "model")
    assert names
    for name in names:
        assert Path(name).suffix in {".npy", ".parquet", ".json"}
        if name.endswith(".npy"):
            assert not np.load(tmp_path / "model" / name, allow_pickle=False).dtype.hasobject
    assert str(model.location) == str(tmp_path / "model")
    assert "rg2" in repr(model)


def test_weights_of_one_are_not_stored(tmp_path):
    Parts(has_weights=False).write(tmp_path / "plain")
    Parts(has_weights=True).write(tmp_path / "weighted")
    assert layout.SEEN_WEIGHTS not in file_names(tmp_path / "plain")
    assert layout.SEEN_WEIGHTS in file_names(tmp_path / "weighted")


def test_factors_in_another_memory_order_are_stored_in_c_order(tmp_path):
    parts = Parts()
    arguments = parts.arguments()
    expected = arguments["user_factors"].copy()
    parts.changes["user_factors"] = np.asfortranarray(expected)
    model = parts.write(tmp_path / "model")
    assert model.user_factors.flags.c_contiguous
    np.testing.assert_array_equal(model.user_factors, expected)
    assert model.factor_checksum == factor_checksum(expected, arguments["item_factors"])


def test_the_factor_checksum_tells_one_changed_bit_and_nothing_else(tmp_path):
    first = Parts().write(tmp_path / "first")
    again = Parts(changes={"lineage": {"created_at": "later"}}).write(tmp_path / "again")
    changed = Parts().arguments()["item_factors"]
    changed[0, 0] = np.nextafter(changed[0, 0], np.float32(np.inf))
    other = Parts(changes={"item_factors": changed}).write(tmp_path / "other")
    assert first.factor_checksum == again.factor_checksum
    assert first.factor_checksum != other.factor_checksum
    assert json.loads((tmp_path / "first/manifest.json").read_text())["factor_sha256"] == first.factor_checksum


@pytest.mark.parametrize("name", ["user_factors", "item_factors"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_factors_that_are_not_finite_never_reach_a_folder(tmp_path, name, value):
    parts = Parts()
    factors = parts.arguments()[name]
    factors[2, 1] = factors[4, 0] = value
    parts.changes[name] = factors
    with pytest.raises(NumericalError, match=rf"{name}: row 2 and 1 more .* rg2, alpha 2.0, reg 0.1"):
        parts.write(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_ids": make_ids("user", "string", 3)}, "user_ids: expected 7, found 3"),
        ({"item_ids": make_ids("item", "string", 3)}, "item_ids: expected 11, found 3"),
        ({"user_factors": np.ones((7, 4), np.float32)}, "n_factors of item_factors: expected 4, found 3"),
        ({"user_factors": np.ones((7, 3))}, "user_factors: expected float32 .* found float64"),
        ({"item_factors": np.ones(11, np.float32)}, "item_factors: expected float32 of shape"),
        ({"seen": Parts(n_users=8).arguments()["seen"]}, "rows of seen: expected 7, found 8"),
        ({"seen": Parts(n_items=12).arguments()["seen"]}, "columns of seen: expected 11, found 12"),
        ({"item_degrees": np.ones(4, np.int64)}, "item_degrees: expected 11, found 4"),
        ({"item_degrees": np.ones(11)}, "item_degrees: expected int64 counts"),
        ({"item_degrees": np.full(11, -1)}, "item_degrees: expected int64 counts of at least 0"),
        ({"weight_scale": 0.0}, "weight_scale: expected a finite positive number, found 0.0"),
        ({"weight_scale": math.nan}, "weight_scale: expected a finite positive number, found nan"),
        ({"config": {"callback": print}}, "config.json: .* not JSON serializable"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        Parts(changes=changes).write(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_factors_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one user, item and factor, found 7 users, 11 items, 0 factors"):
        Parts(n_factors=0).write(tmp_path / "model")


def test_records_of_a_run_become_json(tmp_path):
    metrics = {
        "ndcg": math.nan,
        "train_s": np.float32(1.5),
        "degrees": np.arange(3),
        "path": Path("/data"),
        "loss": Loss("ials", 1.0, 0.5),
        "cutoffs": (10, np.int64(20)),
    }
    model = Parts(changes={"metrics": metrics}).write(tmp_path / "model")
    assert model.metrics["ndcg"] is None
    assert model.metrics["train_s"] == 1.5
    assert model.metrics["degrees"] == [0, 1, 2]
    assert model.metrics["path"] == "/data"
    assert model.metrics["loss"]["name"] == "ials"
    assert model.metrics["cutoffs"] == [10, 20]


def test_a_model_is_replaced_only_on_request(tmp_path):
    Parts(seed=0).write(tmp_path / "model")
    with pytest.raises(OutputExistsError, match="exists already; choose another output or pass --overwrite"):
        Parts(seed=1).write(tmp_path / "model")
    np.testing.assert_array_equal(
        Model.open(tmp_path / "model").user_factors, Parts(seed=0).arguments()["user_factors"]
    )
    Parts(seed=1).write(tmp_path / "model", overwrite=True)
    np.testing.assert_array_equal(
        Model.open(tmp_path / "model").user_factors, Parts(seed=1).arguments()["user_factors"]
    )


def test_a_folder_that_is_not_a_model_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"meow")
    with pytest.raises(OutputExistsError, match=r"no manifest\.json"):
        Parts().write(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos/cat.jpg").read_bytes() == b"meow"


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "write_bytes", fail)
    with pytest.raises(DataError, match=r"No space left on device.*nothing was left behind"):
        Parts().write(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", files_of_a_model())
def test_a_changed_byte_in_any_file_is_found(tmp_path, name):
    Parts(has_weights=True).write(tmp_path / "model")
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=path.name):
        Model.open(tmp_path / "model")


@pytest.mark.parametrize("verify", [True, "manifest"])
@pytest.mark.parametrize("name", files_of_a_model())
def test_a_truncated_file_is_found_by_its_size(tmp_path, name, verify):
    Parts(has_weights=True).write(tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ChecksumError, match=rf"{path.name}: expected \d+ bytes, found \d+"):
        Model.open(tmp_path / "model", verify=verify)


@pytest.mark.parametrize("verify", [True, "manifest", False])
@pytest.mark.parametrize("name", files_of_a_model())
def test_a_missing_file_is_named(tmp_path, name, verify):
    Parts(has_weights=True).write(tmp_path / "model")
    path = tmp_path / "model" / name
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}.*missing"):
        Model.open(tmp_path / "model", verify=verify)


def test_sizes_only_does_not_read_the_content(tmp_path):
    Parts().write(tmp_path / "model")
    path = tmp_path / "model" / layout.USER_FACTORS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert Model.open(tmp_path / "model", verify="manifest").n_users == 7


def test_an_unknown_way_to_verify_is_refused(tmp_path):
    Parts().write(tmp_path / "model")
    with pytest.raises(InputError, match="verify: expected True, False or 'manifest', found 'quick'"):
        Model.open(tmp_path / "model", verify="quick")


def test_a_folder_of_a_newer_format_is_refused(tmp_path):
    Parts().write(tmp_path / "model")
    rewrite_manifest(tmp_path / "model", format_version=layout.FORMAT_VERSION + 1)
    with pytest.raises(FormatVersionError, match="format version 2 of a model, this rgals reads up to 1; upgrade"):
        Model.open(tmp_path / "model")


@pytest.mark.parametrize("kind", ["dataset", "checkpoint"])
def test_another_kind_of_folder_is_refused(tmp_path, kind):
    Parts().write(tmp_path / "model")
    rewrite_manifest(tmp_path / "model", kind=kind)
    with pytest.raises(DataError, match=f"expected a model, found a {kind}"):
        Model.open(tmp_path / "model")


def test_a_folder_without_a_manifest_is_not_a_model(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Model.open(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["n_users", "n_interactions", "has_weights", "factor_sha256"])
def test_a_manifest_without_a_count_is_refused(tmp_path, key):
    Parts().write(tmp_path / "model")
    path = tmp_path / "model/manifest.json"
    document = json.loads(path.read_text())
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=key):
        Model.open(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        (layout.USER_FACTORS, np.zeros((7, 3))),
        (layout.USER_FACTORS, np.zeros((6, 3), np.float32)),
        (layout.ITEM_FACTORS, np.asfortranarray(np.zeros((11, 3), np.float32))),
        (layout.SEEN_INDPTR, np.zeros(8, np.int32)),
        (layout.SEEN_COLUMNS, np.zeros(3, np.int32)),
        (layout.POPULARITY, np.zeros(12, np.int64)),
    ],
)
def test_an_array_of_another_type_or_shape_is_refused(tmp_path, name, array):
    Parts().write(tmp_path / "model")
    np.save(tmp_path / "model" / name, array)
    remake_manifest(tmp_path / "model")
    with pytest.raises(DataError, match=rf"{name}: expected .* of shape .*, found {array.dtype}"):
        Model.open(tmp_path / "model")


def test_offsets_that_do_not_span_the_interactions_are_refused(tmp_path):
    Parts().write(tmp_path / "model")
    np.save(tmp_path / "model" / layout.SEEN_INDPTR, np.zeros(8, np.int64))
    remake_manifest(tmp_path / "model")
    with pytest.raises(DataError, match=r"seen_indptr.npy: expected offsets from 0 to \d+, found 0 to 0"):
        Model.open(tmp_path / "model")


def test_a_pickled_array_is_refused_and_never_run(tmp_path):
    Parts().write(tmp_path / "model")
    np.save(tmp_path / "model" / layout.USER_FACTORS, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    remake_manifest(tmp_path / "model")
    with pytest.raises(DataError, match=r"user_factors.npy: not a readable NumPy file"):
        Model.open(tmp_path / "model")


def test_ids_of_another_length_are_refused(tmp_path):
    Parts().write(tmp_path / "model")
    Parts(n_users=9).write(tmp_path / "other")
    shutil.copy(tmp_path / "other/user_ids.parquet", tmp_path / "model/user_ids.parquet")
    remake_manifest(tmp_path / "model")
    with pytest.raises(DataError, match="expected 7 ids, found 9"):
        Model.open(tmp_path / "model")


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not readable JSON"), ("[]", "expected a JSON object"), ("{}", "lacks 'loss'")]
)
def test_an_unusable_config_is_refused(tmp_path, content, message):
    Parts().write(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(content)
    remake_manifest(tmp_path / "model")
    with pytest.raises(DataError, match=message):
        Model.open(tmp_path / "model")


def test_large_arrays_are_written_in_pieces_without_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_WRITE_BLOCK_BYTES", 24)
    array = np.arange(35, dtype=np.int64).reshape(5, 7)
    arrays.write_array(Folder.at(tmp_path), "array.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy"), array)


@pytest.mark.parametrize("array", [np.float64(2.5), np.zeros((0, 3), np.float32), np.arange(3)])
def test_arrays_keep_their_shape_whatever_it_is(tmp_path, array):
    arrays.write_array(Folder.at(tmp_path), "array.npy", np.asarray(array))
    found = arrays.read_array(Folder.at(tmp_path), "array.npy")
    assert found.shape == np.shape(array)
    assert found.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(found, array)


def test_a_model_survives_the_process_that_wrote_it(tmp_path):
    model = Parts(kind="int64").write(tmp_path / "model")
    code = (
        "import sys; from rgals.artifact.model import Model; m = Model.open(sys.argv[1]); "
        "print(m.factor_checksum, *m.recommend([5], 3)[0].items)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [model.factor_checksum, *map(str, model.recommend([5], 3)[0].items)]


def test_the_writer_is_what_the_package_documents(tmp_path):
    text = (Path(__file__).parents[2] / "docs/model-format.md").read_text()
    Parts(has_weights=True).write(tmp_path / "model")
    for name in file_names(tmp_path / "model"):
        assert name.split("/")[-1].removesuffix(".npy") in text
    assert write_model.__doc__ is not None
