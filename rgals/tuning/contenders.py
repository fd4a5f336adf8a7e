"""The models of a comparison: how each is fitted from searched options, and what is searched.

Spaces are as wide as published settings and runs on validation parts suggest, and every default is a setting that
does well, so that a budget of few trials is spent around it: a baseline that was not tuned proves nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from rgals.baselines.ease import EaseOptions, fit_ease
from rgals.baselines.implicit_als import IalsOptions, fit_ials
from rgals.baselines.implicit_bpr import BprOptions, fit_bpr
from rgals.baselines.item_item import ItemItemOptions, fit_item_item
from rgals.baselines.model import FittedBaseline, FittedScorer, Watch
from rgals.baselines.sampled_softmax import SampledSoftmaxOptions, fit_sampled_softmax
from rgals.baselines.simple import PopularityOptions, RandomOptions, fit_popularity, fit_random
from rgals.baselines.softmax import SoftmaxOptions, fit_softmax
from rgals.errors import InputError
from rgals.numerics.loss import LossName
from rgals.numerics.sparse import InteractionRows
from rgals.training.config import TrainingConfig
from rgals.tuning.family_trial import count_start_sweeps
from rgals.tuning.rg_space import family_space
from rgals.tuning.space import Dimension, SearchSpace
from rgals.tuning.thresholds import warm_up_rounds

__all__ = ["CONTENDERS", "Contender", "Family", "Fit", "contender_named", "contenders_named"]

Family = Literal["rg", "softmax", "other", "trivial"]
"""What a model is in the comparison."""


class Fit(Protocol):
    """Fits a baseline from searched options."""

    def __call__(
        self,
        train: InteractionRows,
        options: Mapping[str, Any],
        *,
        n_factors: int,
        n_rounds: int,
        seed: int,
        n_threads: int,
        watch: Watch | None = None,
    ) -> FittedBaseline | FittedScorer:
        """Fit; see the baseline's own function."""
        ...


@dataclass(frozen=True, slots=True)
class Contender:
    """A model of a comparison.

    Parameters
    ----------
    name : str
        As on the command line.
    label : str
        As shown.
    family : {"rg", "softmax", "other", "trivial"}
        What it is in the comparison.
    space : SearchSpace
        What is searched; without dimensions there is nothing to tune.
    n_rounds : int
        Largest number of sweeps or epochs.
    patience : int or None
        Rounds without a better validation NDCG that end a trial.
    loss : LossName or None
        The member of the loss family, which rgals trains itself; None for a baseline.
    baseline : callable or None
        Fits a baseline; None where ``loss`` says what to train.
    fixed : mapping
        Options that are not searched and not the defaults.
    is_large : bool
        Whether a fit may take most of a machine's memory, so that no other runs beside it.
    """

    name: str
    label: str
    family: Family
    space: SearchSpace
    n_rounds: int = 1
    patience: int | None = None
    loss: LossName | None = None
    baseline: Fit | None = field(default=None, repr=False)
    fixed: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_large: bool = False

    @property
    def n_start(self) -> int:
        """Rounds at the beginning that minimize another loss: the options make no difference in them."""
        return 0 if self.loss is None else count_start_sweeps(TrainingConfig(loss=self.loss))

    @property
    def warm_up(self) -> int:
        """Rounds before which no trial is cut: those of the start and a third of the others, at least two."""
        return warm_up_rounds(self.n_rounds, self.n_start)

    @property
    def rules(self) -> dict[str, Any]:
        """What trials are comparable under, beside the space, as JSON values."""
        return {
            "n_rounds": self.n_rounds,
            "patience": self.patience,
            "n_start": self.n_start,
            "warm_up": self.warm_up,
            "fixed": dict(self.fixed),
        }

    @property
    def inner_point(self) -> dict[str, Any]:
        """Options inside the space, none of them one that switches something off, as an exponent of 0 does."""
        return self.space.at(dict.fromkeys(self.space.names, 0.4))

    def plan_config(self, n_factors: int) -> TrainingConfig | None:
        """Give a configuration that takes as much memory as any of its trials; None for a baseline."""
        if self.loss is None:
            return None
        # A comparison writes no checkpoints.
        settings = {"loss": self.loss, "n_factors": n_factors, "n_sweeps": self.n_rounds, "checkpoint_seconds": 0.0}
        return TrainingConfig.from_options({**settings, **self.fixed, **self.inner_point})

    @property
    def fit(self) -> Fit:
        """How a baseline is fitted."""
        if self.baseline is None:
            raise TypeError(f"{self.name} is trained by rgals itself")  # a bug
        return self.baseline


def _family(name: str, label: str, loss: LossName, searched: tuple[str, ...]) -> Contender:
    # A setting that was found on one dataset is no part of a comparison: nobody else has one.
    space = replace(family_space(searched, loss), known=())
    return Contender(name, label, "rg", space, 12, 4, loss)


def _baseline(
    options_class: type[BaseModel],
    fit: Callable[..., FittedBaseline | FittedScorer],
    *,
    rounds: str | None = None,
    **fixed: Any,
) -> dict[str, Any]:
    """Make a `Fit` of a baseline's function and its options; ``rounds`` names the option that counts them."""
    fields = options_class.model_fields

    def call(
        train: InteractionRows,
        options: Mapping[str, Any],
        *,
        n_factors: int,
        n_rounds: int,
        seed: int,
        n_threads: int,
        watch: Watch | None = None,
    ) -> FittedBaseline | FittedScorer:
        values = {**fixed, **options}
        if rounds is not None:
            values[rounds] = n_rounds
        values |= {name: value for name, value in (("n_factors", n_factors), ("seed", seed)) if name in fields}
        return fit(train, options_class.model_validate(values), n_threads=n_threads, watch=watch)

    return {"baseline": call, "fixed": fixed}


