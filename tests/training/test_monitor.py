"""What is watched: validation NDCG and softmax loss on fixed samples, against dense twins."""

import dataclasses

import numpy as np
import pytest
from scipy.special import logsumexp

from rgals.data.shards import InMemoryInteractions
from rgals.errors import InputError
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from rgals.training.factor_blocks import FactorState
from rgals.training.monitor import SoftmaxMonitor, ValidationMonitor, read_user_rows, sample_rows
from tests.training.runs import N_ITEMS, N_USERS, planted

LOSS = Loss("rg2", 1.0, 0.1)


def random_state(seed=0):
    generator = np.random.default_rng(seed)
    shapes = (N_USERS, 4), (N_ITEMS, 4)
    return FactorState(1, *(generator.normal(size=shape).astype(np.float32) for shape in shapes))


def monitor_of(train, held_out, fold_in=None, **options):
    source = InMemoryInteractions(train, 2)
    return ValidationMonitor(source, held_out, fold_in, LOSS, **{"cutoff": 5, "n_users": 0, "seed": 0, **options})


def degrees_of(rows):
    return rows.degrees, rows.transpose().degrees


def dense_ndcg(scores, seen, held_out, k):
    """From the definition, one user at a time."""
    values = []
    for row in range(held_out.n_rows):
        relevant = set(held_out.columns_of(row).tolist())
        if relevant:
            allowed = [i for i in range(scores.shape[1]) if i not in set(seen.columns_of(row).tolist())]
            ranked = sorted(allowed, key=lambda i: (-scores[row, i], i))[:k]
            gain = sum(1 / np.log2(2 + place) for place, item in enumerate(ranked) if item in relevant)
            values.append(gain / sum(1 / np.log2(2 + place) for place in range(min(k, len(relevant)))))
    return np.mean(values), len(values)


def test_ndcg_agrees_with_a_brute_force_twin():
    train, held_out = planted()
    state = random_state()
    score = monitor_of(train, held_out).measure(state, train.transpose().degrees, 1.0, 1)
    ndcg, n_users = dense_ndcg(state.user_factors @ state.item_factors.T, train, held_out, 5)
    assert score.ndcg == pytest.approx(ndcg, rel=1e-12)
    assert score.n_users == n_users


def test_users_without_factors_get_the_most_popular_items_as_in_an_evaluation():
    train, held_out = planted()
    cold = np.arange(0, N_USERS, 7)
    degrees = train.degrees
    degrees[cold] = 0
    kept = np.repeat(degrees > 0, train.degrees)
    users = np.repeat(np.arange(N_USERS), train.degrees)[kept]
    train = InteractionRows.from_pairs(users, train.columns[kept], None, N_USERS, N_ITEMS)
    state = random_state()
    state.user_factors[cold] = 0
    popularity = train.transpose().degrees
    score = monitor_of(train, held_out).measure(state, popularity, 1.0, 1)
    scores = (state.user_factors @ state.item_factors.T).astype(np.float64)
    scores[cold] = popularity
    ndcg, _ = dense_ndcg(scores, train, held_out, 5)
    assert score.ndcg == pytest.approx(ndcg, rel=1e-12)
    scores[cold] = 0
    assert dense_ndcg(scores, train, held_out, 5)[0] != pytest.approx(ndcg, rel=1e-3)


def test_graded_gains_are_the_held_out_weights():
    train, held_out = planted()
    generator = np.random.default_rng(3)
    weights = generator.choice(np.array([1, 3, 7], dtype=np.float32), held_out.n_interactions)
    graded = dataclasses.replace(held_out, weights=weights)
    state, degrees = random_state(), train.transpose().degrees
    monitor = monitor_of(train, graded, gains="graded")
    scores = state.user_factors @ state.item_factors.T
    scores[train.to_scipy().toarray() > 0] = -np.inf
    values = []
    for row in np.flatnonzero(graded.degrees):
        gains = dict(zip(graded.columns_of(row).tolist(), graded.weights_of(row).tolist(), strict=True))
        found = sum(gains.get(i, 0) / np.log2(2 + place) for place, i in enumerate(np.argsort(-scores[row])[:5]))
        best = sum(gain / np.log2(2 + place) for place, gain in enumerate(sorted(gains.values(), reverse=True)[:5]))
        values.append(found / best)
    assert monitor.measure(state, degrees, 1.0, 1).ndcg == pytest.approx(np.mean(values), rel=1e-9)
    plain = monitor_of(train, graded)
    assert plain.measure(state, degrees, 1.0, 1).ndcg != pytest.approx(np.mean(values), rel=1e-3)
    assert plain.fingerprint != monitor.fingerprint


def test_users_of_the_held_out_users_split_are_folded_in():
    everything, held_out = planted()
    is_kept_out = np.arange(N_USERS) % 3 == 0
    in_train = InteractionRows.from_scipy(everything.to_scipy().multiply(~is_kept_out[:, None]).tocsr())
    fold_in = InteractionRows.from_scipy(everything.to_scipy().multiply(is_kept_out[:, None]).tocsr())
    held_out = InteractionRows.from_scipy(held_out.to_scipy().multiply(is_kept_out[:, None]).tocsr())
    state = dataclasses.replace(random_state(), user_factors=np.zeros((N_USERS, 4), np.float32))
    item_degrees = in_train.transpose().degrees
    score = monitor_of(in_train, held_out, fold_in).measure(state, item_degrees, 1.0, 2)
    folded = UserSystem.build(state.item_factors, LOSS, item_degrees, 1.0).solve(fold_in, 1)
    assert score.ndcg == pytest.approx(dense_ndcg(folded @ state.item_factors.T, fold_in, held_out, 5)[0], rel=1e-12)


