"""The spaces of the losses that rgals trains itself."""

import contextlib
import re
from pathlib import Path

import pytest

from rgals.errors import InputError
from rgals.numerics.loss import LOSS_NAMES
from rgals.training.config import TrainingConfig
from rgals.tuning.rg_space import SEARCHABLE, default_search, family_space


def searchable(loss):
    """Give every option that can be searched under a loss."""
    names = []
    for name in SEARCHABLE:
        with contextlib.suppress(InputError):
            names += family_space((name,), loss).names
    return tuple(names)


def test_an_option_of_another_loss_cannot_be_searched():
    assert "eta" in searchable("rg-softmax")
    assert "eta" not in searchable("rgx")


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_every_value_of_a_space_is_a_valid_training_option(loss):
    space = family_space(searchable(loss), loss)
    for position in (0.0, 0.5, 1.0):
        TrainingConfig(loss=loss, **space.at(dict.fromkeys(space.names, position)))
    for setting in (space.defaults(), *space.known):
        TrainingConfig(loss=loss, **setting)


@pytest.mark.parametrize("loss", ["rgx", "rg-softmax"])
def test_the_search_begins_with_the_defaults_of_training(loss):
    plain = TrainingConfig(loss=loss)
    assert family_space(loss=loss).defaults() == {name: getattr(plain, name) for name in default_search(loss)}


def test_exponents_of_zero_and_of_both_signs_are_within_reach():
    for dimension in family_space(("user_exponent", "item_exponent", "beta")).dimensions:
        assert dimension.low < 0 < dimension.high
        assert dimension.default == 0


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_prior_of_the_negatives_is_searched_only_when_named(loss):
    assert "beta" not in family_space(loss=loss).names
    assert family_space(("alpha", "beta", "alpha"), loss).names == ("alpha", "beta")


def test_what_cannot_be_searched_is_named():
    with pytest.raises(InputError, match=r"expected options of rgx, alpha, reg, .*, found n_factors, speed"):
        family_space(("alpha", "n_factors", "speed"))
    with pytest.raises(InputError, match="found none"):
        family_space(())


PAGE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()


@pytest.mark.parametrize("name", searchable("rg-softmax"))
def test_the_documented_ranges_of_rg_softmax_are_those_of_the_space(name):
    table = PAGE[PAGE.index("| rg-softmax |") :]
    (dimension,) = family_space((name,), "rg-softmax").dimensions
    row = re.search(rf"^\| `{name}`.*? \| (\S+) to (\S+?)(, log)? \| (.*?) \|", table, re.MULTILINE)
    assert (float(row[1]), float(row[2]), row[3] is not None) == (dimension.low, dimension.high, dimension.log)
    assert (row[4] == "yes") == (name in default_search("rg-softmax"))


@pytest.mark.parametrize("name", searchable("rgx"))
def test_the_documented_ranges_are_those_of_the_space(name):
    page = PAGE
    squares, expansions = (family_space((name,), loss).dimensions[0] for loss in ("ials", "rgx"))
    row = re.search(rf"^\| `{name}` \| (.*?) to (\S*?)(, log)? \| (.*?) \|", page, re.MULTILINE)
    assert (float(row[1]), float(row[2]), row[3] is not None) == (expansions.low, expansions.high, expansions.log)
    other = re.match(r"(.*) to (\S*?)(, log)?$", row[4])
    found = (expansions.low, expansions.high, expansions.log) if other is None else (
        float(other[1]), float(other[2]), other[3] is not None)  # fmt: skip
    assert found == (squares.low, squares.high, squares.log)
