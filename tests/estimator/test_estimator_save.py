"""Saving and loading: one file, no pickle, a closed set of fields."""

import io
import json
import zipfile

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from rgals import RankingALS
from rgals._estimator.archive import FORMAT_VERSION
from rgals.errors import DataError, FormatVersionError, InputError


@pytest.fixture
def saved(fitted_graded, tmp_path):
    fitted_graded.save(tmp_path / "model.npz")
    return tmp_path / "model.npz"


def rewrite(path, **changes):
    """Write the archive again with some fields changed; None takes a field out."""
    with np.load(path) as archive:
        fields = {name: archive[name] for name in archive.files}
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    np.savez(path, **fields)
    return path


def test_a_loaded_model_is_the_saved_one(fitted_graded, saved, graded):
    model = RankingALS.load(saved)
    assert model.get_params() == fitted_graded.get_params()
    for name, value in vars(fitted_graded).items():
        if name.endswith(("_", "factors")):
            np.testing.assert_array_equal(getattr(model, name), value)
    everyone = np.arange(30)
    for ask in (
        lambda m: m.recommend(everyone, graded, N=5),
        lambda m: m.recommend(everyone, graded, N=5, recalculate_user=True),
        lambda m: m.similar_items(3),
        lambda m: m.similar_users(3),
        lambda m: m.recalculate_item([1, 2], graded.T.tocsr()[[1, 2]]),
        lambda m: m.explain(2, graded, 3)[:2],
    ):
        for mine, theirs in zip(ask(fitted_graded), ask(model), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_loaded_model_can_be_stored_into_and_fitted_on(fitted_graded, saved, graded):
    model = RankingALS.load(saved)
    model.partial_fit_users([31], graded[4])
    assert model.user_factors.shape == (32, 6)
    model.set_params(warm_start=True, n_sweeps=1).fit(
        csr_matrix((graded.data, graded.indices, np.append(graded.indptr, [graded.nnz] * 2)), (32, 20)),
        show_progress=False,
    )
    assert model.n_iter_ == fitted_graded.n_iter_ + 1


@pytest.mark.parametrize("name", ["model", "model.npz", "model.v2"])
@pytest.mark.parametrize("form", [str, lambda path: path])
def test_the_suffix_is_added_where_it_is_missing(fitted_checkerboard, tmp_path, name, form):
    fitted_checkerboard.save(form(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [f"{name.removesuffix('.npz')}.npz"]
    np.testing.assert_array_equal(RankingALS.load(form(tmp_path / name)).item_factors, fitted_checkerboard.item_factors)


def test_an_open_file_is_written_to_and_read_from(fitted_checkerboard, tmp_path):
    stream = io.BytesIO()
    fitted_checkerboard.save(stream)
    stream.seek(0)
    assert repr(RankingALS.load(stream)) == repr(fitted_checkerboard)
    with (tmp_path / "open").open("wb") as file:
        fitted_checkerboard.save(file)
    with (tmp_path / "open").open("rb") as file:
        assert repr(RankingALS.load(file)) == repr(fitted_checkerboard)


def test_an_existing_file_is_replaced_whole(fitted_checkerboard, saved):
    fitted_checkerboard.save(saved)
    assert RankingALS.load(saved).item_factors.shape == (40, 16)
    assert [path.name for path in saved.parent.iterdir()] == ["model.npz"]


def test_a_generator_is_not_saved_and_every_other_parameter_is(graded, tmp_path):
    model = RankingALS(
        n_factors=np.int64(3), alpha=np.float32(0.5), n_threads=2, random_state=np.random.default_rng(0), n_sweeps=2
    ).fit(graded, show_progress=False)
    model.save(tmp_path / "model")
    expected = model.get_params() | {"random_state": None}
    assert RankingALS.load(tmp_path / "model").get_params() == expected


def test_nothing_in_the_file_is_pickled(saved):
    with np.load(saved, allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} <= {"f", "i", "U"}


def test_a_subclass_loads_as_itself(saved):
    class Special(RankingALS):
        pass

    assert type(Special.load(saved)) is Special


def test_a_parameter_that_no_file_can_hold_is_refused(graded, tmp_path):
    model = RankingALS(n_factors=3, n_sweeps=1).fit(graded, show_progress=False)
    with pytest.raises(InputError, match="save: expected parameters that are numbers, strings or None, found <object"):
        model.set_params(solver=object()).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        RankingALS.load(tmp_path / "nowhere")


def test_a_place_that_cannot_be_written_to_is_an_error_with_its_path(fitted_checkerboard, tmp_path):
    (tmp_path / "model.npz").mkdir()
    with pytest.raises(DataError, match=r"model\.npz: writing failed"):
        fitted_checkerboard.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize("nonsense", [3, None, ["a"]])
def test_what_is_no_path_is_refused(fitted_checkerboard, nonsense):
    with pytest.raises(InputError, match="file: expected a path or an open binary file"):
        fitted_checkerboard.save(nonsense)
    with pytest.raises(InputError, match="file: expected a path or an open binary file"):
        RankingALS.load(nonsense)


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 broken", b"\x80\x04]\x94."])
def test_another_file_is_not_a_model(tmp_path, content):
    (tmp_path / "model.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.npz: not a readable model"):
        RankingALS.load(tmp_path / "model")


def test_a_single_array_is_not_a_model(tmp_path):
    with (tmp_path / "model.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"model\.npz: not a readable model"):
        RankingALS.load(tmp_path / "model")


def test_a_truncated_file_and_a_changed_byte_are_found(saved):
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a readable model"):
        RankingALS.load(saved)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo("item_factors.npy")
    place = info.header_offset + 30 + len(info.filename) + info.file_size - 5
    saved.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
    with pytest.raises(DataError, match="not a readable model"):
        RankingALS.load(saved)


def test_a_pickled_object_in_the_file_is_never_loaded(saved):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('the pickle was loaded')",))

    with np.load(saved) as archive:
        fields = {name: archive[name] for name in archive.files}
    np.savez(saved, **(fields | {"user_factors": np.array([Trap()], dtype=object)}))
    with pytest.raises(DataError, match="not a readable model"):
        RankingALS.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recommend": np.zeros(1)}, "expected the fields .*found .*recommend"),
        ({"item_factors": None}, "expected the fields"),
        ({"item_factors": np.zeros((20, 6))}, "expected item_factors as finite float32 in 2 dimensions, found float64"),
        ({"item_factors": np.zeros(20, np.float32)}, r"item_factors .*found float32 of shape \(20,\)"),
        ({"item_factors": np.full((20, 6), np.nan, np.float32)}, "not finite"),
        ({"item_factors": np.zeros((20, 5), np.float32)}, "30 users and 20 items of 6 and 5 factors do not fit"),
        ({"user_degrees_": np.zeros(31, np.int64)}, "do not fit 31 and 20 degrees"),
        ({"user_weight_sums_": np.zeros(29)}, "do not fit"),
        ({"fitted_loss": "{"}, "not readable"),
        ({"fitted_loss": '{"name": "bpr", "alpha": 1, "reg": 1}'}, "not readable .*found 'bpr'"),
        ({"fitted_loss": '{"name": "rg2", "alpha": 1, "reg": 1, "gamma": 1}'}, "not readable"),
        ({"parameters": "3"}, "not readable"),
        ({"parameters": '{"save": 1}'}, "found save; .*load it with the rgals that wrote it"),
        ({"weight_scale_": np.array("x")}, "not readable"),
    ],
)
def test_other_fields_than_those_that_are_written_are_refused(saved, changes, message):
    with pytest.raises(DataError, match=message):
        RankingALS.load(rewrite(saved, **changes))


def test_a_newer_format_is_refused(saved):
    with pytest.raises(FormatVersionError, match=f"format version {FORMAT_VERSION + 1} .*upgrade rgals"):
        RankingALS.load(rewrite(saved, format_version=FORMAT_VERSION + 1, new_field=1))


def test_parameters_are_readable_without_rgals(saved, fitted_graded):
    with np.load(saved) as archive:
        assert json.loads(str(archive["parameters"])) == fitted_graded.get_params()
