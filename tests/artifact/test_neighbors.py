import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rgals.artifact import similar
from rgals.errors import InputError, UnknownIdError
from tests.artifact.model_factory import Parts, brute_force_list, ids_of, make_ids


def twin(factors: np.ndarray, row: int, k: int) -> list[tuple[int, float]]:
    exact = factors.astype(np.float64)
    norms = np.sqrt((exact**2).sum(axis=1))
    allowed = {other for other in range(len(factors)) if other != row and norms[other] > 0}
    if norms[row] == 0:
        return []
    cosines = np.array(
        [exact[other] @ (exact[row] / norms[row]) / max(norms[other], 1e-9) for other in range(len(factors))]
    )
    return brute_force_list(np.clip(cosines, -1, 1).astype(np.float32), allowed, k)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 12).flatmap(lambda n_rows: arrays(np.float32, (n_rows, 2), elements=st.integers(-2, 2))),
    st.data(),
)
def test_neighbors_are_those_of_a_brute_force_search(factors, data):
    row = data.draw(st.integers(0, len(factors) - 1))
    k = data.draw(st.integers(1, len(factors)))
    ids = make_ids("item", "int64", len(factors))
    norms = np.sqrt((factors.astype(np.float64) ** 2).sum(axis=1))
    answer = similar.find_neighbors("item", ids, factors, norms, 5 + 10 * row, k, 1)
    expected = twin(factors, row, k)
    assert [(neighbor - 5) // 10 for neighbor in answer.neighbors] == [other for other, _ in expected]
    np.testing.assert_allclose(answer.scores, [score for _, score in expected], rtol=1e-6, atol=1e-7)
    assert answer.exhausted == (len(expected) < k)
    assert answer.id == 5 + 10 * row


@pytest.mark.parametrize("side", ["item", "user"])
def test_both_sides_have_neighbors(tmp_path, side):
    model = Parts(30, 40, 5, seed=4).write(tmp_path / "model")
    ids, factors = (
        (ids_of(model.item_ids), model.item_factors) if side == "item" else (ids_of(model.user_ids), model.user_factors)
    )
    ask = model.similar_items if side == "item" else model.similar_users
    for row in (0, 7, 29):
        answer = ask(ids[row], 6)
        assert answer.neighbors == [ids[other] for other, _ in twin(factors, row, 6)]
        assert ids[row] not in answer.neighbors
        assert not answer.exhausted
        assert max(answer.scores) <= 1


def test_a_scaled_copy_is_the_nearest_and_an_opposite_the_farthest():
    factors = np.array([[1, 2], [-1, -2], [2, 1], [3, 6]], np.float32)
    answer = similar.find_neighbors(
        "item", make_ids("item", "int64", 4), factors, np.linalg.norm(factors.astype(float), axis=1), 5, 3, 1
    )
    assert answer.neighbors == [35, 25, 15]
    np.testing.assert_allclose(answer.scores, [1, 0.8, -1], rtol=1e-6)


def test_a_row_without_a_direction_has_no_neighbors_and_is_nobodys(tmp_path):
    factors = np.ones((4, 2), np.float32)
    factors[2] = 0
    model = Parts(3, 4, 2, kind="int64", changes={"item_factors": factors}).write(tmp_path / "model")
    assert model.similar_items(25, 2) == similar.Neighbors(25, [], [], exhausted=True)
    answer = model.similar_items(5, 3)
    assert (answer.neighbors, answer.exhausted) == ([15, 35], True)


def test_equal_factors_tie_wherever_they_stand_and_whatever_the_threads(monkeypatch):
    monkeypatch.setattr(similar, "_BLOCK_ROWS", 7)
    rng = np.random.default_rng(1)
    factors = np.repeat(rng.standard_normal((1, 33), dtype=np.float32), 61, axis=0)
    factors[0] = rng.standard_normal(33, dtype=np.float32)
    norms = np.linalg.norm(factors.astype(float), axis=1)
    ids = make_ids("item", "int64", 61)
    answers = [similar.find_neighbors("item", ids, factors, norms, 5, 60, threads) for threads in (1, 2, 3)]
    assert answers[0].neighbors == [5 + 10 * row for row in range(1, 61)]
    assert answers[0] == answers[1] == answers[2]


def test_an_unknown_id_and_a_bad_length_are_refused(tmp_path):
    model = Parts().write(tmp_path / "model")
    with pytest.raises(UnknownIdError):
        model.similar_items("nothing", 3)
    with pytest.raises(UnknownIdError):
        model.similar_users("nobody", 3)
    with pytest.raises(InputError, match="k: expected an integer from 1 to 7, the number of users, found 8"):
        model.similar_users(ids_of(model.user_ids)[0], 8)
