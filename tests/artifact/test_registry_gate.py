"""The gate: what it measures, what it objects to."""

import numpy as np
import pytest
from pydantic import ValidationError

from rgals.artifact.alignment import align_to_dataset
from rgals.artifact.registry import publish, read_current, read_history
from rgals.artifact.registry_gate import Gate, GateOptions, count_known
from rgals.baselines.simple import fit_popularity
from rgals.data.storage import Folder
from rgals.errors import InputError
from rgals.evaluation.bootstrap import bootstrap_intervals
from rgals.evaluation.evaluator import evaluate
from rgals.evaluation.protocol import EvaluationOptions
from tests.artifact.registry_problems import (
    N_ITEMS,
    N_USERS,
    pairs_of,
    planted_dataset,
    planted_parts,
    write_noisy_model,
)
from tests.evaluation.problems import write_dataset

AT_5 = GateOptions(metric="ndcg@5", n_resamples=200)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted_dataset(tmp_path_factory.mktemp("gate") / "dataset")


@pytest.fixture(scope="module")
def models(dataset, tmp_path_factory):
    """Give models from the best to one that is worse than popularity."""
    folder = tmp_path_factory.mktemp("models")
    noises = {"best": 0.0, "good": 0.6, "fair": 1.2, "useless": 30.0}
    return {name: write_noisy_model(folder / name, dataset, noise) for name, noise in noises.items()}


def values_of(model, dataset, k=5, metric="ndcg"):
    options = EvaluationOptions(cutoffs=(k,), n_resamples=0)
    aligned = model if hasattr(model, "fold_in") else align_to_dataset(model, dataset, "m")
    return evaluate([aligned], dataset, options).values[0].by_user[f"{metric}@{k}"]


def interval(values, n_resamples=200, level=0.95):
    low, high = bootstrap_intervals(values[None], n_resamples=n_resamples, seed=0, level=level)
    return pytest.approx((values.mean(), low[0], high[0]))


def numbers(estimate):
    return estimate.mean, estimate.ci_low, estimate.ci_high


def published(registry, model, dataset, options=AT_5, **how):
    return publish(registry, model, Gate(model, dataset, options), **how)


def test_a_first_version_needs_only_to_beat_popularity(dataset, models, tmp_path):
    found = published(tmp_path / "r", models["fair"], dataset)
    assert found.is_published
    judgement = found.event.judgement
    assert judgement.reasons == ()
    assert (judgement.current_version, judgement.current, judgement.over_current) == (None, None, None)
    ours = values_of(models["fair"], dataset)
    popular = values_of(fit_popularity(dataset.read_part("train")), dataset)
    assert numbers(judgement.candidate) == interval(ours)
    assert numbers(judgement.popularity) == interval(popular)
    assert numbers(judgement.over_popularity) == interval(ours - popular)
    assert judgement.dataset_fingerprint == dataset.fingerprint
    assert judgement.n_users == ours.size
    assert judgement.n_held_out == dataset.read_part("test").n_interactions


def test_the_difference_from_the_current_version_is_paired_by_user(dataset, models, tmp_path):
    published(tmp_path / "r", models["fair"], dataset)
    judgement = published(tmp_path / "r", models["best"], dataset).event.judgement
    assert judgement.current_version == "v00001"
    ours, theirs = values_of(models["best"], dataset), values_of(models["fair"], dataset)
    assert numbers(judgement.current) == interval(theirs)
    assert numbers(judgement.over_current) == interval(ours - theirs)


def test_a_worse_model_is_refused_with_the_numbers(dataset, models, tmp_path):
    published(tmp_path / "r", models["best"], dataset)
    found = published(tmp_path / "r", models["fair"], dataset)
    assert not found.is_published
    (reason,) = found.event.judgement.reasons
    difference = values_of(models["fair"], dataset) - values_of(models["best"], dataset)
    assert f"of v00001: the difference is {difference.mean():+.4f} [" in reason
    assert "may not be below 0.0000" in reason
    assert read_current(tmp_path / "r").version == "v00001"
    assert read_history(tmp_path / "r")[-1] == found.event


def test_the_same_model_again_is_not_worse(dataset, models, tmp_path):
    for _ in range(2):
        found = published(tmp_path / "r", models["good"], dataset)
    assert found.event.version == "v00002"
    assert numbers(found.event.judgement.over_current) == (0, 0, 0)


@pytest.mark.parametrize("is_relative", [False, True])
def test_the_margin_is_what_the_lower_end_may_fall_by(dataset, models, tmp_path, is_relative):
    published(tmp_path / "r", models["best"], dataset)
    judgement = Gate(models["good"], dataset, AT_5)(read_current(tmp_path / "r"))
    unit = judgement.current.mean if is_relative else 1.0
    needed = -judgement.over_current.ci_low / unit
    assert needed > 0
    for margin, is_passed in ((needed * 0.999, False), (needed * 1.001, True)):
        options = AT_5.model_copy(update={"margin": margin, "is_relative": is_relative})
        found = Gate(models["good"], dataset, options)(read_current(tmp_path / "r"))
        assert found.is_passed == is_passed
        assert found.margin == pytest.approx(margin * unit)


