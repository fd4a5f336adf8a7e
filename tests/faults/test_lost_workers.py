"""Workers and nodes that come and go while a model is trained: the factors stay the same, bit for bit."""

import threading
import time

import pytest

from rgals.execution import ExecutorOptions, InProcessExecutor, open_executor
from rgals.training.trainer import train
from tests.faults.cluster import kill, own_process
from tests.faults.conftest import slow_config


def check_same(result, expected):
    user_factors, item_factors, history = expected
    assert result.user_factors.tobytes() == user_factors.tobytes()
    assert result.item_factors.tobytes() == item_factors.tobytes()
    assert [s.objective_after_items for s in result.history] == [s.objective_after_items for s in history]


class Watch:
    """Notes when events come, and does something after a named one."""

    def __init__(self, **after):
        self.times = []
        self.events = []
        self._after = after

    def __call__(self, event):
        self.events.append(event)
        self.times.append(time.perf_counter())
        action = self._after.get(f"{event.kind}_{event.sweep}")
        if action is not None:
            self._after.pop(f"{event.kind}_{event.sweep}")
            action()

    def of(self, kind):
        return [event for event in self.events if event.kind == kind]

    def time_of(self, kind, sweep):
        return next(t for t, e in zip(self.times, self.events, strict=True) if (e.kind, e.sweep) == (kind, sweep))


def test_an_undisturbed_run_gives_the_same_bits_and_balances_its_workers(executor, source, expected):
    watch = Watch()
    check_same(train(source, slow_config(), executor=executor, on_event=watch), expected)
    assert {event.n_workers for event in watch.of("half_step")} == {2}
    for event in watch.of("half_step"):
        assert 0 < event.mean_s <= event.slowest_s <= event.seconds


@pytest.mark.parametrize("delay", [0.05, 0.4])
def test_a_worker_killed_in_the_middle_of_a_half_step(executor, source, expected, delay):
    victim = executor.on_each_worker(own_process, None)[0]
    killed_at = []

    def strike():
        kill(victim)
        killed_at.append(time.perf_counter())

    timer = threading.Timer(delay, strike)
    watch = Watch(sweep_1=timer.start)
    result = train(source, slow_config(), executor=executor, on_event=watch)
    timer.join()
    assert watch.time_of("sweep", 1) < killed_at[0] < watch.time_of("sweep", 2)
    assert not watch.of("recovery")  # the blocks of a lost worker stay with its node
    check_same(result, expected)
    workers = executor.on_each_worker(own_process, None)
    assert len(workers) == 2
    assert victim not in workers


@pytest.mark.parametrize("delay", [0.05, 0.3])
def test_a_worker_killed_while_the_softmax_is_expanded(executor, source, delay):
    config = slow_config(loss="rg-softmax", reg=0.3, start_sweeps=1, n_hard=10, n_sweeps=4)
    here = train(source, config, executor=InProcessExecutor(1))
    victim = executor.on_each_worker(own_process, None)[0]
    timer = threading.Timer(delay, lambda: kill(victim))
    watch = Watch(sweep_2=timer.start)
    there = train(source, config, executor=executor, on_event=watch)
    timer.join()
    check_same(there, (here.user_factors, here.item_factors, here.history))
    assert [summary.step_length for summary in there.history] == [None, 1, 1, 1]
    for event in watch.of("sweep")[1:]:
        assert 0 < event.pass_s < event.seconds


def test_all_workers_killed_at_once(executor, source, expected):
    victims = executor.on_each_worker(own_process, None)
    timer = threading.Timer(0.2, lambda: [kill(victim) for victim in victims])
    watch = Watch(sweep_2=timer.start)
    check_same(train(source, slow_config(), executor=executor, on_event=watch), expected)
    assert not set(victims) & set(executor.on_each_worker(own_process, None))


@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_a_node_removed_after_a_half_step(cluster_of, tmp_path, source, expected, checkpoint_every):
    """The rows it has just solved are nowhere else; a checkpoint, which any worker writes, may have copied them."""
    cluster = cluster_of(2)
    with open_executor(ExecutorOptions("ray", address=cluster.address)) as executor:
        assert executor.n_workers == 2
        watch = Watch(half_step_2=lambda: cluster.remove_node(cluster.nodes[0]))
        config = slow_config(checkpoint_every=checkpoint_every)
        result = train(source, config, executor=executor, checkpoints=tmp_path / "c", on_event=watch)
        check_same(result, expected)
        assert executor.n_workers == 1
    (recovery,) = watch.of("recovery")
    assert recovery.sweep == (1 if checkpoint_every else 0)


def test_a_node_added_between_sweeps_takes_its_share(cluster_of, source, expected):
    cluster = cluster_of(1)
    with open_executor(ExecutorOptions("ray", address=cluster.address)) as executor:
        watch = Watch(sweep_1=cluster.add_node)
        check_same(train(source, slow_config(), executor=executor, on_event=watch), expected)
    assert watch.of("half_step")[0].n_workers == 1
    assert watch.of("half_step")[-1].n_workers == 2
    assert not watch.of("recovery")
