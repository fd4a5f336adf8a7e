"""The passes of rg-softmax over all scores are told apart from the rest of a sweep: both of them, and nothing else."""

import pytest

from rgals.data.shards import InMemoryInteractions
from rgals.execution import InProcessExecutor
from rgals.training import half_step_tasks, reexpanding_solver, reexpansion_tasks
from rgals.training.config import TrainingConfig
from rgals.training.half_step_tasks import PassWork
from rgals.training.records import PassLoad
from rgals.training.reexpanding_solver import ReexpandingSolver, make_solver
from tests.training.executors import PicklingExecutor
from tests.training.runs import N_ITEMS, N_USERS, StopAfter, planted, run

EXPAND_S, SLOPES_S, ROTATE_S, SOLVE_S = 3.0, 2.0, 0.125, 0.25
"""Seconds that the parts of a sweep take by the clock of these tests."""


class Clock:
    """Stands in for the module ``time``; goes on only when a part of a sweep is run."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def slow(self, function, seconds):
        def call(*args, **options):
            self.now += seconds
            return function(*args, **options)

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (half_step_tasks, reexpansion_tasks):
        monkeypatch.setattr(module, "time", clock)
    for module, name, seconds in (
        (reexpansion_tasks, "expand", EXPAND_S),
        (half_step_tasks, "item_slopes", SLOPES_S),
        (half_step_tasks, "sampled_item_slopes", SLOPES_S),
        (half_step_tasks, "rotate", ROTATE_S),
        (half_step_tasks, "join_items", ROTATE_S),
        (half_step_tasks, "solve_half_step", SOLVE_S),
        (reexpansion_tasks, "rotate", ROTATE_S),
        (reexpansion_tasks, "split_by_item", ROTATE_S),
    ):
        monkeypatch.setattr(module, name, clock.slow(getattr(module, name), seconds))
    return clock


def config(**options):
    return TrainingConfig(loss="rg-softmax", n_factors=4, n_hard=5, start_sweeps=2, softmax_users=0, **options)


def passed(options, n_sweeps, *, n_shards=1, executor=None):
    """The passes of each sweep, None for a sweep of the start; and the number of shards of both sides."""
    source = InMemoryInteractions(planted()[0], n_shards)
    solver = make_solver(source, options, executor or InProcessExecutor(1))
    records = [solver.run_sweep() for _ in range(n_sweeps)]
    found = [record.expanded.passed if record.expanded else None for record in records]
    return found, len(source.shard_ranges("user")), len(source.shard_ranges("item"))


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("make_executor", [lambda: InProcessExecutor(1), lambda: PicklingExecutor(1)])
def test_both_passes_are_counted_and_the_first_expanded_sweep_has_one_more(clock, n_shards, make_executor):
    found, n_user, n_item = passed(config(), 5, n_shards=n_shards, executor=make_executor())
    assert n_user == n_shards
    by_user, by_item, n_scores = n_user * EXPAND_S, n_item * SLOPES_S, N_USERS * N_ITEMS
    assert found[:2] == [None, None]
    assert found[2] == PassLoad(2 * by_user + by_item, 3 * n_scores)
    assert found[3:] == [PassLoad(by_user + by_item, 2 * n_scores)] * 2


def test_a_sample_has_fewer_scores(clock, monkeypatch):
    monkeypatch.setattr(reexpanding_solver, "LEAST_SAMPLE", 1)
    (*_, sampled), *_ = passed(config(pass_fraction=0.25), 4)
    (*_, whole), *_ = passed(config(), 4)
    assert sampled.seconds == whole.seconds == EXPAND_S + SLOPES_S
    assert 0.2 < sampled.n_scores / whole.n_scores < 0.3


def test_a_step_that_is_halved_has_a_pass_by_user_each_time(clock, monkeypatch):
    original, n_passes = ReexpandingSolver._expand, []

    def rising(self):
        n_passes.append(1)
        # The second pass is the first look at the first sweep's end: it seems too high.
        return original(self) + (1e6 if len(n_passes) == 2 else 0)

    monkeypatch.setattr(ReexpandingSolver, "_expand", rising)
    (*_, first), *_ = passed(config(), 3)
    assert first == PassLoad(3 * EXPAND_S + SLOPES_S, 4 * N_USERS * N_ITEMS)


def test_the_event_of_a_sweep_tells_their_seconds_and_their_speed(clock):
    watch = StopAfter(9)
    run(config(n_sweeps=4), on_event=watch)
    events = [event for event in watch.events if event.kind == "sweep"]
    assert [event.pass_s for event in events] == [None, None, 2 * EXPAND_S + SLOPES_S, EXPAND_S + SLOPES_S]
    assert events[0].scores_per_s is None
    assert events[3].scores_per_s == pytest.approx(2 * N_USERS * N_ITEMS / (EXPAND_S + SLOPES_S))


def test_of_several_workers_the_longest_counts():
    parts = [("a", PassWork(1.0, 10)), ("b", PassWork(2.5, 20)), ("a", PassWork(2.0, 30))]
    assert PassLoad.of(parts) == PassLoad(3.0, 60)
    assert PassLoad.of([]) == PassLoad(0.0, 0)
    assert PassLoad(3.0, 60) + PassLoad(0.5, 1) == PassLoad(3.5, 61)
