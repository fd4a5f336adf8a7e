"""The training configuration: every option of a run, its meaning, its bounds and its default, once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rgals.errors import InputError
from rgals.numerics.loss import Loss, LossName
from rgals.numerics.ranking import Gains

__all__ = ["MUTABLE_ON_RESUME", "SolverName", "TrainingConfig"]

SolverName: TypeAlias = Literal["auto", "cg", "exact", "woodbury", "cholesky"]
"""A way to solve the rows of a half-step."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]

MUTABLE_ON_RESUME = frozenset(
    {
        "n_sweeps",
        "tolerance",
        "patience",
        "validate_every",
        "softmax_users",
        "checkpoint_every",
        "checkpoint_seconds",
        "keep_checkpoints",
    }
)
"""Options that say how long to go on and what to watch; a resumed run may change them, and no others."""


_SOFTMAX_DEFAULTS: Mapping[str, Any] = {"reg": 0.25, "n_sweeps": 14}


class TrainingConfig(BaseModel):
    """Every option of a training run.

    Raises
    ------
    InputError
        On construction, if an option is unknown or out of its bounds; the message lists every problem.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    loss: LossName = "rg2"
    """Member of the loss family: rg2, rgx (keeps the expansion's interaction term), ials (weighted squares) or
    rg-softmax (the softmax loss, expanded anew at every sweep)."""
    n_factors: int = Field(default=64, ge=1, le=4096)
    """Length of a user's and an item's vector."""
    n_sweeps: int = Field(default=8, ge=1)
    """Largest number of sweeps; tolerance and patience can end the run earlier. Of rg-softmax 14 unless given."""
    alpha: _Finite = Field(default=0.03, ge=0)
    """Extra weight of the observed entries, pulling their scores to 1 (the paper's alpha); of rg-softmax, at the
    start."""
    reg: _Finite = Field(default=0.1, ge=0)
    """Ridge per unit of a row's total weight raised to nu. Of rg-softmax 0.25 unless given."""
    nu: _Finite = Field(default=1.0, ge=-2, le=2)
    """Exponent of a row's total weight in its ridge: 1 scales with the weight, 0 is flat."""
    beta: _Finite = Field(default=0.0, ge=-4, le=4)
    """Exponent of the item degree in the prior of the negatives: 0 is uniform."""
    user_exponent: _Finite = Field(default=0.0, ge=-4, le=4)
    """Exponent of the user degree in the observed weights; -0.5 damps very active users."""
    item_exponent: _Finite = Field(default=0.0, ge=-4, le=4)
    """Exponent of the item degree in the observed weights; -0.25 damps very popular items."""
    start_sweeps: int = Field(default=6, ge=0)
    """Sweeps of rgx from which rg-softmax starts; counted in n_sweeps, not used from a given starting model."""
    start_reg: _Finite = Field(default=0.1, ge=0)
    """Ridge of these sweeps per unit of a row's total weight."""
    n_hard: int = Field(default=20, ge=0, le=100_000)
    """Hard negatives of each user whose curvature rg-softmax keeps one by one."""
    eta: _Finite = Field(default=0.25, ge=0)
    """Damping of the observed entries of rg-softmax: curvature added per unit of weight."""
    kappa: _Finite = Field(default=1.5, ge=1)
    """Damping of the hard negatives of rg-softmax: factor of their curvature."""
    pass_fraction: _Finite = Field(default=1.0, gt=0, le=1)
    """Share of the items and users that a pass of rg-softmax looks at beside a row's own entries; 1: all, exact."""
    sampled_sweeps: int | None = Field(default=None, ge=1)
    """First expanded sweeps of rg-softmax that pass_fraction holds for, later ones being exact; none: all of them."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the starting factors and of the samples of users that are watched."""
    solver: SolverName = "auto"
    """How rows are solved: auto, cg (conjugate gradients), exact (the cheaper of the next two), woodbury, cholesky."""
    cg_steps: int = Field(default=3, ge=1, le=1000)
    """Conjugate gradient steps of a row, where conjugate gradients are used."""
    tolerance: _Finite = Field(default=0.0, ge=0, lt=1)
    """Relative fall of the objective in a sweep below which the run ends; 0 switches the rule off."""
    patience: int | None = Field(default=None, ge=1)
    """Sweeps without a better validation NDCG that end the run, which then gives back its best sweep; none: off."""
    validate_every: int = Field(default=1, ge=1)
    """Sweeps between two validations; the last sweep is always validated."""
    validation_cutoff: int = Field(default=20, ge=1)
    """Length k of the ranked lists of the validation NDCG@k."""
    validation_gains: Gains = "binary"
    """What a relevant item is worth in the validation NDCG: binary 1, graded its held-out weight."""
    validation_users: int = Field(default=2000, ge=0)
    """Users in the validation sample, of those with held-out interactions; 0 takes all of them."""
    softmax_users: int = Field(default=256, ge=0)
    """Users on whom the exact softmax loss is computed; 0 switches it off."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Sweeps between two checkpoints; 0 leaves it to checkpoint_seconds."""
    checkpoint_seconds: _Finite = Field(default=60.0, ge=0)
    """Seconds of work after which the next sweep ends with a checkpoint; 0 switches that off."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""

    if not TYPE_CHECKING:

        def __init__(self, **options: Any) -> None:
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise InputError(_describe(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _default_by_loss(cls, options: Any) -> Any:
        """Give the losses that need them other defaults."""
        if isinstance(options, Mapping) and options.get("loss") == "rg-softmax":
            return {**_SOFTMAX_DEFAULTS, **options}
        return options

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "TrainingConfig":
        """Build a configuration from a mapping, as read from a file or a command line.

        Raises
        ------
        InputError
            If an option is unknown or out of its bounds; the message lists every problem.
        """
        return cls(**options)

    def to_loss(self) -> Loss:
        """Give the loss with its hyperparameters."""
        return Loss(
            name=self.loss,
            alpha=self.alpha,
            reg=self.reg,
            nu=self.nu,
            beta=self.beta,
            user_exponent=self.user_exponent,
            item_exponent=self.item_exponent,
            n_hard=self.n_hard,
            eta=self.eta,
            kappa=self.kappa,
        )

    def to_start_loss(self) -> Loss:
        """Give the loss of the first sweeps of ``rg-softmax``: RG× with the same weights and prior."""
        return replace(self.to_loss(), name="rgx", reg=self.start_reg, nu=1.0)

    def frozen_options(self) -> dict[str, Any]:
        """Give the options that a resumed run may not change, as JSON values."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in MUTABLE_ON_RESUME}


def _describe(error: ValidationError) -> str:
    """Turn pydantic's findings into one message: option, what was expected, what was found, the way out."""
    known = ", ".join(TrainingConfig.model_fields)
    problems = []
    for finding in error.errors(include_url=False):
        name = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            problems.append(f"{name}: no such option; the options are {known}")
        else:
            expected = finding["msg"].removeprefix("Input should be ").removeprefix("a valid ")
            problems.append(f"{name}: expected {expected}, found {finding['input']!r}")
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    return f"training configuration, {count}; change these options:\n" + "\n".join(f"  {line}" for line in problems)
