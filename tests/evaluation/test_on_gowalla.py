"""Full rankings of a real catalog: 29,858 users by 40,981 items."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from rgals.baselines.implicit_als import IalsOptions, fit_ials
from rgals.baselines.simple import fit_popularity, fit_random
from rgals.data.dataset import Dataset
from rgals.data.ingest import ingest
from rgals.evaluation.evaluator import Evaluation, evaluate
from rgals.evaluation.protocol import EvaluationOptions

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def dataset(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = real_data / "gowalla"
    output = tmp_path_factory.mktemp("gowalla") / "dataset"
    return ingest([folder / "train.parquet"], output, test_sources=[folder / "test.parquet"])


@pytest.fixture(scope="module")
def evaluation(dataset: Dataset) -> Evaluation:
    train = dataset.read_part("train")
    models = [
        fit_ials(train, IalsOptions(n_factors=16, alpha=10.0, n_sweeps=3)),
        fit_popularity(train),
        fit_random(train),
    ]
    return evaluate(models, dataset, EvaluationOptions(cutoffs=(20,), n_resamples=200))


def test_the_counts_are_those_of_the_published_split(evaluation: Evaluation) -> None:
    report = evaluation.report
    assert (report.dataset.n_users, report.dataset.n_items) == (29_858, 40_981)
    assert (report.dataset.n_train, report.dataset.n_held_out) == (810_128, 217_242)
    assert report.protocol.n_users_evaluated == 29_858
    assert report.protocol.n_held_out_seen == 0


def test_factors_rank_above_popularity_and_popularity_above_chance_beyond_the_intervals(evaluation: Evaluation) -> None:
    ndcg = [section.metrics["ndcg@20"] for section in evaluation.report.models]
    for better, worse in itertools.pairwise(ndcg):
        assert better.ci_low is not None
        assert worse.ci_high is not None
        assert better.ci_low > worse.ci_high
    assert ndcg[2].mean is not None
    assert ndcg[2].mean < 0.001
    for comparison in evaluation.report.comparisons:
        difference = comparison.metrics["ndcg@20"]
        assert difference.ci_low is not None
        assert difference.ci_low > 0


def test_popularity_equals_a_plain_loop_over_users(evaluation: Evaluation, dataset: Dataset) -> None:
    train, test = dataset.read_part("train"), dataset.read_part("test")
    order = np.argsort(-np.bincount(train.columns, minlength=dataset.n_items), kind="stable").tolist()
    found = evaluation.values[1].by_user["ndcg@20"]
    for position in range(0, evaluation.users.n_users, 50):
        user = int(evaluation.users.user_rows[position])
        seen, truth = set(train.columns_of(user).tolist()), set(test.columns_of(user).tolist())
        ranked: list[int] = []
        for item in order:
            if item not in seen:
                ranked.append(item)
            if len(ranked) == 20:
                break
        dcg = sum(1 / np.log2(rank + 2) for rank, item in enumerate(ranked) if item in truth)
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(20, len(truth))))
        assert found[position] == pytest.approx(dcg / ideal, rel=1e-12)


def test_popularity_concentrates_on_few_items_and_chance_does_not(evaluation: Evaluation) -> None:
    _, popularity, chance = (section.metrics for section in evaluation.report.models)
    assert popularity["coverage@20"].mean is not None
    assert chance["coverage@20"].mean is not None
    assert popularity["coverage@20"].mean < 0.01
    assert chance["coverage@20"].mean > 0.3
    assert popularity["gini@20"].mean is not None
    assert popularity["gini@20"].mean > 0.99
