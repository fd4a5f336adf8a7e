"""Small random problems that several tests share."""

import numpy as np
from hypothesis import strategies as st

from rgals.numerics.loss import QUADRATIC_LOSS_NAMES, Loss
from rgals.numerics.sparse import InteractionRows


def random_interactions(
    seed: int, n_users: int, n_items: int, density: float = 0.3, *, is_weighted: bool = False
) -> InteractionRows:
    rng = np.random.default_rng(seed)
    mask = rng.random((n_users, n_items)) < density
    mask[rng.integers(n_users), rng.integers(n_items)] = True
    users, items = np.nonzero(mask)
    weights = rng.uniform(0.25, 4.0, users.size).astype(np.float32) if is_weighted else None
    return InteractionRows.from_pairs(users, items, weights, n_users, n_items)


def losses(names: tuple[str, ...] = QUADRATIC_LOSS_NAMES, min_alpha: float = 0.0) -> st.SearchStrategy[Loss]:
    exponent = st.sampled_from([0.0, 0.0, -0.5, 0.25])
    return st.builds(
        Loss,
        name=st.sampled_from(names),
        alpha=st.sampled_from([a for a in (0.0, 0.1, 1.0, 5.0) if a >= min_alpha]),
        reg=st.floats(1e-3, 1.0),
        nu=st.sampled_from([0.0, 0.5, 1.0]),
        beta=st.sampled_from([0.0, 0.5, 1.0, -0.5]),
        user_exponent=exponent,
        item_exponent=exponent,
    )
