"""The training configuration: bounds, messages, and what it hands to the loss."""

import json

import pytest

from rgals.errors import InputError
from rgals.training.config import MUTABLE_ON_RESUME, TrainingConfig


def test_every_option_carries_a_description():
    for name, field in TrainingConfig.model_fields.items():
        assert field.description, name


def test_defaults_are_the_papers_loss():
    config = TrainingConfig()
    assert (config.loss, config.nu, config.beta, config.user_exponent, config.item_exponent) == ("rg2", 1, 0, 0, 0)


def test_loss_receives_every_hyperparameter():
    config = TrainingConfig(loss="rgx", alpha=2.0, reg=0.3, nu=0.5, beta=0.25, user_exponent=-0.5, item_exponent=-0.25)
    loss = config.to_loss()
    assert (loss.name, loss.alpha, loss.reg, loss.nu) == ("rgx", 2.0, 0.3, 0.5)
    assert (loss.beta, loss.user_exponent, loss.item_exponent) == (0.25, -0.5, -0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "bpr"}, r"loss: expected 'rg2', 'rgx', 'ials' or 'rg-softmax', found 'bpr'"),
        ({"n_factors": 0}, r"n_factors: expected greater than or equal to 1, found 0"),
        ({"n_factors": 1.5}, r"n_factors: expected .*integer.*, found 1\.5"),
        ({"n_sweeps": 0}, "n_sweeps: expected greater than or equal to 1"),
        ({"alpha": -1}, "alpha: expected greater than or equal to 0, found -1"),
        ({"reg": float("nan")}, "reg: expected .*finite.*, found nan"),
        ({"alpha": float("inf")}, "alpha: expected .*finite"),
        ({"solver": "lu"}, "solver: expected 'auto', 'cg', 'exact', 'woodbury' or 'cholesky', found 'lu'"),
        ({"tolerance": 1}, "tolerance: expected less than 1"),
        ({"patience": 0}, "patience: expected greater than or equal to 1"),
        ({"seed": -1}, "seed: expected greater"),
        ({"factors": 3}, "factors: no such option; the options are loss, n_factors"),
        ({"n_factors": "many"}, "n_factors: expected .*integer.*, found 'many'"),
    ],
)
def test_options_out_of_bounds_are_input_errors(options, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**options)
    with pytest.raises(InputError, match=message):
        TrainingConfig.from_options(options)


def test_every_problem_is_listed_at_once():
    with pytest.raises(InputError) as caught:
        TrainingConfig(loss="bpr", n_factors=0, colour="red")
    assert str(caught.value).startswith("training configuration, 3 problems; change these options:")
    assert [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "loss",
        "n_factors",
        "colour",
    ]


def test_options_cannot_be_changed_after_construction():
    with pytest.raises(ValueError, match="frozen"):
        TrainingConfig().n_factors = 3


def test_frozen_options_leave_out_exactly_what_a_resumed_run_may_change():
    frozen = TrainingConfig().frozen_options()
    assert set(frozen) | MUTABLE_ON_RESUME == set(TrainingConfig.model_fields)
    assert not set(frozen) & MUTABLE_ON_RESUME
    assert "alpha" in frozen
    assert "n_sweeps" in MUTABLE_ON_RESUME


def test_a_configuration_survives_json():
    config = TrainingConfig(loss="rgx", patience=3, reg=0.123456789)
    assert TrainingConfig.from_options(json.loads(config.model_dump_json())) == config
