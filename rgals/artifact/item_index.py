"""An approximate index over the items of large catalogs: built by usearch, judged by its recall, used if that is high.

The graph is built on inner products. Turning them into distances by a further coordinate that makes all items
equally long (Bachrach et al., RecSys 2014) was measured and found worse: .94 against 1.00 of the exact
lists for factors whose lengths differ as those of popular and rare items do. Its vectors are rounded to float16,
after all were divided by the largest number in them: half the memory to wait for, and no list changes that the
recall would not show. Scores are computed from the factors themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rgals.artifact.contents import ModelContents
from rgals.errors import DataError, InputError, MissingDependencyError
from rgals.names import Factors, Float64Array, Offsets, Rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import TopK, top_k
from rgals.numerics.vector_kernels import measure_rows

__all__ = [
    "IndexOptions",
    "IndexRecord",
    "ItemIndex",
    "build_item_index",
    "choose_search",
    "measure_recall",
    "open_item_index",
]

_BLOCK_ROWS = 1 << 16
_LARGEST_SEARCH = 2000
"""More neighbors than this cost more than the product with all items."""

_LEAST = 1e-30
"""Keeps vectors that are all 0 from being divided by it."""

_SEARCHES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Candidates that are tried, from the fastest search to one that still beats the product with a million items."""


class IndexOptions(BaseModel):
    """How an index is built and judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(default=10, ge=1, le=1000)
    """Length of the lists that it is judged by."""
    gate: float = Field(default=0.99, gt=0, le=1)
    """Least share of the exact lists' items that it has to find."""
    n_users: int = Field(default=1000, ge=20)
    """Users that it is judged by, drawn at random."""
    connectivity: int = Field(default=16, ge=2, le=256)
    """Neighbors that each item of the graph is linked to."""
    expansion_add: int = Field(default=128, ge=1, le=10_000)
    """Candidates looked at when an item is added."""
    expansion_search: int | None = Field(default=None, ge=1, le=10_000)
    """Candidates looked at in a search; None takes the fewest of 64, 96, 128, ... 1024 that pass the gate."""
    seed: int = Field(default=0, ge=0)
    """Key of the draw of users."""


class IndexRecord(BaseModel):
    """What is written beside an index: how it was built, and how it was judged."""

    model_config = ConfigDict(frozen=True)

    format_version: int = 2
    """Version of this record."""
    library: str
    """Library and version that built it."""
    options: IndexOptions
    """How it was built and judged."""
    expansion_search: int
    """Candidates looked at in a search."""
    n_items: int
    """Items that it holds."""
    factor_sha256: str
    """Factor checksum of its model."""
    sha256: str
    """SHA-256 of the index."""
    n_bytes: int
    """Its size."""
    recall: float
    """Share of the exact lists' items that it found."""
    n_users: int
    """Users that this was measured on."""
    build_s: float
    """Seconds that building took."""

    @property
    def is_passed(self) -> bool:
        """Whether it finds enough to be used."""
        return self.recall >= self.options.gate


class _Graph(Protocol):
    """What is used of the library's index."""

    def add(self, keys: Any, vectors: Any, *, threads: int) -> Any: ...
    def search(self, vectors: Any, count: int, *, threads: int) -> Any: ...
    def save(self, path: str) -> None: ...

    expansion_search: int


