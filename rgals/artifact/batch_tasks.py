"""Ranking all users as tasks of an executor: what is sent, what a worker opens, what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rgals.artifact import layout
from rgals.artifact.contents import RankingContents
from rgals.artifact.model import Model
from rgals.artifact.recommend import ItemFilter, rank_users
from rgals.data.arrays import ArrayRows
from rgals.data.storage import FileEntry, Folder, read_manifest
from rgals.errors import ChecksumError, DataError
from rgals.execution import WorkerContext
from rgals.names import BoolArray
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import TopK

__all__ = ["BatchJob", "OpenedModel", "RankedUsers", "open_here", "open_in_worker", "rank_range"]


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What all tasks share.

    Parameters
    ----------
    folder : Folder
        The model, on a path or object store that every worker reaches.
    factor_checksum : str
        The factors that the calling process has.
    k : int
        Length of the lists.
    item_filter : ItemFilter
        Which items a list may hold.
    """

    folder: Folder
    factor_checksum: str
    k: int
    item_filter: ItemFilter


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A job and its model, as a worker has it open: the items whole, the users' rows as they are asked for.

    Parameters
    ----------
    job : BatchJob
        The job.
    contents : RankingContents
        The items.
    user_factors, seen_indptr, seen_columns : ArrayRows
        The users.
    """

    job: BatchJob
    contents: RankingContents
    user_factors: ArrayRows
    seen_indptr: ArrayRows
    seen_columns: ArrayRows


@dataclass(frozen=True, slots=True)
class RankedUsers:
    """The result of a task.

    Parameters
    ----------
    lists : TopK
        The ranked lists.
    is_popular : bool array of shape (n_users,)
        Which of them are by popularity.
    """

    lists: TopK
    is_popular: BoolArray


def open_here(model: Model, job: BatchJob) -> OpenedModel:
    """Take a model that is open in this process."""
    contents, seen = model.contents, model.seen
    columns = (ArrayRows.of(array) for array in (contents.user_factors, seen.indptr, seen.columns))
    return OpenedModel(job, contents, *columns)


def open_in_worker(job: BatchJob, context: WorkerContext) -> OpenedModel:
    """Open the job's model in a worker, without ids and, unless it is local, without the users' rows.

    Raises
    ------
    DataError
        If the worker does not find the model, or another one under its name.
    ChecksumError
        If a file has another size than was written.
    """
    folder = job.folder
    try:
        manifest, files = read_manifest(folder, layout.KIND, layout.FORMAT_VERSION)
    except (DataError, OSError) as error:
        raise DataError(
            f"{context.worker}: the model of the calling process cannot be opened here ({error}); "
            "put it on a path that all nodes share, or on an object store"
        ) from error
    found = str(manifest.get("factor_sha256"))
    if found != job.factor_checksum:
        raise DataError(
            f"{context.worker}: {folder} holds factors {found[:12]}, expected {job.factor_checksum[:12]} as in the "
            "calling process; put one model on a path that all nodes share, and do not replace it meanwhile"
        )
    n_users, n_items, n_factors, n_interactions = (
        int(manifest[key]) for key in ("n_users", "n_items", "n_factors", "n_interactions")
    )
    reader = _Reader(folder, files, context.worker)
    return OpenedModel(
        job,
        RankingContents(
            reader.whole(layout.ITEM_FACTORS, np.float32, (n_items, n_factors)),
            reader.whole(layout.POPULARITY, np.int64, (n_items,)),
        ),
        reader.rows(layout.USER_FACTORS, np.float32, (n_users, n_factors)),
        reader.rows(layout.SEEN_INDPTR, np.int64, (n_users + 1,)),
        reader.rows(layout.SEEN_COLUMNS, np.int32, (n_interactions,)),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Opens the arrays of a model that fit its manifest."""

    folder: Folder
    files: Mapping[str, FileEntry]
    worker: str

    def rows(self, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> ArrayRows:
        if (n_bytes := self.folder.n_bytes(name)) != self.files[name].n_bytes:
            raise ChecksumError(
                f"{self.worker}: {self.folder.label(name)}: expected {self.files[name].n_bytes} bytes, "
                f"found {n_bytes}; restore it or train again"
            )
        rows = ArrayRows.open(self.folder, name)
        if rows.dtype != np.dtype(dtype) or rows.shape != shape:
            raise DataError(
                f"{self.worker}: {self.folder.label(name)}: expected {np.dtype(dtype)} of shape {shape}, "
                f"found {rows.dtype} of shape {rows.shape}; train again"
            )
        return rows

    def whole(self, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
        return self.rows(name, dtype, shape).read(0, shape[0])


def rank_range(model: OpenedModel, users: tuple[int, int], context: WorkerContext) -> RankedUsers:
    """Rank the items for users ``start`` to ``stop``; a task.

    Raises
    ------
    NumericalError
        If factors are not finite.
    """
    start, stop = users
    indptr = model.seen_indptr.read(start, stop + 1)
    first, last = int(indptr[0]), int(indptr[-1])
    n_items = model.contents.item_factors.shape[0]
    seen = InteractionRows(indptr - first, model.seen_columns.read(first, last), None, n_items)
    lists, is_popular = rank_users(
        model.contents,
        model.user_factors.read(start, stop),
        seen,
        model.job.k,
        model.job.item_filter,
        context.n_threads,
    )
    return RankedUsers(lists, is_popular)
