import numpy as np
import pytest

from rgals.errors import InputError
from rgals.numerics.softmax_gradient_sample import ItemSampler


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_an_items_weight_is_one_on_average_and_samples_have_about_the_asked_size(exponent: float) -> None:
    popularity = np.random.default_rng(0).permutation(np.arange(1.0, 121)) ** exponent
    sampler = ItemSampler(popularity, 30)
    assert sampler.expected.sum() == pytest.approx(30)
    assert sampler.expected.max() <= 1
    generator = np.random.default_rng(1)
    total, square, n_samples = np.zeros(120), np.zeros(120), 4000
    for _ in range(n_samples):
        rows, log_weights = sampler.draw(generator)
        assert (np.diff(rows) > 0).all()
        assert 20 <= rows.size <= sampler.most
        total[rows] += np.exp(log_weights)
        square[rows] += np.exp(2 * log_weights)
    mean = total / n_samples
    error = np.sqrt((square / n_samples - mean**2) / n_samples)
    assert (np.abs(mean - 1) <= 5 * error + 1e-6)[square > 0].all()
    assert (square > 0).mean() > 0.95


def test_expected_numbers_are_proportional_to_popularity_below_one() -> None:
    sampler = ItemSampler(np.array([100.0, 1, 2, 3, 4, 50]), 4)
    np.testing.assert_allclose(sampler.expected, [1, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize("n_samples", [5, 6, 1000])
def test_as_many_samples_as_items_give_each_item_once(n_samples: int) -> None:
    rows, log_weights = ItemSampler(np.array([9.0, 1, 1, 100, 3]), n_samples).draw(np.random.default_rng(0))
    np.testing.assert_array_equal(rows, np.arange(5))
    np.testing.assert_array_equal(log_weights, 0)


def test_equal_popularities_are_drawn_equally_often() -> None:
    sampler = ItemSampler(np.full(40, 7.0), 10)
    generator = np.random.default_rng(2)
    counts = np.bincount(np.concatenate([sampler.draw(generator)[0] for _ in range(4000)]), minlength=40)
    assert np.abs(counts / 4000 - 0.25).max() < 0.04


def test_stretches_begin_elsewhere_in_every_sample_so_that_neighbors_meet() -> None:
    sampler = ItemSampler(np.ones(40), 10)
    generator = np.random.default_rng(3)
    samples = [sampler.draw(generator)[0] for _ in range(500)]
    for pair in ((0, 3), (4, 7), (2, 5)):  # the first two would share a stretch if they all began at a multiple of 4
        assert any(np.isin(pair, rows).all() for rows in samples)


@pytest.mark.parametrize(("popularity", "n_samples"), [([1.0, 0.0], 1), ([1.0, np.nan], 1), ([1.0, 1.0], 0)])
def test_what_cannot_be_drawn_from_is_refused(popularity: list[float], n_samples: int) -> None:
    with pytest.raises(InputError, match="positive finite popularities"):
        ItemSampler(np.array(popularity), n_samples)