class ItemIndex:
    """Finds items with large scores without looking at all of them.

    Parameters
    ----------
    graph : usearch Index
        Over all items, by inner product.
    n_items : int
        Items in it.
    """

    def __init__(self, graph: _Graph, n_items: int) -> None:
        self._graph, self._n_items = graph, n_items

    @property
    def expansion_search(self) -> int:
        """Candidates looked at in a search."""
        return self._graph.expansion_search

    @expansion_search.setter
    def expansion_search(self, n_candidates: int) -> None:
        self._graph.expansion_search = n_candidates

    def rank(self, user: Factors, item_factors: Factors, k: int, hidden: Rows) -> tuple[Rows, Factors] | None:
        """Give the best items among those that the index finds.

        Parameters
        ----------
        user : float32 array of shape (n_factors,)
            The user's factors.
        item_factors : float32 array of shape (n_items, n_factors)
            The items' factors, from which the scores are computed.
        k : int
            Length of the list.
        hidden : int32 array of shape (n_hidden,)
            Item rows that may not appear, ascending.

        Returns
        -------
        tuple of int32 array and float32 array, or None
            Item rows and scores, the best first, equals by row. None where all items have to be looked at:
            the list would be short, or so much has to be found that it would be no faster.
        """
        n_wanted = 2 * k + hidden.size
        if n_wanted > min(_LARGEST_SEARCH, self._n_items // 4):
            return None
        query = user / max(float(np.abs(user).max()), _LEAST)
        found = np.asarray(self._graph.search(query, n_wanted, threads=1).keys)
        rows = found.astype(np.int32)
        if hidden.size:
            places = np.minimum(np.searchsorted(hidden, rows), hidden.size - 1)
            rows = rows[hidden[places] != rows]
        if rows.size < k:
            return None
        scores = item_factors[rows] @ user
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def save(self, path: Path) -> None:
        """Write the index as a file."""
        self._graph.save(str(path))


def build_item_index(
    item_factors: Factors,
    options: IndexOptions,
    n_threads: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> ItemIndex:
    """Build an index over all items.

    Parameters
    ----------
    item_factors : float32 array of shape (n_items, n_factors)
        The items' factors, finite.
    options : IndexOptions
        How to build.
    n_threads : int
        Number of threads; the graph, and so what is found, depends on their timing where there are several.
    progress : callable or None
        Called with the items added and their number.

    Raises
    ------
    MissingDependencyError
        If usearch is not installed.
    """
    n_items, n_factors = item_factors.shape
    graph = _library().Index(
        ndim=n_factors,
        metric="ip",
        dtype="f16",
        connectivity=options.connectivity,
        expansion_add=options.expansion_add,
        expansion_search=options.expansion_search or _SEARCHES[-1],
    )
    lengths, largest = np.empty(n_items), _LEAST
    measure_rows(item_factors, lengths)
    starts = range(0, n_items, _BLOCK_ROWS)
    for start in starts:
        largest = max(largest, float(np.abs(item_factors[start : start + _BLOCK_ROWS]).max()))
    # The longest first: most searches end among them, and what lies together in memory is found together.
    order = np.argsort(-lengths, kind="stable")
    for start in starts:
        rows = order[start : start + _BLOCK_ROWS]
        graph.add(rows.astype(np.uint64), item_factors[rows] / np.float32(largest), threads=n_threads)
        if progress is not None:
            progress(start + rows.size, n_items)
    return ItemIndex(graph, n_items)


def open_item_index(path: Path, n_items: int, expansion_search: int) -> ItemIndex:
    """Open an index that `ItemIndex.save` wrote, memory-mapped.

    Parameters
    ----------
    path : Path
        A local file whose checksum was compared with its record.
    n_items : int
        Items of the model.
    expansion_search : int
        Candidates looked at in a search; the file does not know how many it was judged with.

    Raises
    ------
    DataError
        If it is not an index over so many items.
    MissingDependencyError
        If usearch is not installed.
    """
    library = _library()
    try:
        graph = library.Index.restore(str(path), view=True)
        n_found = 0 if graph is None else len(graph)
    except RuntimeError as error:
        raise DataError(f"{path}: not a readable index ({error}); publish with --index again") from error
    if n_found != n_items:
        raise DataError(f"{path}: expected an index over {n_items} items, found {n_found}; publish with --index again")
    graph.expansion_search = expansion_search
    return ItemIndex(graph, n_items)


def measure_recall(
    contents: ModelContents, index: ItemIndex, options: IndexOptions, n_threads: int
) -> tuple[float, int]:
    """Measure which share of the exact lists' items an index finds.

    Parameters
    ----------
    contents : ModelContents
        The model.
    index : ItemIndex
        The index of its items.
    options : IndexOptions
        How many users, and the length of the lists. Their training interactions are left out, as when serving.
    n_threads : int
        Number of threads of the exact lists.

    Returns
    -------
    float and int
        The mean share, and the number of users. A list for which the index gives up and
        all items are looked at counts as found.

    Raises
    ------
    InputError
        If no user has interactions, so that there is nothing to judge by.
    """
    shares = _Judges.of(contents, options, _draw_users(contents, options)[1], n_threads).judge(index)
    return float(shares.mean()), shares.size


def choose_search(contents: ModelContents, index: ItemIndex, options: IndexOptions, n_threads: int) -> int:
    """Find the fewest candidates of a search with which an index passes its gate, by other users than judge it.

    Parameters
    ----------
    contents, index, options, n_threads
        As of `measure_recall`. The index is left with what was found.

    Returns
    -------
    int
        ``options.expansion_search`` where it is given; else the first of 64, 96, 128, ... 1024 whose recall is a
        standard error above the gate, or the last.

    Raises
    ------
    InputError
        If no user has interactions, so that there is nothing to judge by.
    """
    if options.expansion_search is not None:
        index.expansion_search = options.expansion_search
        return options.expansion_search
    judges = _Judges.of(contents, options, _draw_users(contents, options)[0], n_threads)
    for search in _SEARCHES:
        index.expansion_search = search
        shares = judges.judge(index)
        if shares.mean() - shares.std() / shares.size**0.5 >= options.gate:
            break
    return search


@dataclass(frozen=True, slots=True)
class _Judges:
    """Users with their exact lists, to which those of an index are compared."""

    contents: ModelContents
    users: Offsets
    seen: InteractionRows
    exact: TopK

    @classmethod
    def of(cls, contents: ModelContents, options: IndexOptions, users: Offsets, n_threads: int) -> "_Judges":
        seen = contents.seen.take(users)
        k = min(options.k, contents.n_items)
        exact = top_k(contents.user_factors[users], contents.item_factors, k, seen=seen, n_threads=n_threads)
        return cls(contents, users, seen, exact)

    def judge(self, index: ItemIndex) -> Float64Array:
        """Give the share of each user's exact list that an index finds; all of it where the index gives up."""
        shares, k = np.ones(self.users.size), self.exact.items.shape[1]
        for position, user in enumerate(self.users):
            expected = self.exact.items[position][self.exact.items[position] >= 0]
            factors, hidden = self.contents.user_factors[user], self.seen.columns_of(position)
            found = index.rank(factors, self.contents.item_factors, k, hidden)
            if found is not None and expected.size:
                shares[position] = np.isin(expected, found[0]).mean()
        return shares


def _draw_users(contents: ModelContents, options: IndexOptions) -> tuple[Offsets, Offsets]:
    """Draw the users by whom a search is chosen, and those who judge it; a lone user does both."""
    active = np.flatnonzero(contents.seen.degrees)
    if not active.size:
        raise InputError("index: no user of the model has interactions; there is nothing to judge its recall by")
    drawn = np.random.default_rng([options.seed, 7]).permutation(active)[: 2 * options.n_users]
    choosing, judging = np.array_split(drawn, 2) if drawn.size > 1 else (drawn, drawn)
    return np.sort(choosing), np.sort(judging)


def _library() -> Any:
    try:
        from usearch import index  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "an approximate index needs the package usearch, which is not installed; run: pip install 'rgals[index]'"
        ) from error
    return index
