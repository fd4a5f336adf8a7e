import numpy as np
import pytest

from rgals.errors import InputError
from rgals.numerics.adam import Adam

RATES = (0.1, 0.1, 0.05, 0.02, 0.3)


def textbook(values: np.ndarray, gradients: list[np.ndarray], rates: tuple[float, ...]) -> np.ndarray:
    """Algorithm 1 of the paper, in float64."""
    w, m, v = values.astype(np.float64), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g.astype(np.float64) ** 2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def problem(n_rows: int = 7, n_factors: int = 5) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_rows, n_factors)).astype(np.float32), [
        rng.standard_normal((n_rows, n_factors)).astype(np.float32) * 10.0 ** rng.integers(-3, 2) for _ in RATES
    ]


def test_steps_of_the_whole_matrix_are_those_of_the_paper_however_it_is_cut() -> None:
    values, gradients = problem()
    found = values.copy()
    adam = Adam(found)
    for gradient, rate in zip(gradients, RATES, strict=True):
        adam.begin_step()
        for start, stop in ((3, 7), (0, 3)):
            adam.step_range(start, gradient[start:stop], rate)
    np.testing.assert_allclose(found, textbook(values, gradients, RATES), rtol=2e-6, atol=2e-6)


def test_a_row_that_takes_part_in_some_steps_only_is_as_if_there_were_no_others() -> None:
    values, gradients = problem()
    found = values.copy()
    adam = Adam(found)
    taking = [np.array([5, 0]), np.array([0, 1, 2]), np.array([0]), np.array([6, 0, 5]), np.array([2, 0])]
    for rows, gradient, rate in zip(taking, gradients, RATES, strict=True):
        adam.step_rows(rows, gradient[rows], rate)
    for row in range(7):
        mine = [step for step, rows in enumerate(taking) if row in rows]
        expected = textbook(values[row], [gradients[step][row] for step in mine], tuple(RATES[step] for step in mine))
        np.testing.assert_allclose(found[row], expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(found[[3, 4]], values[[3, 4]])


@pytest.mark.parametrize("wrong", [{"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}])
def test_decays_that_make_no_average_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="beta1 and beta2 in"):
        Adam(np.zeros((1, 1), np.float32), **wrong)
