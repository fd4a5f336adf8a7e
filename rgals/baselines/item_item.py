"""Neighbors of items by the similarity of their users, from the implicit library, as a baseline."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from rgals.baselines.implicit_library import implicit_version, import_from_implicit, to_csr
from rgals.baselines.model import FittedScorer, RoundClock, Watch
from rgals.errors import NumericalError
from rgals.names import Factors, Offsets
from rgals.numerics.score_blocks import add_sparse_rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads

__all__ = ["ItemItemOptions", "Similarity", "fit_item_item"]

Similarity = Literal["cosine", "tf-idf", "bm25"]
"""How an item's users are weighed before items are compared."""


class ItemItemOptions(BaseModel):
    """Options of implicit's item neighbors, in its own meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    similarity: Similarity = "cosine"
    """Cosine of the items' columns; the same after TF-IDF weights, by which a user with many items says less;
    or the product of BM25 weights, by which an item with many users counts less too."""
    n_neighbors: int = Field(default=100, ge=1)
    """Items that each item keeps as its neighbors (implicit's ``K``), itself among them."""
    k1: float = Field(default=1.2, gt=0, allow_inf_nan=False)
    """BM25: from which weight on more of it says little."""
    b: float = Field(default=0.75, ge=0, le=1)
    """BM25: how much an item with many users is held back."""


@dataclass(frozen=True, slots=True)
class _NeighborScores:
    """The scores: a user's interactions times the rows of the neighbors; an `ItemScores`."""

    train: InteractionRows
    neighbors: InteractionRows = field(repr=False)

    def of_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        return self.of_histories(self.train.take(user_rows), n_threads)

    def of_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        scores = np.zeros((rows.n_rows, self.neighbors.n_columns), dtype=np.float32)
        add_sparse_rows(rows, self.neighbors, scores, n_threads=n_threads)
        return scores


def fit_item_item(
    train: InteractionRows,
    options: ItemItemOptions | None = None,
    *,
    n_threads: int | None = None,
    watch: Watch | None = None,
) -> FittedScorer:
    """Find each item's nearest items by their users.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights are the entries that are compared, and weigh a user's items.
    options : ItemItemOptions or None
        None takes the defaults.
    n_threads : int or None
        Number of threads; None uses every processor. No score depends on it.
    watch : callable or None
        Called once, when all is done.

    Returns
    -------
    FittedScorer
        A user's score of an item is the sum of the similarities to it of their items, times their weights,
        as implicit's ``recommend`` computes it. Most scores are zero. A user none of whose items has a
        neighbor, or who has no items, cannot be ranked for.

    Raises
    ------
    MissingDependencyError
        If implicit is not installed.
    NumericalError
        If similarities are not finite.

    Notes
    -----
    Each row of the similarities is found by itself, whichever thread finds it. An item whose users have
    all TF-IDF weights of zero has no neighbors, where implicit divides by zero.
    """
    chosen = options or ItemItemOptions()
    threads = available_threads() if n_threads is None else n_threads
    matrix = to_csr(train)
    library = import_from_implicit(_load_neighbors, "item-item")
    described = {"library": "implicit", "library_version": implicit_version(), **chosen.model_dump()}
    clock = RoundClock(watch)
    weighted = _weigh(library, matrix, chosen)
    found = library.all_pairs_knn(weighted, chosen.n_neighbors, show_progress=False, num_threads=threads)
    neighbors = _to_rows(found, train.n_columns, chosen)
    seconds = clock.seconds

    def model_at(train_s: float) -> FittedScorer:
        return FittedScorer("item-item", train_s, described, train.n_columns, _NeighborScores(train, neighbors))

    clock.end_round(1, None, model_at)
    return model_at(seconds)


def _weigh(library: Any, matrix: "scipy.sparse.csr_matrix", options: ItemItemOptions) -> "scipy.sparse.csr_matrix":
    """Give the users by items matrix whose columns are compared, as implicit's recommenders make it."""
    items = matrix.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if options.similarity == "bm25":
            weighted = library.bm25_weight(items, options.k1, options.b)
        elif options.similarity == "tf-idf":
            terms = library.tfidf_weight(items)
            weighted = library.normalize(terms)
            weighted.data[terms.data == 0] = 0  # also where an item has nothing else, and implicit gives NaN
        else:
            weighted = library.normalize(items)
    _check_finite(weighted.data, options)
    return scipy.sparse.csr_matrix(weighted.T)


def _to_rows(found: Any, n_items: int, options: ItemItemOptions) -> InteractionRows:
    """Put the similarities, some of which may be zero or negative, into rows."""
    found = scipy.sparse.csr_matrix(found)
    found.eliminate_zeros()
    found.sort_indices()
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = found.data.astype(np.float32)
    _check_finite(values, options)
    return InteractionRows(found.indptr.astype(np.int64), found.indices.astype(np.int32), values, n_items)


def _check_finite(values: NDArray[np.floating[Any]], options: ItemItemOptions) -> None:
    if not np.isfinite(values).all():
        raise NumericalError(
            f"implicit found similarities that are not finite (similarity={options.similarity!r}); "
            "choose another similarity, or smaller weights of the interactions"
        )


def _load_neighbors() -> Any:
    from implicit import nearest_neighbours  # noqa: PLC0415

    return nearest_neighbours
