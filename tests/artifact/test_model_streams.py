"""Models written from blocks of factors and shards of interactions: the files are those of whole arrays."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.artifact import layout
from rgals.artifact.model import Model
from rgals.artifact.model_writer import factor_checksum, write_model, write_model_folder
from rgals.data.arrays import FactorBlocks, new_array, read_array, write_array
from rgals.data.ids import IdDictionary
from rgals.data.shards import InMemoryInteractions, ShardRange
from rgals.data.storage import Folder
from rgals.errors import DataError, InputError, NumericalError
from rgals.names import Factors
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from tests.artifact.model_factory import Parts
from tests.artifact.object_store import remote_folder

N_USERS, N_ITEMS, N_FACTORS = 1800, 1400, 4


def in_blocks(factors: Factors, starts: list[int]) -> FactorBlocks:
    """One block's memory is used for all of them: nobody may keep a block beyond the next."""
    edges = [0, *sorted(start for start in starts if start < len(factors)), len(factors)]
    memory = np.empty_like(factors)

    def blocks() -> Iterator[Factors]:
        for start, stop in pairwise(edges):
            memory[...] = np.nan
            memory[: stop - start] = factors[start:stop]
            yield memory[: stop - start]

    return FactorBlocks(len(factors), factors.shape[1], blocks())


def arguments(has_weights: bool = False, loss: str = "rgx", kind: str = "string") -> dict[str, Any]:
    rng = np.random.default_rng(3)
    changes = {
        "user_factors": rng.standard_normal((N_USERS, N_FACTORS), dtype=np.float32),
        "item_factors": rng.standard_normal((N_ITEMS, N_FACTORS), dtype=np.float32),
    }
    chosen = Loss(loss, alpha=0.5, reg=0.03, beta=0.2)
    parts = Parts(N_USERS, N_ITEMS, N_FACTORS, density=0.01, has_weights=has_weights, loss=chosen, kind=kind)
    return parts.arguments() | changes


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=15)
@given(
    st.lists(st.integers(0, N_USERS - 1), max_size=5),
    st.lists(st.integers(0, N_ITEMS - 1), max_size=5),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(["rg2", "rgx", "ials"]),
    st.booleans(),
)
def test_the_files_do_not_depend_on_blocks_and_shards(
    tmp_path_factory, user_starts, item_starts, n_shards, has_weights, loss, is_counted
):
    folder = tmp_path_factory.mktemp("streams")
    whole = arguments(has_weights, loss)
    pieces = whole | {
        "user_factors": in_blocks(whole["user_factors"], user_starts),
        "item_factors": in_blocks(whole["item_factors"], item_starts),
        "seen": InMemoryInteractions(whole["seen"], n_shards),
        "item_degrees": None if is_counted else whole["item_degrees"],
    }
    write_model(folder / "whole", **whole)
    checksum = write_model_folder(folder / "pieces", **pieces)
    assert contents_of(folder / "pieces") == contents_of(folder / "whole")
    assert checksum == factor_checksum(whole["user_factors"], whole["item_factors"])
    assert checksum == Model.open(folder / "pieces").factor_checksum


def test_the_same_files_reach_an_object_store(tmp_path):
    whole = arguments(has_weights=True)
    write_model(tmp_path / "whole", **whole)
    pieces = whole | {
        "user_factors": in_blocks(whole["user_factors"], [512, 1024]),
        "item_factors": in_blocks(whole["item_factors"], [512]),
        "seen": InMemoryInteractions(whole["seen"], 3),
    }
    write_model_folder(remote_folder(tmp_path), **pieces)
    assert contents_of(tmp_path / "bucket/model") == contents_of(tmp_path / "whole")


