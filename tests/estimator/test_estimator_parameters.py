"""Parameters of the estimator: scikit-learn's habits, and errors that name what to change."""

import inspect
import pickle
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import sklearn.base

import rgals
from rgals import RankingALS
from rgals.errors import InputError
from rgals.training.config import TrainingConfig


def test_the_package_exports_the_estimator_and_its_version():
    assert rgals.RankingALS.__module__ == "rgals.estimator"
    assert set(rgals.__all__) == {"RankingALS", "__version__"}
    assert rgals.__version__.split(".")[0].isdigit()
    assert "RankingALS" in dir(rgals)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Recommender"):
        rgals.Recommender  # noqa: B018


def test_importing_the_package_leaves_the_compiler_alone():
    code = "import sys, rgals; assert 'numba' not in sys.modules; rgals.RankingALS; assert 'numba' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_star_import_gives_the_estimator():
    names = {}
    exec("from rgals import *", names)
    assert names["RankingALS"] is RankingALS


def test_shared_defaults_are_those_of_the_training_configuration():
    options = TrainingConfig.model_fields
    shared = {name: p.default for name, p in inspect.signature(RankingALS).parameters.items() if name in options}
    assert len(shared) == 17
    by_loss = {name: shared.pop(name) for name in ("reg", "n_sweeps")}
    assert by_loss == {"reg": None, "n_sweeps": None}  # the loss's own
    assert shared == {name: options[name].default for name in shared}


def test_get_params_gives_what_the_constructor_was_given():
    generator = np.random.default_rng(1)
    model = RankingALS(n_factors=7, loss="rgx", random_state=generator)
    params = model.get_params()
    assert (params["n_factors"], params["loss"]) == (7, "rgx")
    assert params["random_state"] is generator
    assert RankingALS(**params).get_params() == params
    assert model.get_params(deep=False) == params


def test_set_params_changes_parameters_and_gives_the_estimator_back():
    model = RankingALS()
    assert model.set_params(alpha=2.0, n_sweeps=3) is model
    assert (model.alpha, model.n_sweeps) == (2.0, 3)


def test_set_params_refuses_unknown_names_and_changes_nothing():
    model = RankingALS()
    with pytest.raises(InputError, match=r"found factors; .*implicit"):
        model.set_params(alpha=2.0, factors=10)
    assert model.get_params() == RankingALS().get_params()


def test_scikit_learn_clones_the_parameters_and_not_the_factors(fitted_checkerboard):
    copy = sklearn.base.clone(fitted_checkerboard)
    assert copy.get_params() == fitted_checkerboard.get_params()
    assert copy.user_factors is None


def test_repr_shows_the_parameters_that_differ_from_the_defaults():
    assert repr(RankingALS()) == "RankingALS()"
    assert (
        repr(RankingALS(n_factors=8, loss="ials", n_threads=2)) == "RankingALS(n_factors=8, loss='ials', n_threads=2)"
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_factors": 0}, "n_factors: expected greater than or equal to 1, found 0"),
        ({"n_factors": 2.5}, "n_factors: .*found 2.5"),
        ({"loss": "bpr"}, "loss: .*'rg2', 'rgx', 'ials' or 'rg-softmax', found 'bpr'"),
        ({"alpha": -1}, "alpha: .*found -1"),
        ({"reg": float("nan")}, "reg: .*found nan"),
        ({"n_sweeps": 0}, "n_sweeps: .*found 0"),
        ({"solver": "lu"}, "solver: .*found 'lu'"),
        ({"cg_steps": 0}, "cg_steps: .*found 0"),
        ({"n_threads": -1}, "n_threads: .*found -1; 0 or None uses every processor"),
        ({"n_threads": 1.5}, "n_threads: .*found 1.5"),
        ({"random_state": -3}, "random_state: .*found -3"),
        ({"random_state": "x"}, "random_state: .*found 'x'"),
        ({"random_state": True}, "random_state: .*found True"),
    ],
)
def test_fit_names_the_parameter_that_is_out_of_bounds(parameters, message, checkerboard):
    with pytest.raises(InputError, match=message):
        RankingALS(**parameters).fit(checkerboard, show_progress=False)


def test_numbers_of_numpy_are_numbers(checkerboard):
    model = RankingALS(n_factors=np.int64(3), alpha=np.float32(0.5), n_sweeps=np.int32(2), random_state=np.int64(1))
    plain = RankingALS(n_factors=3, alpha=0.5, n_sweeps=2, random_state=1)
    factors = [m.fit(checkerboard, show_progress=False).item_factors for m in (model, plain)]
    np.testing.assert_array_equal(*factors)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, rows: model.recommend(0, rows[0]),
        lambda model, rows: model.similar_items(0),
        lambda model, rows: model.similar_users(0),
        lambda model, rows: model.recalculate_user(0, rows[0]),
        lambda model, rows: model.recalculate_item(0, rows[0]),
        lambda model, rows: model.partial_fit_users([0], rows[0]),
        lambda model, rows: model.partial_fit_items([0], rows[0]),
        lambda model, rows: model.explain(0, rows, 1),
        lambda model, rows: model.save("never-written"),
    ],
)
def test_every_question_to_a_model_without_factors_says_to_fit_it(ask, checkerboard):
    with pytest.raises(InputError, match=r"RankingALS: expected a fitted model.*call fit\(user_items\) first"):
        ask(RankingALS(), checkerboard)


@pytest.mark.parametrize("copy", [lambda model: pickle.loads(pickle.dumps(model)), deepcopy])
def test_copies_answer_as_the_original_and_change_apart(copy, checkerboard):
    model = RankingALS(n_factors=4, random_state=0).fit(checkerboard, show_progress=False)
    model.recommend(0, checkerboard[0], recalculate_user=True)
    model.similar_items(0)
    twin = copy(model)
    for mine, theirs in zip(model.recommend(3, checkerboard[3]), twin.recommend(3, checkerboard[3]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    before = model.user_factors.copy()
    twin.partial_fit_users([0], checkerboard[1])
    np.testing.assert_array_equal(model.user_factors, before)


def test_a_model_without_factors_can_be_copied_too():
    assert pickle.loads(pickle.dumps(RankingALS(alpha=3.0))).alpha == 3.0
