"""The best items of each user by the product of factors: exact, over all items, in tiles."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from rgals.errors import InputError, NumericalError
from rgals.names import BoolArray, Factors, Offsets, Rows, Side
from rgals.numerics.compile import kernel
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads, run_blocks
from rgals.numerics.topk_sieve import find_tiles

__all__ = ["TopK", "find_not_finite", "offer_tile", "sort_heaps", "top_k"]

_ITEM_TILE = 1024
_USER_TILES = (8, 32, 64, 128, 256)
"""Users per product. Fewer users than the largest tile take the smallest that gives its very bits."""
_FEW_USERS = 2
"""Users for whom a plain pass each costs less than one product of the smallest tile."""
_MANY_TILES = 8
"""Tiles below which a sieve saves nothing."""
_NO_ROWS: Rows = np.empty(0, dtype=np.int32)
_CHUNK = 64
"""Scores compared with the threshold at once, before any is looked at."""


class TopK(NamedTuple):
    """Ranked lists.

    Parameters
    ----------
    items : int32 array of shape (n_users, k)
        Item rows, the best first; -1 where the user's list is exhausted.
    scores : float32 array of shape (n_users, k)
        Their scores, not rising; -inf where exhausted.
    """

    items: Rows
    scores: Factors


@dataclass(frozen=True, slots=True)
class _Block:
    """A range of users and how many of them are multiplied at once."""

    start: int
    stop: int
    tile_rows: int


@dataclass(frozen=True, slots=True)
class _Problem:
    """What all blocks share; ``lists`` is written, each block its own rows."""

    user_factors: Factors
    item_factors: Factors
    seen: InteractionRows | None
    banned: Rows
    lists: TopK
    longest_item: float | None
    n_threads: int

    @property
    def n_items(self) -> int:
        return int(self.item_factors.shape[0])


@kernel
def _is_worse(scores: Factors, items: Rows, left: int, right: int) -> bool:
    """Tell whether entry ``left`` of a list ranks after entry ``right``."""
    if scores[left] == scores[right]:
        return bool(items[left] > items[right])
    return bool(scores[left] < scores[right])


@kernel
def _sink_root(scores: Factors, items: Rows, size: int) -> None:
    """Restore the heap (the worst entry on top) after its top was replaced."""
    parent = 0
    while True:
        worst = parent
        for child in (2 * parent + 1, 2 * parent + 2):
            if child < size and _is_worse(scores, items, child, worst):
                worst = child
        if worst == parent:
            return
        scores[parent], scores[worst] = scores[worst], scores[parent]
        items[parent], items[worst] = items[worst], items[parent]
        parent = worst


@kernel
def _hide_items(row: Factors, first_item: int, width: int, columns: Rows, cursor: int, end: int) -> int:
    """Give the named columns of a tile's row the score -inf; return how far the sorted columns were used."""
    while cursor < end and columns[cursor] < first_item + width:
        if columns[cursor] >= first_item:
            row[columns[cursor] - first_item] = -np.inf
        cursor += 1
    return cursor


@kernel
def offer_tile(
    tile: Factors,
    first_item: int,
    width: int,
    seen_columns: Rows,
    cursors: Offsets,
    seen_ends: Offsets,
    banned: Rows,
    scores: Factors,
    items: Rows,
) -> None:
    """Offer a tile's scores to each user's heap.

    Items come in ascending order, so one that only equals the worst kept score ranks after it and is
    not taken. Every comparison with NaN is false: a NaN never ranks, nor does -inf.
    """
    size = scores.shape[1]
    for u in range(scores.shape[0]):
        row, kept, names = tile[u], scores[u], items[u]
        cursors[u] = _hide_items(row, first_item, width, seen_columns, cursors[u], seen_ends[u])
        _hide_items(row, first_item, width, banned, 0, banned.size)
        for start in range(0, width, _CHUNK):
            stop = min(start + _CHUNK, width)
            n_better = 0
            for j in range(start, stop):
                n_better += row[j] > kept[0]
            if n_better == 0:
                continue
            for j in range(start, stop):
                if row[j] > kept[0]:
                    kept[0] = row[j]
                    names[0] = first_item + j
                    _sink_root(kept, names, size)


@kernel
def sort_heaps(scores: Factors, items: Rows) -> None:
    """Turn each heap into a list, the best first."""
    for u in range(scores.shape[0]):
        kept, names = scores[u], items[u]
        for last in range(kept.size - 1, 0, -1):
            kept[0], kept[last] = kept[last], kept[0]
            names[0], names[last] = names[last], names[0]
            _sink_root(kept, names, last)


@kernel
def _multiply_plain(users: Factors, items: Factors, out: Factors) -> None:
    """Multiply one pair after the other, for a BLAS whose bits depend on a row's place."""
    for u in range(users.shape[0]):
        for i in range(items.shape[0]):
            total = np.float32(0.0)
            for f in range(users.shape[1]):
                total += users[u, f] * items[i, f]
            out[u, i] = total


