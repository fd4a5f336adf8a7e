from typing import Any

import pytest

from rgals.evaluation.page_verdict import find_difference, judge, make_verdict, pick_pair
from rgals.evaluation.report import Difference, Report
from tests.evaluation.page_reports import bare_evaluation, difference, report_document

Document = dict[str, Any]


def two_models(rg: float = 0.1388, softmax: float = 0.1402, half: float = 0.0005, p: float | None = 0.0004) -> Document:
    """Give a comparison of the first RG model with the cosine softmax."""
    document = report_document()
    document["models"] = [model for model in document["models"] if model["name"] in {"rgx-weighted", "softmax-cosine"}]
    for model, mean in zip(document["models"], (rg, softmax), strict=True):
        model["metrics"]["ndcg@20"] = {"mean": mean, "ci_low": mean - 0.002, "ci_high": mean + 0.002, "n_users": 100}
    document["comparisons"] = [
        {
            "model": "rgx-weighted", "other": "softmax-cosine",
            "metrics": {"ndcg@20": {**difference(rg - softmax, half, p), "p_holm": p}},
        }
    ]  # fmt: skip
    document["left_out"] = []
    return document


def verdict_of(document: Document) -> tuple[str, tuple[str, ...]]:
    verdict = make_verdict(Report.model_validate(document))
    return verdict.lead, verdict.facts


def test_a_win_is_said_with_its_size_and_its_test() -> None:
    lead, facts = verdict_of(two_models(rg=0.1420))
    assert lead == (
        "rgx-weighted ranks better than softmax-cosine: NDCG@20 0.1420 against 0.1402, ahead by 0.0018 "
        "(95% interval 0.0013 to 0.0023, p = 0.0004)."
    )
    assert facts[0].startswith("rgx-weighted trains 540 times as fast: rgx-weighted reaches 99% of its own best")


def test_a_loss_is_said_as_plainly_as_a_win() -> None:
    lead, _ = verdict_of(two_models())
    assert lead.startswith(
        "softmax-cosine ranks better than rgx-weighted: NDCG@20 0.1402 against 0.1388, ahead by 0.0014"
    )
    assert "95% interval 0.0009 to 0.0019" in lead


def test_a_difference_within_the_noise_has_no_winner() -> None:
    lead, _ = verdict_of(two_models(rg=0.1405, half=0.0010, p=0.4))
    assert lead.startswith("rgx-weighted and softmax-cosine rank equally well as far as this test can tell")
    assert "a difference of +0.0003 (95% interval \N{MINUS SIGN}0.0007 to +0.0013, p = 0.40)" in lead


def test_what_was_not_tested_is_not_called_a_win() -> None:
    lead, facts = verdict_of(bare_evaluation(2).model_dump())
    assert "whether the difference of +0.0047 is more than chance was not tested" in lead
    assert facts == ()


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "better"),
        ({"mean": -0.01, "ci_low": -0.02, "ci_high": -0.001}, "worse"),
        ({"ci_low": -0.001}, "unclear"),
        ({"ci_low": 0.0}, "unclear"),
        ({"p_holm": 0.06}, "unclear"),
        ({"p_holm": None, "p_wilcoxon": 0.06}, "unclear"),
        ({"p_holm": None, "p_wilcoxon": None, "p_bootstrap": None}, "better"),
        ({"ci_low": None, "ci_high": None}, "unknown"),
        ({"ci_low": None, "ci_high": None, "p_holm": None, "p_wilcoxon": None, "p_bootstrap": None}, "unknown"),
        ({"mean": None}, "unknown"),
    ],
)
def test_better_needs_an_interval_without_zero_and_a_small_corrected_p_value(change: Document, outcome: str) -> None:
    known = {
        "mean": 0.01, "ci_low": 0.005, "ci_high": 0.015, "n_better": 9, "n_worse": 5,
        "p_bootstrap": 0.001, "p_wilcoxon": 0.001, "p_holm": 0.002,
    }  # fmt: skip
    assert judge(Difference(**{**known, **change}), 0.95) == outcome
    assert judge(None, 0.95) == "unknown"


