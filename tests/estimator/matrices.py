"""Small interaction matrices with known answers."""

import numpy as np
from scipy.sparse import csr_matrix


def make_checkerboard(size):
    """Even users have even items, odd users odd ones; each user's own number is withheld."""
    users, items = np.indices((size, size))
    return csr_matrix(((users + items) % 2 == 0) & (users != items), dtype=np.float32)


def make_graded(n_users=30, n_items=20, density=0.25, seed=5):
    """Draw integer weights from 1 to 4 at random places; no row and no column is empty."""
    random = np.random.default_rng(seed)
    dense = (random.random((n_users, n_items)) < density) * random.integers(1, 5, (n_users, n_items))
    dense[np.arange(n_users), np.arange(n_users) % n_items] = 2
    return csr_matrix(dense.astype(np.float32))
