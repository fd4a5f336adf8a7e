import time

import numpy as np
import pytest

from rgals.baselines.model import FittedBaseline, FittedScorer, Round, RoundClock
from rgals.errors import InputError
from rgals.names import Factors, Offsets
from rgals.numerics.sparse import InteractionRows
from tests.baselines.test_simple import random_rows


class CountingScores:
    """Scores that tell what was asked."""

    def of_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        return np.full((len(user_rows), 12), n_threads, np.float32)

    def of_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        return rows.to_scipy().toarray()  # type: ignore[no-any-return]


def scorer(train_s: float = 0.0) -> FittedScorer:
    return FittedScorer("counting", train_s, {}, 12, CountingScores())


def test_a_scorer_passes_on_what_its_scores_say() -> None:
    model, rows = scorer(), random_rows(3, 12)
    np.testing.assert_array_equal(model.score_users(np.arange(2), 7), np.full((2, 12), 7))
    np.testing.assert_array_equal(model.score_histories(rows, 1), rows.to_scipy().toarray())
    assert model.is_known_item is None
    assert model.notes == ()


def test_a_scorer_refuses_histories_over_other_items() -> None:
    with pytest.raises(InputError, match="counting: expected rows over 12 items, found 11"):
        scorer().score_histories(random_rows(2, 11), 1)


def test_the_clock_stands_still_while_a_watch_looks() -> None:
    def watch(found: Round) -> bool:
        time.sleep(0.1)
        return True

    clock = RoundClock(watch)
    started = time.perf_counter()
    for number in (1, 2):
        time.sleep(0.02)
        assert clock.end_round(number, None, scorer)
    assert clock.seconds >= 0.04
    assert clock.seconds < time.perf_counter() - started - 0.19


def test_a_round_tells_number_loss_seconds_and_the_model_at_that_moment() -> None:
    seen: list[tuple[int, float | None, float]] = []

    def watch(found: Round) -> bool:
        model: FittedBaseline | FittedScorer = found.model()
        assert model.train_s == found.train_s
        seen.append((found.number, found.loss, found.train_s))
        return found.number < 2

    clock = RoundClock(watch)
    assert clock.end_round(1, 0.5, scorer)
    assert not clock.end_round(2, None, scorer)
    assert [entry[:2] for entry in seen] == [(1, 0.5), (2, None)]
    assert 0 < seen[0][2] < seen[1][2]


def test_nobody_asks_for_the_model_without_a_watch() -> None:
    def refuse(train_s: float) -> FittedScorer:
        raise AssertionError

    assert RoundClock().end_round(1, None, refuse)
    assert RoundClock(lambda found: True).end_round(1, None, refuse)


def test_the_clock_goes_on_after_a_watch_that_fails() -> None:
    def watch(found: Round) -> bool:
        time.sleep(0.05)
        raise KeyboardInterrupt

    clock = RoundClock(watch)
    with pytest.raises(KeyboardInterrupt):
        clock.end_round(1, None, scorer)
    assert clock.seconds < 0.05