@kernel
def find_not_finite(factors: Factors) -> tuple[int, int]:
    """Count rows with a NaN or an infinity; give the count and the first such row, or -1."""
    n_bad = 0
    first = -1
    for row in range(factors.shape[0]):
        n_entries = 0
        for f in range(factors.shape[1]):
            n_entries += not np.isfinite(factors[row, f])
        if n_entries > 0:
            n_bad += 1
            if first < 0:
                first = row
    return n_bad, first


def top_k(
    user_factors: Factors,
    item_factors: Factors,
    k: int,
    *,
    seen: InteractionRows | None = None,
    is_allowed: BoolArray | None = None,
    n_threads: int | None = None,
    longest_item: float | None = None,
) -> TopK:
    """Rank all items for each user by ``user_factors @ item_factors.T`` and give the best ``k``.

    Parameters
    ----------
    user_factors : float32 array of shape (n_users, n_factors)
        Factors of the users asked for.
    item_factors : float32 array of shape (n_items, n_factors)
        Factors of all items. Rows of length 1 on both sides rank by cosine similarity.
    k : int
        Length of the lists, at least 1; more than ``n_items`` is allowed.
    seen : InteractionRows of shape (n_users, n_items) or None
        Items that never appear in their user's list.
    is_allowed : bool array of shape (n_items,) or None
        Items that may appear in any list; None allows all.
    n_threads : int or None
        Number of threads; None uses every processor.
    longest_item : float or None
        Length of the longest item's factors, or more, where the caller knows it and so that all are finite. Saves a
        look at all of them, and for few users most of the products; the lists are the same. None looks at all.

    Returns
    -------
    TopK
        Score descending, equal scores by item row ascending. A list with fewer than ``k`` eligible
        items ends with -1 and -inf. A score that overflowed to NaN or -inf does not rank.

    Raises
    ------
    InputError
        If shapes do not fit or ``k`` is below 1.
    NumericalError
        If a factor is NaN or infinite.

    Notes
    -----
    Exact with respect to the float32 scores. Scores and order have the same bits for any number of
    threads and whichever users are asked for together: a pair's product is always computed in a tile
    of 1,024 items (padded with zeros), at the item's own place in it, and the sizes of user tiles are
    those found to give equal bits on this machine. Scratch memory is 1 MiB per thread.
    """
    users = np.ascontiguousarray(user_factors, dtype=np.float32)
    items = np.ascontiguousarray(item_factors, dtype=np.float32)
    _check(users, items, k, seen, is_allowed, n_threads)
    lists = TopK(np.full((len(users), k), -1, dtype=np.int32), np.full((len(users), k), -np.inf, dtype=np.float32))
    banned = np.empty(0, dtype=np.int32) if is_allowed is None else np.flatnonzero(~is_allowed).astype(np.int32)
    threads = available_threads() if n_threads is None else n_threads
    tiles, use_blas = run_blocks(_choose_tiles, [users.shape[1]], 1)[0]
    blocks = _divide(len(users), tiles, threads)
    spare = threads if len(blocks) == 1 else 1  # a lone block runs in this thread
    problem = _Problem(users, items, seen, banned, lists, longest_item, spare)
    found = run_blocks(lambda block: _rank_block(problem, block, use_blas), blocks, threads)
    _raise_if_not_finite("user", len(users), [(n, first) for n, first, _, _ in found])
    _raise_if_not_finite("item", len(items), [(n, first) for _, _, n, first in found[:1]])
    return lists


def _rank_block(problem: _Problem, block: _Block, use_blas: bool) -> tuple[int, int, int, int]:
    """Rank the items for a block of users; give counts and first rows of factors that are not finite."""
    n_users = block.stop - block.start
    users = np.zeros((block.tile_rows, problem.user_factors.shape[1]), dtype=np.float32)
    users[:n_users] = problem.user_factors[block.start : block.stop]
    n_bad_users, bad_user = find_not_finite(users)
    n_bad_items, bad_item = 0, -1
    scores, items = problem.lists.scores[block.start : block.stop], problem.lists.items[block.start : block.stop]
    if problem.seen is None:
        cursors = np.zeros(n_users, dtype=np.int64)
        ends, columns = cursors, np.empty(0, dtype=np.int32)
    else:
        cursors = problem.seen.indptr[block.start : block.stop].copy()
        ends, columns = problem.seen.indptr[block.start + 1 : block.stop + 1], problem.seen.columns
    tile = np.empty((block.tile_rows, _ITEM_TILE), dtype=np.float32)
    bounds = np.searchsorted(problem.banned, np.arange(0, problem.n_items + _ITEM_TILE, _ITEM_TILE))
    for first in _tiles_of(problem, block):
        index, width = first // _ITEM_TILE, min(_ITEM_TILE, problem.n_items - first)
        factors = _item_tile(problem.item_factors, first)
        # Once is enough, and here the tile is in the cache already.
        if block.start == 0 and problem.longest_item is None:
            n_bad, bad = find_not_finite(factors)
            bad_item = first + bad if bad >= 0 and bad_item < 0 else bad_item
            n_bad_items += n_bad
        banned = problem.banned[bounds[index] : bounds[index + 1]]
        if banned.size == width:
            continue
        _multiply(users, factors, tile, use_blas)
        offer_tile(tile, first, width, columns, cursors, ends, banned, scores, items)
    sort_heaps(scores, items)
    return n_bad_users, block.start + bad_user, n_bad_items, bad_item


