import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.errors import InputError
from rgals.evaluation import bootstrap
from rgals.evaluation.bootstrap import (
    bootstrap_intervals,
    bootstrap_p_values,
    percentile_intervals,
    resample_means,
)


def random_values(n_metrics: int = 3, n_users: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n_metrics, n_users))


def test_the_interval_equals_its_definition_written_out() -> None:
    values = random_values(2, 50)
    means = []
    for resample in range(90):
        generator = np.random.Generator(np.random.Philox(key=np.array([7, resample], dtype=np.uint64)))
        means.append(values[:, generator.integers(0, 50, 50)].mean(axis=1))
    low, high = bootstrap_intervals(values, n_resamples=90, seed=7, level=0.9)
    np.testing.assert_allclose(low, np.quantile(means, 0.05, axis=0), rtol=1e-12)
    np.testing.assert_allclose(high, np.quantile(means, 0.95, axis=0), rtol=1e-12)


def test_the_interval_does_not_depend_on_threads() -> None:
    values = random_values()
    one = bootstrap_intervals(values, n_resamples=200, seed=1, n_threads=1)
    np.testing.assert_array_equal(one, bootstrap_intervals(values, n_resamples=200, seed=1, n_threads=3))
    np.testing.assert_array_equal(one, bootstrap_intervals(values, n_resamples=200, seed=1))


def test_other_metrics_beside_a_metric_do_not_change_its_interval() -> None:
    values = random_values()
    together = bootstrap_intervals(values, n_resamples=100, seed=1)
    alone = bootstrap_intervals(values[1:2], n_resamples=100, seed=1)
    np.testing.assert_allclose([end[1] for end in together], [end[0] for end in alone], rtol=1e-12)


def test_smaller_blocks_give_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_values()
    expected = bootstrap_intervals(values, n_resamples=100, seed=1)
    monkeypatch.setattr(bootstrap, "_BLOCK_COUNTS", 600)
    np.testing.assert_allclose(bootstrap_intervals(values, n_resamples=100, seed=1), expected, rtol=1e-12)


def test_another_seed_gives_another_interval() -> None:
    values = random_values()
    first, second = (bootstrap_intervals(values, n_resamples=100, seed=seed) for seed in (0, 1))
    assert (first[0] != second[0]).all()


def test_the_width_is_that_of_the_normal_approximation() -> None:
    values = random_values(1, 4000)
    low, high = bootstrap_intervals(values, n_resamples=2000, seed=0)
    expected = 2 * 1.96 * values.std() / np.sqrt(4000)
    assert high[0] - low[0] == pytest.approx(expected, rel=0.1)
    assert low[0] < values.mean() < high[0]


def test_intervals_cover_the_true_mean_about_as_often_as_promised() -> None:
    n_covered = 0
    for trial in range(200):
        values = np.random.default_rng(trial).exponential(size=(1, 150))
        low, high = bootstrap_intervals(values, n_resamples=200, seed=trial, level=0.9, n_threads=1)
        n_covered += bool(low[0] <= 1 <= high[0])
    assert 160 <= n_covered <= 194


@settings(max_examples=30, deadline=None)
@given(n_users=st.integers(1, 40), seed=st.integers(0, 2**63 - 1), level=st.floats(0.01, 0.99))
def test_the_ends_are_in_order_and_within_the_values(n_users: int, seed: int, level: float) -> None:
    values = random_values(2, n_users, seed)
    low, high = bootstrap_intervals(values, n_resamples=20, seed=seed, level=level, n_threads=1)
    assert (low <= high).all()
    assert (low >= values.min(axis=1) - 1e-12).all()
    assert (high <= values.max(axis=1) + 1e-12).all()


def test_equal_values_give_an_interval_without_width() -> None:
    low, high = bootstrap_intervals(np.full((1, 8), 0.25), n_resamples=50, seed=0)
    assert (low[0], high[0]) == (0.25, 0.25)


@pytest.mark.parametrize(("n_users", "n_resamples"), [(0, 100), (5, 0)])
def test_without_users_or_resamples_the_interval_is_undefined_not_zero(n_users: int, n_resamples: int) -> None:
    low, high = bootstrap_intervals(np.zeros((2, n_users)), n_resamples=n_resamples, seed=0)
    assert np.isnan(low).all()
    assert np.isnan(high).all()


@pytest.mark.parametrize(
    "options", [{"n_resamples": -1}, {"n_resamples": 5, "level": 0.0}, {"n_resamples": 5, "level": 1.0}]
)
def test_options_out_of_bounds_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="bootstrap: expected"):
        bootstrap_intervals(random_values(), seed=0, **options)  # type: ignore[arg-type]


def test_the_p_value_counts_the_resamples_on_the_other_side_of_zero() -> None:
    means = np.array([[0.1] * 19, [-0.1] * 19, [0.1] * 15 + [-0.1] * 4, [0.1, -0.1] * 9 + [0.0], [0.0] * 19]).T
    assert bootstrap_p_values(means) == pytest.approx([2 / 20, 2 / 20, 10 / 20, 1, 1])


def test_rounding_around_zero_is_on_neither_side() -> None:
    assert bootstrap_p_values(np.full((19, 1), 1e-17))[0] == 1
    assert bootstrap_p_values(np.full((19, 1), 1e-6))[0] == pytest.approx(0.1)


def test_the_p_value_is_small_about_when_the_interval_leaves_out_zero() -> None:
    values = np.random.default_rng(0).normal(np.linspace(0, 0.3, 60)[:, None], 1, (60, 150))
    (means,) = resample_means([values], n_resamples=999, seed=0)
    low, _ = percentile_intervals(means, 0.95)
    is_left_out = low > 0
    assert (is_left_out == (bootstrap_p_values(means) <= 0.052))[np.abs(low) > 0.002].all()
    assert 10 < is_left_out.sum() < 50


def test_without_a_difference_one_p_value_in_twenty_is_below_a_twentieth() -> None:
    values = np.random.default_rng(1).exponential(size=(300, 200)) - 1
    p_values = bootstrap_p_values(resample_means([values], n_resamples=400, seed=0)[0])
    assert 0.02 < (p_values < 0.05).mean() < 0.1


def test_the_difference_of_two_models_resamples_is_the_resample_of_their_difference() -> None:
    first, second = random_values(3, seed=0), random_values(3, seed=1)
    resampled = resample_means([first, second, first - second], n_resamples=50, seed=3)
    np.testing.assert_allclose(resampled[0] - resampled[1], resampled[2], atol=1e-14)


def test_other_models_do_not_change_a_models_resamples() -> None:
    first, second = random_values(3, seed=0), random_values(2, seed=1)
    together = resample_means([first, second], n_resamples=130, seed=3, n_threads=2)
    for table, means in zip((first, second), together, strict=True):
        np.testing.assert_array_equal(resample_means([table], n_resamples=130, seed=3, n_threads=1)[0], means)


def test_without_resamples_p_values_are_undefined() -> None:
    assert np.isnan(bootstrap_p_values(resample_means([random_values()], n_resamples=0, seed=0)[0])).all()
    with pytest.raises(InputError, match="n_resamples of at least 0"):
        resample_means([random_values()], n_resamples=-1, seed=0)
    with pytest.raises(InputError, match=r"tables of \[200, 201\] users"):
        resample_means([random_values(), random_values(3, 201)], n_resamples=1, seed=0)
