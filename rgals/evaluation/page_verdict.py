"""The report in a few plain sentences: who ranks better, by how much, how sure that is, and who trains faster."""

from dataclasses import dataclass
from typing import Literal

from rgals.evaluation.page_format import fixed, metric_name, p_value, percent, seconds, signed, times
from rgals.evaluation.report import Difference, ModelSection, Report

__all__ = ["Outcome", "Verdict", "find_difference", "headline_mean", "judge", "make_verdict", "pick_pair"]

Outcome = Literal["better", "worse", "unclear", "unknown"]
"""Of a model against another: unclear if the difference may be chance, unknown if that was not tested."""

_PREFERRED_OPPONENT = {"rg": "softmax", "softmax": "rg"}
_ALIKE = 1.1
"""Ratio of seconds that is called about equal."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the report shows, for someone who reads nothing else.

    Parameters
    ----------
    lead : str
        One sentence: the reference model and its strongest opponent.
    facts : tuple of str
        Further sentences: seconds, the best of all models, what limits the claim.
    """

    lead: str
    facts: tuple[str, ...]


def headline_mean(report: Report, model: ModelSection) -> float | None:
    """Give a model's headline metric; None where it is undefined or was not measured."""
    measured = model.metrics.get(report.metric)
    return None if measured is None else measured.mean


def pick_pair(report: Report) -> tuple[ModelSection | None, ModelSection | None]:
    """Choose whom the verdict is about.

    Returns
    -------
    reference : ModelSection or None
        The reference of the comparisons, else the first model; None without models.
    opponent : ModelSection or None
        The best by the headline metric: of the softmax models for a model of the RG family (and the other way
        round), else of all that learn, else of the rest; None for a single model.
    """
    by_name = {model.name: model for model in report.models}
    names = [comparison.model for comparison in report.comparisons] + list(by_name)
    reference = next((by_name[name] for name in names if name in by_name), None)
    if reference is None:
        return None, None
    others = [model for model in report.models if model.name != reference.name]
    wanted = _PREFERRED_OPPONENT.get(reference.family)
    for group in (
        [model for model in others if model.family == wanted],
        [model for model in others if model.family != "trivial"],
        others,
    ):
        measured = [model for model in group if headline_mean(report, model) is not None]
        if measured:
            return reference, max(measured, key=lambda model: headline_mean(report, model) or 0.0)
    return reference, others[0] if others else None


def find_difference(report: Report, model: str, other: str, metric: str) -> Difference | None:
    """Find the paired difference of two models, in either direction; None where it was not compared."""
    for comparison in report.comparisons:
        if metric not in comparison.metrics:
            continue
        found = comparison.metrics[metric]
        if (comparison.model, comparison.other) == (model, other):
            return found
        if (comparison.model, comparison.other) == (other, model):
            turned = {"mean": found.mean, "ci_low": found.ci_high, "ci_high": found.ci_low}
            return found.model_copy(
                update={name: None if value is None else -value for name, value in turned.items()}
                | {"n_better": found.n_worse, "n_worse": found.n_better}
            )
    return None


def judge(difference: Difference | None, level: float) -> Outcome:
    """Say whether a difference is more than chance.

    Parameters
    ----------
    difference : Difference or None
        Paired by user.
    level : float
        Confidence level of its interval.

    Returns
    -------
    {"better", "worse", "unclear", "unknown"}
        Better or worse needs an interval that leaves out 0, and, where there is one, a corrected p-value below
        1 - level: two tests that must agree. Unknown without an interval: a p-value of two sides does not say
        which model ranks better.
    """
    if difference is None or difference.mean is None or difference.ci_low is None or difference.ci_high is None:
        return "unknown"
    p = _strictest_p(difference)
    is_beyond_chance = difference.ci_low > 0 or difference.ci_high < 0
    if not is_beyond_chance or (p is not None and p >= 1 - level):
        return "unclear"
    return "better" if difference.mean > 0 else "worse"


def make_verdict(report: Report) -> Verdict:
    """Put a report into a few sentences."""
    reference, opponent = pick_pair(report)
    if reference is None:
        return Verdict("No model was measured.", _left_out_facts(report))
    if opponent is None:
        return Verdict(f"{_alone(report, reference)}.", (*_left_out_facts(report),))
    facts = [
        _split_users_fact(report, reference, opponent),
        _speed_fact(reference, opponent),
        _best_fact(report, reference, opponent),
        _trivial_fact(report, reference),
    ]
    return Verdict(
        _lead(report, reference, opponent),
        (*(fact for fact in facts if fact is not None), *_left_out_facts(report)),
    )


def _strictest_p(difference: Difference) -> float | None:
    """Give the corrected p-value, or what stands in for it."""
    known = [p for p in (difference.p_holm, difference.p_wilcoxon, difference.p_bootstrap) if p is not None]
    return known[0] if known else None


def _alone(report: Report, model: ModelSection) -> str:
    measured = model.metrics.get(report.metric)
    name = metric_name(report.metric)
    if measured is None or measured.mean is None:
        return f"{name} of {model.label} is undefined"
    interval = ""
    if measured.ci_low is not None and measured.ci_high is not None:
        level = percent(report.protocol.bootstrap.level, 0)
        interval = f" ({level} interval {fixed(measured.ci_low)} to {fixed(measured.ci_high)})"
    return f"{model.label} reaches {name} {fixed(measured.mean)}{interval}"


