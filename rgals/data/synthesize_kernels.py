"""Kernels of the generator: keyed random numbers, alias tables, one user's interactions.

Every user owns a random stream that starts at a hash of (seed, user row) and advances by a fixed
step, so that what a user does depends on nothing but the seed, the user and the catalog: not on
threads, blocks or the number of other users.

The stream works on unsigned 64-bit numbers that wrap around on purpose. Compiled, they do so
silently; run as plain Python, numpy warns unless the caller holds ``np.errstate(over="ignore")``.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgals.names import Float64Array, Offsets, Rows
from rgals.numerics.compile import kernel

__all__ = ["N_TASTES", "PERIOD_S", "Catalog", "activity_weights", "build_alias", "hash_uniforms", "simulate_users"]

UInt64Array = NDArray[np.uint64]

PERIOD_S = 2 * 365 * 86_400
"""Length of the generated history in seconds: two years."""

N_TASTES = 4
"""Topics that a user cares about; repeated draws of one topic add up."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_TO_FRACTION_SHIFT, _TO_FRACTION = np.uint64(11), 2.0**-53
_STREAM_SHIFT = np.uint64(56)
_ACTIVITY_STREAM = np.uint64(7)

_POPULAR_FRACTION = 0.12  # choices that follow the crowd and not the user's tastes
_FOCUS_FRACTION = 0.5  # choices in a session that stay with its topic
_EVENTS_PER_SESSION = 6
_GAP_S = 240.0  # mean time between two choices of a session
_FAD_S = 120.0 * 86_400.0  # decay time of a fad's appeal
_MAX_TRIES = 24
_ALIAS_SCALE = 2.0**31


class Catalog(NamedTuple):
    """What all users choose from; read by the kernel, never modified.

    Parameters
    ----------
    slots : int32 array of shape (n_entries, 3)
        Alias tables, one after the other: item row, alternative item row, threshold times 2^31.
        One row per entry, so that a draw from a large catalog misses the cache once.
    table_starts : int64 array of shape (n_topics + 2,)
        Table ``t`` spans ``table_starts[t]`` to ``table_starts[t + 1]``; the last is the whole catalog.
    topic_cdf : float64 array of shape (n_topics,)
        Cumulative share of each topic in all popularity.
    traits : float32 array of shape (n_items, 5)
        Release in seconds from the start of the period, 1 for a fad or 0, quality (mean 0,
        deviation 1), first and second topic; together, so that an item costs one cache miss.
    """

    slots: NDArray[np.int32]
    table_starts: Offsets
    topic_cdf: Float64Array
    traits: NDArray[np.float32]


@kernel
def _mix(value: Any) -> Any:
    """Scramble 64 bits (the finalizer of splitmix64)."""
    value = (value ^ (value >> _SHIFT_1)) * _MIX_1
    value = (value ^ (value >> _SHIFT_2)) * _MIX_2
    return value ^ (value >> _SHIFT_3)


@kernel
def _stream_start(seed: Any, stream: Any, row: Any) -> Any:
    """Hash (seed, stream, row) into the first state of a random stream."""
    return _mix(_mix(seed + (stream << _STREAM_SHIFT)) + _STEP * (np.uint64(row) + np.uint64(1)))


@kernel
def _uniform(state: UInt64Array) -> float:
    """Advance the stream and give a number in [0, 1)."""
    state[0] = state[0] + _STEP
    return float(_mix(state[0]) >> _TO_FRACTION_SHIFT) * _TO_FRACTION


@kernel
def hash_uniforms(seed: Any, stream: Any, out: Float64Array) -> None:
    """Fill ``out[row]`` with a number in [0, 1) keyed by (seed, stream, row)."""
    for row in range(out.size):
        out[row] = float(_stream_start(seed, stream, row) >> _TO_FRACTION_SHIFT) * _TO_FRACTION


@kernel
def activity_weights(seed: Any, sigma: float, out: Float64Array) -> None:
    """Fill ``out[user_row]`` with a log-normal weight keyed by (seed, user row)."""
    state = np.empty(1, np.uint64)
    for row in range(out.size):
        state[0] = _stream_start(seed, _ACTIVITY_STREAM, row)
        radius = math.sqrt(-2.0 * math.log(1.0 - _uniform(state)))
        out[row] = math.exp(sigma * radius * math.cos(2.0 * math.pi * _uniform(state)))


