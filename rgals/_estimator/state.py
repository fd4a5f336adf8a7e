"""Parameters and learned attributes of the estimator, in the habits of scikit-learn."""

import inspect
from collections.abc import Callable
from typing import Any, Self, TypeVar

from rgals._estimator.inputs import thread_count
from rgals.errors import InputError
from rgals.names import Factors, Float64Array, Offsets
from rgals.numerics.loss import Loss
from rgals.numerics.threads import available_threads
from rgals.training.config import TrainingConfig

__all__ = ["EstimatorState"]

Derived = TypeVar("Derived")


class EstimatorState:
    """What every part of `rgals.RankingALS` shares: parameters, learned attributes, what is derived from them."""

    loss: Any
    n_factors: Any
    n_sweeps: Any
    alpha: Any
    reg: Any
    nu: Any
    beta: Any
    user_exponent: Any
    item_exponent: Any
    solver: Any
    cg_steps: Any
    start_sweeps: Any
    start_reg: Any
    n_hard: Any
    eta: Any
    kappa: Any
    pass_fraction: Any
    n_threads: Any
    random_state: Any
    warm_start: Any

    user_factors: Factors | None
    item_factors: Factors | None
    user_degrees_: Offsets
    item_degrees_: Offsets
    user_weight_sums_: Float64Array
    weight_scale_: float
    objectives_: Float64Array
    fitted_loss_: Loss
    n_iter_: int
    n_features_in_: int

    def __init__(self) -> None:
        self.user_factors = None
        self.item_factors = None
        # Frozen systems and normalized factors, each with the arrays that it was computed from.
        self._derived: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """Give the constructor's parameters by name.

        Parameters
        ----------
        deep : bool
            Accepted for scikit-learn; there are no nested estimators.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change parameters for the next fit, which also checks their values; the learned attributes stay.

        Raises
        ------
        InputError
            If a name is not a parameter; nothing is changed then.
        """
        known = list(inspect.signature(type(self)).parameters)
        unknown = [name for name in params if name not in known]
        if unknown:
            raise InputError(
                f"set_params: expected parameters among {', '.join(known)}, found {', '.join(unknown)}; "
                "docs/estimator.md maps implicit's names to these"
            )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if repr(value) != repr(defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def _checked_config(self, seed: int) -> TrainingConfig:
        """Check every parameter of the training at once; the message of the error lists each problem."""
        chosen = {name: getattr(self, name) for name in ("reg", "n_sweeps")}
        return TrainingConfig(
            loss=self.loss,
            n_factors=self.n_factors,
            alpha=self.alpha,
            nu=self.nu,
            beta=self.beta,
            user_exponent=self.user_exponent,
            item_exponent=self.item_exponent,
            solver=self.solver,
            cg_steps=self.cg_steps,
            start_sweeps=self.start_sweeps,
            start_reg=self.start_reg,
            n_hard=self.n_hard,
            eta=self.eta,
            kappa=self.kappa,
            pass_fraction=self.pass_fraction,
            seed=seed,
            **{name: value for name, value in chosen.items() if value is not None},
        )

    def _thread_count(self) -> int:
        return thread_count(self.n_threads) or available_threads()

    def _fitted_factors(self) -> tuple[Factors, Factors]:
        """Give the user and the item factors.

        Raises
        ------
        InputError
            If the model is not fitted.
        """
        if self.user_factors is None or self.item_factors is None:
            raise InputError(
                f"{type(self).__name__}: expected a fitted model, found one without factors; call fit(user_items) first"
            )
        return self.user_factors, self.item_factors

    def _derive(self, name: str, sources: tuple[Any, ...], build: Callable[[], Derived]) -> Derived:
        """Give what ``build`` computes from ``sources``, again when the model holds other arrays by now."""
        known = self._derived.get(name)
        if known is None or any(old is not new for old, new in zip(known[0], sources, strict=True)):
            known = self._derived[name] = (sources, build())
        value: Derived = known[1]
        return value
