"""What a search may choose for the losses that rgals trains itself: rg2, rgx, ials, rg-softmax."""

from collections.abc import Sequence

from rgals.errors import InputError
from rgals.numerics.loss import LossName
from rgals.tuning.space import Dimension, SearchSpace

__all__ = ["SEARCHABLE", "default_search", "family_space"]

_EXPONENTS = (
    Dimension("user_exponent", -1.0, 0.5, default=0.0),
    Dimension("item_exponent", -1.0, 0.5, default=0.0),
    Dimension("beta", -1.0, 1.0, default=0.0),
)

_EXPANSIONS = SearchSpace(
    (
        Dimension("alpha", 1e-3, 1.0, log=True, default=0.03),
        Dimension("reg", 0.01, 3.0, log=True, default=0.1),
        Dimension("nu", 0.0, 1.2, default=1.0),
        *_EXPONENTS,
    ),
    # Where many items are seldom seen, damped active users and popular items with a flatter ridge rank better.
    ({"alpha": 0.03, "reg": 0.5, "nu": 0.4, "user_exponent": -0.2, "item_exponent": -0.35, "beta": 0.0},),
)

# Background weight 1 for every entry: a row's total weight is near n_items or n_users, so that a ridge per unit of
# it is small, and nu hardly tells rows apart.
_SQUARES = SearchSpace(
    (
        Dimension("alpha", 1.0, 300.0, log=True, default=10.0),
        Dimension("reg", 1e-5, 0.1, log=True, default=1e-3),
        Dimension("nu", 0.0, 1.2, default=1.0),
        *_EXPONENTS,
    )
)

# The ridge is what keeps the softmax from fitting too well: too little and it does within three sweeps, too much and
# the scores collapse. A re-expanded model can gain from either sign of the exponents.
_SOFTMAX = SearchSpace(
    (
        Dimension("reg", 0.08, 1.0, log=True, default=0.25),
        Dimension("nu", 0.6, 1.1, default=1.0),
        Dimension("eta", 0.1, 1.0, log=True, default=0.25),
        Dimension("alpha", 1e-3, 1.0, log=True, default=0.03),
        Dimension("start_reg", 0.01, 1.0, log=True, default=0.1),
        Dimension("user_exponent", -0.5, 0.5, default=0.0),
        Dimension("item_exponent", -0.5, 0.5, default=0.0),
        Dimension("beta", -1.0, 1.0, default=0.0),
    )
)

_SPACES: dict[LossName, SearchSpace] = {
    "rg2": _EXPANSIONS,
    "rgx": _EXPANSIONS,
    "ials": _SQUARES,
    "rg-softmax": _SOFTMAX,
}

SEARCHABLE: tuple[str, ...] = tuple(dict.fromkeys(name for space in _SPACES.values() for name in space.names))
"""Every option of the loss that can be searched."""


def default_search(loss: LossName) -> tuple[str, ...]:
    """Give the options that are searched unless others are named.

    Notes
    -----
    Never ``beta``: a validation part drawn at random from the training part is as skewed towards popular items as
    the training part itself, so that it rewards a fit to that skew, and a test part that was drawn otherwise does not.
    """
    if loss == "ials":
        return ("alpha", "reg")
    if loss == "rg-softmax":
        return ("reg", "nu", "eta", "user_exponent", "item_exponent")
    return ("alpha", "reg", "nu", "user_exponent", "item_exponent")


def family_space(names: Sequence[str] | None = None, loss: LossName = "rgx") -> SearchSpace:
    """Give the space of a loss.

    Parameters
    ----------
    names : sequence of str or None
        Options to search; None takes `default_search`.
    loss : LossName
        The member of the family.

    Returns
    -------
    SearchSpace
        Its defaults are those of `rgals.training.config.TrainingConfig`, so that a search begins with the result of
        a training without options; a second setting is one that was good on sparse data. For ``ials`` the defaults
        are a setting that published comparisons found good.

    Raises
    ------
    InputError
        If an option cannot be searched, or none is named.
    """
    wanted = default_search(loss) if names is None else tuple(dict.fromkeys(names))
    space = _SPACES[loss]
    unknown = [name for name in wanted if name not in space.names]
    if unknown or not wanted:
        raise InputError(
            f"search: expected options of {loss}, {', '.join(space.names)}, found {', '.join(unknown) or 'none'}; "
            "correct the names"
        )
    return space.select(wanted)
