"""The softmax gradient and Adam beside PyTorch's (`pip install torch`); RGALS_REQUIRE_TORCH=1 asks for it."""

import numpy as np
import pytest
import torch

from rgals.baselines.softmax import SoftmaxOptions, fit_softmax
from rgals.numerics.adam import Adam
from tests.numerics.softmax_twin import dense_weights
from tests.numerics.test_softmax_gradient import both_passes, problem


def torch_loss(
    users: torch.Tensor, items: torch.Tensor, weights: torch.Tensor, temperature: float | None
) -> torch.Tensor:
    if temperature is None:
        scores = users @ items.T
    else:
        normalize = torch.nn.functional.normalize
        scores = normalize(users, dim=1) @ normalize(items, dim=1).T / temperature
    # Cross entropy with soft targets is -sum_j target_j log softmax(scores)_j: linear in the targets.
    return torch.nn.functional.cross_entropy(scores, weights, reduction="sum")


@pytest.mark.parametrize(("n_users", "n_items"), [(9, 30), (70, 1300)])
def test_loss_and_gradients_are_those_of_pytorchs_cross_entropy(n_users: int, n_items: int) -> None:
    users, items, rows = problem(n_users, n_items)
    p, q = (torch.from_numpy(array.copy()).requires_grad_() for array in (users, items))
    loss = torch_loss(p, q, torch.from_numpy(dense_weights(rows).astype(np.float32)), None)
    loss.backward()
    losses, by_user, by_item = both_passes(users, items, rows)
    assert losses.sum() == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(by_user, p.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(by_item, q.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_adam_is_pytorchs() -> None:
    rng = np.random.default_rng(0)
    found = rng.standard_normal((40, 7)).astype(np.float32)
    lazy = found.copy()
    parameter = torch.nn.Parameter(torch.from_numpy(found.copy()))
    theirs = torch.optim.Adam([parameter], lr=0.03)
    adam, lazy_adam = Adam(found), Adam(lazy)
    for _ in range(30):
        gradient = rng.standard_normal((40, 7)).astype(np.float32)
        parameter.grad = torch.from_numpy(gradient)
        theirs.step()
        adam.begin_step()
        adam.step_range(0, gradient, 0.03)
        lazy_adam.step_rows(np.arange(40), gradient, 0.03)
    expected = parameter.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lazy, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_a_fit_with_one_batch_an_epoch_is_the_same_model_in_pytorch(scores: str) -> None:
    _, _, rows = problem(30, 50, 4)
    options = SoftmaxOptions(
        n_factors=4,
        n_epochs=12,
        scores=scores,
        temperature=0.3,
        learning_rate=0.02,
        user_learning_rate=0.03,
        decay="constant",
        batch_users=30,
        l2=0.05,
        seed=3,
    )
    losses = []

    def watch(round_) -> bool:
        losses.append(round_.loss)
        return True

    found = fit_softmax(rows, options, n_threads=1, watch=watch)
    drawn = np.random.default_rng([3, 0]).standard_normal((50, 4), dtype=np.float32) * np.float32(0.5)
    sums = torch.from_numpy(rows.to_scipy() @ drawn)
    users, items = (
        torch.nn.Parameter(torch.nn.functional.normalize(sums, dim=1)),
        torch.nn.Parameter(torch.from_numpy(drawn)),
    )
    optimizer = torch.optim.Adam([{"params": [users], "lr": 0.03, "betas": (0.0, 0.999)}, {"params": [items]}], lr=0.02)
    weights = torch.from_numpy(dense_weights(rows).astype(np.float32))
    by_user, by_item, total = weights.sum(1), weights.sum(0), float(weights.sum())
    for epoch in range(12):
        loss = torch_loss(users, items, weights, 0.3 if scores == "cosine" else None) / total
        assert losses[epoch] == pytest.approx(loss.item(), rel=1e-4)
        ridge = (by_user @ users.square().sum(1) + by_item @ items.square().sum(1)) / total
        optimizer.zero_grad()
        (loss + 0.05 / 2 * ridge).backward()
        optimizer.step()
    with torch.no_grad():
        expected = users @ items.T
        if scores == "cosine":
            expected = expected / users.norm(dim=1, keepdim=True) / items.norm(dim=1)
    has_entries = rows.degrees > 0
    np.testing.assert_allclose(
        (found.user_factors @ found.item_factors.T)[has_entries], expected.numpy()[has_entries], rtol=1e-3, atol=1e-3
    )
