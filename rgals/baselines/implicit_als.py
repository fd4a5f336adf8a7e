"""The implicit library's ALS as a baseline; the only file that imports implicit."""

import time
from typing import Any

import numpy as np
import scipy.sparse
from pydantic import BaseModel, ConfigDict, Field
from threadpoolctl import threadpool_limits

from rgals.baselines.model import FittedBaseline
from rgals.errors import MissingDependencyError, NumericalError
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
    train: InteractionRows, options: IalsOptions | None = None, *, n_threads: int | None = None
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
        Number of threads; None uses every processor.

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
    ``train_s`` is measured around ``fit`` alone. BLAS is kept at one thread while implicit runs, as it
    asks for: nested threads slow it down.
    """
    chosen = options or IalsOptions()
    threads = available_threads() if n_threads is None else n_threads
    als = _import_als()
    matrix = _to_csr(train)
    with threadpool_limits(1, "blas"):
        model = als(
            factors=chosen.n_factors,
            regularization=chosen.reg,
            alpha=chosen.alpha,
            iterations=chosen.n_sweeps,
            use_cg=chosen.use_cg,
            random_state=chosen.seed,
            num_threads=threads,
        )
        started = time.perf_counter()
        _fit(model, matrix, chosen)
        seconds = time.perf_counter() - started

    def solve(rows: InteractionRows, n_threads: int) -> Factors:
        model.num_threads = n_threads
        with threadpool_limits(1, "blas"):
            found = model.recalculate_user(np.arange(rows.n_rows), _to_csr(rows))
        return np.ascontiguousarray(found, dtype=np.float32)

    return FittedBaseline(
        "ials",
        seconds,
        {"library": "implicit", "library_version": _implicit_version(), **chosen.model_dump()},
        np.ascontiguousarray(model.user_factors, dtype=np.float32),
        np.ascontiguousarray(model.item_factors, dtype=np.float32),
        solve,
    )


def _import_als() -> Any:
    """Import implicit's class when it is asked for."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"the iALS baseline needs the package implicit, which cannot be imported ({error}); "
            "install it with: pip install rgals[baselines]"
        ) from error
    return AlternatingLeastSquares


def _implicit_version() -> str:
    import implicit  # noqa: PLC0415

    return str(implicit.__version__)


def _fit(model: Any, matrix: "scipy.sparse.csr_matrix", options: IalsOptions) -> None:
    from implicit.recommender_base import ModelFitError  # noqa: PLC0415

    try:
        model.fit(matrix, show_progress=False)
    except ModelFitError as error:
        raise NumericalError(
            f"implicit's ALS found no finite factors (reg={options.reg}, alpha={options.alpha}); choose a larger reg"
        ) from error


def _to_csr(rows: InteractionRows) -> "scipy.sparse.csr_matrix":
    """Convert to the matrix class that implicit accepts without copies and warnings."""
    matrix = scipy.sparse.csr_matrix(rows.to_scipy())
    matrix.indices = matrix.indices.astype(np.int32, copy=False)
    matrix.indptr = matrix.indptr.astype(np.int32, copy=False)
    return matrix