def _lead(report: Report, reference: ModelSection, opponent: ModelSection) -> str:
    """Say who of the two ranks better, or that nobody can say."""
    mean, other = headline_mean(report, reference), headline_mean(report, opponent)
    if mean is None or other is None:
        return f"{_alone(report, reference)}; {_alone(report, opponent)}."
    difference = find_difference(report, reference.name, opponent.name, report.metric)
    outcome = judge(difference, report.protocol.bootstrap.level)
    name = metric_name(report.metric)
    if outcome in {"unclear", "unknown"}:
        values = f"{name} {fixed(mean)} and {fixed(other)}"
        if difference is None or outcome == "unknown":
            return (
                f"{reference.label} and {opponent.label} reach {values}; whether the difference of "
                f"{signed(mean - other)} is more than chance was not tested."
            )
        return (
            f"{reference.label} and {opponent.label} rank equally well as far as this test can tell: {values}, "
            f"{_evidence(report, difference)}."
        )
    first, second, ahead, behind = reference, opponent, mean, other
    if outcome == "worse":
        first, second, ahead, behind = opponent, reference, other, mean
    assert difference is not None  # better or worse is said of a tested difference only
    return (
        f"{first.label} ranks better than {second.label}: {name} {fixed(ahead)} against {fixed(behind)}, "
        f"{_evidence(report, difference, turned=outcome == 'worse')}."
    )


def _evidence(report: Report, difference: Difference, turned: bool = False) -> str:
    """Give the difference with its interval and p-value, as the winner sees it."""
    sign = -1.0 if turned else 1.0
    is_won = judge(difference, report.protocol.bootstrap.level) in {"better", "worse"}
    mean = sign * (difference.mean or 0.0)
    said = f"ahead by {fixed(mean)}" if is_won else f"a difference of {signed(mean)}"
    write = (
        fixed
        if is_won and min(sign * end for end in (difference.ci_low or 0.0, difference.ci_high or 0.0)) >= 0
        else signed
    )
    details = []
    if difference.ci_low is not None and difference.ci_high is not None:
        low, high = sorted((sign * difference.ci_low, sign * difference.ci_high))
        details.append(f"{percent(report.protocol.bootstrap.level, 0)} interval {write(low)} to {write(high)}")
    p = _strictest_p(difference)
    if p is not None:
        shown = p_value(p)
        n_tests = len(report.comparisons)
        corrected = (
            f" after correction for {n_tests} comparisons" if difference.p_holm is not None and n_tests > 1 else ""
        )
        details.append(f"p {shown if shown.startswith('<') else f'= {shown}'}{corrected}")
    return said + (f" ({', '.join(details)})" if details else "")


def _split_users_fact(report: Report, reference: ModelSection, opponent: ModelSection) -> str | None:
    """Say so when the mean and the number of users point different ways."""
    difference = find_difference(report, reference.name, opponent.name, report.metric)
    outcome = judge(difference, report.protocol.bootstrap.level)
    if difference is None or outcome not in {"better", "worse"}:
        return None
    if (outcome == "better") == (difference.n_better >= difference.n_worse):
        return None
    more, fewer = sorted((difference.n_better, difference.n_worse), reverse=True)
    winner, loser = (reference, opponent) if outcome == "better" else (opponent, reference)
    return (
        f"That is the mean: {loser.label} has the better list for more users ({more:,} against {fewer:,}), "
        f"{winner.label} gains more where it is ahead."
    )


def _speed_fact(reference: ModelSection, opponent: ModelSection) -> str | None:
    """Compare the seconds to 99% of the best; the whole training where a curve is missing."""
    pairs = (
        (reference.seconds_to_99, opponent.seconds_to_99, "99% of its own best validation result after"),
        (reference.train_s, opponent.train_s, "the end of its training after"),
    )
    for own, other, what in pairs:
        if own is None or other is None or own <= 0 or other <= 0:
            continue
        ratio = max(own, other) / min(own, other)
        fast, slow = (reference, opponent) if own <= other else (opponent, reference)
        taken = (
            f"{fast.label} reaches {what} {seconds(min(own, other))} and {slow.label} after {seconds(max(own, other))}"
        )
        if ratio < _ALIKE:
            return f"Both train about equally fast: {taken}."
        return f"{fast.label} trains {times(ratio)} times as fast: {taken}."
    return None


def _best_fact(report: Report, reference: ModelSection, opponent: ModelSection) -> str | None:
    """Name the best model where it is neither of the two."""
    measured = [model for model in report.models if headline_mean(report, model) is not None]
    best = max(measured, key=lambda model: headline_mean(report, model) or 0.0, default=None)
    if best is None or best.name in {reference.name, opponent.name}:
        return None
    return f"The highest {metric_name(report.metric)} of all {len(report.models)} models: {_alone(report, best)}."


def _trivial_fact(report: Report, reference: ModelSection) -> str | None:
    """Say so when the reference is not clearly above a model that learns nothing."""
    if reference.family == "trivial":
        return None
    for model in report.models:
        if model.family != "trivial":
            continue
        mean, other = headline_mean(report, reference), headline_mean(report, model)
        difference = find_difference(report, reference.name, model.name, report.metric)
        outcome = judge(difference, report.protocol.bootstrap.level)
        is_below = mean is not None and other is not None and mean <= other
        if outcome in {"worse", "unclear"} or is_below:
            return f"{reference.label} is not clearly better than {model.label}, which learns nothing about the user."
    return None


def _left_out_facts(report: Report) -> tuple[str, ...]:
    if not report.left_out:
        return ()
    names = "; ".join(left.name for left in report.left_out)
    return (f"Not measured: {names}. The reason is given below.",)
