"""What is watched during training on fixed samples of users: validation NDCG and the exact softmax loss."""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from rgals.data.hashing import hash_numbers
from rgals.data.shards import InteractionSource
from rgals.errors import InputError
from rgals.names import Float64Array, Offsets, Weights
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.ranking import Gains, ranking_metrics
from rgals.numerics.softmax import SoftmaxCheck, softmax_loss
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k
from rgals.numerics.weighting import weigh_entries
from rgals.training.factor_blocks import ReadableFactors

__all__ = ["SoftmaxMonitor", "ValidationMonitor", "ValidationScore", "read_user_rows", "sample_rows"]


@dataclass(frozen=True, slots=True)
class ValidationScore:
    """Mean NDCG@k over the validation sample."""

    ndcg: float
    n_users: int


class ValidationMonitor:
    """Ranks all items for a fixed sample of the users with held-out interactions.

    Parameters
    ----------
    source : InteractionSource
        Training interactions; those of a user are not ranked.
    held_out : InteractionRows of shape (n_users, n_items)
        The validation part.
    fold_in : InteractionRows of shape (n_users, n_items) or None
        Under the held-out-users split, what each validation user is folded in from, against the
        present item factors; these items are not ranked either. None ranks with the trained user factors.
    loss : Loss
        Used to fold in.
    cutoff : int
        Length k of the ranked lists.
    n_users : int
        Size of the sample; 0 takes every user with held-out interactions.
    seed : int
        Keys the sample: the same seed gives the same users on any machine.
    gains : {"binary", "graded"}
        What a relevant item is worth: 1, or its held-out weight.

    Raises
    ------
    InputError
        If the shapes disagree or no user has held-out interactions.
    """

    def __init__(
        self,
        source: InteractionSource,
        held_out: InteractionRows,
        fold_in: InteractionRows | None,
        loss: Loss,
        *,
        cutoff: int,
        n_users: int,
        seed: int,
        gains: Gains = "binary",
    ) -> None:
        expected = (source.n_users, source.n_items)
        for name, rows in (("validation", held_out), ("validation fold-in", fold_in)):
            if rows is not None and (rows.n_rows, rows.n_columns) != expected:
                raise InputError(
                    f"{name} part: expected shape {expected} as the training part, found "
                    f"{(rows.n_rows, rows.n_columns)}; use the parts of one dataset"
                )
        candidates = np.flatnonzero(held_out.degrees)
        if candidates.size == 0:
            raise InputError(
                "validation part: expected held-out interactions, found none; split the dataset with a larger "
                "validation part, or train without one"
            )
        self.cutoff, self.gains = cutoff, gains
        self.user_rows = sample_rows(candidates, n_users, seed)
        self._loss = loss
        self._held_out = held_out.take(self.user_rows)
        self._fold_in = None if fold_in is None else fold_in.take(self.user_rows)
        self._seen = read_user_rows(source, self.user_rows) if self._fold_in is None else self._fold_in

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sampled users, their held-out items, cutoff and gains: equal where NDCGs can be compared."""
        digest = hashlib.sha256(str(self.cutoff).encode())
        arrays = [self.user_rows, self._held_out.indptr, self._held_out.columns]
        if self.gains == "graded" and self._held_out.weights is not None:
            arrays.append(self._held_out.weights)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def measure(
        self, factors: ReadableFactors, item_degrees: Offsets, weight_scale: float, n_threads: int
    ) -> ValidationScore:
        """Give the mean NDCG@k of the present factors; users without factors get the most popular items.

        Parameters
        ----------
        factors : ReadableFactors
            The factors; those of the items are read whole.
        item_degrees : int64 array of shape (n_items,)
            Training interactions of each item, to fold in with.
        weight_scale : float
            Scale of the observed weights, to fold in with.
        n_threads : int
            Threads to use; the result does not depend on it.
        """
        item_factors = factors.read_all("item")
        if self._fold_in is None:
            user_factors = factors.read_rows("user", self.user_rows)
        else:
            system = UserSystem.build(item_factors, self._loss, item_degrees, weight_scale)
            user_factors = system.solve(self._fold_in, n_threads)
        items = top_k(user_factors, item_factors, self.cutoff, seen=self._seen, n_threads=n_threads).items
        cold = np.flatnonzero(~user_factors.any(axis=1))
        if cold.size:
            # As an evaluation does, and serving: equal scores would rank items by their number.
            ones, popularity = np.ones((cold.size, 1), dtype=np.float32), item_degrees[:, None].astype(np.float32)
            seen = self._seen.take(cold)
            items[cold] = top_k(ones, popularity, self.cutoff, seen=seen, n_threads=n_threads).items
        metrics = ranking_metrics(items, self._held_out, [self.cutoff], self.gains)
        return ValidationScore(float(metrics[f"ndcg@{self.cutoff}"].mean()), int(self.user_rows.size))


class SoftmaxMonitor:
    """Computes the exact softmax loss, and the trained expansion of it, on a fixed sample of the users.

    Parameters
    ----------
    source : InteractionSource
        Training interactions.
    loss : Loss
        Gives the prior and the observed weights g.
    user_degrees, item_degrees : int64 arrays of shape (n_users,) and (n_items,)
        Training interactions of each user and item.
    n_users : int
        Size of the sample, of the users with training interactions; 0 takes them all.
    seed : int
        Keys the sample.
    """

    def __init__(
        self,
        source: InteractionSource,
        loss: Loss,
        user_degrees: Offsets,
        item_degrees: Offsets,
        *,
        n_users: int,
        seed: int,
    ) -> None:
        self._loss = loss
        self.user_rows = sample_rows(np.flatnonzero(user_degrees), n_users, seed)
        rows = read_user_rows(source, self.user_rows)
        # The training's scale of the weights cancels: losses are per unit of weight.
        by_user = loss.degree_factors("user", user_degrees[self.user_rows])
        self._rows = weigh_entries(rows, by_user, loss.degree_factors("item", item_degrees))
        # The prior of ials sums to the number of items; the softmax loss always needs a distribution.
        self._prior: Float64Array = dataclasses.replace(loss, name="rg2").item_prior(item_degrees)

    def measure(self, factors: ReadableFactors, n_threads: int) -> SoftmaxCheck:
        """Give the losses of the present factors; see `rgals.numerics.softmax.softmax_loss`."""
        users, items = factors.read_rows("user", self.user_rows), factors.read_all("item")
        return softmax_loss(users, items, self._rows, self._prior, n_threads=n_threads)

    def surrogate(self, check: SoftmaxCheck) -> float:
        """Choose the expansion that is trained; NaN for ials, which expands no softmax."""
        by_loss = {"rg2": check.rg2_surrogate, "rgx": check.rgx_surrogate}
        return by_loss.get(self._loss.name, float("nan"))


def sample_rows(candidates: Offsets, n_rows: int, seed: int) -> Offsets:
    """Choose rows by a keyed hash: the choice depends on seed and row number, and on nothing else.

    Parameters
    ----------
    candidates : int64 array
        Rows to choose from, ascending.
    n_rows : int
        How many; 0, or more than there are, takes all.
    seed : int
        The key.

    Returns
    -------
    int64 array
        Chosen rows, ascending. A larger sample with the same seed contains the smaller.
    """
    if n_rows == 0 or n_rows >= candidates.size:
        return candidates
    key = hash_numbers(np.array([seed], dtype=np.int64)).view(np.int64)
    order = np.argsort(hash_numbers(candidates ^ key), kind="stable")
    return np.sort(candidates[order[:n_rows]])


def read_user_rows(source: InteractionSource, user_rows: Offsets) -> InteractionRows:
    """Read the training interactions of some users, holding one shard at a time.

    Parameters
    ----------
    source : InteractionSource
        Where from.
    user_rows : int64 array of shape (n_sample,)
        Which users, ascending.

    Returns
    -------
    InteractionRows of shape (n_sample, n_items)
        In the order of ``user_rows``. Shards without any of them are not read.
    """
    pieces: list[InteractionRows] = []
    for index, shard in enumerate(source.shard_ranges("user")):
        first, last = np.searchsorted(user_rows, [shard.start, shard.stop])
        if first < last:
            pieces.append(source.load_shard("user", index).take(user_rows[first:last] - shard.start))
    indptr = np.zeros(user_rows.size + 1, dtype=np.int64)
    if not pieces:
        return InteractionRows(indptr, np.zeros(0, dtype=np.int32), None, source.n_items)
    np.cumsum(np.concatenate([piece.degrees for piece in pieces]), out=indptr[1:])
    is_weighted = any(piece.weights is not None for piece in pieces)
    return InteractionRows(
        indptr,
        np.concatenate([piece.columns for piece in pieces]),
        np.concatenate([_weights(piece) for piece in pieces]) if is_weighted else None,
        source.n_items,
    )


def _weights(rows: InteractionRows) -> Weights:
    return np.ones(rows.n_interactions, dtype=np.float32) if rows.weights is None else rows.weights
