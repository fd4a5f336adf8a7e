"""The generator: exact counts, keyed randomness, realistic shape, whole or not at all."""

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import scipy.sparse.linalg
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from jobs.synthesize import synthesize as synthesize_command
from rgals.data import synthesize as module
from rgals.data.storage import Folder, read_manifest, verify_file
from rgals.data.synthesize import SynthesizeOptions, synthesize
from rgals.data.synthesize_kernels import PERIOD_S, Catalog, build_alias, simulate_users
from rgals.errors import DataError, InputError, OutputExistsError, RgalsError

SMALL = SynthesizeOptions(n_users=300, n_items=400, n_interactions=9_000, id_type="int64")


def read(location: Path) -> pa.Table:
    if location.is_dir():
        return pa.concat_tables([pq.read_table(path) for path in sorted(location.glob("part-*.parquet"))])
    return pq.read_table(location)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pairs_of(table: pa.Table) -> np.ndarray:
    return np.stack([table["user_id"].to_numpy(), table["item_id"].to_numpy()], axis=1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, module.SynthesisSummary]:
    output = tmp_path_factory.mktemp("demo") / "events.parquet"
    summary = synthesize(output, SynthesizeOptions(id_type="int64"))
    return read(output), summary


def test_the_number_of_interactions_is_exact_and_pairs_are_distinct(demo: tuple) -> None:
    table, summary = demo
    assert table.num_rows == summary.n_interactions == 200_000
    assert np.unique(pairs_of(table), axis=0).shape[0] == 200_000