def test_blocks_are_asked_for_one_after_the_other_and_once(tmp_path):
    whole = arguments()
    events: list[str] = []

    def told(name: str, factors: Factors) -> FactorBlocks:
        def blocks() -> Iterator[Factors]:
            for start in range(0, len(factors), 512):
                events.append(f"{name} {start}")
                yield factors[start : start + 512]

        return FactorBlocks(*factors.shape, blocks())

    blocks = {name: told(name, whole[name]) for name in ("item_factors", "user_factors")}
    write_model_folder(tmp_path / "model", **(whole | blocks))
    assert events == [f"user_factors {start}" for start in range(0, N_USERS, 512)] + [
        f"item_factors {start}" for start in range(0, N_ITEMS, 512)
    ]


class CountingSource(InMemoryInteractions):
    """Tells which shards were loaded."""

    def __init__(self, rows: InteractionRows, n_shards: int) -> None:
        super().__init__(rows, n_shards)
        self.loaded: list[tuple[str, int]] = []

    def load_shard(self, side: Any, index: int) -> InteractionRows:
        self.loaded.append((side, index))
        return super().load_shard(side, index)


def test_each_user_shard_is_loaded_once(tmp_path):
    whole = arguments()
    source = CountingSource(whole["seen"], 3)
    write_model_folder(tmp_path / "model", **(whole | {"seen": source, "item_degrees": None}))
    assert source.loaded == [("user", 0), ("user", 1), ("user", 2)]
    np.testing.assert_array_equal(Model.open(tmp_path / "model").popularity, whole["item_degrees"])


@pytest.mark.parametrize("name", ["user_factors", "item_factors"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_block_that_is_not_finite_leaves_no_model_and_is_named_with_all_the_others(tmp_path, name, value):
    whole = arguments()
    bad = whole[name].copy()
    bad[700, 1] = bad[701, 0] = bad[1300] = value
    pieces = whole | {name: in_blocks(bad, [512, 1024])}
    with pytest.raises(NumericalError, match=rf"{name}: row 700 and 2 more of {len(bad)} rows .* rgx, alpha 0.5"):
        write_model_folder(tmp_path / "model", **pieces)
    assert list(tmp_path.iterdir()) == []


def test_an_older_model_outlives_blocks_that_are_not_finite(tmp_path):
    whole = arguments()
    write_model(tmp_path / "model", **whole)
    before = contents_of(tmp_path / "model")
    bad = np.full((N_USERS, N_FACTORS), np.nan, dtype=np.float32)
    with pytest.raises(NumericalError, match="row 0 and 1799 more of 1800"):
        write_model_folder(tmp_path / "model", **(whole | {"user_factors": in_blocks(bad, [600])}), overwrite=True)
    assert contents_of(tmp_path / "model") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: FactorBlocks(len(f), 4, iter([f[:-1]])), "expected 1800 rows, found 1799"),
        (lambda f: FactorBlocks(len(f), 4, iter([f, f[:1]])), "expected 1800 rows, found at least 1801"),
        (lambda f: FactorBlocks(len(f), 4, iter([])), "expected 1800 rows, found 0"),
        (lambda f: FactorBlocks(len(f), 4, iter([f[:, :3]])), r"expected blocks of float32 of shape \(rows, 4\)"),
        (lambda f: FactorBlocks(len(f), 4, iter([f.astype(float)])), "found float64 of shape"),
        (lambda f: FactorBlocks(len(f), 4, iter([f.ravel()])), r"found float32 of shape \(7200,\) after row 0"),
        (lambda f: FactorBlocks(len(f) - 1, 4, iter([f])), "user_ids: expected 1799, found 1800"),
        (lambda f: FactorBlocks(len(f), 5, iter([f])), "n_factors of item_factors: expected 5, found 4"),
    ],
)
def test_blocks_that_are_not_the_announced_matrix_are_refused(
    tmp_path, change: Callable[[Factors], FactorBlocks], message
):
    whole = arguments()
    with pytest.raises(InputError, match=message):
        write_model_folder(tmp_path / "model", **(whole | {"user_factors": change(whole["user_factors"])}))
    assert list(tmp_path.iterdir()) == []


