import json
import zipfile
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from rgals.data.dataset import Dataset
from rgals.errors import DataError, FormatVersionError
from rgals.evaluation import evaluator, values
from rgals.evaluation.evaluator import measure
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.evaluation.samples import choose_sample_users
from rgals.evaluation.values import ModelValues, identify_measurement, load_values, save_values
from tests.evaluation.problems import PlainModel, random_parts, whole_numbered, write_dataset

N_USERS, N_ITEMS = 50, 30
OPTIONS = EvaluationOptions(cutoffs=(9, 4))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    parts = random_parts(N_USERS, N_ITEMS, {"train": 0.2, "test": 0.1})
    return write_dataset(tmp_path_factory.mktemp("data") / "d", N_USERS, N_ITEMS, parts)


@pytest.fixture(scope="module")
def users(dataset: Dataset) -> EvaluatedUsers:
    return EvaluatedUsers.read(dataset, "test")


@pytest.fixture(scope="module")
def model() -> PlainModel:
    found = whole_numbered(N_USERS, N_ITEMS)
    found.train_s, found.options, found.notes = 1.5, {"alpha": 0.1, "seed": [1, 2]}, ("a note",)
    found.is_known_item = np.arange(N_ITEMS) != 3
    return found


@pytest.fixture(scope="module")
def measured(model: PlainModel, users: EvaluatedUsers) -> ModelValues:
    return measure(model, users, OPTIONS, n_threads=1)


def plain_list(model: PlainModel, users: EvaluatedUsers, position: int, k: int) -> list[int]:
    scores = model.item_factors @ model.user_factors[users.user_rows[position]]
    scores[[*users.seen.columns_of(position), 3]] = -np.inf
    return np.argsort(-scores, kind="stable")[:k].tolist()


def test_ranks_lists_and_counts_are_those_of_a_full_ranking(
    model: PlainModel, users: EvaluatedUsers, measured: ModelValues
) -> None:
    lists = [plain_list(model, users, position, 9) for position in range(users.n_users)]
    expected = [
        lists[position].index(item) + 1 if item in lists[position] else 0
        for position in range(users.n_users)
        for item in users.held_out.columns_of(position).tolist()
    ]
    assert measured.ranks.tolist() == expected
    assert 9 in expected
    assert measured.sample_lists.tolist() == [lists[position] for position in choose_sample_users(users)]
    for k in (4, 9):
        shown = np.concatenate([listed[:k] for listed in lists])
        np.testing.assert_array_equal(measured.counts[k], np.bincount(shown, minlength=N_ITEMS))


def test_popularity_is_the_mean_degree_over_all_places_of_the_lists(
    dataset: Dataset, model: PlainModel, users: EvaluatedUsers, measured: ModelValues
) -> None:
    degrees = dataset.read_part("train").transpose().degrees
    for k in (4, 9):
        places = [degrees[item] for position in range(users.n_users) for item in plain_list(model, users, position, k)]
        assert measured.catalog[f"popularity@{k}"] == pytest.approx(np.mean(places), rel=1e-12)


def test_without_lists_popularity_is_undefined(model: PlainModel, users: EvaluatedUsers) -> None:
    nothing = replace(model, is_known_item=np.zeros(N_ITEMS, dtype=bool))
    assert np.isnan(measure(nothing, users, OPTIONS, n_threads=1).catalog["popularity@9"])


def test_blocks_of_any_size_record_the_same(
    model: PlainModel, users: EvaluatedUsers, measured: ModelValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "_BLOCK_USERS", 7)
    monkeypatch.setattr(evaluator, "_THREAD_USERS", 1)
    monkeypatch.setattr(values, "_BLOCK_ENTRIES", 5)
    assert_same(measure(model, users, OPTIONS, n_threads=2), replace(measured, seconds=0.0), ignore="seconds")


def assert_same(found: ModelValues, expected: ModelValues, ignore: str = "") -> None:
    for name in (field.name for field in fields(ModelValues)):
        mine, theirs = getattr(found, name), getattr(expected, name)
        if name == ignore:
            continue
        if isinstance(theirs, dict):
            assert list(mine) == list(theirs)
            for key in theirs:
                np.testing.assert_array_equal(mine[key], theirs[key])
        elif isinstance(theirs, np.ndarray):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert mine == theirs


def test_saved_values_come_back_as_they_were(measured: ModelValues, tmp_path: Path) -> None:
    strange = replace(measured, name="ü <b>", train_s=None, catalog={"gini@4": float("nan"), "coverage@4": 0.25})
    for stored in (measured, strange):
        save_values(stored, tmp_path / "deep" / "values.npz")
        assert_same(load_values(tmp_path / "deep" / "values.npz"), stored)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["values.npz"]


def damaged(content: bytes, how: str) -> bytes:
    if how == "cut":
        return content[: len(content) // 2]
    if how == "flipped":
        with zipfile.ZipFile(BytesIO(content)) as archive:
            place = archive.getinfo("by_user.npy").header_offset + 200
        return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    return b"" if how == "empty" else b"not an archive"


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_an_error_with_its_path(measured: ModelValues, tmp_path: Path, how: str) -> None:
    path = tmp_path / "values.npz"
    if how != "missing":
        save_values(measured, path)
        path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(DataError, match="measure the model again") as caught:
        load_values(path)
    assert str(path) in str(caught.value)


def rewrite(path: Path, **changes: object) -> None:
    """Store an archive again with other entries in its description."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    about = {**json.loads(arrays["about"].tobytes()), **changes}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


def test_a_newer_format_is_refused_and_so_is_one_that_does_not_add_up(measured: ModelValues, tmp_path: Path) -> None:
    path = tmp_path / "values.npz"
    save_values(measured, path)
    rewrite(path, format_version=2)
    with pytest.raises(FormatVersionError, match="format version 2"):
        load_values(path)
    rewrite(path, format_version=1, by_user=["ndcg@4"])
    with pytest.raises(DataError, match="measure the model again"):
        load_values(path)


def test_nothing_that_needs_pickle_is_read(measured: ModelValues, tmp_path: Path) -> None:
    path = tmp_path / "values.npz"
    save_values(measured, path)
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, "ranks": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(DataError, match="not readable"):
        load_values(path)


def test_another_truth_history_or_option_is_another_measurement(users: EvaluatedUsers) -> None:
    def of(users: EvaluatedUsers = users, **options: object) -> str:
        return identify_measurement(users, EvaluationOptions.model_validate({"cutoffs": (9, 4), **options}))

    others = [
        of(cutoffs=(9, 5)),
        of(gains="graded"),
        of(cold_users="miss"),
        of(replace(users, user_rows=users.user_rows + 1)),
        of(replace(users, held_out=users.seen)),
        of(replace(users, seen=users.held_out)),
        of(replace(users, popularity=users.popularity + 1)),
        of(replace(users, generalization="strong")),
    ]
    assert len({of(), *others}) == 9
    assert of(seed=5, n_resamples=3, level=0.5) == of()  # the bootstrap comes after the measurement