def test_threads_do_not_change_the_score():
    train, held_out = planted()
    monitor = monitor_of(train, held_out)
    assert monitor.measure(random_state(), np.zeros(0), 1.0, 1) == monitor.measure(random_state(), np.zeros(0), 1.0, 2)


def test_the_sample_holds_only_users_with_held_out_items_and_is_keyed_by_the_seed():
    train, held_out = planted()
    monitor = monitor_of(train, held_out, n_users=50)
    assert monitor.user_rows.size == 50
    assert (held_out.degrees[monitor.user_rows] > 0).all()
    np.testing.assert_array_equal(monitor.user_rows, monitor_of(train, held_out, n_users=50).user_rows)
    assert set(monitor.user_rows) != set(monitor_of(train, held_out, n_users=50, seed=1).user_rows)


def test_the_fingerprint_changes_with_sample_held_out_items_and_cutoff():
    train, held_out = planted()
    variants = [
        monitor_of(train, held_out),
        monitor_of(train, held_out, n_users=50),
        monitor_of(train, held_out, cutoff=6),
        monitor_of(train, planted(1)[1]),
    ]
    assert len({monitor.fingerprint for monitor in variants}) == 4
    assert monitor_of(train, held_out).fingerprint == variants[0].fingerprint


def test_a_sample_is_sorted_unique_and_grows_with_its_size():
    candidates = np.arange(0, 1000, 3)
    small, large = sample_rows(candidates, 20, 7), sample_rows(candidates, 40, 7)
    assert (np.diff(large) > 0).all()
    assert set(small) < set(large) < set(candidates)
    np.testing.assert_array_equal(sample_rows(candidates, 0, 7), candidates)
    np.testing.assert_array_equal(sample_rows(candidates, 5000, 7), candidates)


def test_a_sample_is_spread_over_all_rows():
    chosen = sample_rows(np.arange(100_000), 2000, 1)
    counts = np.histogram(chosen, bins=10, range=(0, 100_000))[0]
    assert counts.min() > 140  # 200 expected, four deviations


@pytest.mark.parametrize("is_weighted", [True, False])
def test_rows_read_from_shards_are_those_of_the_whole(is_weighted):
    rows = planted(is_weighted=is_weighted)[0]
    wanted = np.array([3, 511, 512, 699])
    found, expected = read_user_rows(InMemoryInteractions(rows, 2), wanted), rows.take(wanted)
    assert (found.to_scipy() != expected.to_scipy()).nnz == 0
    assert (found.weights is None) == (not is_weighted)


def test_no_rows_are_read_for_an_empty_sample():
    found = read_user_rows(InMemoryInteractions(planted()[0]), np.zeros(0, np.int64))
    assert (found.n_rows, found.n_columns, found.n_interactions) == (0, N_ITEMS, 0)


@pytest.mark.parametrize("name", ["rg2", "rgx", "ials"])
def test_softmax_loss_is_that_of_the_weighted_loss_on_the_sample(name):
    loss = Loss(name, 1.0, 0.1, beta=0.5, user_exponent=-0.5, item_exponent=0.25)
    rows = planted(is_weighted=True)[0]
    user_degrees, item_degrees = degrees_of(rows)
    state = random_state()
    monitor = SoftmaxMonitor(InMemoryInteractions(rows, 2), loss, user_degrees, item_degrees, n_users=40, seed=3)
    check = monitor.measure(state, 2)

    users = monitor.user_rows
    g = 1.7 * rows.to_scipy().toarray()[users] * user_degrees[users, None] ** -0.5 * item_degrees[None] ** 0.25
    scores = state.user_factors[users].astype(np.float64) @ state.item_factors.T.astype(np.float64)
    prior = item_degrees**0.5 / (item_degrees**0.5).sum()
    expected = (g.sum(axis=1) @ logsumexp(scores, axis=1, b=prior) - (g * scores).sum()) / g.sum()
    assert check.softmax == pytest.approx(expected, rel=1e-6)
    by_name = {"rg2": check.rg2_surrogate, "rgx": check.rgx_surrogate, "ials": np.nan}
    np.testing.assert_equal(monitor.surrogate(check), by_name[name])


def test_parts_of_another_shape_are_refused():
    train, _ = planted()
    other = InteractionRows.from_pairs(np.array([0]), np.array([0]), None, 3, N_ITEMS)
    with pytest.raises(InputError, match="validation part: expected shape"):
        monitor_of(train, other)
    with pytest.raises(InputError, match="validation fold-in part: expected shape"):
        monitor_of(train, planted()[1], other)


def test_an_empty_validation_part_is_refused():
    train, _ = planted()
    empty = InteractionRows(np.zeros(N_USERS + 1, np.int64), np.zeros(0, np.int32), None, N_ITEMS)
    with pytest.raises(InputError, match="found none; split the dataset"):
        monitor_of(train, empty)
