import errno

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.artifact import batch, output_file
from rgals.artifact.batch import recommend_all, tile_users
from rgals.artifact.model import Model
from rgals.errors import DataError, InputError, OutputExistsError
from tests.artifact.model_factory import Parts, ids_of

N_USERS, N_ITEMS = 23, 17


@pytest.fixture(scope="module", params=["string", "int64"])
def model(request, tmp_path_factory) -> Model:
    rng = np.random.default_rng(8)
    changes = {
        "user_factors": rng.standard_normal((N_USERS, 9), dtype=np.float32),
        "item_factors": rng.standard_normal((N_ITEMS, 9), dtype=np.float32),
    }
    parts = Parts(N_USERS, N_ITEMS, 9, kind=request.param, density=0.5, empty_users=(0, 11), changes=changes)
    return parts.write(tmp_path_factory.mktemp("batch") / "model")


def expected_rows(model: Model, k: int, **options: object) -> list[dict[str, object]]:
    """The same lists, asked for one user at a time."""
    rows = []
    for user_id in ids_of(model.user_ids):
        (answer,) = model.recommend([user_id], k, **options)
        for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), start=1):
            rows.append({"user_id": user_id, "rank": rank, "item_id": item, "score": score, "source": answer.source})
    return rows


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, N_ITEMS), st.integers(1, N_USERS), st.booleans(), st.sets(st.integers(0, N_ITEMS - 1), max_size=4)
)
def test_a_batch_holds_exactly_the_lists_of_single_requests(model, tmp_path_factory, k, n_tile, exclude_seen, excluded):
    output = tmp_path_factory.mktemp("out") / "lists.parquet"
    exclude = [ids_of(model.item_ids)[row] for row in excluded]
    one_user = budget_of_one_user(model, k)
    summary = recommend_all(
        model, output, k, memory_budget_bytes=one_user * n_tile, exclude_seen=exclude_seen, exclude=exclude
    )
    rows = pq.read_table(output).to_pylist()
    assert rows == expected_rows(model, k, exclude_seen=exclude_seen, exclude=exclude)
    lengths = [sum(row["user_id"] == user for row in rows) for user in ids_of(model.user_ids)]
    assert summary == batch.BatchSummary(
        N_USERS, len(rows), int((model.seen.degrees == 0).sum()), sum(length < k for length in lengths), n_tile
    )


def budget_of_one_user(model: Model, k: int) -> int:
    """The smallest budget that is not refused, found by asking."""
    low, high = 0, 1 << 20
    while high - low > 1:
        middle = (low + high) // 2
        try:
            tile_users(model, k, middle)
            high = middle
        except InputError:
            low = middle
    return high


def test_the_file_has_the_documented_columns(model, tmp_path):
    recommend_all(model, tmp_path / "lists.parquet", 4)
    schema = pq.read_schema(tmp_path / "lists.parquet")
    assert schema.names == ["user_id", "rank", "item_id", "score", "source"]
    id_type = pa.int64() if model.user_ids.kind == "int64" else pa.large_string()
    assert [schema.field(name).type for name in ("user_id", "item_id")] == [id_type, id_type]
    assert (schema.field("rank").type, schema.field("score").type) == (pa.int32(), pa.float32())
    table = pq.read_table(tmp_path / "lists.parquet")
    assert table["user_id"].unique().to_pylist() == ids_of(model.user_ids)
    assert set(table["source"].to_pylist()) == {"factors", "popular"}


def test_the_lists_do_not_depend_on_budget_or_threads(model, tmp_path):
    one_user = budget_of_one_user(model, 5)
    tables = []
    for name, budget, n_threads in (("a", one_user, 1), ("b", 3 * one_user + 1, 2), ("c", 1 << 30, 2)):
        recommend_all(model, tmp_path / name, 5, memory_budget_bytes=budget, n_threads=n_threads)
        tables.append(pq.read_table(tmp_path / name))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_the_tile_grows_with_the_budget_up_to_all_users(model):
    one_user = budget_of_one_user(model, 7)
    assert tile_users(model, 7, one_user) == 1
    assert tile_users(model, 7, 2 * one_user - 1) == 1
    assert tile_users(model, 7, 2 * one_user) == 2
    assert tile_users(model, 7, 1 << 40) == N_USERS


def test_a_tile_is_never_more_than_a_row_group(model, monkeypatch):
    monkeypatch.setattr(batch, "MAX_ROW_GROUP_ROWS", 20)
    assert tile_users(model, 7, 1 << 40) == 2
    assert tile_users(model, 17, 1 << 40) == 1


