"""Small interaction matrices with known answers, and fitted models on them."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from rgals import RankingALS


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


@pytest.fixture(scope="session")
def checkerboard():
    return make_checkerboard(40)


@pytest.fixture(scope="session")
def graded():
    return make_graded()


@pytest.fixture(scope="session")
def fitted_checkerboard(checkerboard):
    """Shared and read only: tests that change a model fit their own."""
    return RankingALS(n_factors=16, alpha=1, reg=0.01, random_state=3, n_sweeps=30).fit(
        checkerboard, show_progress=False
    )


@pytest.fixture(params=["rg2", "rgx", "ials", "weighted"])
def family_parameters(request):
    """One set of loss parameters for each member of the family, and one that uses all exponents."""
    if request.param == "weighted":
        return {"loss": "rgx", "user_exponent": -0.5, "item_exponent": -0.25, "beta": 0.5, "alpha": 0.7}
    return {"loss": request.param}


@pytest.fixture
def fitted_graded(family_parameters, graded):
    return RankingALS(n_factors=6, random_state=1, solver="exact", n_sweeps=60, reg=0.05, **family_parameters).fit(
        graded, show_progress=False
    )
