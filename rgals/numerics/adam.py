"""Adam, for whole matrices and for the rows that a step touches."""

from dataclasses import dataclass, field

import numpy as np

from rgals.errors import InputError
from rgals.names import Factors, Offsets
from rgals.numerics.compile import kernel

__all__ = ["Adam"]


@kernel
def _step_rows(
    values: Factors,
    gradients: Factors,
    first: Factors,
    second: Factors,
    rows: Offsets,
    step_sizes: Factors,
    root_corrections: Factors,
    beta1: np.float32,
    beta2: np.float32,
    rest1: np.float32,
    rest2: np.float32,
    epsilon: np.float32,
) -> None:
    for position in range(rows.size):
        r = rows[position]
        w, g, m, v = values[r], gradients[position], first[r], second[r]
        step_size, root = step_sizes[position], root_corrections[position]
        for f in range(w.size):
            m[f] = beta1 * m[f] + rest1 * g[f]
            v[f] = beta2 * v[f] + rest2 * g[f] * g[f]
            # np.divide, unlike /, asks for no check against zero, which would keep the loop from being vectorised.
            w[f] -= np.divide(step_size * m[f], np.sqrt(v[f]) * root + epsilon)


@kernel
def _step_range(
    values: Factors,
    gradients: Factors,
    first: Factors,
    second: Factors,
    step_size: np.float32,
    root: np.float32,
    beta1: np.float32,
    beta2: np.float32,
    rest1: np.float32,
    rest2: np.float32,
    epsilon: np.float32,
) -> None:
    for r in range(values.shape[0]):
        w, g, m, v = values[r], gradients[r], first[r], second[r]
        for f in range(w.size):
            m[f] = beta1 * m[f] + rest1 * g[f]
            v[f] = beta2 * v[f] + rest2 * g[f] * g[f]
            # np.divide, unlike /, asks for no check against zero, which would keep the loop from being vectorised.
            w[f] -= np.divide(step_size * m[f], np.sqrt(v[f]) * root + epsilon)


@dataclass(slots=True)
class Adam:
    """The state of Adam for one matrix that is changed in place.

    Parameters
    ----------
    values : float32 array of shape (n_rows, n_factors)
        The matrix; changed by the steps.
    beta1, beta2 : float
        Decay of the averages of the gradient and of its square, in [0, 1).
    epsilon : float
        Added to the root of the second average.

    Raises
    ------
    InputError
        If a decay is outside [0, 1), or ``epsilon`` is not positive.

    Notes
    -----
    Use either `step_rows` ("lazy": each row counts its own steps, and a row that a step does not name
    stays exactly as it is), or for whole matrices `begin_step` and then `step_range` over all row
    ranges, in any order and from any threads.

    References
    ----------
    .. [1] Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, algorithm 1.
    """

    values: Factors
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    _first: Factors = field(init=False, repr=False)
    _second: Factors = field(init=False, repr=False)
    _row_steps: Offsets = field(init=False, repr=False)
    _n_steps: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0):
            raise InputError(
                "Adam: expected beta1 and beta2 in [0, 1) and a positive epsilon, found "
                f"beta1={self.beta1}, beta2={self.beta2}, epsilon={self.epsilon}"
            )
        self._first = np.zeros_like(self.values)
        self._second = np.zeros_like(self.values)
        self._row_steps = np.zeros(len(self.values), dtype=np.int64)

    def begin_step(self) -> None:
        """Count a step of the whole matrix."""
        self._n_steps += 1

    def step_range(self, start: int, gradients: Factors, learning_rate: float) -> None:
        """Do the current step for the consecutive rows from ``start`` on.

        Parameters
        ----------
        start : int
            First row.
        gradients : float32 array of shape (n_range, n_factors)
            Gradient of these rows.
        learning_rate : float
            Step length.
        """
        stop = start + len(gradients)
        _step_range(
            self.values[start:stop],
            gradients,
            self._first[start:stop],
            self._second[start:stop],
            np.float32(learning_rate / (1 - self.beta1**self._n_steps)),
            np.float32((1 - self.beta2**self._n_steps) ** -0.5),
            np.float32(self.beta1),
            np.float32(self.beta2),
            np.float32(1 - self.beta1),  # 1 - float32(beta) would be off by as much as 5e-5
            np.float32(1 - self.beta2),
            np.float32(self.epsilon),
        )

    def step_rows(self, rows: Offsets, gradients: Factors, learning_rate: float) -> None:
        """Do one step for the named rows alone.

        Parameters
        ----------
        rows : int64 array of shape (n_named,)
            Different rows.
        gradients : float32 array of shape (n_named, n_factors)
            Their gradients.
        learning_rate : float
            Step length.
        """
        self._row_steps[rows] += 1
        steps = self._row_steps[rows].astype(np.float64)
        _step_rows(
            self.values,
            gradients,
            self._first,
            self._second,
            rows,
            (learning_rate / (1 - self.beta1**steps)).astype(np.float32),
            ((1 - self.beta2**steps) ** -0.5).astype(np.float32),
            np.float32(self.beta1),
            np.float32(self.beta2),
            np.float32(1 - self.beta1),  # 1 - float32(beta) would be off by as much as 5e-5
            np.float32(1 - self.beta2),
            np.float32(self.epsilon),
        )
