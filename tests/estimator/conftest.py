"""Small interaction matrices, and models fitted on them."""

import pytest

from rgals import RankingALS
from tests.estimator.matrices import make_checkerboard, make_graded


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