def test_a_model_below_popularity_is_refused_even_if_the_current_one_is_no_better(dataset, models, tmp_path):
    assert not published(tmp_path / "r", models["useless"], dataset).is_published
    forced = published(tmp_path / "r", models["useless"], dataset, force=True)
    assert forced.event.is_forced
    assert "is not above popularity's" in forced.event.judgement.reasons[0]
    (reason,) = published(tmp_path / "r", models["useless"], dataset).event.judgement.reasons
    assert "is not above popularity's" in reason


def test_a_model_equal_to_popularity_does_not_beat_it(dataset, models, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "rgals.artifact.registry_gate.fit_popularity",
        lambda train: _named(align_to_dataset(models["best"], dataset, "popularity")),
    )
    (reason,) = published(tmp_path / "r", models["best"], dataset).event.judgement.reasons
    assert "is not above popularity's" in reason


def _named(model):
    assert model.name == "popularity"
    return model


@pytest.mark.parametrize("metric", ["recall@3", "mrr@10", "hit_rate@1"])
def test_another_metric_and_part_can_decide(dataset, models, tmp_path, metric):
    options = GateOptions(metric=metric, part="validation", n_resamples=100)
    judgement = published(tmp_path / "r", models["best"], dataset, options).event.judgement
    name, _, k = metric.partition("@")
    assert (judgement.metric, judgement.part) == (metric, "validation")
    found = evaluate(
        [align_to_dataset(models["best"], dataset, "m")],
        dataset,
        EvaluationOptions(cutoffs=(int(k),), part="validation", n_resamples=0),
    )
    assert judgement.candidate.mean == pytest.approx(found.values[0].by_user[f"{name}@{k}"].mean())


def test_a_model_trained_on_the_held_out_interactions_is_refused(dataset, tmp_path):
    cheat = write_noisy_model(tmp_path / "cheat", dataset, 0.0, extra_seen="test")
    found = published(tmp_path / "r", cheat, dataset)
    n_test = dataset.read_part("test").n_interactions
    assert found.event.judgement.n_held_out_known == n_test
    assert f"trained on {n_test} of the {n_test} held-out interactions" in found.event.judgement.reasons[0]
    honest = GateOptions(metric="ndcg@5", part="validation", n_resamples=100)
    assert published(tmp_path / "r", cheat, dataset, honest).event.judgement.n_held_out_known == 0


@pytest.mark.parametrize("first_item", [0, 7])
@pytest.mark.parametrize("block", [1 << 14, 7])
def test_known_held_out_interactions_are_counted_by_id(dataset, tmp_path, first_item, block, monkeypatch):
    monkeypatch.setattr("rgals.artifact.registry_gate._BLOCK_USERS", block)
    model = write_noisy_model(
        tmp_path / "m", dataset, 0.0, first_item=first_item, extra_seen="validation", fingerprint="0" * 64
    )
    truth = {pair for pair in pairs_of(dataset, "validation") if pair[1] >= first_item}
    assert count_known(model, dataset, "validation") == len(truth) > 0
    assert count_known(model, dataset, "test") == 0


def test_a_current_version_of_another_dataset_is_matched_by_id(dataset, models, tmp_path):
    other = write_noisy_model(tmp_path / "m", dataset, 0.0, first_item=10, fingerprint="0" * 64)
    published(tmp_path / "r", other, dataset, force=True)
    judgement = published(tmp_path / "r", models["best"], dataset).event.judgement
    assert judgement.is_passed
    assert judgement.current.mean < judgement.candidate.mean
    assert any(note.startswith("v00001: trained on another dataset") for note in judgement.notes)
    assert any("10 of 30 items" in note for note in judgement.notes)


def test_a_current_version_that_cannot_be_opened_is_an_objection_that_force_passes_over(dataset, models, tmp_path):
    published(tmp_path / "r", models["good"], dataset)
    (tmp_path / "r" / "v00001" / "item_factors.npy").unlink()
    refused = published(tmp_path / "r", models["best"], dataset).event
    assert "the current version v00001 cannot be evaluated" in refused.judgement.reasons[0]
    assert "item_factors.npy: the file is missing" in refused.judgement.reasons[0]
    assert (refused.judgement.current_version, refused.judgement.current) == ("v00001", None)
    relative = AT_5.model_copy(update={"margin": 0.01, "is_relative": True})
    forced = published(tmp_path / "r", models["best"], dataset, relative, force=True).event
    assert (forced.version, forced.is_forced, forced.judgement.margin) == ("v00002", True, None)