@kernel
def build_alias(weights: Float64Array, items: Rows, slots: NDArray[np.int32]) -> None:
    """Fill the alias table of one distribution (Vose's method).

    Parameters
    ----------
    weights : float64 array of shape (n_entries,)
        Positive, in any scale.
    items : int32 array of shape (n_entries,)
        The item row that each entry stands for.
    slots : int32 array of shape (n_entries, 3)
        Receives item row, alternative item row, threshold times 2^31.
    """
    n_entries = weights.size
    total = 0.0
    for entry in range(n_entries):
        total += weights[entry]
    share = np.empty(n_entries, np.float64)
    queue = np.empty(n_entries, np.int64)  # small shares from the left, large ones from the right
    n_small, large = 0, n_entries
    for entry in range(n_entries):
        share[entry] = weights[entry] * n_entries / total
        slots[entry, 0] = items[entry]
        slots[entry, 1] = items[entry]
        slots[entry, 2] = np.int32(_ALIAS_SCALE - 1)
        if share[entry] < 1.0:
            queue[n_small] = entry
            n_small += 1
        else:
            large -= 1
            queue[large] = entry
    while n_small > 0 and large < n_entries:
        n_small -= 1
        small_entry, large_entry = queue[n_small], queue[large]
        slots[small_entry, 1] = items[large_entry]
        slots[small_entry, 2] = np.int32(share[small_entry] * (_ALIAS_SCALE - 1))
        share[large_entry] -= 1.0 - share[small_entry]
        if share[large_entry] < 1.0:
            queue[n_small] = large_entry
            n_small += 1
            large += 1


@kernel
def _draw_from_table(state: UInt64Array, catalog: Catalog, table: int) -> int:
    """Draw an item row from one alias table with one random number: its bits choose entry and side."""
    start = catalog.table_starts[table]
    position = _uniform(state) * (catalog.table_starts[table + 1] - start)
    entry = int(position)
    chosen = start + entry
    side = 0 if (position - entry) * _ALIAS_SCALE < catalog.slots[chosen, 2] else 1
    return int(catalog.slots[chosen, side])


@kernel
def _draw_tastes(state: UInt64Array, catalog: Catalog, topics: NDArray[np.int32], cdf: Float64Array) -> None:
    """Draw a user's topics, by their popularity, and the cumulative weight of each."""
    total = 0.0
    for taste in range(topics.size):
        topic = np.searchsorted(catalog.topic_cdf, _uniform(state))
        topics[taste] = topic if topic < catalog.topic_cdf.size else catalog.topic_cdf.size - 1
        total -= math.log(1.0 - _uniform(state))
        cdf[taste] = total
    for taste in range(topics.size):
        cdf[taste] /= total


@kernel
def _pick_taste(state: UInt64Array, cdf: Float64Array) -> int:
    """Draw one of the user's tastes by weight."""
    point, taste = _uniform(state), 0
    while taste < cdf.size - 1 and point >= cdf[taste]:
        taste += 1
    return taste


@kernel
def _appeal(catalog: Catalog, item_row: int, time_s: float) -> float:
    """Give the probability that an item is still taken at a time: 0 before release, falling for fads."""
    age_s = time_s - catalog.traits[item_row, 0]
    if age_s < 0.0:
        return 0.0
    if catalog.traits[item_row, 1] == 0.0:
        return 1.0
    return 0.15 + 0.85 * math.exp(-age_s / _FAD_S)


@kernel
def _claim(taken: NDArray[np.int64], mask: int, user_row: int, item_row: int) -> bool:
    """Note the pair in the hash table; tell whether it is new.

    Entries carry the user's row, so that the next user finds them stale and nothing is cleared.
    """
    key = ((np.int64(user_row) + 1) << 32) | np.int64(item_row)
    position = (np.int64(item_row) * 40_503) & mask
    while (taken[position] >> 32) == user_row + 1:
        if taken[position] == key:
            return False
        position = (position + 1) & mask
    taken[position] = key
    return True