_DEGREES = ("alpha", "reg", "nu", "user_exponent", "item_exponent")
_PAPER = ("alpha", "reg", "nu")
_SOFTMAX = ("reg", "nu", "eta", "user_exponent", "item_exponent")

_LARGE_BATCH: dict[str, Any] = {"batch_users": 256}
"""Cosine scores bear larger batches, which are faster."""

_COSINE = SearchSpace(
    (
        Dimension("temperature", 0.05, 0.2, log=True, default=0.1),
        Dimension("learning_rate", 0.02, 0.2, log=True, default=0.05),
        Dimension("user_learning_rate", 0.05, 0.5, log=True, default=0.2),
    )
)
_DOT = SearchSpace(
    (
        Dimension("learning_rate", 0.003, 0.1, log=True, default=0.01),
        Dimension("user_learning_rate", 0.03, 0.5, log=True, default=0.1),
        Dimension("l2", 0.01, 1.0, log=True, default=0.2),
    )
)
_IALS = SearchSpace(
    (
        Dimension("reg", 1e-3, 100.0, log=True, default=1.0),
        Dimension("alpha", 0.3, 300.0, log=True, default=20.0),
    )
)
_BPR = SearchSpace(
    (
        Dimension("learning_rate", 0.01, 0.3, log=True, default=0.05),
        Dimension("reg", 1e-4, 0.1, log=True, default=0.01),
    )
)
_NEIGHBORS = SearchSpace(
    (
        Dimension("similarity", choices=("cosine", "tf-idf", "bm25"), default="bm25"),
        Dimension("n_neighbors", 10, 1000, log=True, default=50, is_int=True),
        Dimension("k1", 0.05, 10.0, log=True, default=0.4),
        Dimension("b", 0.0, 1.0, default=0.4),
    )
)

_EASE = SearchSpace((Dimension("reg", 3.0, 3000.0, log=True, default=100.0),))

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        _family("rg2", "RG²", "rg2", _PAPER),
        _family("rgx", "RG\u00d7", "rgx", _PAPER),
        _family("rg2-degree", "RG², degree weights", "rg2", _DEGREES),
        _family("rgx-degree", "RG\u00d7, degree weights", "rgx", _DEGREES),
        Contender(
            "rg-softmax", "RG, re-expanded to softmax", "rg",
            family_space(_SOFTMAX, "rg-softmax"), 20, 4, "rg-softmax",
            # Fewer seconds and no worse a model: docs/decisions/0014.
            fixed={"pass_fraction": 0.2, "sampled_sweeps": 3},
        ),
        Contender(
            "softmax", "softmax, dot product", "softmax", _DOT, 60, 10,
            **_baseline(SoftmaxOptions, fit_softmax, rounds="n_epochs", scores="dot"),
        ),
        Contender(
            "softmax-cosine", "softmax, cosine", "softmax", _COSINE, 60, 10,
            **_baseline(SoftmaxOptions, fit_softmax, rounds="n_epochs", scores="cosine", **_LARGE_BATCH),
        ),
        Contender(
            "sampled-softmax", "sampled softmax, cosine", "softmax", _COSINE, 60, 10,
            **_baseline(
                SampledSoftmaxOptions, fit_sampled_softmax, rounds="n_epochs", scores="cosine", **_LARGE_BATCH
            ),
        ),
        Contender(
            "ials", "iALS (implicit)", "other", _IALS, 20, 4,
            **_baseline(IalsOptions, fit_ials, rounds="n_sweeps"),
        ),
        Contender(
            "bpr", "BPR (implicit)", "other", _BPR, 150, 10,
            **_baseline(BprOptions, fit_bpr, rounds="n_epochs"),
        ),
        Contender(
            "item-item", "item neighbors (implicit)", "other", _NEIGHBORS,
            **_baseline(ItemItemOptions, fit_item_item),
        ),
        Contender("ease", "EASE", "other", _EASE, is_large=True, **_baseline(EaseOptions, fit_ease)),
        Contender(
            "popularity", "most popular", "trivial", SearchSpace(()),
            **_baseline(PopularityOptions, fit_popularity),
        ),
        Contender(
            "random", "random", "trivial", SearchSpace(()),
            **_baseline(RandomOptions, fit_random),
        ),
    )
}  # fmt: skip
"""Every model that can be compared, by name."""


def contender_named(name: str) -> Contender:
    """Find a contender.

    Raises
    ------
    InputError
        If there is no such model.
    """
    if name not in CONTENDERS:
        raise InputError(f"models: expected some of {', '.join(CONTENDERS)}, found {name!r}")
    return CONTENDERS[name]


def contenders_named(names: str) -> tuple[Contender, ...]:
    """Read names divided by commas; each counts once.

    Raises
    ------
    InputError
        If there is no such model, or no name at all.
    """
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted:
        raise InputError(f"models: expected some of {', '.join(CONTENDERS)}, found none")
    return tuple(contender_named(name) for name in wanted)