def test_models_that_share_no_item_with_the_dataset_are_not_compared(dataset, models, tmp_path):
    stranger = write_noisy_model(tmp_path / "m", dataset, 0.0, fingerprint="0" * 64, item_prefix="x")
    with pytest.raises(InputError, match="candidate: none of the dataset's 30 items"):
        Gate(stranger, dataset)
    registry = tmp_path / "r"
    publish(registry, stranger, lambda _: Gate(models["best"], dataset, AT_5)(None))
    (reason,) = published(registry, models["best"], dataset).event.judgement.reasons
    assert "the current version v00001 cannot be evaluated (v00001: none of the dataset's 30 items" in reason


def test_new_users_are_folded_in(tmp_path):
    parts = {
        "train": [(u, i) for u in range(40) for i in range(N_ITEMS) if u % 2 == i % 2 and (u + i) % 4],
        "test_fold_in": [(u, i) for u in range(40, 60) for i in range(10) if u % 2 == i % 2],
        "test": [(u, i) for u in range(40, 60) for i in range(10, N_ITEMS) if u % 2 == i % 2],
    }
    dataset = write_dataset(tmp_path / "d", N_USERS, N_ITEMS, parts)
    model = write_noisy_model(tmp_path / "m", dataset, 0.1)
    judgement = published(tmp_path / "r", model, dataset).event.judgement
    assert judgement.is_passed
    assert judgement.candidate.mean == pytest.approx(values_of(model, dataset).mean())
    assert judgement.candidate.mean > 0.9


@pytest.mark.parametrize(("n_users", "is_passed"), [(1, False), (19, False), (20, True)])
def test_so_few_users_that_an_interval_says_nothing_are_an_objection(tmp_path, n_users, is_passed):
    # The truth of each is an item that popularity ranks behind those of the other parity.
    truth = [(user, N_ITEMS - 2 + user % 2) for user in range(n_users)]
    known = {name: [pair for pair in pairs if pair[1] < N_ITEMS - 2] for name, pairs in planted_parts().items()}
    dataset = planted_dataset(tmp_path / "d", **{**known, "test": truth})
    model = write_noisy_model(tmp_path / "m", dataset, 0.0)
    options = GateOptions(metric="ndcg@20", n_resamples=100)
    judgement = published(tmp_path / "r", model, dataset, options).event.judgement
    assert judgement.over_popularity.ci_low > 0
    assert judgement.is_passed == is_passed
    if not is_passed:
        (reason,) = judgement.reasons
        assert f"test part: {n_users}, and models are compared on at least 20" in reason
        assert published(tmp_path / "r", model, dataset, options, force=True).event.is_forced


def test_popularity_counts_what_the_candidate_was_trained_on(tmp_path):
    # The last item is popular in the validation part alone, and the truth of those who have not seen it there.
    validation, test = ([(user, N_ITEMS - 1) for user in range(start, N_USERS, 2)] for start in (0, 1))
    train = [pair for pair in planted_parts()["train"] if pair[1] < N_ITEMS - 1]
    dataset = planted_dataset(tmp_path / "d", train=train, validation=validation, test=test)
    found = {}
    for trained_on in (("train",), ("train", "validation")):
        model = write_noisy_model(tmp_path / "-".join(trained_on), dataset, 0.0, trained_on=trained_on)
        found[len(trained_on)] = Gate(model, dataset, GateOptions(metric="hit_rate@1"))(None).popularity.mean
    assert found == {1: 0.0, 2: 1.0}


def test_the_numbers_do_not_depend_on_the_number_of_threads(dataset, models, tmp_path):
    published(tmp_path / "r", models["fair"], dataset)
    one, two = (
        Gate(models["good"], dataset, AT_5, n_threads=threads)(read_current(tmp_path / "r")) for threads in (1, 2)
    )
    assert one == two


def test_the_gate_reports_its_progress(dataset, models):
    seen = []
    Gate(models["best"], dataset, AT_5)(None, lambda done, total: seen.append((done, total)))
    n_users = int(np.count_nonzero(dataset.read_part("test").degrees))
    assert seen[-1] == (2 * n_users, 2 * n_users)


def test_a_dataset_without_the_part_is_refused(models, tmp_path):
    dataset = write_dataset(tmp_path / "d", N_USERS, N_ITEMS, {"train": [(0, 0), (1, 1)]})
    with pytest.raises(InputError, match="expected the part 'test', found train"):
        published(tmp_path / "r", models["best"], dataset)
    assert not Folder.at(tmp_path / "r").exists("CURRENT")


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": "ndcg"},
        {"metric": "coverage@20"},
        {"metric": "ndcg@0"},
        {"metric": "ndcg@20x"},
        {"margin": -0.1},
        {"margin": float("nan")},
        {"margin": float("inf")},
        {"n_resamples": 10},
        {"level": 1.0},
        {"part": "train"},
        {"colour": "blue"},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        GateOptions(**wrong)
