"""Warm start by id: factors of another model for the users and items that it knows."""

from dataclasses import dataclass

import numpy as np

from rgals.data.ids import IdDictionary
from rgals.errors import InputError
from rgals.names import Factors, Offsets
from rgals.numerics.initial import initial_factors
from rgals.training.solver import FactorState

__all__ = ["WarmStart", "match_by_id"]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Starting factors for some of the rows.

    Parameters
    ----------
    user_rows, item_rows : int64 arrays of shape (n_known_users,) and (n_known_items,)
        The rows that have them, in the dataset that is trained; unique.
    user_factors, item_factors : float32 arrays of shape (n_known, n_factors)
        Their factors, of one model.
    """

    user_rows: Offsets
    item_rows: Offsets
    user_factors: Factors
    item_factors: Factors

    def starting_state(self, n_users: int, n_items: int, n_factors: int, seed: int) -> FactorState:
        """Fill in the rows without starting factors as a cold start does.

        Parameters
        ----------
        n_users, n_items, n_factors : int
            The shapes to start with.
        seed : int
            Seed of the other items' factors; other users start at zero.

        Raises
        ------
        InputError
            If the factors have another length than ``n_factors``.
        """
        found = self.user_factors.shape[1], self.item_factors.shape[1]
        if found != (n_factors, n_factors):
            raise InputError(
                f"warm start: expected {n_factors} factors, found {found[0]} of users and {found[1]} of items; "
                f"set n_factors to {found[1]}, or start without the model"
            )
        user_factors = np.zeros((n_users, n_factors), dtype=np.float32)
        item_factors = initial_factors(n_items, n_factors, seed)
        user_factors[self.user_rows] = self.user_factors
        item_factors[self.item_rows] = self.item_factors
        return FactorState(0, user_factors, item_factors)


def match_by_id(
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    *,
    known_user_ids: IdDictionary,
    known_item_ids: IdDictionary,
    known_user_factors: Factors,
    known_item_factors: Factors,
) -> WarmStart:
    """Find a model's users and items among those of a dataset, by id and never by row.

    Parameters
    ----------
    user_ids, item_ids : IdDictionary
        The dataset's ids.
    known_user_ids, known_item_ids : IdDictionary
        The model's ids; ``42`` and ``"42"`` name the same id.
    known_user_factors, known_item_factors : float32 arrays of shape (n_known_ids, n_factors)
        The model's factors, in the order of its ids.

    Returns
    -------
    WarmStart
        The factors of the ids that both have. Ids that only the model has are left out.

    Raises
    ------
    InputError
        If the model knows no item of the dataset.
    """
    user_rows, known_user_rows = _match(user_ids, known_user_ids)
    item_rows, known_item_rows = _match(item_ids, known_item_ids)
    if item_rows.size == 0:
        raise InputError(
            f"warm start: expected items of the model in the dataset, found none of {len(known_item_ids)}; "
            "use a model of the same catalog, or start without it"
        )
    return WarmStart(user_rows, item_rows, known_user_factors[known_user_rows], known_item_factors[known_item_rows])


def _match(ids: IdDictionary, known: IdDictionary) -> tuple[Offsets, Offsets]:
    """Give the rows of the common ids, in the dataset and in the model."""
    known_rows = known.rows_of(ids.values)
    rows = np.flatnonzero(known_rows >= 0)
    return rows, known_rows[rows]
