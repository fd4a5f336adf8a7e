"""What the baselines of the implicit library share: importing it, its kind of matrix, fitting in rounds."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import scipy.sparse

from rgals.baselines.model import FittedBaseline, Round, RoundClock, Watch
from rgals.errors import InputError, MissingDependencyError, NumericalError
from rgals.numerics.sparse import InteractionRows

__all__ = ["fit_in_rounds", "implicit_version", "import_from_implicit", "to_csr"]

_MAX_INTERACTIONS = 2**31 - 1
"""implicit counts interactions in int32."""


class _StoppedError(Exception):
    """Leaves implicit's loop after an iteration."""


def import_from_implicit(load: Callable[[], Any], baseline: str) -> Any:
    """Import something of implicit when it is asked for.

    Parameters
    ----------
    load : callable
        Imports it and gives it back.
    baseline : str
        What needs it, for the message.

    Raises
    ------
    MissingDependencyError
        If implicit is not installed.
    """
    try:
        return load()
    except ImportError as error:
        raise MissingDependencyError(
            f"the {baseline} baseline needs the package implicit, which cannot be imported ({error}); "
            "install it with: pip install rgals[baselines]"
        ) from error


def implicit_version() -> str:
    """Give the version of implicit that is installed."""
    import implicit  # noqa: PLC0415

    return str(implicit.__version__)


def to_csr(rows: InteractionRows) -> "scipy.sparse.csr_matrix":
    """Convert to the matrix class that implicit accepts without copies and warnings.

    Raises
    ------
    InputError
        If there are more interactions than implicit can count.
    """
    if rows.n_interactions > _MAX_INTERACTIONS:
        raise InputError(
            f"implicit: expected at most {_MAX_INTERACTIONS:,} interactions, found {rows.n_interactions:,}; "
            "leave its baselines out, or compare on a sample of the users"
        )
    matrix = scipy.sparse.csr_matrix(rows.to_scipy())
    matrix.indices = matrix.indices.astype(np.int32, copy=False)
    matrix.indptr = matrix.indptr.astype(np.int32, copy=False)
    return matrix


def fit_in_rounds(
    library_model: Any,
    matrix: "scipy.sparse.csr_matrix",
    model_at: Callable[[float], FittedBaseline],
    watch: Watch | None,
    remedy: str,
) -> FittedBaseline:
    """Fit a factor model of implicit, and let a watch look at it after each of its iterations.

    Parameters
    ----------
    library_model : implicit's model
        Not fitted yet.
    matrix : csr_matrix of shape (n_users, n_items)
        Training interactions.
    model_at : callable
        Gives the model as it is now from the seconds of fitting so far.
    watch : callable or None
        Called after each iteration; false ends the fit there.
    remedy : str
        The options at fault and the way out, for the message about factors that are not finite.

    Raises
    ------
    NumericalError
        If factors are not finite.

    Notes
    -----
    implicit goes on where it was: an iteration is the same whether somebody looks or not.
    """
    from implicit.recommender_base import ModelFitError  # noqa: PLC0415

    def check_finite() -> None:
        if not all(np.isfinite(side).all() for side in (library_model.user_factors, library_model.item_factors)):
            raise NumericalError(f"implicit found no finite factors: {remedy}")

    def look(found: Round) -> bool:
        check_finite()  # while the clock stands still
        return watch is None or watch(found)

    clock = RoundClock(look)

    def end_round(index: int, *_: object) -> None:
        if not clock.end_round(index + 1, None, model_at):
            raise _StoppedError

    # ModelFitError is about NaN alone; the check below finds infinities too.
    with suppress(_StoppedError, ModelFitError):
        library_model.fit(matrix, show_progress=False, callback=None if watch is None else end_round)
    seconds = clock.seconds
    check_finite()
    return model_at(seconds)
