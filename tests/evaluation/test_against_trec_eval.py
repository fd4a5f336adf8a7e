"""An evaluator that shares no code with this one: trec_eval, the program of the Text Retrieval Conference, in C."""

import numpy as np
import pytest
import pytrec_eval

from rgals.baselines.implicit_als import IalsOptions, fit_ials
from rgals.data.dataset import Dataset
from rgals.evaluation.evaluator import evaluate, measure
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.numerics.ranking import Gains, ranking_metrics
from rgals.numerics.sparse import InteractionRows
from tests.evaluation.problems import random_parts, write_dataset

CUTOFFS = (1, 5, 20)
NAMES = {"ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "map": "map_cut", "hit_rate": "success"}


def trec_eval(ranked: np.ndarray, held_out: InteractionRows, k: int) -> dict[str, np.ndarray]:
    """Metrics at one cutoff by trec_eval, by our names; MAP brought to our divisor."""
    truth = {
        f"u{user}": {
            f"i{item}": int(grade)
            for item, grade in zip(held_out.columns_of(user).tolist(), held_out.weights_of(user).tolist(), strict=True)
        }
        for user in range(held_out.n_rows)
    }
    # trec_eval sorts by score; the list is cut because its reciprocal rank knows no cutoff.
    run = {
        f"u{user}": {f"i{item}": float(k - place) for place, item in enumerate(items[:k].tolist()) if item >= 0}
        for user, items in enumerate(ranked)
    }
    measures = {f"{name}.{k}" for name in NAMES.values()} | {"recip_rank"}
    found = pytrec_eval.RelevanceEvaluator(truth, measures).evaluate({user: run[user] or {"none": 1.0} for user in run})
    values = {
        ours: np.array([found[f"u{user}"][f"{theirs}_{k}"] for user in range(held_out.n_rows)])
        for ours, theirs in NAMES.items()
    }
    values["map"] *= held_out.degrees / np.minimum(held_out.degrees, k)
    values["mrr"] = np.array([found[f"u{user}"]["recip_rank"] for user in range(held_out.n_rows)])
    return values


def random_lists(seed: int, n_users: int = 120, n_items: int = 60) -> tuple[np.ndarray, InteractionRows]:
    """Lists that hold some relevant items; some are short, some empty; grades are 1, 2 or 3."""
    generator = np.random.default_rng(seed)
    ranked = np.array([generator.permutation(n_items)[: max(CUTOFFS)] for _ in range(n_users)]).astype(np.int32)
    for user in range(0, n_users, 7):
        ranked[user, generator.integers(0, max(CUTOFFS)) :] = -1
    ranked[3] = -1
    counts = generator.integers(1, 40, n_users)
    items = np.concatenate([generator.permutation(n_items)[:count] for count in counts])
    grades = generator.integers(1, 4, items.size)
    return ranked, InteractionRows.from_pairs(np.repeat(np.arange(n_users), counts), items, grades, n_users, n_items)


@pytest.mark.parametrize("gains", ["binary", "graded"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_metric_of_random_lists_agrees(seed: int, gains: Gains) -> None:
    ranked, graded = random_lists(seed)
    held_out = graded if gains == "graded" else InteractionRows(graded.indptr, graded.columns, None, graded.n_columns)
    ours = ranking_metrics(ranked, held_out, CUTOFFS, gains)
    for k in CUTOFFS:
        for name, theirs in trec_eval(ranked, held_out, k).items():
            np.testing.assert_allclose(ours[f"{name}@{k}"], theirs, atol=1e-6, err_msg=f"{name}@{k}")
            assert 0 < theirs.mean() <= 1
    assert (graded.degrees > 20).any()  # more held-out items than the list is long


def test_grades_change_ndcg_so_that_the_graded_comparison_is_one() -> None:
    ranked, graded = random_lists(0)
    binary, exact = (ranking_metrics(ranked, graded, (20,), gains)["ndcg@20"] for gains in ("binary", "graded"))
    assert np.abs(binary - exact).max() > 0.05


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    parts = random_parts(150, 80, {"train": 0.15, "validation": 0.03, "test": 0.08}, seed=5)
    return write_dataset(
        tmp_path_factory.mktemp("data") / "d", 150, 80, parts, lambda user, item: 1 + (user + item) % 3
    )


@pytest.mark.parametrize("gains", ["binary", "graded"])
def test_the_report_of_a_trained_model_agrees(dataset: Dataset, gains: Gains) -> None:
    model = fit_ials(dataset.read_part("train"), IalsOptions(n_factors=8, n_sweeps=3), n_threads=1)
    options = EvaluationOptions(cutoffs=CUTOFFS, gains=gains, n_resamples=0)
    users = EvaluatedUsers.read(dataset, "test")
    report = evaluate([model], dataset, options, n_threads=1).report
    scores = model.user_factors[users.user_rows] @ model.item_factors.T
    for position in range(users.n_users):
        scores[position, users.seen.columns_of(position)] = -np.inf
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, : max(CUTOFFS)].astype(np.int32)
    plain = InteractionRows(users.held_out.indptr, users.held_out.columns, None, users.held_out.n_columns)
    for k in CUTOFFS:
        theirs = trec_eval(ranked, users.held_out if gains == "graded" else plain, k)
        for name, values in theirs.items():
            assert report.models[0].metrics[f"{name}@{k}"].mean == pytest.approx(values.mean(), abs=1e-6), name


def test_each_user_of_a_trained_model_agrees(dataset: Dataset) -> None:
    model = fit_ials(dataset.read_part("train"), IalsOptions(n_factors=8, n_sweeps=3), n_threads=1)
    users = EvaluatedUsers.read(dataset, "test")
    measured = measure(model, users, EvaluationOptions(cutoffs=(20,)), n_threads=1)
    scores = model.user_factors[users.user_rows] @ model.item_factors.T
    run = {}
    for position in range(users.n_users):
        scores[position, users.seen.columns_of(position)] = -np.inf
        best = np.argsort(-scores[position], kind="stable")[:20]
        run[f"u{position}"] = {f"i{item}": float(scores[position, item]) for item in best.tolist()}
    truth = {f"u{user}": {f"i{item}": 1 for item in users.held_out.columns_of(user)} for user in range(users.n_users)}
    found = pytrec_eval.RelevanceEvaluator(truth, {"ndcg_cut.20", "recall.20"}).evaluate(run)
    for ours, theirs in (("ndcg@20", "ndcg_cut_20"), ("recall@20", "recall_20")):
        expected = [found[f"u{user}"][theirs] for user in range(users.n_users)]
        np.testing.assert_allclose(measured.by_user[ours], expected, atol=1e-6)