@settings(max_examples=25, deadline=None)
@given(
    n_users=st.integers(1, 40),
    n_items=st.integers(8, 120),
    fullness=st.floats(0, 1),
    sigma=st.floats(0, 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_quotas_sum_exactly_and_stay_between_one_and_a_quarter_of_the_items(
    n_users: int, n_items: int, fullness: float, sigma: float, seed: int
) -> None:
    most = n_users * (n_items // 4)
    n_interactions = n_users + int(fullness * (most - n_users))
    options = SynthesizeOptions(
        n_users=n_users, n_items=n_items, n_interactions=n_interactions, n_topics=4, activity_sigma=sigma, seed=seed
    )
    quotas = module._Generator(options).quotas
    assert quotas.sum() == n_interactions
    assert quotas.min() >= 1
    assert quotas.max() <= n_items // 4


def test_a_user_who_takes_a_quarter_of_the_items_still_gets_distinct_ones(tmp_path: Path) -> None:
    options = SynthesizeOptions(n_users=20, n_items=40, n_interactions=200, n_topics=3, id_type="int64")
    synthesize(tmp_path / "full.parquet", options)
    pairs = pairs_of(read(tmp_path / "full.parquet"))
    assert np.unique(pairs, axis=0).shape[0] == 200
    assert (np.bincount(pairs[:, 0])[1:] == 10).all()


def test_all_users_and_nearly_all_items_occur_with_a_minimum_of_five_each(demo: tuple) -> None:
    table, summary = demo
    activity = np.bincount(table["user_id"].to_numpy())[1:]
    assert activity.size == 4_000
    assert activity.min() == summary.min_activity >= 5
    assert activity.max() == summary.max_activity
    assert np.median(activity) == summary.median_activity
    used = np.unique(table["item_id"].to_numpy())
    assert used.size == summary.n_items_used >= 0.99 * 2_000
    assert used.min() >= 1
    assert used.max() <= 2_000


def test_activity_is_log_normal_and_popularity_heavy_tailed(demo: tuple) -> None:
    table, summary = demo
    log_activity = np.log(np.bincount(table["user_id"].to_numpy())[1:] - 5 + 0.5)
    skew = ((log_activity - log_activity.mean()) ** 3).mean() / log_activity.std() ** 3
    assert 0.7 < log_activity.std() < 1.3
    assert abs(skew) < 0.5
    popularity = np.sort(np.bincount(table["item_id"].to_numpy(), minlength=2_001)[1:])[::-1]
    assert popularity[:20].sum() / 200_000 == pytest.approx(summary.top_percent_share)
    assert 0.10 < summary.top_percent_share < 0.40
    assert popularity[:400].sum() > 0.5 * 200_000


def test_a_larger_catalog_has_a_heavier_head(tmp_path: Path) -> None:
    options = SynthesizeOptions(n_users=20_000, n_items=20_000, n_interactions=600_000)
    summary = synthesize(tmp_path / "events", options)
    assert 0.15 < summary.top_percent_share < 0.40


def test_times_rise_per_user_within_the_two_years_and_fill_all_of_them(demo: tuple) -> None:
    table, _ = demo
    assert table.schema.field("time").type == pa.timestamp("ms", tz="UTC")
    times_s = table["time"].cast(pa.int64()).to_numpy() // 1_000 - int(module._PERIOD_START) // 1_000
    users = table["user_id"].to_numpy()
    assert times_s.min() >= 0
    assert times_s.max() < PERIOD_S
    same_user = users[1:] == users[:-1]
    assert (np.diff(times_s)[same_user] >= 0).all()
    assert (np.diff(users) >= 0).all()
    by_quarter = np.histogram(times_s, bins=8, range=(0, PERIOD_S))[0]
    assert by_quarter.min() > 0.03 * times_s.size


def test_visits_are_sessions_of_several_choices(demo: tuple) -> None:
    table, _ = demo
    times_s = table["time"].cast(pa.int64()).to_numpy() // 1_000
    same_user = np.diff(table["user_id"].to_numpy()) == 0
    gaps = np.diff(times_s)[same_user]
    assert np.mean(gaps < 1_800) > 0.7
    assert np.mean(gaps > 86_400) > 0.05


def test_new_items_are_seldom_chosen_before_their_release(demo: tuple) -> None:
    table, _ = demo
    catalog = module._Generator(SynthesizeOptions(id_type="int64")).catalog
    release_s = catalog.traits[table["item_id"].to_numpy() - 1, 0]
    times_s = table["time"].cast(pa.int64()).to_numpy() // 1_000 - int(module._PERIOD_START) // 1_000
    is_new = release_s > 0
    assert is_new.mean() > 0.03
    assert np.mean(times_s[is_new] < release_s[is_new]) < 0.02  # one second of float32 and the fallback


def test_fads_fade_and_others_do_not(demo: tuple) -> None:
    table, _ = demo
    catalog = module._Generator(SynthesizeOptions(id_type="int64")).catalog
    rows = table["item_id"].to_numpy() - 1
    times_s = table["time"].cast(pa.int64()).to_numpy() // 1_000 - int(module._PERIOD_START) // 1_000
    age_s = times_s - catalog.traits[rows, 0]
    is_fad = catalog.traits[rows, 1] == 1
    is_new = catalog.traits[rows, 0] > 0

    def young_share(is_kind: np.ndarray) -> float:
        ages = age_s[is_kind & is_new]
        return float(np.mean(ages < 120 * 86_400))

    assert young_share(is_fad) > young_share(~is_fad) + 0.1


def test_ratings_run_from_one_to_five_and_follow_the_planted_affinity(demo: tuple) -> None:
    table, _ = demo
    ratings = table["rating"].to_numpy()
    counts = np.bincount(ratings, minlength=6)
    assert counts[0] == 0
    assert counts.size == 6
    assert (counts[1:] > 0.02 * ratings.size).all()
    catalog = module._Generator(SynthesizeOptions(id_type="int64")).catalog
    topics = catalog.traits[table["item_id"].to_numpy() - 1, 3].astype(np.int64)
    users = table["user_id"].to_numpy() - 1
    share = np.zeros((4_000, 24))
    np.add.at(share, (users, topics), 1.0)
    share /= share.sum(axis=1, keepdims=True)
    assert np.corrcoef(share[users, topics], ratings)[0, 1] > 0.25


def test_a_low_rank_model_ranks_held_out_items_far_above_popularity(demo: tuple) -> None:
    table, _ = demo
    users, items = table["user_id"].to_numpy() - 1, table["item_id"].to_numpy() - 1
    is_test = np.random.default_rng(0).random(users.size) < 0.2
    shape = (4_000, 2_000)
    train = scipy.sparse.csr_array((np.ones(np.sum(~is_test)), (users[~is_test], items[~is_test])), shape=shape)
    test = scipy.sparse.csr_array((np.ones(np.sum(is_test)), (users[is_test], items[is_test])), shape=shape).toarray()
    popularity = np.asarray(train.sum(axis=0))
    left, values, right = scipy.sparse.linalg.svds(train / np.sqrt(popularity + 1), k=24, v0=np.ones(2_000))
    planted = (left * values) @ right

    def hits(scores: np.ndarray) -> float:
        ranked = np.argsort(-np.where(train.toarray() > 0, -np.inf, scores), axis=1)[:, :20]
        return float(np.take_along_axis(test, ranked, axis=1).sum())

    assert hits(planted * np.sqrt(popularity + 1)) > 1.5 * hits(np.broadcast_to(popularity, shape))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_pairs(tmp_path: Path) -> None:
    synthesize(tmp_path / "a.parquet", SMALL)
    synthesize(tmp_path / "b.parquet", SMALL)
    synthesize(tmp_path / "c.parquet", SMALL.model_copy(update={"seed": 1}))
    assert digest(tmp_path / "a.parquet") == digest(tmp_path / "b.parquet")
    first, other = (pairs_of(read(tmp_path / name)) for name in ("a.parquet", "c.parquet"))
    shared = set(map(tuple, first.tolist())) & set(map(tuple, other.tolist()))
    assert len(shared) < 0.5 * len(first)


def test_threads_row_groups_and_the_kind_of_output_do_not_change_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(tmp_path / "whole.parquet", SMALL, n_threads=1)
    monkeypatch.setattr(module, "_ROW_GROUP_ROWS", 700)
    monkeypatch.setattr(module, "_ROW_GROUPS_PER_PART", 3)
    synthesize(tmp_path / "one.parquet", SMALL, n_threads=1)
    synthesize(tmp_path / "two.parquet", SMALL, n_threads=2)
    one = synthesize(tmp_path / "one", SMALL, n_threads=1)
    two = synthesize(tmp_path / "two", SMALL, n_threads=2)
    whole = read(tmp_path / "whole.parquet")
    assert pq.ParquetFile(tmp_path / "one.parquet").num_row_groups == 13
    assert one.n_files == two.n_files == 5
    for name in ("one.parquet", "one"):
        assert read(tmp_path / name).equals(whole)
    assert digest(tmp_path / "one.parquet") == digest(tmp_path / "two.parquet")
    for path in sorted((tmp_path / "one").iterdir()):
        assert digest(path) == digest(tmp_path / "two" / path.name)


@settings(max_examples=20, deadline=None)
@given(row_group=st.integers(1, 20_000))
def test_user_blocks_cover_every_user_once(row_group: int) -> None:
    generator = module._Generator(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROW_GROUP_ROWS", row_group)
        blocks = generator.user_blocks()
    assert blocks[0][0] == 0
    assert blocks[-1][1] == 300
    assert all(start < stop for start, stop in blocks)
    assert all(before[1] == after[0] for before, after in pairwise(blocks))


def test_columns_and_id_types_do_not_change_the_pairs(tmp_path: Path) -> None:
    synthesize(tmp_path / "all.parquet", SMALL)
    bare = SMALL.model_copy(update={"with_time": False, "with_rating": False, "id_type": "string"})
    synthesize(tmp_path / "bare.parquet", bare)
    complete, pairs = read(tmp_path / "all.parquet"), read(tmp_path / "bare.parquet")
    assert complete.schema.names == ["user_id", "item_id", "rating", "time"]
    assert pairs.schema.names == ["user_id", "item_id"]
    numbers = np.stack([[int(text[1:]) for text in pairs[name].to_pylist()] for name in pairs.schema.names], axis=1)
    assert (numbers == pairs_of(complete)).all()


def test_string_ids_have_one_width_so_that_their_order_is_the_row_order(tmp_path: Path) -> None:
    synthesize(tmp_path / "events.parquet", SMALL.model_copy(update={"id_type": "string"}))
    users = sorted(set(read(tmp_path / "events.parquet")["user_id"].to_pylist()))
    assert users[0] == "u001"
    assert users[8:10] == ["u009", "u010"]
    assert users[-1] == "u300"


def test_the_file_tells_its_options_and_the_folder_has_checksums(tmp_path: Path) -> None:
    synthesize(tmp_path / "events.parquet", SMALL)
    metadata = pq.read_schema(tmp_path / "events.parquet").metadata
    assert SynthesizeOptions(**json.loads(metadata[b"rgals.synthesize"])) == SMALL
    summary = synthesize(tmp_path / "events", SMALL)
    folder = Folder.at(tmp_path / "events")
    payload, files = read_manifest(folder, "events", module.EVENTS_FORMAT_VERSION)
    assert payload["n_interactions"] == 9_000
    assert list(files) == ["part-00000.parquet"]
    verify_file(folder, "part-00000.parquet", files)
    assert summary.n_bytes == (tmp_path / "events" / "part-00000.parquet").stat().st_size


def test_progress_rises_to_the_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROW_GROUP_ROWS", 1_000)
    calls: list[tuple[int, int]] = []
    synthesize(tmp_path / "x.parquet", SMALL, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert len(calls) == 9
    assert calls[-1] == (9_000, 9_000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_interactions": 299}, "one per user"),
        ({"n_interactions": 30_001}, "quarter of the items"),
        ({"n_topics": 401}, "at most n_items"),
        ({"n_users": 0}, "greater than or equal to 1"),
        ({"n_items": 7}, "greater than or equal to 8"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"id_type": "uuid"}, "'string' or 'int64'"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SynthesizeOptions.model_validate({**SMALL.model_dump(), **changes})


def test_a_number_of_threads_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n_threads: expected at least 1, found 0"):
        synthesize(tmp_path / "x.parquet", SMALL, n_threads=0)


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_an_existing_output_is_kept_unless_it_may_be_replaced(tmp_path: Path, name: str) -> None:
    synthesize(tmp_path / name, SMALL)
    before = read(tmp_path / name)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        synthesize(tmp_path / name, SMALL.model_copy(update={"seed": 9}))
    assert read(tmp_path / name).equals(before)
    synthesize(tmp_path / name, SMALL.model_copy(update={"seed": 9}), overwrite=True)
    assert not read(tmp_path / name).equals(before)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_under_the_files_name_and_a_foreign_folder_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    with pytest.raises(OutputExistsError, match="a folder is in the way"):
        synthesize(tmp_path / "x.parquet", SMALL, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(OutputExistsError, match="not written by rgals"):
        synthesize(tmp_path / "mine", SMALL, overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("name", ["x.parquet", "x"])
@pytest.mark.parametrize(
    ("failure", "expected"), [(OSError(28, "No space left"), DataError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_an_interrupted_run_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, failure: BaseException, expected: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise failure

    with pytest.raises(expected):
        synthesize(tmp_path / name, SMALL, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_an_alias_table_gives_every_entry_its_share() -> None:
    weights = np.array([5.0, 1.0, 0.5, 3.0, 0.5])
    slots = np.zeros((5, 3), np.int32)
    build_alias(weights, np.arange(10, 15, dtype=np.int32), slots)
    share = np.zeros(15)
    for item, alternative, threshold in slots.tolist():
        share[item] += threshold / 2**31 / 5
        share[alternative] += (1 - threshold / 2**31) / 5
    assert share[10:] == pytest.approx(weights / weights.sum(), abs=1e-8)


def test_the_kernels_give_the_same_as_plain_python(tmp_path: Path) -> None:
    options = SynthesizeOptions(n_users=12, n_items=60, n_interactions=90, n_topics=5, id_type="int64")
    synthesize(tmp_path / "compiled.parquet", options)
    code = (
        "import sys; from rgals.data.synthesize import *;"
        f"synthesize(sys.argv[1], SynthesizeOptions.model_validate({options.model_dump()!r}), n_threads=1)"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "plain.parquet")],
        check=True,
        env={"NUMBA_DISABLE_JIT": "1", "PATH": ""},
    )
    assert read(tmp_path / "plain.parquet").equals(read(tmp_path / "compiled.parquet"))


def test_one_user_does_the_same_whoever_comes_before() -> None:
    generator = module._Generator(SMALL)

    def simulate(start: int, stop: int) -> list[np.ndarray]:
        quotas = generator.quotas[start:stop]
        n_rows = int(quotas.sum())
        out = [np.empty(n_rows, np.int32), np.empty(n_rows, np.int32), np.empty(n_rows, np.int8)]
        with np.errstate(over="ignore"):
            simulate_users(generator.seed, start, quotas, Catalog(*generator.catalog), *out)
        return out

    alone, together = simulate(7, 8), simulate(0, 20)
    skipped = int(generator.quotas[:7].sum())
    for column, all_columns in zip(alone, together, strict=True):
        assert (column == all_columns[skipped : skipped + column.size]).all()


def command(*arguments: str) -> object:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(synthesize_command)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_writes_the_file_and_prints_a_summary(tmp_path: Path) -> None:
    output = tmp_path / "events.parquet"
    sizes = ["--users", "300", "--items", "400", "--interactions", "9000"]
    result = command(*sizes, "--seed", "4", "--no-time", "--output", str(output))
    assert result.exit_code == 0, result.output
    assert "9,000 in 1 file(s)" in result.output
    assert "rgals ingest" in result.output
    assert read(output).schema.names == ["user_id", "item_id", "rating"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--users", "0"], "--users: input should be greater than or equal to 1, found 0"),
        (["--id-type", "uuid"], "--id-type: input should be 'string' or 'int64', found 'uuid'"),
        (["--interactions", "10"], "n_interactions: expected between 4,000"),
    ],
)
def test_the_command_names_the_option_that_is_wrong(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = command("--output", str(tmp_path / "x.parquet"), *arguments)
    assert isinstance(result.exception, RgalsError)
    assert words in str(result.exception)
    assert list(tmp_path.iterdir()) == []
