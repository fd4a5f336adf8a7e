import numpy as np
import pytest

from rgals.errors import InputError
from rgals.numerics.softmax_gradient import BatchEntries, SoftmaxGradient, buffer_bytes
from rgals.numerics.softmax_gradient_fold_in import softmax_fold_in
from rgals.numerics.softmax_gradient_kernels import exponentiate, normalize, through_norm
from rgals.numerics.sparse import InteractionRows
from tests.numerics.softmax_twin import dense_weights, gradients, numeric_gradient, unit, user_losses

N_TILE = 512


def problem(
    n_users: int, n_items: int, n_factors: int = 6, seed: int = 0, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, InteractionRows]:
    """Make vectors and graded entries; user 1 has none."""
    rng = np.random.default_rng(seed)
    is_observed = rng.random((n_users, n_items)) < min(0.3, 20 / n_items)
    is_observed[1 % n_users] = False
    users, items = np.nonzero(is_observed)
    rows = InteractionRows.from_pairs(users, items, rng.uniform(0.5, 3, users.size), n_users, n_items)
    return (
        (scale * rng.standard_normal((n_users, n_factors))).astype(np.float32),
        rng.standard_normal((n_items, n_factors)).astype(np.float32),
        rows,
    )


def both_passes(
    users: np.ndarray, items: np.ndarray, rows: InteractionRows, n_threads: int = 1, room: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    softmax = SoftmaxGradient(len(users) + room, *items.shape, n_threads)
    entries = BatchEntries.from_rows(rows)
    losses, by_user = softmax.user_pass(users, items, entries)
    by_item = np.full(items.shape, np.nan, np.float32)

    def take(start: int, found: np.ndarray) -> None:
        by_item[start : start + len(found)] = found

    softmax.item_pass(users, len(items), entries, take)
    return losses, by_user, by_item


def test_the_exponential_is_right_to_float32_at_all_arguments_below_zero() -> None:
    scores = -np.concatenate([np.linspace(0, 87, 200_001), np.geomspace(1e-30, 1, 10_000)]).astype(np.float32)
    tile = np.concatenate([[0], scores]).astype(np.float32)[None]
    maxima, sums = np.empty(1, np.float32), np.empty(1, np.float32)
    exponentiate(tile, np.full(len(tile), np.inf, np.float32), maxima, sums)
    expected = np.exp(scores.astype(np.float64))
    assert np.abs(tile[0, 1:] / expected - 1).max() < 5e-7
    assert maxima[0] == 0
    # 210,001 float32 terms, one after the other where the kernel is not compiled.
    assert sums[0] == pytest.approx(1 + expected.sum(), rel=1e-4)


@pytest.mark.parametrize("n_columns", [1, 3, 63, 64, 65, 200])
def test_a_tile_is_relative_to_the_maximum_of_each_row(n_columns: int) -> None:
    scores = (30 * np.random.default_rng(n_columns).standard_normal((9, n_columns))).astype(np.float32)
    tile, maxima, sums = scores.copy(), np.empty(9, np.float32), np.empty(9, np.float32)
    exponentiate(tile, np.full(len(tile), np.inf, np.float32), maxima, sums)
    np.testing.assert_array_equal(maxima, scores.max(axis=1))
    expected = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(tile, expected, rtol=2e-5, atol=2e-38)  # the difference is rounded to float32
    np.testing.assert_allclose(sums, expected.sum(axis=1), rtol=2e-5)


def test_a_bound_that_is_small_stands_for_the_maximum_and_a_large_one_does_not() -> None:
    scores = np.random.default_rng(0).uniform(-40, 40, (3, 100)).astype(np.float32)
    tile, maxima, sums = scores.copy(), np.empty(3, np.float32), np.empty(3, np.float32)
    exponentiate(tile, np.array([41, 42, 43], np.float32), maxima, sums)
    np.testing.assert_array_equal(maxima, [41, 42, scores[2].max()])
    np.testing.assert_allclose(tile, np.exp(scores.astype(np.float64) - maxima[:, None]), rtol=2e-5, atol=0)
    np.testing.assert_allclose(sums, tile.sum(axis=1, dtype=np.float64), rtol=1e-5)


def test_the_twins_gradient_is_the_difference_quotient_of_its_loss() -> None:
    users, items, rows = problem(5, 8)
    by_user, by_item = gradients(users, items, rows)
    np.testing.assert_allclose(
        by_user, numeric_gradient(lambda p: user_losses(p, items, rows, None).sum(), users), rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(
        by_item, numeric_gradient(lambda q: user_losses(users, q, rows, None).sum(), items), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(
    ("n_users", "n_items"), [(1, 1), (5, 8), (3, N_TILE), (4, N_TILE + 1), (70, 3 * N_TILE - 1), (300, 700)]
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_loss_and_gradients_are_the_twins_whatever_the_tiles(n_users: int, n_items: int, scale: float) -> None:
    users, items, rows = problem(n_users, n_items, scale=scale)
    losses, by_user, by_item = both_passes(users, items, rows, room=3)
    expected = gradients(users, items, rows)
    np.testing.assert_allclose(losses, user_losses(users, items, rows, None), rtol=1e-5, atol=1e-4)
    for found, wanted in zip((by_user, by_item), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5 * max(1, np.abs(wanted).max()))


def test_the_float32_gradients_are_the_difference_quotients_of_the_float32_loss() -> None:
    users, items, rows = problem(6, 9, 3)
    softmax, entries = SoftmaxGradient(6, 9, 3), BatchEntries.from_rows(rows)
    _, by_user, by_item = both_passes(users, items, rows)

    def loss(p: np.ndarray, q: np.ndarray) -> float:
        return float(softmax.user_pass(p.astype(np.float32), q.astype(np.float32), entries)[0].sum())

    np.testing.assert_allclose(by_user, numeric_gradient(lambda p: loss(p, items), users, 1e-2), atol=1e-2)
    np.testing.assert_allclose(by_item, numeric_gradient(lambda q: loss(users, q), items, 1e-2), atol=1e-2)


def test_scores_that_overflow_an_exponential_do_no_harm() -> None:
    users, items, rows = problem(20, 1200, scale=1000.0)
    losses, by_user, by_item = both_passes(users, items, rows)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses, user_losses(users, items, rows, None), rtol=1e-5, atol=1e-2)
    wanted = gradients(users, items, rows)
    np.testing.assert_allclose(by_user, wanted[0], atol=1e-3 * np.abs(wanted[0]).max())
    np.testing.assert_allclose(by_item, wanted[1], atol=1e-3 * np.abs(wanted[1]).max())


def test_a_user_without_entries_has_no_loss_and_no_part_in_any_gradient() -> None:
    users, items, rows = problem(4, 9)
    losses, by_user, by_item = both_passes(users, items, rows)
    assert losses[1] == 0
    assert not by_user[1].any()
    others = np.array([0, 2, 3])
    np.testing.assert_allclose(both_passes(users[others], items, rows.take(others))[2], by_item, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    users, items, rows = problem(600, 3000, 16)
    expected = both_passes(users, items, rows, 1)
    for n_threads in (2, 3):
        for found, wanted in zip(both_passes(users, items, rows, n_threads), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_batch_after_a_larger_one_is_not_disturbed_by_what_lies_in_the_buffers() -> None:
    users, items, rows = problem(40, 900)
    softmax = SoftmaxGradient(40, *items.shape)
    softmax.user_pass(users, items, BatchEntries.from_rows(rows))
    few = rows.row_slice(0, 7)
    losses, by_user = softmax.user_pass(users[:7], items, BatchEntries.from_rows(few))
    np.testing.assert_allclose(losses, user_losses(users[:7], items, few, None), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_user, gradients(users[:7], items, few)[0], rtol=1e-4, atol=1e-4)


def test_a_divisor_divides_loss_and_gradients() -> None:
    users, items, rows = problem(6, 30)
    softmax = SoftmaxGradient(6, *items.shape)
    whole = softmax.user_pass(users, items, BatchEntries.from_rows(rows))
    part = softmax.user_pass(users, items, BatchEntries.from_rows(rows, 8.0))
    for first, second in zip(whole, part, strict=True):
        np.testing.assert_allclose(first / 8, second, rtol=1e-5, atol=1e-6)


def test_the_gradient_goes_through_the_norm_as_the_difference_quotient_does() -> None:
    users, items, rows = problem(6, 40, 4)
    items[3] = 0
    temperature, p, q = 0.5, np.empty_like(users), np.empty_like(items)
    norms = np.empty(6, np.float32), np.empty(40, np.float32)
    normalize(users, np.float32(1 / temperature), p, norms[0])
    normalize(items, np.float32(1), q, norms[1])
    np.testing.assert_allclose(q, unit(items.astype(np.float64)), rtol=1e-6, atol=1e-7)
    losses, by_user, by_item = both_passes(p, q, rows)
    np.testing.assert_allclose(losses, user_losses(users, items, rows, temperature), rtol=1e-5, atol=1e-5)
    through_norm(by_user, p, norms[0], np.float32(1 / temperature))
    through_norm(by_item, q, norms[1], np.float32(1))
    expected = numeric_gradient(lambda x: user_losses(x, items, rows, temperature).sum(), users)
    np.testing.assert_allclose(by_user, expected, rtol=1e-4, atol=1e-4)
    expected = numeric_gradient(lambda x: user_losses(users, x, rows, temperature).sum(), items)
    used = np.arange(40) != 3  # at zero the cosine has no gradient
    np.testing.assert_allclose(by_item[used], expected[used], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("l2", [0.01, 0.5])
def test_a_folded_in_user_is_where_the_twins_dot_loss_is_flat(l2: float) -> None:
    _, items, rows = problem(300, 700, 5)
    found = softmax_fold_in(items, rows, l2=l2, n_threads=2)
    assert not found[1].any()
    users = np.delete(np.arange(300), np.flatnonzero(rows.degrees == 0))
    totals = np.array([rows.weights_of(user).sum() for user in users])
    slopes = gradients(found, items, rows)[0][users] / totals[:, None] + l2 * found[users]
    assert np.abs(slopes).max() < 2e-3
    np.testing.assert_allclose(slopes, 0, atol=3e-4 * np.linalg.norm(items, axis=1).max())


def test_a_folded_in_user_is_where_the_twins_cosine_loss_is_flat_and_no_random_direction_is_better() -> None:
    _, items, rows = problem(30, 60, 4)
    items = unit(items).astype(np.float32)
    found = softmax_fold_in(items, rows, temperature=0.2)
    has_entries = rows.degrees > 0
    assert not found[~has_entries].any()
    np.testing.assert_allclose(np.linalg.norm(found[has_entries], axis=1), 1, rtol=1e-6)
    slopes = numeric_gradient(lambda p: user_losses(p, items, rows, 0.2).sum(), found)
    totals = np.array([rows.weights_of(user).sum() for user in range(30)])[:, None]
    np.testing.assert_allclose(slopes[has_entries] / totals[has_entries], 0, atol=2e-3)
    losses = user_losses(found, items, rows, 0.2)
    for seed in range(20):
        others = np.random.default_rng(seed).standard_normal(found.shape)
        assert (user_losses(others, items, rows, 0.2) >= losses - 1e-3)[has_entries].all()


@pytest.mark.slow
def test_folding_in_does_not_depend_on_threads_and_hardly_on_who_is_asked_for_together() -> None:
    _, items, rows = problem(300, 700, 5)
    found = softmax_fold_in(items, rows, l2=0.1)
    np.testing.assert_array_equal(softmax_fold_in(items, rows, l2=0.1, n_threads=3), found)
    np.testing.assert_allclose(softmax_fold_in(items, rows.row_slice(10, 20), l2=0.1), found[10:20], atol=1e-2)


def sampled_passes(
    users: np.ndarray, items: np.ndarray, rows: InteractionRows, sampled: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do both passes with the given sample; gradients by item are put back in the items' own rows."""
    others = np.setdiff1d(rows.columns, sampled)
    order = np.concatenate([sampled, others])
    places = np.full(len(items), -1, np.int32)
    places[order] = np.arange(order.size)
    entries = BatchEntries(rows.indptr, places[rows.columns], rows.weights)
    softmax = SoftmaxGradient(len(users), sampled.size + 5, items.shape[1], 2)
    losses, by_user = softmax.user_pass(users, items[order], entries, np.log(counts).astype(np.float32))
    by_item = np.zeros(items.shape, np.float32)

    def take(start: int, found: np.ndarray) -> None:
        by_item[order[start : start + len(found)]] += found

    softmax.item_pass(users, order.size, entries, take)
    return losses, by_user, by_item


def sampled_losses(
    users: np.ndarray, items: np.ndarray, rows: InteractionRows, sampled: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Write the sampled loss from its definition, in float64."""
    scores, weights = users.astype(np.float64) @ items.astype(np.float64).T, dense_weights(rows)
    multiples = np.zeros(len(items))
    multiples[sampled] = counts
    multiples = np.where(weights > 0, 1.0, multiples)
    log_partition = np.log((multiples * np.exp(scores)).sum(axis=1))
    return np.where(weights.sum(axis=1) > 0, weights.sum(axis=1) * log_partition - (weights * scores).sum(axis=1), 0)


@pytest.mark.parametrize(("n_users", "n_items", "n_sampled"), [(5, 12, 4), (70, 2000, 700), (6, 12, 12)])
def test_with_a_sample_loss_and_gradients_are_those_of_its_definition(
    n_users: int, n_items: int, n_sampled: int
) -> None:
    users, items, rows = problem(n_users, n_items, 3)
    rng = np.random.default_rng(1)
    sampled = np.sort(rng.permutation(n_items)[:n_sampled])
    assert np.isin(rows.columns, sampled).any()  # so that something is to be masked
    counts = rng.uniform(0.5, 20, n_sampled)
    losses, by_user, by_item = sampled_passes(users, items, rows, sampled, counts)

    def total(p: np.ndarray, q: np.ndarray) -> float:
        return float(sampled_losses(p, q, rows, sampled, counts).sum())

    np.testing.assert_allclose(losses, sampled_losses(users, items, rows, sampled, counts), rtol=1e-5, atol=1e-4)
    some = slice(0, 5)
    expected = numeric_gradient(lambda p: total(np.concatenate([p, users[5:]]), items), users[some])
    np.testing.assert_allclose(by_user[some], expected, rtol=1e-4, atol=1e-4)
    chosen = np.unique(np.concatenate([rows.columns[:4], sampled[:3], sampled[-2:], [0]]))

    def moved(q: np.ndarray) -> np.ndarray:
        whole = items.astype(np.float64)
        whole[chosen] = q
        return whole

    expected = numeric_gradient(lambda q: total(users, moved(q)), items[chosen])
    np.testing.assert_allclose(by_item[chosen], expected, rtol=1e-4, atol=1e-4)


def test_a_sample_of_all_items_once_gives_the_full_softmax() -> None:
    users, items, rows = problem(40, 1100)
    found = sampled_passes(users, items, rows, np.arange(1100), np.ones(1100))
    for part, whole in zip(found, both_passes(users, items, rows), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-4)


def test_a_tile_whose_items_a_user_has_all_observed_makes_no_nan() -> None:
    users, items, _ = problem(2, 30)
    rows = InteractionRows.from_pairs(np.repeat([0, 1], 10), np.tile(np.arange(10), 2), np.ones(20), 2, 30)
    found = sampled_passes(users, items, rows, np.arange(10), np.full(10, 3.0))
    np.testing.assert_allclose(found[0], sampled_losses(users, items, rows, np.arange(10), np.full(10, 3.0)), rtol=1e-5)
    assert all(np.isfinite(part).all() for part in found)


def test_shapes_that_do_not_fit_are_refused() -> None:
    users, items, rows = problem(6, 30)
    softmax = SoftmaxGradient(5, *items.shape)
    with pytest.raises(InputError, match="at most 5 users"):
        softmax.user_pass(users, items, BatchEntries.from_rows(rows))
    with pytest.raises(InputError, match=r"up to item \d+, users of shape \(5, 6\), items of shape \(3, 6\)"):
        softmax.user_pass(users[:5], items[:3], BatchEntries.from_rows(rows.row_slice(0, 5)))
    without = SoftmaxGradient(6, *items.shape, keeps_scores=False)
    without.user_pass(users, items, BatchEntries.from_rows(rows))
    with pytest.raises(InputError, match="keeps_scores=True"):
        without.item_pass(users, 30, BatchEntries.from_rows(rows), lambda start, found: None)


def test_the_memory_told_is_the_memory_held() -> None:
    softmax = SoftmaxGradient(50, 2000, 8)
    held = sum(value.nbytes for name in dir(softmax) if isinstance(value := getattr(softmax, name), np.ndarray))
    assert held == buffer_bytes(50, 2000, 8)