def test_a_pair_is_found_in_either_direction() -> None:
    report = Report.model_validate(two_models())
    forth = find_difference(report, "rgx-weighted", "softmax-cosine", "ndcg@20")
    back = find_difference(report, "softmax-cosine", "rgx-weighted", "ndcg@20")
    assert forth is not None
    assert back is not None
    assert (back.mean, back.ci_low, back.ci_high) == (-forth.mean, -forth.ci_high, -forth.ci_low)  # type: ignore[operator]
    assert (back.n_better, back.n_worse) == (forth.n_worse, forth.n_better)
    assert find_difference(report, "rgx-weighted", "softmax-cosine", "map@20") is None


def test_the_reference_meets_the_best_softmax_and_no_weaker_one() -> None:
    report = Report.model_validate(report_document())
    reference, opponent = pick_pair(report)
    assert reference is not None
    assert opponent is not None
    assert (reference.name, opponent.name) == ("rgx-weighted", "softmax-cosine")


def test_without_softmax_the_reference_meets_the_best_that_learns() -> None:
    document = report_document()
    document["models"] = [
        model for model in document["models"] if model["name"] in {"rgx-weighted", "ials", "popularity"}
    ]
    document["models"][2]["metrics"]["ndcg@20"]["mean"] = 0.5
    _, opponent = pick_pair(Report.model_validate({**document, "comparisons": document["comparisons"][:0]}))
    assert opponent is not None
    assert opponent.name == "ials"


def test_the_best_of_all_is_named_when_it_is_another_model() -> None:
    document = report_document()
    document["models"][5]["metrics"]["ndcg@20"]["mean"] = 0.1500
    _, facts = verdict_of(document)
    assert any(fact.startswith("The highest NDCG@20 of all 8 models: ials reaches NDCG@20 0.1500") for fact in facts)
    assert not any("highest" in fact for fact in verdict_of(report_document())[1])


def test_slower_training_is_said_too() -> None:
    document = two_models()
    document["models"][0]["seconds_to_99"] = 3 * document["models"][1]["seconds_to_99"]
    assert verdict_of(document)[1][0].startswith("softmax-cosine trains 3 times as fast: ")


def test_about_equal_seconds_are_called_equal() -> None:
    document = two_models()
    document["models"][0]["seconds_to_99"] = 1.05 * document["models"][1]["seconds_to_99"]
    assert verdict_of(document)[1][0].startswith("Both train about equally fast: ")


def test_without_curves_the_whole_training_is_compared_and_said_to_be() -> None:
    document = two_models()
    document["models"][0]["seconds_to_99"] = None
    assert "the end of its training" in verdict_of(document)[1][0]


def test_a_mean_that_most_users_contradict_is_explained() -> None:
    document = two_models(rg=0.1420)
    document["comparisons"][0]["metrics"]["ndcg@20"].update(n_better=4000, n_worse=6000)
    assert verdict_of(document)[1][0] == (
        "That is the mean: softmax-cosine has the better list for more users (6,000 against 4,000), "
        "rgx-weighted gains more where it is ahead."
    )


def test_a_model_that_does_not_beat_popularity_is_named() -> None:
    document = report_document()
    assert not any("learns nothing" in fact for fact in verdict_of(document)[1])
    document["comparisons"][6]["metrics"]["ndcg@20"] = difference(0.0001, 0.001, 0.5)
    facts = verdict_of(document)[1]
    assert "rgx-weighted is not clearly better than popularity, which learns nothing about the user." in facts


def test_models_left_out_are_named_at_the_top() -> None:
    assert verdict_of(report_document())[1][-1] == "Not measured: ease. The reason is given below."


def test_the_correction_is_said_when_there_are_several_comparisons() -> None:
    assert "after correction for 7 comparisons" in verdict_of(report_document())[0]
    assert "correction" not in verdict_of(two_models())[0]


def test_one_model_and_no_model_have_a_sentence() -> None:
    assert verdict_of(report_document(1))[0] == "rgx-weighted reaches NDCG@20 0.1388 (95% interval 0.1369 to 0.1409)."
    document = report_document(1)
    document["models"] = []
    assert verdict_of(document)[0] == "No model was measured."
