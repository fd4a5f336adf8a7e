"""What a search may choose from: named options with their bounds and a good known value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rgals.errors import InputError

__all__ = ["Dimension", "SearchSpace", "Value"]

Value: TypeAlias = float | int | str | bool
"""A value of an option."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One option of a search.

    Parameters
    ----------
    name : str
        The option's name, as the configuration of the model has it.
    low, high : float or None
        Bounds, both included; None with ``choices``.
    log : bool
        Whether ratios count instead of differences; needs bounds above 0.
    default : float, int, str or bool
        A good known value: the search tries it first.
    choices : tuple or None
        The values themselves, where they have no order; in place of bounds.
    is_int : bool
        Whether only whole numbers count.

    Raises
    ------
    InputError
        If the bounds are not finite and in order, or the default lies outside them.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    default: Value | None = None
    choices: tuple[Value, ...] | None = None
    is_int: bool = False

    def __post_init__(self) -> None:
        problem = self._find_problem()
        if problem:
            raise InputError(f"search space, {self.name or 'an option without a name'}: {problem}; correct the space")

    def _find_problem(self) -> str:
        """Say what is wrong, or nothing."""
        if not self.name:
            return "expected a name, found none"
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.is_int:
                return "expected bounds or choices, found both"
            if len(self.choices) != len({(type(value), value) for value in self.choices}) or not self.choices:
                return f"expected different choices, found {self.choices}"
            return "" if self.default in self.choices else f"expected a default in {self.choices}, found {self.default}"
        low, high = self.low, self.high
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
            return f"expected finite bounds in order, found {low} and {high}"
        if self.log and low <= 0:
            return f"expected bounds above 0 on a log scale, found {low} and {high}"
        if self.is_int and (low != int(low) or high != int(high)):
            return f"expected whole numbers as bounds, found {low} and {high}"
        is_number = isinstance(self.default, int | float) and not isinstance(self.default, bool)
        if not is_number or not low <= float(self.default) <= high:  # type: ignore[arg-type]
            return f"expected a default from {low} to {high}, found {self.default}"
        if self.is_int and self.default != int(self.default):  # type: ignore[arg-type]
            return f"expected a whole number as default, found {self.default}"
        return ""

    def at(self, position: float) -> Value:
        """Give the value at a position from 0 (low) to 1 (high), in logarithms where ``log`` says so."""
        if self.choices is not None:
            return self.choices[min(int(position * len(self.choices)), len(self.choices) - 1)]
        assert self.low is not None
        assert self.high is not None
        if self.is_int:
            # Each whole number owns an interval as wide as the others'.
            low, high = self.low - 0.5, self.high + 0.5
            value = _between(low, high, position, self.log)
            return int(np.clip(round(value), self.low, self.high))
        return float(np.clip(_between(self.low, self.high, position, self.log), self.low, self.high))

    def distribution(self) -> BaseDistribution:
        """Give it as Optuna describes it."""
        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.is_int:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: optuna.Trial) -> Value:
        """Ask a trial for its value."""
        if self.choices is not None:
            value = trial.suggest_categorical(self.name, self.choices)
            assert value is not None
            return value
        assert self.low is not None
        assert self.high is not None
        if self.is_int:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def _between(low: float, high: float, position: float, is_log: bool) -> float:
    """Interpolate; ``low`` of a logarithmic range is above 0."""
    if is_log:
        return math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
    return low + position * (high - low)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The options of a search, in order.

    Parameters
    ----------
    dimensions : tuple of Dimension
        May be empty: then there is one trial, the defaults.
    known : tuple of mapping
        Other settings that did well somewhere, with a value of each option; tried after the defaults.

    Raises
    ------
    InputError
        If two dimensions have one name, or a known setting is outside the space.
    """

    dimensions: tuple[Dimension, ...]
    known: tuple[Mapping[str, Value], ...] = ()

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) != len(names):
            raise InputError(f"search space: expected different names, found {', '.join(names)}; leave one out")
        for setting in self.known:
            if set(setting) != set(names):
                raise InputError(f"search space: expected a setting of {', '.join(names)}, found {dict(setting)}")
            for dimension in self.dimensions:
                replace(dimension, default=setting[dimension.name])  # checks the value

    @property
    def names(self) -> tuple[str, ...]:
        """The options' names, in order."""
        return tuple(dimension.name for dimension in self.dimensions)

    def defaults(self) -> dict[str, Any]:
        """Give the value of each option that is tried first."""
        return {dimension.name: dimension.default for dimension in self.dimensions}

    def sample(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask a trial for a value of each option."""
        return {dimension.name: dimension.suggest(trial) for dimension in self.dimensions}

    def distributions(self) -> dict[str, BaseDistribution]:
        """Give each option as Optuna describes it."""
        return {dimension.name: dimension.distribution() for dimension in self.dimensions}

    def at(self, positions: Mapping[str, float]) -> dict[str, Any]:
        """Give the values at positions from 0 to 1 in each dimension."""
        return {dimension.name: dimension.at(positions[dimension.name]) for dimension in self.dimensions}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Give low, high, log, choices and default of each option, by name, as JSON values."""
        return {
            dimension.name: {
                "low": dimension.low,
                "high": dimension.high,
                "log": dimension.log,
                "choices": None if dimension.choices is None else list(dimension.choices),
                "default": dimension.default,
            }
            for dimension in self.dimensions
        }

    def select(self, names: tuple[str, ...]) -> "SearchSpace":
        """Give the part of the space that has these names, in this order.

        Raises
        ------
        InputError
            If a name is not in the space.
        """
        known = {dimension.name: dimension for dimension in self.dimensions}
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(
                f"search space: expected options of {', '.join(known)}, found {', '.join(missing)}; correct the names"
            )
        settings = tuple({name: setting[name] for name in names} for setting in self.known)
        return SearchSpace(tuple(known[name] for name in names), settings)
