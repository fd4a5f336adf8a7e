"""The documentation of the estimator: its examples run, and it names every parameter of implicit."""

import doctest
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from implicit.als import AlternatingLeastSquares

import rgals.estimator
from rgals import RankingALS
from tests.estimator.matrices import make_graded

PAGE = (Path(__file__).parents[2] / "docs" / "estimator.md").read_text()


def test_the_first_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(import numpy.*?)```", PAGE, flags=re.DOTALL)
    names = {"user_items": make_graded(n_users=30, n_items=130)}
    exec(example, names)
    assert names["model"].item_factors.shape == (130, 64)
    assert (tmp_path / "model.npz").exists()


def test_the_example_of_the_class_gives_what_it_says():
    result = doctest.testmod(rgals.estimator)
    assert result.attempted >= 5
    assert result.failed == 0


@pytest.mark.parametrize("name", inspect.signature(AlternatingLeastSquares).parameters)
def test_every_parameter_of_implicit_is_mapped(name):
    assert f"`{name}" in PAGE


def test_every_method_is_named():
    public = [name for name in dir(RankingALS) if not name.startswith("_") and callable(getattr(RankingALS, name))]
    assert {"fit", "recommend", "explain"} <= set(public)
    assert [name for name in public if f"`{name}" not in PAGE] == []


def test_a_matrix_can_be_widened_as_the_page_says():
    matrix = make_graded()
    model = RankingALS(n_factors=3, n_sweeps=1, random_state=0).fit(matrix, show_progress=False)
    model.partial_fit_items([20], matrix.T.tocsr()[3])
    matrix.resize(30, 21)
    assert model.recommend(np.arange(30), matrix, N=2)[0].shape == (30, 2)
