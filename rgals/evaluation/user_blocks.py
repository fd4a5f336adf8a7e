"""Blocks of evaluated users as tasks of an executor: rank all items for each user, compute the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from rgals.errors import InputError
from rgals.evaluation.alignment import AlignedFoldIn
from rgals.evaluation.protocol import BlockScoringModel, EvaluatedModel, EvaluatedUsers, EvaluationOptions
from rgals.execution import WorkerContext
from rgals.names import BoolArray, Factors, Float64Array, Offsets, Rows
from rgals.numerics.ranking import ranking_metrics
from rgals.numerics.score_blocks import top_k_of_scores, users_per_block
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k

__all__ = ["RankedBlock", "RankingInputs", "UserBlock", "UserBlocks", "rank_block"]


@dataclass(frozen=True, slots=True)
class RankingInputs:
    """What the tasks of one model share; sent to each worker once.

    Parameters
    ----------
    item_factors : float32 array of shape (n_items, n_factors) or None
        The model's factors of the dataset's items; None if it gives scores.
    is_known_item : bool array of shape (n_items,) or None
        Items that can be ranked.
    popularity : float32 array of shape (n_items, 1)
        Training interactions of each item, for users without factors.
    options : EvaluationOptions
        Cutoffs, gains, and what such users get.
    fold_in : AlignedFoldIn or None
        Solves the new users of a block; None if blocks come with factors.
    scorer : BlockScoringModel or None
        A model that gives scores, whole; None if it has factors.
    """

    item_factors: Factors | None
    is_known_item: BoolArray | None
    popularity: Factors
    options: EvaluationOptions
    fold_in: AlignedFoldIn | None
    scorer: BlockScoringModel | None = None

    @classmethod
    def gather(cls, model: EvaluatedModel, users: EvaluatedUsers, options: EvaluationOptions) -> "RankingInputs":
        """Take what is needed of a model, but for its user factors: those come with the blocks."""
        if isinstance(model, BlockScoringModel):
            return cls(None, model.is_known_item, users.popularity, options, None, model)
        fold_in = model.fold_in if users.fold_in is not None else None
        solver = fold_in if isinstance(fold_in, AlignedFoldIn) else None
        return cls(model.item_factors, model.is_known_item, users.popularity, options, solver)


@dataclass(frozen=True, slots=True)
class UserBlock:
    """A task: consecutive evaluated users.

    Parameters
    ----------
    factors : float32 array of shape (n_users, n_factors) or None
        Their factors; None if the worker solves or scores them.
    history : InteractionRows or None
        What it solves or scores them from.
    seen, held_out : InteractionRows of shape (n_users, n_items)
        What never appears in their lists, and their truth.
    user_rows : int64 array of shape (n_users,) or None
        Their rows in the dataset, for a model that gives scores of users of the training.
    """

    factors: Factors | None
    history: InteractionRows | None
    seen: InteractionRows
    held_out: InteractionRows
    user_rows: Offsets | None = None


@dataclass(frozen=True, slots=True)
class RankedBlock:
    """A result.

    Parameters
    ----------
    items : int32 array of shape (n_users, k)
        Ranked lists of the longest cutoff, -1 where a list has no more.
    is_ranked : bool array of shape (n_users,)
        Users whom the model has factors or scores for.
    values : dict of str to float64 array of shape (n_users,)
        Their metrics, by name and cutoff.
    """

    items: Rows
    is_ranked: BoolArray
    values: dict[str, Float64Array]


class UserBlocks(Sequence[UserBlock]):
    """The tasks of one model, each made when it is asked for, so that few of them exist at a time.

    Parameters
    ----------
    model : ScoringModel or BlockScoringModel
        The model.
    users : EvaluatedUsers
        Whom to rank for.
    inputs : RankingInputs
        What the tasks share.
    block_users : int
        Users of a block.
    n_threads : int
        Threads of the calling process, for new users that only it can solve.
    """

    def __init__(
        self, model: EvaluatedModel, users: EvaluatedUsers, inputs: RankingInputs, block_users: int, n_threads: int
    ) -> None:
        self._model, self._users, self._n_threads = model, users, n_threads
        self._is_solved_by_workers = inputs.fold_in is not None or inputs.scorer is not None
        self._starts = range(0, users.n_users, block_users)

    def __len__(self) -> int:
        return len(self._starts)

    def stop_of(self, index: int) -> int:
        """Give the position after the last user of a block."""
        return min(self._starts[index] + self._starts.step, self._users.n_users)

    @overload
    def __getitem__(self, index: int) -> UserBlock: ...

    @overload
    def __getitem__(self, index: slice) -> list[UserBlock]: ...

    def __getitem__(self, index: int | slice) -> UserBlock | list[UserBlock]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        start = self._starts[index]
        stop = min(start + self._starts.step, self._users.n_users)
        seen, held_out = self._users.seen.row_slice(start, stop), self._users.held_out.row_slice(start, stop)
        user_rows = self._users.user_rows[start:stop]
        if self._users.fold_in is None:
            if isinstance(self._model, BlockScoringModel):
                return UserBlock(None, None, seen, held_out, user_rows)
            return UserBlock(self._model.user_factors_of(user_rows), None, seen, held_out)
        history = self._users.fold_in.row_slice(start, stop)
        if self._is_solved_by_workers or isinstance(self._model, BlockScoringModel):
            return UserBlock(None, history, seen, held_out)
        return UserBlock(self._model.fold_in(history, self._n_threads), None, seen, held_out)


def rank_block(inputs: RankingInputs, block: UserBlock, context: WorkerContext) -> RankedBlock:
    """Rank all items for the users of a block and compare the lists with their truth; a task.

    Raises
    ------
    InputError
        If a model gives scores of another shape or type than it should.
    NumericalError
        If factors or scores are not finite.
    """
    options, n_threads = inputs.options, context.n_threads
    if inputs.scorer is None:
        items, is_ranked = _rank_by_factors(inputs, block, n_threads)
    else:
        items, is_ranked = _rank_by_scores(inputs, inputs.scorer, block, n_threads)
    cold = np.flatnonzero(~is_ranked)
    items[cold] = -1
    if cold.size and options.cold_users == "popular":
        ones = np.ones((cold.size, 1), dtype=np.float32)
        seen, k_max, allowed = block.seen.take(cold), max(options.cutoffs), inputs.is_known_item
        items[cold] = top_k(ones, inputs.popularity, k_max, seen=seen, is_allowed=allowed, n_threads=n_threads).items
    return RankedBlock(items, is_ranked, ranking_metrics(items, block.held_out, options.cutoffs, options.gains))


def _rank_by_factors(inputs: RankingInputs, block: UserBlock, n_threads: int) -> tuple[Rows, BoolArray]:
    """Give the lists by products of factors, and who has factors."""
    if block.factors is not None:
        factors = block.factors
    elif block.history is not None and inputs.fold_in is not None:
        factors = inputs.fold_in(block.history, n_threads)
    else:
        raise TypeError("expected a block with factors or with a history to solve")  # a bug
    if inputs.item_factors is None:
        raise TypeError("expected the item factors of a model that has factors")  # a bug
    lists = top_k(
        factors,
        inputs.item_factors,
        max(inputs.options.cutoffs),
        seen=block.seen,
        is_allowed=inputs.is_known_item,
        n_threads=n_threads,
    )
    return lists.items, np.asarray(factors.any(axis=1))


def _rank_by_scores(
    inputs: RankingInputs, model: BlockScoringModel, block: UserBlock, n_threads: int
) -> tuple[Rows, BoolArray]:
    """Give the lists by a model's scores, some users at a time, and whose scores are not all zero."""
    n_users, n_items, k_max = block.seen.n_rows, block.seen.n_columns, max(inputs.options.cutoffs)
    items = np.empty((n_users, k_max), dtype=np.int32)
    is_ranked = np.zeros(n_users, dtype=np.bool_)
    step = users_per_block(n_items)
    for start in range(0, n_users, step):
        stop = min(start + step, n_users)
        if block.history is not None:
            scores = model.score_histories(block.history.row_slice(start, stop), n_threads)
        elif block.user_rows is not None:
            scores = model.score_users(block.user_rows[start:stop], n_threads)
        else:
            raise TypeError("expected a block with user rows or with a history to score")  # a bug
        if scores.shape != (stop - start, n_items):
            raise InputError(
                f"{model.name}: expected scores of shape {(stop - start, n_items)} (users by items of the dataset), "
                f"found {scores.shape}"
            )
        is_ranked[start:stop] = scores.any(axis=1)
        seen = block.seen.row_slice(start, stop)
        lists = top_k_of_scores(scores, k_max, seen=seen, is_allowed=inputs.is_known_item, n_threads=n_threads)
        items[start:stop] = lists.items
    return items, is_ranked
