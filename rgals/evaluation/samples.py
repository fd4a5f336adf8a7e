"""Sample users of a report: a few, from the least to the most active, with what they did and what they are shown."""

from collections.abc import Mapping, Sequence

import numpy as np

from rgals.data.dataset import Dataset
from rgals.data.hashing import hash_numbers
from rgals.evaluation.protocol import EvaluatedUsers
from rgals.evaluation.report_sections import ListedItem, SampleUser
from rgals.names import Offsets, Rows

__all__ = ["N_SAMPLE_USERS", "choose_sample_users", "describe_sample_users"]

N_SAMPLE_USERS = 10
"""Users whose lists are kept."""

_N_SHOWN = 20
"""Seen items that are named."""

_KEY = 0x5EED_1D5
"""Key of the choice: fixed, so that every model and every process choose the same users."""


def choose_sample_users(users: EvaluatedUsers, n_users: int = N_SAMPLE_USERS) -> Offsets:
    """Choose users spread over activity.

    Parameters
    ----------
    users : EvaluatedUsers
        From whom to choose.
    n_users : int
        How many.

    Returns
    -------
    int64 array of at most n_users positions
        Positions among the evaluated users, by number of seen items rising.

    Notes
    -----
    The users are put in the order of their number of seen items and cut into ``n_users`` groups of
    equal size; of each group the user with the smallest keyed hash of the row is taken. The choice
    depends on nothing but the users.
    """
    keys = hash_numbers(users.user_rows ^ _KEY)
    order = np.lexsort((keys, users.seen.degrees))
    groups = np.array_split(order, min(n_users, order.size))
    return np.array([group[np.argmin(keys[group])] for group in groups], dtype=np.int64)


def describe_sample_users(
    dataset: Dataset, users: EvaluatedUsers, positions: Offsets, lists: Mapping[str, Rows], k: int
) -> list[SampleUser]:
    """Name what sample users have seen, what is held out of them, and what each model shows them.

    Parameters
    ----------
    dataset : Dataset
        For ids and times. Where it has times, the parts of the seen items are read once more, a shard at a time.
    users : EvaluatedUsers
        Of this dataset.
    positions : int64 array of shape (n_sample,)
        From `choose_sample_users`.
    lists : mapping of str to int32 array of shape (n_sample, k_max)
        Item rows of each model's lists, -1 where a list has no more.
    k : int
        Length to show.
    """
    seen = _order_seen(dataset, users, positions)
    user_ids = _name(dataset.user_ids.ids_of(users.user_rows[positions]))
    found = []
    for index, position in enumerate(positions.tolist()):
        held_out = users.held_out.columns_of(position)
        truth = set(held_out.tolist())
        shown = {name: [row for row in rows[index, :k].tolist() if row >= 0] for name, rows in lists.items()}
        found.append(
            SampleUser(
                user_id=user_ids[index],
                n_seen=int(users.seen.degrees[position]),
                seen=_name(dataset.item_ids.ids_of(seen[index][:_N_SHOWN])),
                held_out=_name(dataset.item_ids.ids_of(held_out)),
                lists={
                    name: [
                        ListedItem(item_id=item_id, is_hit=row in truth)
                        for item_id, row in zip(_name(dataset.item_ids.ids_of(np.array(rows))), rows, strict=True)
                    ]
                    for name, rows in shown.items()
                },
            )
        )
    return found


def _name(ids: Sequence[str | int]) -> list[str]:
    return [str(value) for value in ids]


def _order_seen(dataset: Dataset, users: EvaluatedUsers, positions: Offsets) -> list[Rows]:
    """Give the seen items of each user, the most recent first, or by row where the dataset has no times."""
    if not dataset.manifest.has_times:
        return [users.seen.columns_of(position) for position in positions.tolist()]
    wanted = users.user_rows[positions]
    items: list[list[Rows]] = [[] for _ in wanted]
    times: list[list[Offsets]] = [[] for _ in wanted]
    for part in users.seen_parts:
        for entries in dataset.iter_entries(part):
            if entries.times is None:
                continue
            starts = np.searchsorted(entries.rows, wanted, side="left")
            stops = np.searchsorted(entries.rows, wanted, side="right")
            for index in np.flatnonzero(stops > starts).tolist():
                items[index].append(entries.columns[starts[index] : stops[index]])
                times[index].append(entries.times[starts[index] : stops[index]])
    ordered = []
    for columns, when in zip(items, times, strict=True):
        rows = np.concatenate([np.zeros(0, dtype=np.int32), *columns])
        ordered.append(rows[np.lexsort((rows, -np.concatenate([np.zeros(0, dtype=np.int64), *when])))])
    return ordered