def test_row_groups_are_bounded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_ROW_GROUP_ROWS", 10)
    recommend_all(model, tmp_path / "lists.parquet", 4, exclude_seen=False)
    metadata = pq.read_metadata(tmp_path / "lists.parquet")
    sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert max(sizes) <= 10
    assert sum(sizes) == 4 * N_USERS


def test_the_tables_of_a_tile_fit_the_budget(tmp_path, monkeypatch):
    """Long ids, each list full: what pyarrow allocates for a tile stays below what was counted for it."""
    changes = {"item_factors": np.random.default_rng(0).standard_normal((60, 3), dtype=np.float32)}
    model = Parts(500, 60, 3, density=0.0, changes=changes).write(tmp_path / "model")
    allocated = []
    original = batch._tile_table

    def measure(*arguments: object) -> pa.Table:
        table = original(*arguments)
        allocated.append(table.nbytes)
        return table

    monkeypatch.setattr(batch, "_tile_table", measure)
    budget = 500_000
    recommend_all(model, tmp_path / "lists.parquet", 50, memory_budget_bytes=budget)
    assert len(allocated) > 1
    assert max(allocated) * batch._N_TABLE_COPIES <= budget


def test_a_budget_below_one_list_is_refused_with_the_number_needed(model, tmp_path):
    needed = budget_of_one_user(model, 10)
    with pytest.raises(InputError, match=f"memory budget: 100 bytes .* expected at least {needed} for k=10"):
        recommend_all(model, tmp_path / "lists.parquet", 10, memory_budget_bytes=100)
    assert list(tmp_path.iterdir()) == []


def test_a_length_out_of_range_is_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(InputError, match=r"k: expected an integer from 1 to 17"):
        recommend_all(model, tmp_path / "lists.parquet", 18)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_up_to_all_users(model, tmp_path):
    calls: list[tuple[int, int]] = []
    budget = 10 * budget_of_one_user(model, 3)
    recommend_all(
        model, tmp_path / "x.parquet", 3, memory_budget_bytes=budget, progress=lambda *call: calls.append(call)
    )
    assert calls == [(10, 23), (20, 23), (23, 23)]


def test_a_failure_half_way_leaves_nothing_and_keeps_the_older_file(model, tmp_path):
    output = tmp_path / "lists.parquet"
    recommend_all(model, output, 3)
    before = output.read_bytes()

    def fail(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_all(model, output, 5, overwrite=True, progress=fail)
    assert output.read_bytes() == before
    assert list(tmp_path.iterdir()) == [output]


def test_a_full_disk_is_a_data_error_and_leaves_nothing(model, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(DataError, match=r"lists.parquet: writing failed .*No space left.*nothing was left behind"):
        recommend_all(model, tmp_path / "lists.parquet", 3)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_on_request(model, tmp_path):
    output = tmp_path / "lists.parquet"
    recommend_all(model, output, 3)
    with pytest.raises(OutputExistsError, match="exists already; choose another output or pass --overwrite"):
        recommend_all(model, output, 4)
    assert pq.read_table(output)["rank"].to_pylist().count(4) == 0
    recommend_all(model, output, 4, overwrite=True)
    assert pq.read_table(output)["rank"].to_pylist().count(4) > 0


def test_what_is_not_a_parquet_file_is_never_replaced(model, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputExistsError, match="is not a Parquet file"):
        recommend_all(model, tmp_path / "diary.txt", 3, overwrite=True)
    assert (tmp_path / "diary.txt").read_text() == "dear diary"
    with pytest.raises(OutputExistsError, match="a folder is in the way"):
        recommend_all(model, tmp_path, 3, overwrite=True)


def test_missing_folders_above_the_output_are_made(model, tmp_path):
    recommend_all(model, tmp_path / "a/b/lists.parquet", 3)
    assert pq.read_metadata(tmp_path / "a/b/lists.parquet").num_columns == 5


def test_a_place_that_cannot_be_written_to_is_a_data_error(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((DataError, OutputExistsError), match=r"lists.parquet"):
        recommend_all(model, tmp_path / "file/lists.parquet", 3)


def test_the_output_may_be_on_another_filesystem(model, tmp_path, monkeypatch):
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    (tmp_path / "bucket").mkdir()
    monkeypatch.setattr(output_file, "resolve_location", lambda _: (remote, "bucket/lists.parquet"))
    recommend_all(model, "s3://bucket/lists.parquet", 3)
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == ["lists.parquet"]
    assert pq.read_table(tmp_path / "bucket/lists.parquet").to_pylist() == expected_rows(model, 3)
