"""Histories are solved by the training's half-step."""

import numpy as np
import pytest

from rgals.errors import UnknownIdError
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from tests.artifact.model_factory import Parts, ids_of

LOSSES = [
    Loss("rg2", alpha=1.5, reg=0.2),
    Loss("rgx", alpha=0.5, reg=0.1, beta=0.5, user_exponent=-0.5, item_exponent=-0.25),
    Loss("ials", alpha=3.0, reg=0.05, nu=0.5),
]


def dense_rg2_user(model, columns: list[int], weights: list[float]) -> np.ndarray:
    """Minimize the RG2 objective of one user, written from its definition with a uniform prior."""
    factors = model.item_factors.astype(np.float64)
    g = np.array(weights)
    total = g.sum()
    matrix = total / model.n_items * factors.T @ factors
    matrix += model.loss.alpha * factors[columns].T @ (g[:, None] * factors[columns])
    matrix += model.loss.reg * total * (1 + model.loss.alpha) * np.eye(model.n_factors)
    return np.linalg.solve(matrix, (1 + model.loss.alpha) * g @ factors[columns] - total * factors.mean(axis=0))


def test_a_history_is_ranked_by_the_minimizer_of_its_loss(tmp_path):
    model = Parts(loss=LOSSES[0]).write(tmp_path / "model")
    item_ids = ids_of(model.item_ids)
    answer = model.recommend_history({item_ids[6]: 2.0, item_ids[1]: 1.0}, model.n_items, exclude_seen=False)
    expected = model.item_factors.astype(np.float64) @ dense_rg2_user(model, [1, 6], [1.0, 2.0])
    found = {item_ids.index(item): score for item, score in zip(answer.items, answer.scores, strict=True)}
    np.testing.assert_allclose([found[row] for row in range(model.n_items)], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_stored_background_solves_like_one_computed_from_the_items(tmp_path, loss):
    parts = Parts(20, 30, 4, has_weights=True, loss=loss, changes={"weight_scale": 1.7})
    arguments = parts.arguments()
    model = parts.write(tmp_path / "model")
    fresh = UserSystem.build(arguments["item_factors"], loss, arguments["item_degrees"], 1.7)
    np.testing.assert_array_equal(
        model.contents.user_system.solve(arguments["seen"], 2), fresh.solve(arguments["seen"], 1)
    )


def test_weights_change_the_ranking(tmp_path):
    model = Parts(loss=LOSSES[0], seed=5).write(tmp_path / "model")
    first, second, *_ = ids_of(model.item_ids)
    light = model.recommend_history({first: 1.0, second: 9.0}, 5)
    heavy = model.recommend_history({first: 9.0, second: 1.0}, 5)
    assert light.scores != heavy.scores
    assert model.recommend_history([first, second], 5) == model.recommend_history({second: 1.0, first: 1.0}, 5)


@pytest.mark.parametrize("has_weights", [False, True])
def test_a_known_users_interactions_join_the_history(tmp_path, has_weights):
    model = Parts(has_weights=has_weights, seed=1).write(tmp_path / "model")
    user_ids, item_ids = ids_of(model.user_ids), ids_of(model.item_ids)
    row = int(np.argmax(model.seen.degrees))
    stored = {
        item_ids[column]: float(weight)
        for column, weight in zip(model.seen.columns_of(row), model.seen.weights_of(row), strict=True)
    }
    replaced, new = next(iter(stored)), next(item for item in item_ids if item not in stored)
    sent = {replaced: 5.0, new: 2.0}
    joined = model.recommend_history(sent, 4, user_id=user_ids[row])
    whole = model.recommend_history(stored | sent, 4)
    assert joined.user_id == user_ids[row]
    assert (joined.items, joined.scores, joined.source) == (whole.items, whole.scores, "fold_in")
    alone = model.recommend_history([], 4, user_id=user_ids[row])
    assert alone.items == model.recommend_history(stored, 4).items


def test_an_unknown_user_cannot_be_joined(tmp_path):
    model = Parts().write(tmp_path / "model")
    with pytest.raises(UnknownIdError):
        model.recommend_history([ids_of(model.item_ids)[0]], 4, user_id="nobody")


def test_folding_in_a_trained_row_gives_the_users_own_list(tmp_path):
    parts = Parts(12, 20, 3, has_weights=True, seed=2)
    arguments = parts.arguments()
    system = UserSystem.build(arguments["item_factors"], parts.loss, arguments["item_degrees"], 1.0)
    parts.changes["user_factors"] = system.solve(arguments["seen"], 1)
    model = parts.write(tmp_path / "model")
    for row, user_id in enumerate(ids_of(model.user_ids)):
        if model.seen.degrees[row]:
            trained = model.recommend([user_id], 5)[0]
            folded = model.recommend_history([], 5, user_id=user_id)
            assert folded.items == trained.items
            np.testing.assert_allclose(folded.scores, trained.scores, rtol=1e-5, atol=1e-6)


def test_interactions_that_are_a_part_of_longer_arrays_are_stored_alone(tmp_path):
    whole = Parts(8, 11, has_weights=True, density=0.5).arguments()["seen"]
    part = InteractionRows(whole.indptr[2:], whole.columns, whole.weights, whole.n_columns)
    model = Parts(6, 11, has_weights=True, changes={"seen": part}).write(tmp_path / "model")
    assert model.seen.indptr[0] == 0
    assert model.seen.n_interactions == part.n_interactions < whole.n_interactions
    for row in range(6):
        np.testing.assert_array_equal(model.seen.columns_of(row), whole.columns_of(row + 2))
        np.testing.assert_array_equal(model.seen.weights_of(row), whole.weights_of(row + 2))