@kernel
def _choose_item(
    state: UInt64Array,
    catalog: Catalog,
    taken: NDArray[np.int64],
    mask: int,
    user_row: int,
    topics: NDArray[np.int32],
    cdf: Float64Array,
    focus: int,
    time_s: float,
) -> int:
    """Draw an item that the user does not have yet; after many refusals any free one."""
    n_items, whole = catalog.traits.shape[0], catalog.topic_cdf.size
    for attempt in range(_MAX_TRIES):
        if attempt >= _MAX_TRIES // 2 or _uniform(state) < _POPULAR_FRACTION:
            table = whole
        elif _uniform(state) < _FOCUS_FRACTION:
            table = int(topics[focus])
        else:
            table = int(topics[_pick_taste(state, cdf)])
        item_row = _draw_from_table(state, catalog, table)
        appeal = _appeal(catalog, item_row, time_s)
        if (appeal == 1.0 or _uniform(state) < appeal) and _claim(taken, mask, user_row, item_row):
            return item_row
    item_row = int(_uniform(state) * n_items)
    while not _claim(taken, mask, user_row, item_row):
        item_row = (item_row + 1) % n_items
    return item_row


@kernel
def _rate(
    state: UInt64Array, catalog: Catalog, topics: NDArray[np.int32], cdf: Float64Array, bias: float, item_row: int
) -> int:
    """Draw a rating from 1 to 5: affinity of tastes and topics, quality, the user's bias, noise."""
    affinity, below = 0.0, 0.0
    for taste in range(topics.size):
        weight = cdf[taste] - below
        below = cdf[taste]
        if topics[taste] == catalog.traits[item_row, 3]:
            affinity += 0.8 * weight
        if topics[taste] == catalog.traits[item_row, 4]:
            affinity += 0.2 * weight
    noise = _uniform(state) + _uniform(state) + _uniform(state) - 1.5
    value = 2.6 + 1.9 * math.sqrt(affinity) + 0.45 * catalog.traits[item_row, 2] + bias + 1.2 * noise
    return int(min(max(math.floor(value + 0.5), 1.0), 5.0))


@kernel
def simulate_users(
    seed: Any,
    first_user: int,
    quotas: Rows,
    catalog: Catalog,
    item_rows: Rows,
    times_s: Rows,
    ratings: NDArray[np.int8],
) -> None:
    """Simulate consecutive users, each visit after visit.

    Parameters
    ----------
    seed : uint64
        Key of all random numbers.
    first_user : int
        Row of the first user.
    quotas : int32 array of shape (n_users,)
        Number of interactions of each user, at most a quarter of the items.
    catalog : Catalog
        What the users choose from.
    item_rows, times_s : int32 arrays of shape (n_interactions,)
        Receive the interactions user after user, each user's in the order of time; seconds from
        the start of the period.
    ratings : int8 array of shape (n_interactions,)
        Receives the ratings.
    """
    state = np.empty(1, np.uint64)
    topics, cdf = np.empty(N_TASTES, np.int32), np.empty(N_TASTES, np.float64)
    table_size = 8
    while table_size < 2 * quotas.max():
        table_size *= 2
    taken = np.zeros(table_size, np.int64)
    out = 0
    for position in range(quotas.size):
        user_row, quota = first_user + position, quotas[position]
        mask = 7
        while mask + 1 < 2 * quota:
            mask = 2 * mask + 1
        state[0] = _stream_start(seed, np.uint64(0), user_row)
        _draw_tastes(state, catalog, topics, cdf)
        bias = 1.5 * (_uniform(state) + _uniform(state) - 1.0)
        joined_s = PERIOD_S * max(1.1 * _uniform(state) - 0.35, 0.0)  # a third is there from the start
        stays = _uniform(state) < 0.6
        window_s = (PERIOD_S - joined_s) * (1.0 if stays else 0.05 + 0.95 * _uniform(state))
        n_sessions = (quota + _EVENTS_PER_SESSION - 1) // _EVENTS_PER_SESSION
        for session in range(n_sessions):
            stop = (quota * (session + 1)) // n_sessions - (quota * session) // n_sessions
            slot_end_s = joined_s + window_s * (session + 1) / n_sessions
            time_s = slot_end_s - window_s / n_sessions * _uniform(state)
            focus = _pick_taste(state, cdf)
            for _ in range(stop):
                item = _choose_item(state, catalog, taken, mask, user_row, topics, cdf, focus, time_s)
                item_rows[out] = item
                times_s[out] = min(int(time_s), PERIOD_S - 1)
                ratings[out] = _rate(state, catalog, topics, cdf, bias, item)
                out += 1
                time_s = min(time_s - _GAP_S * math.log(1.0 - _uniform(state)), slot_end_s)
