"""Lists of few users, with tiles left out: the same bits as with all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.numerics import topk, topk_sieve
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k
from rgals.numerics.topk_sieve import find_tiles

N_ITEMS = 9500


def factors(seed: int, n_factors: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    items = rng.normal(0, 1, (N_ITEMS, n_factors))
    if kind == "ties":
        items = rng.integers(-1, 2, (N_ITEMS, n_factors))
    if kind == "lengths":
        items *= rng.gamma(0.5, 1.0, (N_ITEMS, 1))
    if kind == "close":  # scores that rounding alone tells apart
        items = 1 + 1e-7 * items
    return rng.normal(0, 1, (3, n_factors)).astype(np.float32), items.astype(np.float32)


def longest(items: np.ndarray) -> float:
    return float(np.linalg.norm(items.astype(np.float64), axis=1).max())


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 7, 64, 130]),
    st.sampled_from(["plain", "ties", "lengths", "close"]),
    st.integers(1, 3),
    st.sampled_from([1, 10, 100, 2000]),
    st.booleans(),
)
def test_the_lists_have_the_bits_of_a_look_at_all_items(seed, n_factors, kind, n_users, k, has_filters):
    users, items = factors(seed, n_factors, kind)
    rng = np.random.default_rng(seed)
    options = {}
    if has_filters:
        rows = [np.sort(rng.choice(N_ITEMS, rng.integers(0, 300), replace=False)) for _ in range(n_users)]
        indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        options["seen"] = InteractionRows(indptr, np.concatenate(rows).astype(np.int32), None, N_ITEMS)
        options["is_allowed"] = rng.random(N_ITEMS) < 0.7
    sieved = top_k(users[:n_users], items, k, longest_item=longest(items), **options)
    whole = top_k(users[:n_users], items, k, **options)
    assert np.array_equal(sieved.items, whole.items)
    assert np.array_equal(sieved.scores.view(np.int32), whole.scores.view(np.int32))


def test_few_tiles_are_multiplied_for_one_user(monkeypatch):
    users, items = factors(1, 64, "plain")
    multiplied = []
    multiply = topk._multiply
    monkeypatch.setattr(topk, "_multiply", lambda *given: (multiplied.append(1), multiply(*given)))
    top_k(users[:1], items, 3, longest_item=longest(items))
    assert 1 <= len(multiplied) <= 3
    multiplied.clear()
    top_k(users[:1], items, 3)
    assert len(multiplied) == 10


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_threads_share_the_plain_pass_of_one_user_and_change_no_bit(monkeypatch, n_threads):
    monkeypatch.setattr(topk_sieve, "_PIECE", 1000)
    shared = []
    run_blocks = topk_sieve.run_blocks
    monkeypatch.setattr(topk_sieve, "run_blocks", lambda *given: (shared.append(given), run_blocks(*given))[1])
    for kind in ("plain", "close"):
        users, items = factors(4, 64, kind)
        items[[999, 1999, 2999, 3999, 6000, 7000, 9499]] += users[0]  # the best: at ends of pieces, one in a tile
        sieved = top_k(users[:1], items, 10, longest_item=longest(items), n_threads=n_threads)
        whole = top_k(users[:1], items, 10, n_threads=1)
        assert np.array_equal(sieved.items, whole.items)
        assert np.array_equal(sieved.scores.view(np.int32), whole.scores.view(np.int32))
    assert [(len(blocks), given) for _, blocks, given in shared] == [(10, n_threads)] * 2


@pytest.mark.parametrize("scale", [1e30, 1e27])
def test_scores_that_could_overflow_are_all_looked_at(scale):
    users, items = factors(2, 8, "plain")
    users, items = users * np.float32(scale), items * np.float32(1e10)
    assert (
        find_tiles(users, items, 5, [np.empty(0, np.int32)] * 3, np.empty(0, np.int32), longest(items), 1024, 1) is None
    )
    sieved = top_k(users, items, 5, longest_item=longest(items))
    assert np.array_equal(sieved.items, top_k(users, items, 5).items)


def test_short_lists_and_users_without_a_direction_are_whole():
    users, items = factors(3, 8, "plain")
    users[1] = 0
    is_allowed = np.zeros(N_ITEMS, dtype=np.bool_)
    is_allowed[[5, 9000]] = True
    sieved = top_k(users[:2], items, 4, is_allowed=is_allowed, longest_item=longest(items))
    whole = top_k(users[:2], items, 4, is_allowed=is_allowed)
    assert np.array_equal(sieved.items, whole.items)
    zero = top_k(users[1:2], items, 4, longest_item=longest(items))
    assert zero.items.tolist() == [[0, 1, 2, 3]]