def _tiles_of(problem: _Problem, block: _Block) -> list[int]:
    """Give the first items of the tiles that a block of users has to be multiplied with."""
    n_users, k = block.stop - block.start, problem.lists.items.shape[1]
    tiles: Offsets | None = None
    if problem.longest_item is not None and n_users <= _FEW_USERS and problem.n_items >= _MANY_TILES * _ITEM_TILE:
        rows = range(block.start, block.stop)
        hidden = [_NO_ROWS if problem.seen is None else problem.seen.columns_of(row) for row in rows]
        users = problem.user_factors[block.start : block.stop]
        tiles = find_tiles(
            users, problem.item_factors, k, hidden, problem.banned, problem.longest_item, _ITEM_TILE, problem.n_threads
        )
    return list(range(0, problem.n_items, _ITEM_TILE)) if tiles is None else tiles.tolist()


def _item_tile(item_factors: Factors, first: int) -> Factors:
    """Give a whole tile of items; the last one is padded with zeros."""
    factors = item_factors[first : first + _ITEM_TILE]
    if len(factors) == _ITEM_TILE:
        return factors
    padded = np.zeros((_ITEM_TILE, item_factors.shape[1]), dtype=np.float32)
    padded[: len(factors)] = factors
    return padded


def _multiply(users: Factors, items: Factors, out: Factors, use_blas: bool) -> None:
    """Multiply a tile of users with a tile of items."""
    if use_blas:
        # An overflow is no error here: the infinity ranks first or last, a NaN nowhere.
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(users, items.T, out=out)
    else:
        _multiply_plain(users, items, out)


def _divide(n_users: int, tiles: tuple[int, ...], n_threads: int) -> list[_Block]:
    """Cut the users into blocks, small enough that every thread has work, and pick each one's tile."""
    share = -(-n_users // n_threads)
    size = min((tile for tile in tiles if tile >= share), default=max(tiles))
    starts = range(0, n_users, size)
    ends = [min(start + size, n_users) for start in starts]
    return [_Block(start, stop, _smallest(tiles, stop - start)) for start, stop in zip(starts, ends, strict=True)]


def _smallest(tiles: tuple[int, ...], n_users: int) -> int:
    return min(tile for tile in tiles if tile >= n_users)


@cache
def _choose_tiles(n_factors: int) -> tuple[tuple[int, ...], bool]:
    """Find the user tiles in which a pair's product has the same bits, wherever in the tile it is.

    BLAS picks its code by the shape of a product and by the place in it. OpenBLAS adds up along the
    factors in one order in all of them, as far as seen, so that every size passes; this check, some
    milliseconds once for a number of factors, makes sure of it.

    Returns
    -------
    tuple of tuple of int and bool
        The sizes; and whether BLAS may be used at all.
    """
    largest = _USER_TILES[-1]
    generator = np.random.default_rng(0)
    users = generator.standard_normal((largest, n_factors)).astype(np.float32)
    items = generator.standard_normal((_ITEM_TILE, n_factors)).astype(np.float32)
    whole = users @ items.T
    same_user = np.ascontiguousarray(np.broadcast_to(users[:1], users.shape)) @ items.T
    if not (same_user == whole[0]).all():
        return _USER_TILES, False
    return tuple(
        tile
        for tile in _USER_TILES
        if all(
            np.array_equal(users[start : start + tile] @ items.T, whole[start : start + tile])
            for start in range(0, largest, tile)
        )
    ), True


def _check(
    users: Factors,
    items: Factors,
    k: int,
    seen: InteractionRows | None,
    is_allowed: BoolArray | None,
    n_threads: int | None,
) -> None:
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1]:
        raise InputError(
            f"top_k: expected factors of shape (n_users, d) and (n_items, d), found {users.shape} and {items.shape}"
        )
    if k < 1:
        raise InputError(f"top_k: expected k of at least 1, found {k}")
    if n_threads is not None and n_threads < 1:
        raise InputError(f"top_k: expected n_threads of at least 1, found {n_threads}; leave it out to use all")
    if seen is not None and (seen.n_rows, seen.n_columns) != (len(users), len(items)):
        raise InputError(
            f"top_k: expected seen interactions of {len(users)} users with {len(items)} items, found "
            f"{seen.n_rows} with {seen.n_columns}; take the rows of the users that are asked for"
        )
    if is_allowed is not None and (is_allowed.shape != (len(items),) or is_allowed.dtype != np.bool_):
        raise InputError(
            f"top_k: expected is_allowed as {len(items)} booleans, found {is_allowed.dtype} of shape {is_allowed.shape}"
        )


def _raise_if_not_finite(side: Side, n_rows: int, found: list[tuple[int, int]]) -> None:
    n_bad = sum(n for n, _ in found)
    if n_bad:
        first = min(row for n, row in found if n)
        raise NumericalError(
            f"top_k: {n_bad} of {n_rows} {side} rows have factors that are NaN or infinite, the first is "
            f"row {first}; train again with a larger reg"
        )
