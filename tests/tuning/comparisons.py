"""Small datasets to compare models on, and a short way to compare."""

import dataclasses

import numpy as np

from rgals.execution import InProcessExecutor
from rgals.tuning import contenders
from rgals.tuning.compare import compare
from rgals.tuning.compare_folder import ComparisonFolder
from rgals.tuning.compare_options import CompareOptions
from tests.evaluation.problems import write_dataset

N_USERS, N_ITEMS = 160, 60


def planted_parts(seed=0, test_seed=0):
    """Users of four tastes; what is held out for the test depends on ``test_seed`` alone."""
    generator = np.random.default_rng(seed)
    taste = generator.integers(4, size=N_USERS)
    chances = np.where(np.arange(N_ITEMS)[None] % 4 == taste[:, None], 0.5, 0.06)
    draws, places = generator.random((N_USERS, N_ITEMS)), generator.random((N_USERS, N_ITEMS))
    is_known = (draws < chances) & (places < 0.85)
    parts = {"train": is_known & (places < 0.65), "validation": is_known & (places >= 0.65)}
    others = np.random.default_rng([seed, test_seed]).random((N_USERS, N_ITEMS))
    parts["test"] = ~is_known & (others < chances * 0.3)
    return {name: list(zip(*(side.tolist() for side in np.nonzero(mask)), strict=True)) for name, mask in parts.items()}


def make_dataset(path, **seeds):
    return write_dataset(path, N_USERS, N_ITEMS, planted_parts(**seeds))


def small_options(**changed):
    values = {
        "models": ("rg2", "popularity"),
        "n_factors": 6,
        "budget": 2,
        "cutoffs": (5, 10),
        "cutoff": 5,
        "validation_users": 0,
        "n_resamples": 50,
    }
    return CompareOptions.model_validate({**values, **changed})


def run_comparison(dataset, path, *, executor=None, listener=None, runs_here=True, **changed):
    options = small_options(**changed)
    with ComparisonFolder(path) as folder, executor or InProcessExecutor(1) as workforce:
        folder.open(options.identity(dataset.fingerprint), options.kept_budget, resume=None)
        return compare(dataset, options, folder, executor=workforce, runs_here=runs_here, listener=listener)


def replace_contender(monkeypatch, name, **changed):
    known = contenders.CONTENDERS
    monkeypatch.setitem(known, name, dataclasses.replace(known[name], **changed))


def without_seconds(trials):
    """What a search found, but for how long it took."""
    return [
        (
            trial.number,
            trial.result.options,
            trial.result.state,
            [(point.round, point.ndcg) for point in trial.result.curve],
        )
        for trial in trials
    ]
