import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.evaluation.significance import holm_correct, wilcoxon_p_values


def exact_p_value(differences: list[float]) -> float:
    """All signs are equally likely: count those with a sum of positive ranks as far out as this one or farther."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = ranks[np.array(differences) > 0].sum()
    sums = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
            for signs in itertools.product((False, True), repeat=len(differences))]  # fmt: skip
    below, above = np.mean([value <= observed for value in sums]), np.mean([value >= observed for value in sums])
    return float(min(1.0, 2 * min(below, above)))


def normal_p_value(differences: np.ndarray) -> float:
    """The normal approximation written out, without zeros, with average ranks and the variance corrected for ties."""
    unequal = differences[differences != 0]
    sizes, counts = np.unique(np.abs(unequal), return_counts=True)
    rank_of = {size: counts[:index].sum() + (counts[index] + 1) / 2 for index, size in enumerate(sizes)}
    n = unequal.size
    positive = sum(rank_of[abs(value)] for value in unequal if value > 0)
    variance = n * (n + 1) * (2 * n + 1) / 24 - (counts**3 - counts).sum() / 48
    return math.erfc(abs(positive - n * (n + 1) / 4) / math.sqrt(variance) / math.sqrt(2))


@pytest.mark.parametrize("seed", range(6))
def test_a_few_users_without_ties_get_the_exact_p_value(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.4, 1, (1, 9))
    assert wilcoxon_p_values(differences)[0] == pytest.approx(exact_p_value(differences[0].tolist()), rel=1e-12)


def test_users_without_a_difference_change_nothing() -> None:
    differences = np.random.default_rng(1).normal(0.4, 1, (1, 9))
    padded = np.concatenate([differences, np.zeros((1, 500))], axis=1)
    np.testing.assert_array_equal(wilcoxon_p_values(padded), wilcoxon_p_values(differences))


@pytest.mark.parametrize(("n_users", "shift"), [(3, 1), (12, 0), (400, 0), (400, 1), (4000, 0)])
def test_ties_get_the_corrected_normal_approximation(n_users: int, shift: int) -> None:
    differences = (np.random.default_rng(n_users).integers(-3, 4, n_users) + shift).astype(np.float64)
    expected = normal_p_value(differences)
    assert wilcoxon_p_values(differences[None, :])[0] == pytest.approx(expected, rel=1e-9)


def test_differences_that_rounding_alone_parts_are_ties_and_those_of_rounding_size_are_none() -> None:
    clean = np.array([[0.3, 0.3, -0.3, 0.1, 0.0, 0.0]])
    noisy = clean + np.array([[0, 1e-16, -2e-16, 0, 1e-17, -1e-17]])
    np.testing.assert_array_equal(wilcoxon_p_values(noisy), wilcoxon_p_values(clean))


def test_models_that_agree_on_every_user_do_not_differ() -> None:
    np.testing.assert_array_equal(wilcoxon_p_values(np.zeros((2, 30))), [1, 1])
    assert wilcoxon_p_values(np.array([[0.2]]))[0] == 1
    assert np.isnan(wilcoxon_p_values(np.zeros((3, 0)))).all()


def test_each_metric_is_tested_by_itself_and_threads_do_not_matter() -> None:
    differences = np.random.default_rng(2).normal(0.1, 1, (5, 120))
    together = wilcoxon_p_values(differences, n_threads=1)
    np.testing.assert_array_equal(wilcoxon_p_values(differences, n_threads=3), together)
    np.testing.assert_array_equal([wilcoxon_p_values(row[None, :])[0] for row in differences], together)
    assert len(set(together.tolist())) == 5


def test_without_a_difference_one_test_in_twenty_finds_one() -> None:
    differences = np.random.default_rng(3).standard_t(3, (600, 60))
    assert 0.03 < (wilcoxon_p_values(differences) < 0.05).mean() < 0.07


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_less_and_never_falls() -> None:
    np.testing.assert_allclose(holm_correct(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm_correct(np.array([0.5, 0.9])), [1, 1])
    np.testing.assert_array_equal(holm_correct(np.array([0.25])), [0.25])
    assert holm_correct(np.zeros(0)).size == 0


def test_undefined_p_values_stay_undefined_and_are_not_counted() -> None:
    np.testing.assert_array_equal(holm_correct(np.array([np.nan, 0.01, 0.2])), [np.nan, 0.02, 0.2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_sequential_procedure_rejects(p_values: list[float]) -> None:
    corrected = holm_correct(np.array(p_values))
    order = np.argsort(p_values, kind="stable")
    level = 0.1
    n_rejected = 0
    for step, index in enumerate(order):
        if (len(p_values) - step) * p_values[index] > level:
            break
        n_rejected += 1
    assert set(np.flatnonzero(corrected <= level).tolist()) == set(order[:n_rejected].tolist())
    assert (corrected >= np.array(p_values)).all()
    assert (np.diff(corrected[order]) >= 0).all()
