"""A trained model: a folder of plain arrays that answers by id."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rgals.artifact.arguments import check_k, find_rows, ids_of_rows
from rgals.artifact.contents import Id, ModelContents
from rgals.artifact.explain import Explanation, explain_request
from rgals.artifact.item_index import ItemIndex
from rgals.artifact.model_reader import Verification, read_model
from rgals.artifact.queries import RankingRequest, answer_requests, interactions_of, prepare_query, rank_queries
from rgals.artifact.recommend import (
    Fallback,
    History,
    ItemFilter,
    Recommendations,
    recommend_users,
)
from rgals.artifact.similar import Neighbors, find_neighbors
from rgals.data.ids import IdDictionary
from rgals.data.storage import Folder
from rgals.errors import RgalsError
from rgals.names import Factors, Offsets
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads

__all__ = ["Model"]


class Model:
    """A trained model, opened by `Model.open`, written by `rgals.artifact.model_writer.write_model`.

    Nothing in it changes after opening, so threads may share it; on a local disk its arrays are
    memory-mapped, so processes share their memory too.

    Parameters
    ----------
    contents : ModelContents
        The opened files.
    """

    def __init__(self, contents: ModelContents) -> None:
        self.contents = contents

    @classmethod
    def open(cls, location: str | Path | Folder, *, verify: Verification = True) -> "Model":
        """Open a model folder.

        Parameters
        ----------
        location : str, Path or Folder
            Local path or pyarrow filesystem URI.
        verify : bool or "manifest"
            True compares every file with its size and checksum, which reads everything once;
            ``"manifest"`` compares the sizes only, for models too large for that; False neither.

        Raises
        ------
        DataError
            If the folder is not a model, or a file is missing, unreadable or does not fit the others.
        ChecksumError
            If a file's size or bytes are not those that were written.
        FormatVersionError
            If a newer rgals wrote the folder.
        """
        return cls(read_model(location, verify))

    def __repr__(self) -> str:
        return (
            f"Model({str(self.contents.folder)!r}, loss={self.loss.name!r}, n_users={self.n_users}, "
            f"n_items={self.n_items}, n_factors={self.n_factors})"
        )

    @property
    def location(self) -> str:
        """Path of the folder on its filesystem."""
        return str(self.contents.folder)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.contents.n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.contents.n_items

    @property
    def n_factors(self) -> int:
        """Number of factors."""
        return int(self.contents.item_factors.shape[1])

    @property
    def user_factors(self) -> Factors:
        """Float32 of shape (n_users, n_factors), not writable."""
        return self.contents.user_factors

    @property
    def item_factors(self) -> Factors:
        """Float32 of shape (n_items, n_factors), not writable."""
        return self.contents.item_factors

    @property
    def user_ids(self) -> IdDictionary:
        """Ids of the user rows."""
        return self.contents.user_ids

    @property
    def item_ids(self) -> IdDictionary:
        """Ids of the item rows."""
        return self.contents.item_ids

    @property
    def seen(self) -> InteractionRows:
        """Training interactions, users by items."""
        return self.contents.seen

    @property
    def popularity(self) -> Offsets:
        """Training interactions of each item, int64 of shape (n_items,)."""
        return self.contents.popularity

    @property
    def loss(self) -> Loss:
        """What was minimized."""
        return self.contents.loss

    @property
    def weight_scale(self) -> float:
        """Scale of the observed weights in training."""
        return self.contents.weight_scale

    @property
    def config(self) -> Mapping[str, Any]:
        """How the model was trained."""
        return self.contents.config

    @property
    def metrics(self) -> Mapping[str, Any]:
        """How the training went."""
        return self.contents.metrics

    @property
    def lineage(self) -> Mapping[str, Any]:
        """What the model was made from."""
        return self.contents.lineage

    @property
    def factor_checksum(self) -> str:
        """SHA-256 over the bytes of the user factors, then of the item factors."""
        return self.contents.factor_checksum

    def has_user(self, user_id: Id) -> bool:
        """Tell whether the model holds a user."""
        return bool(find_rows(self.user_ids, [user_id])[0] >= 0)

    def has_item(self, item_id: Id) -> bool:
        """Tell whether the model holds an item."""
        return bool(find_rows(self.item_ids, [item_id])[0] >= 0)

    def recommend(
        self,
        user_ids: Sequence[Id],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Iterable[Id] = (),
        candidates: Iterable[Id] | None = None,
        fallback: Fallback = "none",
        n_threads: int | None = None,
    ) -> list[Recommendations]:
        """Rank the items for users by id.

        Parameters
        ----------
        user_ids : sequence of str or int
            Whose lists; integer ids may be given as text.
        k : int
            Length of the lists, 1 to the number of items.
        exclude_seen : bool
            Whether items of the user's training interactions are left out.
        exclude : iterable of str or int
            Items to leave out of every list. Ids that the model does not hold have no effect and are
            listed in the answer.
        candidates : iterable of str or int or None
            The only items that a list may hold; None allows all.
        fallback : {"none", "popular"}
            What an unknown user gets: an error, or the most popular items, labeled ``"popular"``.
        n_threads : int or None
            Number of threads; None uses every processor.

        Returns
        -------
        list of Recommendations
            One for each user id, in their order, by the top-k contract. A known user without training
            interactions has no factors to rank by and gets the most popular items, labeled ``"popular"``.

        Raises
        ------
        UnknownIdError
            If a user is unknown and ``fallback`` is ``"none"``.
        InputError
            If ``k`` or ``fallback`` is out of range, or a bare id stands in place of a list.
        """
        item_filter = ItemFilter.build(self.item_ids, exclude_seen, exclude, candidates)
        return recommend_users(self.contents, user_ids, k, item_filter, fallback, n_threads)

    def recommend_history(
        self,
        history: History,
        k: int = 10,
        *,
        user_id: Id | None = None,
        exclude_seen: bool = True,
        exclude: Iterable[Id] = (),
        candidates: Iterable[Id] | None = None,
        fallback: Fallback = "none",
    ) -> Recommendations:
        """Rank the items for a history, by solving the training half-step for it.

        Parameters
        ----------
        history : mapping of id to float, or iterable of ids
            Items with their weights, or items alone, each of weight 1. Items that the model does not
            hold have no effect and are listed in the answer.
        k : int
            Length of the list, 1 to the number of items.
        user_id : str or int or None
            A known user whose training interactions join the history; where both name an item, the
            history's weight counts.
        exclude_seen : bool
            Whether the items of the (joined) history are left out.
        exclude, candidates
            As in `recommend`.
        fallback : {"none", "popular"}
            What a history without any known item gets: an error, or the most popular items.

        Returns
        -------
        Recommendations
            By the top-k contract, labeled ``"fold_in"`` or ``"popular"``.

        Raises
        ------
        UnknownIdError
            If ``user_id`` is unknown, or no item is known and ``fallback`` is ``"none"``.
        InputError
            If a weight is not finite and positive, an item is given twice, the history is empty and
            ``fallback`` is ``"none"``, or ``k`` is out of range.
        """
        check_k(k, self.n_items, "items")
        request = RankingRequest(k, user_id, history, exclude_seen, exclude, candidates, fallback)
        return rank_queries(self.contents, [prepare_query(self.contents, request)], 1)[0]

    def answer(
        self, requests: Sequence[RankingRequest], *, n_threads: int | None = None, index: ItemIndex | None = None
    ) -> list[Recommendations | RgalsError]:
        """Rank the items for several requests that have nothing in common, together.

        Parameters
        ----------
        requests : sequence of RankingRequest
            What each list is asked for.
        n_threads : int or None
            Number of threads; None uses every processor.
        index : ItemIndex or None
            Finds the items where it can, see `rgals.artifact.item_index`; None looks at all items.

        Returns
        -------
        list of Recommendations or RgalsError
            One for each request, in their order: the list that `recommend` or `recommend_history` would give, or
            the error that it would raise. No list depends on the other requests.
        """
        return answer_requests(self.contents, requests, n_threads, index)

    def explain(self, request: RankingRequest, items: Sequence[Id], n_listed: int = 10) -> list[Explanation]:
        """Divide the scores of items among the interactions that they come from.

        Parameters
        ----------
        request : RankingRequest
            Whose scores; as for `answer`. Its filters and its length have no effect.
        items : sequence of str or int
            The items.
        n_listed : int
            How many of the largest contributions are listed for each.

        Returns
        -------
        list of Explanation
            One for each item, in their order.

        Raises
        ------
        UnknownIdError
            If the model does not hold an item, or as `recommend_history`.
        InputError
            If nothing but popularity ranks for the request, or ``n_listed`` is negative.
        """
        return explain_request(self.contents, request, items, n_listed)

    def history(self, user_id: Id) -> list[tuple[Id, float]]:
        """Give a user's training interactions: item ids in ascending order, with their weights.

        Raises
        ------
        UnknownIdError
            If the model does not hold the user.
        """
        rows = interactions_of(self.contents, self.user_ids.row_of(user_id))
        items = ids_of_rows(self.item_ids, rows.columns.astype(np.int64))
        return list(zip(items, rows.weights_of(0).tolist(), strict=True))

    def similar_items(self, item_id: Id, k: int = 10, *, n_threads: int | None = None) -> Neighbors:
        """Find the items whose factors point the same way.

        Parameters
        ----------
        item_id : str or int
            The item; not among its own neighbors.
        k : int
            Length of the list, 1 to the number of items.
        n_threads : int or None
            Number of threads; None uses every processor.

        Raises
        ------
        UnknownIdError
            If the model does not hold the item.
        InputError
            If ``k`` is out of range.
        """
        contents = self.contents
        threads = n_threads or available_threads()
        return find_neighbors("item", self.item_ids, self.item_factors, contents.item_norms, item_id, k, threads)

    def similar_users(self, user_id: Id, k: int = 10, *, n_threads: int | None = None) -> Neighbors:
        """Find the users whose factors point the same way; as `similar_items`."""
        contents = self.contents
        threads = n_threads or available_threads()
        return find_neighbors("user", self.user_ids, self.user_factors, contents.user_norms, user_id, k, threads)
