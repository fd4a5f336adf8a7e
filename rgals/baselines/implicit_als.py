"""The implicit library's ALS as a baseline."""

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from threadpoolctl import threadpool_limits

from rgals.baselines.implicit_library import fit_in_rounds, implicit_version, import_from_implicit, to_csr
from rgals.baselines.model import FittedBaseline, Watch
from rgals.names import Factors
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads

__all__ = ["IalsOptions", "fit_ials"]

_IMPLICIT_SEEDS = 2**32


class IalsOptions(BaseModel):
    """Options of implicit's ``AlternatingLeastSquares``, in its own meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_factors: int = Field(default=64, ge=1)
    """Length of a user's and an item's vector."""
    reg: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Flat ridge, added to every row alike (implicit's ``regularization``)."""
    alpha: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Confidence of an observed entry is ``alpha * weight``, of any other 1."""
    n_sweeps: int = Field(default=15, ge=1)
    """implicit's ``iterations``."""
    use_cg: bool = True
    """Three conjugate gradient steps for each row, implicit's default; false for its Cholesky solver."""
    seed: int = Field(default=0, ge=0, lt=_IMPLICIT_SEEDS)
    """Seed of the starting factors."""


def fit_ials(
    train: InteractionRows,
    options: IalsOptions | None = None,
    *,
    n_threads: int | None = None,
    watch: Watch | None = None,
) -> FittedBaseline:
    """Fit implicit's weighted squared loss.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights are implicit's confidences before ``alpha``.
    options : IalsOptions or None
        None takes the defaults, which are implicit's own but for 64 factors; a fair comparison
        chooses ``reg`` and ``alpha`` on a validation part, as for any other model.
    n_threads : int or None
        Number of threads; None uses every processor. No factor depends on it.
    watch : callable or None
        Called after each sweep; false ends the fit there.

    Returns
    -------
    FittedBaseline
        New users are folded in by implicit's ``recalculate_user`` (its exact solver). Users without
        interactions have zero factors.

    Raises
    ------
    MissingDependencyError
        If implicit is not installed.
    NumericalError
        If implicit's factors are not finite.

    Notes
    -----
    ``train_s`` is measured around ``fit`` alone, without watches. BLAS is kept at one thread while
    implicit runs, as it asks for: nested threads slow it down.
    """
    chosen = options or IalsOptions()
    threads = available_threads() if n_threads is None else n_threads
    matrix = to_csr(train)
    make_als = import_from_implicit(_load_als, "iALS")
    described = {"library": "implicit", "library_version": implicit_version(), **chosen.model_dump()}

    def make(n_threads: int) -> Any:
        return make_als(
            factors=chosen.n_factors,
            regularization=chosen.reg,
            alpha=chosen.alpha,
            iterations=chosen.n_sweeps,
            use_cg=chosen.use_cg,
            random_state=chosen.seed,
            num_threads=n_threads,
        )

    with threadpool_limits(1, "blas"):
        als = make(threads)

        def model_at(train_s: float) -> FittedBaseline:
            items = np.ascontiguousarray(als.item_factors, dtype=np.float32)
            users = np.ascontiguousarray(als.user_factors, dtype=np.float32)
            return FittedBaseline("ials", train_s, described, users, items, _make_solve(make, items))

        remedy = f"reg={chosen.reg}, alpha={chosen.alpha}; choose a larger reg"
        return fit_in_rounds(als, matrix, model_at, watch, remedy)


def _make_solve(make: Callable[[int], Any], item_factors: Factors) -> Callable[[InteractionRows, int], Factors]:
    """Give the fold-in against these item factors; implicit keeps their gram, so each gets an object of its own."""
    als: list[Any] = []

    def solve(rows: InteractionRows, n_threads: int) -> Factors:
        with threadpool_limits(1, "blas"):
            if not als:
                als.append(make(n_threads))
                als[0].item_factors = item_factors
            als[0].num_threads = n_threads
            found = als[0].recalculate_user(np.arange(rows.n_rows), to_csr(rows))
        return np.ascontiguousarray(found, dtype=np.float32)

    return solve


def _load_als() -> Any:
    from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415

    return AlternatingLeastSquares
