"""The family of losses: its table, its ranges."""

import numpy as np
import pytest

from rgals.errors import InputError
from rgals.numerics.loss import Loss


def test_an_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="rg2, rgx, ials, rg-softmax, found 'bpr'"):
        Loss("bpr", 1.0, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["alpha", "reg"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_negative_or_undefined_number_is_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        Loss("rg2", **{"alpha": 1.0, "reg": 0.1, field: value})


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, -0.5])
def test_the_prior_sums_to_one_and_follows_the_degrees(beta: float) -> None:
    degrees = np.array([0, 1, 4, 9])
    prior = Loss("rg2", 1.0, 0.1, beta=beta).item_prior(degrees)
    assert prior.sum() == pytest.approx(1.0)
    assert prior[3] / prior[1] == pytest.approx(9**beta)


def test_the_background_of_ials_is_one_per_pair() -> None:
    loss = Loss("ials", 1.0, 0.1)
    assert loss.item_prior(np.array([3, 0, 5])).tolist() == [1.0, 1.0, 1.0]
    assert loss.user_background(np.array([7.0, 0.0])).tolist() == [1.0, 1.0]


def test_a_prior_without_any_degree_is_uniform() -> None:
    assert Loss("rg2", 1.0, 0.1, beta=1.0).item_prior(np.zeros(4, np.int64)).tolist() == [0.25] * 4


def test_the_ridge_follows_the_total_weight() -> None:
    background, weights = np.array([0.0, 2.0, 4.0]), np.array([0.0, 1.0, 2.0])
    flat = Loss("rg2", 1.0, 0.5, nu=0.0).ridge(background, weights)
    linear = Loss("rg2", 1.0, 0.5, nu=1.0).ridge(background, weights)
    root = Loss("rg2", 1.0, 0.5, nu=0.5).ridge(background, weights)
    assert flat.tolist() == [0.5, 0.5, 0.5]
    assert linear.tolist() == [0.0, 1.5, 3.0]
    assert root.tolist() == pytest.approx([0.0, 0.5 * 3**0.5, 0.5 * 6**0.5])