class BrokenSource(InMemoryInteractions):
    """Hands out a shard that does not go with the others."""

    def __init__(self, rows: InteractionRows, change: Callable[[InteractionRows], InteractionRows]) -> None:
        super().__init__(rows, 3)
        self._change = change

    def load_shard(self, side: Any, index: int) -> InteractionRows:
        shard = super().load_shard(side, index)
        return self._change(shard) if index == 1 else shard


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: InteractionRows(s.indptr, s.columns, s.columns.astype(np.float32), s.n_columns), "weights: True"),
        (lambda s: InteractionRows(s.indptr, s.columns, None, s.n_columns + 1), "shard 1 has 1401 columns"),
        (lambda s: s.row_slice(0, s.n_rows - 1), "seen_.*npy: expected .* rows, found"),
    ],
)
def test_shards_that_do_not_go_together_are_refused(tmp_path, change, message):
    whole = arguments()
    with pytest.raises(InputError, match=message):
        write_model_folder(tmp_path / "model", **(whole | {"seen": BrokenSource(whole["seen"], change)}))
    assert list(tmp_path.iterdir()) == []


def test_a_source_of_another_shape_is_refused_before_anything_is_written(tmp_path):
    whole = arguments()
    source = InMemoryInteractions(whole["seen"].row_slice(0, 900), 2)
    with pytest.raises(InputError, match="rows of seen: expected 1800, found 900"):
        write_model_folder(tmp_path / "model", **(whole | {"seen": source}))


def test_a_failing_source_of_blocks_leaves_nothing(tmp_path):
    def blocks() -> Iterator[Factors]:
        yield np.ones((512, N_FACTORS), dtype=np.float32)
        raise DataError("the block is gone")

    whole = arguments()
    with pytest.raises(DataError, match="the block is gone"):
        write_model_folder(tmp_path / "model", **(whole | {"item_factors": FactorBlocks(N_ITEMS, N_FACTORS, blocks())}))
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded_by_blocks_and_shards(tmp_path):
    """Half a million rows are written while no more than a few blocks are held; the whole matrix never is."""
    import tracemalloc

    n_rows, n_factors, n_block = 1 << 19, 32, 1 << 13
    tile = np.random.default_rng(0).standard_normal((n_block, n_factors), dtype=np.float32)

    class Source:
        n_users, n_items, n_interactions, fingerprint = n_rows, 10, n_rows, ""

        def shard_ranges(self, side: str) -> tuple[ShardRange, ...]:
            return tuple(ShardRange(start, start + n_block, n_block) for start in range(0, n_rows, n_block))

        def load_shard(self, side: str, index: int) -> InteractionRows:
            columns = np.full(n_block, index % 10, dtype=np.int32)
            return InteractionRows(np.arange(n_block + 1), columns, None, 10)

    user_ids = IdDictionary.from_values(pa.array(np.arange(n_rows)))
    tracemalloc.start()
    write_model_folder(
        tmp_path / "model",
        user_factors=FactorBlocks(n_rows, n_factors, (tile for _ in range(n_rows // n_block))),
        item_factors=FactorBlocks(10, n_factors, [tile[:10]]),
        user_ids=user_ids,
        item_ids=IdDictionary.from_values(pa.array(np.arange(10))),
        seen=Source(),
        loss=Loss("rg2", 1.0, 0.1),
        weight_scale=1.0,
        item_degrees=None,
        config={},
        metrics={},
        lineage={},
    )
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "model" / layout.USER_FACTORS).stat().st_size > 64 << 20
    assert peak_bytes < 16 << 20


@pytest.mark.parametrize("array", [np.arange(10, dtype=np.int64), np.ones((10, 3), np.float32), np.zeros((0, 3))])
def test_an_array_in_blocks_is_the_file_of_the_whole_array(tmp_path, array):
    folder = Folder.at(tmp_path)
    write_array(folder, "whole.npy", array)
    with new_array(folder, "blocks.npy", array.dtype, array.shape) as stream:
        for start in range(0, len(array), 4):
            stream.append(np.asfortranarray(array[start : start + 4]))
        assert stream.n_rows == len(array)
    assert (tmp_path / "blocks.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    np.testing.assert_array_equal(read_array(folder, "blocks.npy"), array)
