"""Blocks of evaluated users as tasks of an executor: rank all items for each user, compute the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from rgals.evaluation.alignment import AlignedFoldIn
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions, ScoringModel
from rgals.execution import WorkerContext
from rgals.names import BoolArray, Factors, Float64Array, Rows
from rgals.numerics.ranking import ranking_metrics
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k

__all__ = ["RankedBlock", "RankingInputs", "UserBlock", "UserBlocks", "rank_block"]


@dataclass(frozen=True, slots=True)
class RankingInputs:
    """What the tasks of one model share; sent to each worker once.

    Parameters
    ----------
    item_factors : float32 array of shape (n_items, n_factors)
        The model's factors of the dataset's items.
    is_known_item : bool array of shape (n_items,) or None
        Items that can be ranked.
    popularity : float32 array of shape (n_items, 1)
        Training interactions of each item, for users without factors.
    options : EvaluationOptions
        Cutoffs, gains, and what such users get.
    fold_in : AlignedFoldIn or None
        Solves the new users of a block; None if blocks come with factors.
    """

    item_factors: Factors
    is_known_item: BoolArray | None
    popularity: Factors
    options: EvaluationOptions
    fold_in: AlignedFoldIn | None

    @classmethod
    def gather(cls, model: ScoringModel, users: EvaluatedUsers, options: EvaluationOptions) -> "RankingInputs":
        """Take what is needed of a model, but for its user factors: those come with the blocks."""
        fold_in = model.fold_in if users.fold_in is not None else None
        solver = fold_in if isinstance(fold_in, AlignedFoldIn) else None
        return cls(model.item_factors, model.is_known_item, users.popularity, options, solver)


@dataclass(frozen=True, slots=True)
class UserBlock:
    """A task: consecutive evaluated users.

    Parameters
    ----------
    factors : float32 array of shape (n_users, n_factors) or None
        Their factors; None if the worker solves them.
    history : InteractionRows or None
        What it solves them from.
    seen, held_out : InteractionRows of shape (n_users, n_items)
        What never appears in their lists, and their truth.
    """

    factors: Factors | None
    history: InteractionRows | None
    seen: InteractionRows
    held_out: InteractionRows


@dataclass(frozen=True, slots=True)
class RankedBlock:
    """A result.

    Parameters
    ----------
    items : int32 array of shape (n_users, k)
        Ranked lists of the longest cutoff, -1 where a list has no more.
    is_ranked : bool array of shape (n_users,)
        Users whom the model has factors for.
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
    model : ScoringModel
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
        self, model: ScoringModel, users: EvaluatedUsers, inputs: RankingInputs, block_users: int, n_threads: int
    ) -> None:
        self._model, self._users, self._n_threads = model, users, n_threads
        self._is_solved_by_workers = inputs.fold_in is not None
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
        if self._users.fold_in is None:
            return UserBlock(self._model.user_factors_of(self._users.user_rows[start:stop]), None, seen, held_out)
        history = self._users.fold_in.row_slice(start, stop)
        if self._is_solved_by_workers:
            return UserBlock(None, history, seen, held_out)
        return UserBlock(self._model.fold_in(history, self._n_threads), None, seen, held_out)


def rank_block(inputs: RankingInputs, block: UserBlock, context: WorkerContext) -> RankedBlock:
    """Rank all items for the users of a block and compare the lists with their truth; a task.

    Raises
    ------
    NumericalError
        If factors are not finite.
    """
    options, n_threads = inputs.options, context.n_threads
    if block.factors is not None:
        factors = block.factors
    elif block.history is not None and inputs.fold_in is not None:
        factors = inputs.fold_in(block.history, n_threads)
    else:
        raise TypeError("expected a block with factors or with a history to solve")  # a bug
    k_max, allowed = max(options.cutoffs), inputs.is_known_item
    items = top_k(factors, inputs.item_factors, k_max, seen=block.seen, is_allowed=allowed, n_threads=n_threads).items
    is_ranked: BoolArray = np.asarray(factors.any(axis=1))
    cold = np.flatnonzero(~is_ranked)
    items[cold] = -1
    if cold.size and options.cold_users == "popular":
        ones = np.ones((cold.size, 1), dtype=np.float32)
        seen = block.seen.take(cold)
        items[cold] = top_k(ones, inputs.popularity, k_max, seen=seen, is_allowed=allowed, n_threads=n_threads).items
    return RankedBlock(items, is_ranked, ranking_metrics(items, block.held_out, options.cutoffs, options.gains))
