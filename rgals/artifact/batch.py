"""Ranked lists of all users, streamed to one Parquet file under a memory budget."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rgals.artifact.arguments import check_k
from rgals.artifact.contents import Id
from rgals.artifact.model import Model
from rgals.artifact.output_file import new_parquet_file
from rgals.artifact.recommend import ItemFilter, rank_users
from rgals.data.ids import IdDictionary
from rgals.errors import InputError
from rgals.names import BoolArray
from rgals.numerics.topk import TopK

__all__ = ["BatchSummary", "Progress", "recommend_all", "tile_users"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called after each tile with the number of users done and of all users."""

MAX_ROW_GROUP_ROWS = 1 << 20
"""Rows of a Parquet row group at most, so that readers need no more memory than the writer did."""

_LIST_BYTES = 40
"""Of one ranked item: row and score as ranked, again as joined with popularity, and three int64 positions."""

_TABLE_BYTES = 12
"""Of one ranked item in the table: rank, score, source."""

_N_TABLE_COPIES = 2
"""The table, and the row group that the Parquet writer encodes from it."""

_SOURCES = ("factors", "popular")


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a batch wrote.

    Parameters
    ----------
    n_users : int
        Users with a list, which is all of them.
    n_rows : int
        Rows written: one for each user and rank.
    n_popular : int
        Users without training interactions, whose list is by popularity.
    n_exhausted : int
        Users with fewer items than asked for.
    tile_users : int
        Users ranked at a time.
    """

    n_users: int
    n_rows: int
    n_popular: int
    n_exhausted: int
    tile_users: int


def tile_users(model: Model, k: int, memory_budget_bytes: int) -> int:
    """Tell how many users fit into a tile.

    Parameters
    ----------
    model : Model
        The model; its factors and interactions are files in the page cache and do not count, nor does
        the scratch memory of the ranking, 1 MiB per thread.
    k : int
        Length of the lists.
    memory_budget_bytes : int
        What a tile may occupy, from its lists to its encoded row group.

    Returns
    -------
    int
        At least 1, at most all users, and no more than make up one row group.

    Raises
    ------
    InputError
        If the budget does not hold a single user's list.
    """
    id_bytes = _longest_id_bytes(model.user_ids) + _longest_id_bytes(model.item_ids)
    user_bytes = k * (_LIST_BYTES + _N_TABLE_COPIES * (_TABLE_BYTES + id_bytes))
    if memory_budget_bytes < user_bytes:
        raise InputError(
            f"memory budget: {memory_budget_bytes} bytes do not hold the list of one user; "
            f"expected at least {user_bytes} for k={k}: raise the budget or lower k"
        )
    return max(1, min(model.n_users, memory_budget_bytes // user_bytes, MAX_ROW_GROUP_ROWS // k))


def recommend_all(
    model: Model,
    output: str | Path,
    k: int = 10,
    *,
    memory_budget_bytes: int = 1 << 30,
    exclude_seen: bool = True,
    exclude: Iterable[Id] = (),
    n_threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BatchSummary:
    """Write the ranked list of every user to a Parquet file.

    The file has the columns ``user_id`` and ``item_id`` (string or int64), ``rank`` (int32, 1 to k),
    ``score`` (float32) and ``source`` (``"factors"``, or ``"popular"`` for a user without training
    interactions), users in id order. The lists are those of `Model.recommend`, whatever the budget
    and the number of threads.

    Parameters
    ----------
    model : Model
        The model.
    output : str or Path
        Local path or pyarrow filesystem URI of the new file; it appears when it is complete.
    k : int
        Length of the lists, 1 to the number of items.
    memory_budget_bytes : int
        Memory for the lists under way, see `tile_users`.
    exclude_seen : bool
        Whether items of the user's training interactions are left out.
    exclude : iterable of str or int
        Items to leave out of every list.
    n_threads : int or None
        Number of threads; None uses every processor.
    overwrite : bool
        Whether a Parquet file already there may be replaced.
    progress : callable or None
        Called after each tile.

    Raises
    ------
    OutputExistsError
        If something is at ``output`` and may not be replaced.
    InputError
        If ``k`` is out of range or the budget does not hold one list.
    DataError
        If the disk is full or the place cannot be written to; nothing is left behind.
    """
    check_k(k, model.n_items, "items")
    n_tile = tile_users(model, k, memory_budget_bytes)
    item_filter = ItemFilter.build(model.item_ids, exclude_seen, exclude, None)
    n_rows = n_popular = n_exhausted = 0
    schema = _schema(model)
    with (
        new_parquet_file(output, overwrite=overwrite) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd") as writer,
    ):
        for start in range(0, model.n_users, n_tile):
            stop = min(start + n_tile, model.n_users)
            lists, is_popular = rank_users(
                model.contents,
                model.user_factors[start:stop],
                model.seen.row_slice(start, stop),
                k,
                item_filter,
                n_threads,
            )
            table = _tile_table(model, schema, start, lists, is_popular)
            writer.write_table(table, row_group_size=MAX_ROW_GROUP_ROWS)
            n_rows += table.num_rows
            n_popular += int(np.count_nonzero(is_popular))
            n_exhausted += int(np.count_nonzero(lists.items[:, -1] < 0))
            if progress is not None:
                progress(stop, model.n_users)
    return BatchSummary(model.n_users, n_rows, n_popular, n_exhausted, n_tile)


def _schema(model: Model) -> "pa.Schema":
    return pa.schema(
        [
            pa.field("user_id", model.user_ids.values.type, nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("item_id", model.item_ids.values.type, nullable=False),
            pa.field("score", pa.float32(), nullable=False),
            pa.field("source", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        ]
    )


def _tile_table(model: Model, schema: "pa.Schema", start: int, lists: TopK, is_popular: BoolArray) -> "pa.Table":
    """Give one row for each user of a tile and rank that is filled."""
    is_filled = lists.items >= 0
    positions, ranks = np.nonzero(is_filled)
    columns: list[Any] = [
        model.user_ids.values.take(pa.array(positions + start)),
        pa.array((ranks + 1).astype(np.int32)),
        model.item_ids.values.take(pa.array(lists.items[is_filled])),
        pa.array(lists.scores[is_filled]),
        pa.DictionaryArray.from_arrays(pa.array(is_popular[positions].astype(np.int8)), pa.array(_SOURCES)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _longest_id_bytes(ids: IdDictionary) -> int:
    """Give the bytes that one id takes in a column at most."""
    if ids.kind == "int64":
        return 8
    return 8 + int(pc.max(pc.binary_length(ids.values)).as_py() or 0)
