"""Solving single users and items against frozen factors, and explaining a score, on the fitted estimator."""

from typing import Any

import numpy as np

from rgals._estimator.inputs import check_length, check_shape, interaction_rows, is_single, row_numbers, unique_rows
from rgals._estimator.state import EstimatorState
from rgals.errors import InputError
from rgals.names import Factors, Float64Array, Offsets
from rgals.numerics.explain import ExplainedUser, explain_user
from rgals.numerics.fold_in import RowSystem, UserSystem, item_system
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.weighting import row_weight_sums, weigh_entries

__all__ = ["FoldIn"]


class FoldIn(EstimatorState):
    """The fold-in part of `rgals.RankingALS`."""

    def recalculate_user(self, userid: Any, user_items: Any) -> Factors:
        """Solve users from their interactions against the present item factors, without storing them.

        Parameters
        ----------
        userid : int or array-like of int
            The users; they need not be known to the model. Only their number matters.
        user_items : scipy CSR matrix of shape (number of users asked about, n_items)
            The weights of their items. Another sparse format is converted with a warning.

        Returns
        -------
        float32 array of shape (n_factors,) or (number of users asked about, n_factors)
            One dimension for a single user. The exact solution of the training's user half-step; a
            user without interactions gets zeros under ``rg2`` and ``rgx``.

        Raises
        ------
        InputError
            If the model is not fitted or the matrix has another shape or an unusable entry.
        NumericalError
            If a user has no finite solution, which takes ``reg=0``.
        """
        _, item_factors = self._fitted_factors()
        users = row_numbers(userid, "userid", None)
        rows = interaction_rows(user_items, "user_items", converts=True)
        check_shape(rows, "user_items", users.size, item_factors.shape[0], "items")
        factors = self._user_system().solve(rows, self._thread_count())
        return factors[0] if is_single(userid) else factors

    def recalculate_item(self, itemid: Any, item_users: Any) -> Factors:
        """Solve items from their interactions against the present user factors, without storing them.

        Parameters
        ----------
        itemid : int or array-like of int
            The items, each once. An item beyond the model's is taken as a new one.
        item_users : scipy CSR matrix of shape (number of items asked about, n_users)
            The weights of their users. Another sparse format is converted with a warning.

        Returns
        -------
        float32 array of shape (n_factors,) or (number of items asked about, n_factors)
            One dimension for a single item. The exact solution of the training's item half-step, under
            the prior that the item has with these interactions.

        Raises
        ------
        InputError
            If the model is not fitted or the matrix has another shape or an unusable entry.
        NumericalError
            If an item has no finite solution, which takes ``reg=0``.
        """
        self._fitted_factors()
        rows = interaction_rows(item_users, "item_users", converts=True)
        factors = self._solve_items(self._checked_items(itemid, rows), rows)
        return factors[0] if is_single(itemid) else factors

    def partial_fit_users(self, userids: Any, user_items: Any) -> None:
        """Solve users anew from all of their interactions and store their factors.

        Parameters
        ----------
        userids : array-like of int
            The users, each once. Numbers beyond the model's users add users; those skipped in between
            have no interactions and zero factors.
        user_items : scipy CSR matrix of shape (len(userids), n_items)
            All interactions of these users, old ones included: they replace what was known.

        Raises
        ------
        InputError
            As `recalculate_user`, and if a user is named twice.
        NumericalError
            As `recalculate_user`; nothing is changed then.
        """
        user_factors, item_factors = self._fitted_factors()
        users = unique_rows(userids, "userids", None)
        rows = interaction_rows(user_items, "user_items", converts=True)
        check_shape(rows, "user_items", users.size, item_factors.shape[0], "items")
        solved = self._user_system().solve(rows, self._thread_count())
        n_users = max(user_factors.shape[0], int(users.max(initial=-1)) + 1)
        self.user_factors = _with_rows(user_factors, n_users, users, solved)
        self.user_degrees_ = _with_rows(self.user_degrees_, n_users, users, rows.degrees)
        weight_sums = self._observed_weight_sums(rows, self.item_degrees_)
        self.user_weight_sums_ = _with_rows(self.user_weight_sums_, n_users, users, weight_sums)

    def partial_fit_items(self, itemids: Any, item_users: Any) -> None:
        """Solve items anew from all of their interactions and store their factors.

        Parameters
        ----------
        itemids : array-like of int
            The items, each once. Numbers beyond the model's items add items; those skipped in between
            have no interactions and zero factors.
        item_users : scipy CSR matrix of shape (len(itemids), n_users)
            All interactions of these items, old ones included: they replace what was known.

        Raises
        ------
        InputError
            As `recalculate_item`.
        NumericalError
            As `recalculate_item`; nothing is changed then.
        """
        _, item_factors = self._fitted_factors()
        rows = interaction_rows(item_users, "item_users", converts=True)
        items = self._checked_items(itemids, rows)
        solved = self._solve_items(items, rows)
        n_items = max(item_factors.shape[0], int(items.max(initial=-1)) + 1)
        self.item_factors = _with_rows(item_factors, n_items, items, solved)
        self.item_degrees_ = _with_rows(self.item_degrees_, n_items, items, rows.degrees)

    def explain(
        self,
        userid: int,
        user_items: Any,
        itemid: int,
        user_weights: ExplainedUser | None = None,
        N: int = 10,  # noqa: N803
    ) -> tuple[float, list[tuple[int, float]], ExplainedUser]:
        """Divide a user's score of an item among the user's interactions.

        Parameters
        ----------
        userid : int
            The user.
        user_items : scipy CSR matrix of shape (n_users, n_items) or (1, n_items)
            The interactions: row ``userid``, as in implicit, or the only row.
        itemid : int
            The item.
        user_weights : ExplainedUser or None
            What an earlier call for the same user and interactions gave back; saves the factorization.
        N : int
            How many of the largest contributions are listed.

        Returns
        -------
        total_score : float
            The score of the user, solved from these interactions, and the item.
        top_contributions : list of (int, float)
            The user's items with their contributions, the largest first, equals by item.
        user_weights : ExplainedUser
            For the next call. ``user_weights.background_score(item_factors[itemid])`` is what the
            unobserved items take off; with it all contributions add up to the score. It is 0 under ``ials``.

        Raises
        ------
        InputError
            If the model is not fitted, or an argument has another shape or an unusable entry.
        RowIndexError
            If the model does not hold the item or the matrix does not hold the user.
        NumericalError
            If the user has no finite solution, which takes ``reg=0``.

        References
        ----------
        .. [1] Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008,
           section 5.
        """
        _, item_factors = self._fitted_factors()
        (item,) = row_numbers(_single(itemid, "itemid"), "itemid", item_factors.shape[0])
        n_listed = check_length(N)
        if user_weights is None:
            rows = interaction_rows(user_items, "user_items", converts=True)
            row = _row_of(_single(userid, "userid"), rows)
            check_shape(row, "user_items", 1, item_factors.shape[0], "items")
            user_weights = explain_user(
                row,
                item_factors,
                self.fitted_loss_,
                self._user_system().arrays,
                self.item_degrees_,
                self.weight_scale_,
            )
        shares = user_weights.contributions(item_factors[item])
        order = np.argsort(-shares, kind="stable")[:n_listed]
        score = float(shares.sum()) + user_weights.background_score(item_factors[item])
        return score, [(int(user_weights.items[e]), float(shares[e])) for e in order], user_weights

    def _user_system(self) -> UserSystem:
        """Give the system that solves users against the present item factors."""
        _, item_factors = self._fitted_factors()
        return self._derive(
            "user_system",
            (item_factors, self.item_degrees_),
            lambda: UserSystem.build(
                item_factors, self.fitted_loss_, self.item_degrees_, self.weight_scale_, self._thread_count()
            ),
        )

    def _item_system(self) -> RowSystem:
        """Give the system that solves items against the present user factors."""
        user_factors, item_factors = self._fitted_factors()
        sources = (user_factors, item_factors, self.user_weight_sums_, self.user_degrees_, self.item_degrees_)
        return self._derive(
            "item_system",
            sources,
            lambda: item_system(
                user_factors,
                item_factors,
                self.fitted_loss_,
                self.user_weight_sums_,
                self.user_degrees_,
                self.item_degrees_,
                self.weight_scale_,
            )[0],
        )

    def _checked_items(self, itemids: Any, rows: InteractionRows) -> Offsets:
        """Check the items against their interactions."""
        user_factors, _ = self._fitted_factors()
        items = unique_rows(itemids, "itemid", None)
        check_shape(rows, "item_users", items.size, user_factors.shape[0], "users")
        return items

    def _solve_items(self, items: Offsets, rows: InteractionRows) -> Factors:
        """Solve items under the prior that they have with these interactions."""
        n_items = max(self.item_degrees_.size, int(items.max(initial=-1)) + 1)
        degrees = _with_rows(self.item_degrees_, n_items, items, rows.degrees)
        prior = self.fitted_loss_.item_prior(degrees)
        return self._item_system().solve(rows, self._thread_count(), backgrounds=prior[items])

    def _observed_weight_sums(self, user_rows: InteractionRows, item_degrees: Offsets) -> Float64Array:
        """Sum the observed weights g of users' interactions."""
        loss = self.fitted_loss_
        if loss.has_degree_weights:
            row_factors = loss.degree_factors("user", user_rows.degrees) * self.weight_scale_
            user_rows = weigh_entries(user_rows, row_factors, loss.degree_factors("item", item_degrees))
        return row_weight_sums(user_rows)


def _with_rows(array: Any, n_rows: int, rows: Offsets, values: Any) -> Any:
    """Give a copy with ``n_rows`` rows, new ones zero, and ``values`` in the named rows."""
    grown = np.zeros((n_rows, *array.shape[1:]), dtype=array.dtype)
    grown[: array.shape[0]] = array
    grown[rows] = values
    return grown


def _single(value: Any, name: str) -> Any:
    if not is_single(value):
        raise InputError(f"{name}: expected one integer, found {value!r}; explain one score at a time")
    return value


def _row_of(userid: Any, rows: InteractionRows) -> InteractionRows:
    """Give the user's row of the interactions of all users, or of that one user."""
    if rows.n_rows == 1:
        return rows
    (user,) = row_numbers(userid, "userid", rows.n_rows)
    return rows.row_slice(int(user), int(user) + 1)
