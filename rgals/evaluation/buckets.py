"""Buckets of users by activity and of items by popularity: how a model does in each, and who wins there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rgals.evaluation.protocol import EvaluatedUsers
from rgals.evaluation.report_sections import BucketDifference, ItemBucket, UserBucket, UserBucketDifference
from rgals.evaluation.significance import round_differences
from rgals.evaluation.values import ModelValues
from rgals.names import BoolArray, Float64Array, IntArray, Offsets

__all__ = [
    "Buckets",
    "bucket_items",
    "bucket_users",
    "compare_by_item_bucket",
    "compare_by_user_bucket",
    "cut_buckets",
    "measure_item_buckets",
    "measure_user_buckets",
]

N_BUCKETS = 5


@dataclass(frozen=True, slots=True)
class Buckets:
    """Users or items in groups of neighboring values.

    Parameters
    ----------
    low, high : int64 arrays of shape (n_buckets,)
        Smallest and largest value in each bucket, rising.
    bucket_of : int64 array of shape (n,)
        Bucket of each user or item.
    """

    low: Offsets
    high: Offsets
    bucket_of: Offsets

    @property
    def n_buckets(self) -> int:
        """Number of buckets."""
        return int(self.low.size)

    @property
    def sizes(self) -> Offsets:
        """Number of users or items in each bucket."""
        return self.count(np.arange(self.bucket_of.size))

    @property
    def labels(self) -> list[str]:
        """Name each bucket by its values, such as ``10–25``."""
        ends = zip(self.low.tolist(), self.high.tolist(), strict=True)
        return [f"{low:,}" if low == high else f"{low:,}\u2013{high:,}" for low, high in ends]

    def count(self, members: IntArray) -> Offsets:
        """Count members, given by position and perhaps repeatedly, in each bucket."""
        return np.bincount(self.bucket_of[members], minlength=self.n_buckets).astype(np.int64)

    def sum(self, values: Float64Array | Offsets | BoolArray) -> Float64Array:
        """Sum a value of each user or item in each bucket."""
        return np.bincount(self.bucket_of, weights=values, minlength=self.n_buckets).astype(np.float64)


def cut_buckets(values: Offsets, shares: Offsets, n_buckets: int = N_BUCKETS) -> Buckets:
    """Cut rising values into buckets that hold about equal shares; equal values stay together.

    Parameters
    ----------
    values : int64 array of shape (n,)
        At least one.
    shares : int64 array of shape (n,)
        What each counts, not negative.
    n_buckets : int
        Number of buckets wanted; fewer where there are fewer different values, or one of them has more than its part.

    Notes
    -----
    Of the places between different values, those nearest to 1/n, 2/n, ... of the total are cut.
    """
    distinct, code_of = np.unique(values, return_inverse=True)
    totals = np.cumsum(np.bincount(code_of, weights=shares, minlength=distinct.size))
    is_place = (totals > 0) & (totals < totals[-1])
    places = np.flatnonzero(is_place)
    wanted = totals[-1] * np.arange(1, n_buckets) / n_buckets
    nearest = [int(places[np.argmin(np.abs(totals[places] - share))]) for share in wanted] if places.size else []
    cuts = np.array(sorted(set(nearest)), dtype=np.int64)
    bucket_of_code = np.searchsorted(cuts, np.arange(distinct.size), side="left")
    firsts = np.concatenate([np.zeros(1, dtype=np.int64), cuts + 1])
    lasts = np.concatenate([cuts, np.array([distinct.size - 1])])
    return Buckets(distinct[firsts], distinct[lasts], bucket_of_code[code_of].astype(np.int64))


def bucket_users(users: EvaluatedUsers) -> Buckets:
    """Put the evaluated users into five buckets of about equal size, by their number of seen items."""
    return cut_buckets(users.seen.degrees, np.ones(users.n_users, dtype=np.int64))


def bucket_items(users: EvaluatedUsers) -> Buckets:
    """Put the items into five buckets with about equal shares of the training interactions, by popularity."""
    degrees = users.popularity[:, 0].astype(np.int64)
    return cut_buckets(degrees, degrees)


def measure_user_buckets(buckets: Buckets, values: ModelValues, keys: Sequence[str]) -> list[UserBucket]:
    """Give a model's means over the users of each bucket.

    Parameters
    ----------
    buckets : Buckets
        From `bucket_users`.
    values : ModelValues
        Of the same users.
    keys : sequence of str
        Metrics, such as ``"ndcg@20"``.
    """
    sizes = buckets.sizes
    means = {key: buckets.sum(values.by_user[key]) / sizes for key in keys}
    return [
        UserBucket(
            label=label,
            low=int(buckets.low[index]),
            high=int(buckets.high[index]),
            n_users=int(sizes[index]),
            metrics={key: float(mean[index]) for key, mean in means.items()},
        )
        for index, label in enumerate(buckets.labels)
    ]


def measure_item_buckets(buckets: Buckets, users: EvaluatedUsers, values: ModelValues, k: int) -> list[ItemBucket]:
    """Say for the items of each bucket how often they are recommended, and how many held-out interactions are found.

    Parameters
    ----------
    buckets : Buckets
        From `bucket_items`.
    users : EvaluatedUsers
        Their held-out interactions.
    values : ModelValues
        Of the same users.
    k : int
        Length of the lists, one of the cutoffs.
    """
    n_held_out = buckets.count(users.held_out.columns)
    n_found = buckets.count(users.held_out.columns[_is_found(values, k)])
    n_recommended = buckets.sum(values.counts[k]).astype(np.int64)
    shares, recalls = _divide(n_recommended, n_recommended.sum()), _divide(n_found, n_held_out)
    sizes = buckets.sizes
    return [
        ItemBucket(
            label=label,
            low=int(buckets.low[index]),
            high=int(buckets.high[index]),
            n_items=int(sizes[index]),
            n_held_out=int(n_held_out[index]),
            n_recommended=int(n_recommended[index]),
            share=float(shares[index]),
            recall=float(recalls[index]),
        )
        for index, label in enumerate(buckets.labels)
    ]


def compare_by_user_bucket(
    buckets: Buckets, first: ModelValues, other: ModelValues, key: str
) -> list[UserBucketDifference]:
    """Count in each bucket the users for whom either model is better, by one metric."""
    differences = round_differences(first.by_user[key] - other.by_user[key])
    sizes = buckets.sizes
    n_better, n_worse = buckets.sum(differences > 0), buckets.sum(differences < 0)
    means = buckets.sum(differences) / sizes
    return [
        UserBucketDifference(
            label=label,
            n_users=int(sizes[index]),
            n_better=int(n_better[index]),
            n_worse=int(n_worse[index]),
            mean=float(means[index]),
        )
        for index, label in enumerate(buckets.labels)
    ]


def compare_by_item_bucket(
    buckets: Buckets, users: EvaluatedUsers, first: ModelValues, other: ModelValues, k: int
) -> list[BucketDifference]:
    """Count in each bucket of items the held-out interactions that only one of two models finds."""
    columns = users.held_out.columns
    mine, theirs = _is_found(first, k), _is_found(other, k)
    n_better, n_worse = buckets.count(columns[mine & ~theirs]), buckets.count(columns[theirs & ~mine])
    means = _divide(n_better - n_worse, buckets.count(columns))
    return [
        BucketDifference(
            label=label, n_better=int(n_better[index]), n_worse=int(n_worse[index]), mean=float(means[index])
        )
        for index, label in enumerate(buckets.labels)
    ]


def _is_found(values: ModelValues, k: int) -> BoolArray:
    return (values.ranks > 0) & (values.ranks <= k)


def _divide(numerators: Offsets, denominators: Offsets) -> Float64Array:
    """Divide; NaN where there is nothing to divide by."""
    quotients = np.full(numerators.shape, np.nan)
    np.divide(numerators, denominators, out=quotients, where=np.asarray(denominators) > 0)
    return quotients
