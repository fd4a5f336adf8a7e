"""Ranked lists of all users, ranked by any executor, streamed to one Parquet file under a memory budget."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rgals.artifact.arguments import check_k
from rgals.artifact.batch_tasks import BatchJob, RankedUsers, open_here, open_in_worker, rank_range
from rgals.artifact.contents import Id
from rgals.artifact.model import Model
from rgals.artifact.output_file import new_parquet_file
from rgals.artifact.recommend import ItemFilter
from rgals.data.ids import IdDictionary
from rgals.errors import InputError
from rgals.execution import Executor, InProcessExecutor
from rgals.names import BoolArray
from rgals.numerics.topk import TopK

__all__ = ["BatchSummary", "Progress", "recommend_all", "tile_users"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called now and then with the number of users done and of all users."""

MAX_ROW_GROUP_ROWS = 1 << 20
"""Rows of a Parquet row group at most, so that readers need no more memory than the writer did."""

_LIST_BYTES = 40
"""Of one ranked item: row and score as ranked, again as joined with popularity, and three int64 positions."""

_TABLE_BYTES = 12
"""Of one ranked item in the table: rank, score, source."""

_N_TABLE_COPIES = 2
"""The table, and the row group that the Parquet writer encodes from it."""

_RESULT_BYTES = 16
"""Of one ranked item on its way: row and score, in the worker and as sent."""

_OUTSTANDING = 2
"""Tasks that a worker has at a time: one that runs, and one that waits or comes back."""

_THREAD_USERS = 256
_MOST_THREAD_USERS = 4096
"""Users of a task for each of its threads, at least and at most."""

_TASKS_PER_WORKER = 4

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
        Users of a tile, which is a row group of the file.
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
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BatchSummary:
    """Write the ranked list of every user to a Parquet file.

    The file has the columns ``user_id`` and ``item_id`` (string or int64), ``rank`` (int32, 1 to k),
    ``score`` (float32) and ``source`` (``"factors"``, or ``"popular"`` for a user without training
    interactions), users in id order. The lists are those of `Model.recommend`, whatever the budget,
    the executor and the number of threads; the bytes of the file depend on the budget, but not on who ranks.

    Parameters
    ----------
    model : Model
        The model. Workers in other processes open it from its location, so that has to be a path that
        all nodes share, or an object store; of the latter they read the items whole and the users in ranges.
    output : str or Path
        Local path or pyarrow filesystem URI of the new file; it appears when it is complete.
    k : int
        Length of the lists, 1 to the number of items.
    memory_budget_bytes : int
        Memory for a tile in this process, see `tile_users`. The tasks of all workers together (two for
        each, running or on their way) take no more than the same again, 16 bytes for each user and rank.
    exclude_seen : bool
        Whether items of the user's training interactions are left out.
    exclude : iterable of str or int
        Items to leave out of every list.
    n_threads : int or None
        Number of threads of this process; None uses every processor. Not used with an executor.
    executor : Executor or None
        Who ranks; None ranks in this process.
    overwrite : bool
        Whether a Parquet file already there may be replaced.
    progress : callable or None
        Called after each task.

    Raises
    ------
    OutputExistsError
        If something is at ``output`` and may not be replaced.
    InputError
        If ``k`` is out of range or the budget does not hold one list, or one for each task of the workers.
    DataError
        If the disk is full or the place cannot be written to, or a worker cannot open the model, or finds
        another one in its place; nothing is left behind.
    """
    check_k(k, model.n_items, "items")
    n_tile = tile_users(model, k, memory_budget_bytes)
    runner = InProcessExecutor(n_threads) if executor is None else executor
    n_task = min(n_tile, _task_users(model.n_users, k, memory_budget_bytes, runner))
    job = BatchJob(
        model.contents.folder, model.factor_checksum, k, ItemFilter.build(model.item_ids, exclude_seen, exclude, None)
    )
    n_rows = n_popular = n_exhausted = 0
    schema = _schema(model)
    with (
        new_parquet_file(output, overwrite=overwrite) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd") as writer,
        closing(_rank_tiles(model, job, runner, n_tile, n_task, progress)) as tiles,
    ):
        for start, tile in tiles:
            table = _tile_table(model, schema, start, tile.lists, tile.is_popular)
            writer.write_table(table, row_group_size=MAX_ROW_GROUP_ROWS)
            n_rows += table.num_rows
            n_popular += int(np.count_nonzero(tile.is_popular))
            n_exhausted += int(np.count_nonzero(tile.lists.items[:, -1] < 0))
    return BatchSummary(model.n_users, n_rows, n_popular, n_exhausted, n_tile)


def _task_users(n_users: int, k: int, memory_budget_bytes: int, executor: Executor) -> int:
    """Choose the users of a task: enough for its threads, few enough for all workers and the budget."""
    n_workers = max(1, executor.n_workers)  # there may be none just now, until others have started
    n_under_way = _OUTSTANDING * n_workers
    needed = n_under_way * k * _RESULT_BYTES
    if memory_budget_bytes < needed:
        raise InputError(
            f"memory budget: {memory_budget_bytes} bytes do not hold one list for each of the {n_under_way} tasks that "
            f"{n_workers} workers have under way; expected at least {needed} for k={k}: raise the budget"
        )
    share = -(-n_users // (_TASKS_PER_WORKER * n_workers))
    wanted = max(_THREAD_USERS * executor.n_threads, min(_MOST_THREAD_USERS * executor.n_threads, share))
    return min(wanted, memory_budget_bytes // needed)


def _rank_tiles(
    model: Model, job: BatchJob, executor: Executor, n_tile: int, n_task: int, progress: Progress | None
) -> Generator[tuple[int, RankedUsers], None, None]:
    """Give the first user and the lists of each tile, put together from tasks, none of which is in two tiles."""
    tasks = [
        (start, min(start + n_task, tile + n_tile, model.n_users))
        for tile in range(0, model.n_users, n_tile)
        for start in range(tile, min(tile + n_tile, model.n_users), n_task)
    ]
    if isinstance(executor, InProcessExecutor):
        results = executor.map_ordered(rank_range, open_here(model, job), tasks)
    else:
        results = executor.map_ordered(rank_range, job, tasks, prepare=open_in_worker)
    tile: list[RankedUsers] = []
    first = 0
    for (_, stop), result in zip(tasks, results, strict=True):
        tile.append(result)
        if stop - first == n_tile or stop == model.n_users:
            yield first, _join(tile)
            tile, first = [], stop
        if progress is not None:
            progress(stop, model.n_users)


def _join(parts: list[RankedUsers]) -> RankedUsers:
    """Put the lists of consecutive users together."""
    if len(parts) == 1:
        return parts[0]
    lists = TopK(
        np.concatenate([part.lists.items for part in parts]), np.concatenate([part.lists.scores for part in parts])
    )
    return RankedUsers(lists, np.concatenate([part.is_popular for part in parts]))


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
