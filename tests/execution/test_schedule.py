"""Which worker gets which task."""

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgals.execution.schedule import MAX_OUTSTANDING, Assignment, Schedule


def drain(schedule: Schedule, worker: int) -> list[int]:
    """Let one worker take and finish tasks as long as there are any for it."""
    taken = []
    while (assignment := schedule.take(worker, 0)) is not None:
        taken.append(assignment.position)
    return taken


def take_two(schedule: Schedule, worker: int) -> list[int]:
    found = [schedule.take(worker, n_outstanding) for n_outstanding in range(MAX_OUTSTANDING)]
    return [assignment.position for assignment in found if assignment is not None]


def test_a_worker_has_two_tasks_at_a_time() -> None:
    schedule = Schedule(5, None, None, {}, [1])
    assert take_two(schedule, 1) == [0, 1]
    assert schedule.take(1, 2) is None
    assert schedule.take(1, 1) == Assignment(2, None)
    assert schedule.n_waiting == 2


def test_tasks_without_keys_go_in_order_to_whoever_is_free() -> None:
    schedule = Schedule(6, None, [9, 1, 1, 1, 1, 1], {}, [1, 2])
    assert take_two(schedule, 2) == [0, 1]
    assert take_two(schedule, 1) == [2, 3]
    assert drain(schedule, 1) == [4, 5]


def test_a_key_goes_where_it_was() -> None:
    homes: dict[Hashable, int] = {"a": 2, "b": 1, "c": 2}
    schedule = Schedule(3, ["a", "b", "c"], None, homes, [1, 2])
    assert take_two(schedule, 2) == [0, 2]
    assert take_two(schedule, 1) == [1]


def test_unseen_keys_are_divided_by_cost_and_run_in_their_order() -> None:
    homes: dict[Hashable, int] = {}
    schedule = Schedule(6, list("abcdef"), [1, 2, 3, 4, 5, 9], homes, [1, 2])
    # 9 to the first; 5 and 4 to the second; 3 to the second or the first at 9 each, the first; 2 and 1 to the second.
    assert take_two(schedule, 1) == [2, 5]
    assert take_two(schedule, 2) == [0, 1]
    assert homes == {"c": 1, "f": 1, "a": 2, "b": 2}


def test_equal_costs_alternate_so_that_results_come_in_order() -> None:
    schedule = Schedule(6, list("abcdef"), None, {}, [1, 2])
    assert take_two(schedule, 1) == [0, 2]
    assert take_two(schedule, 2) == [1, 3]


def test_what_is_at_home_counts_when_unseen_keys_are_divided() -> None:
    schedule = Schedule(4, list("abcd"), [10, 1, 1, 1], {"a": 1}, [1, 2])
    assert take_two(schedule, 1) == [0]
    assert take_two(schedule, 2) == [1, 2]


def test_tasks_of_one_key_stay_together() -> None:
    schedule = Schedule(6, list("abaaba"), None, {}, [1, 2])
    assert schedule.take(1, 0) == Assignment(0, None)
    assert schedule.take(1, 1) == Assignment(2, None)
    assert take_two(schedule, 2) == [1, 4]


def test_an_idle_worker_takes_the_last_task_of_the_one_that_is_most_behind() -> None:
    homes: dict[Hashable, int] = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 2, "f": 2, "g": 2}
    schedule = Schedule(7, list("abcdefg"), [1, 1, 1, 1, 1, 1, 9], homes, [1, 2, 3])
    take_two(schedule, 1)
    take_two(schedule, 2)
    assert schedule.take(3, 0) == Assignment(6, left=2)
    assert homes["g"] == 3
    assert schedule.take(3, 0) == Assignment(3, left=1)
    assert schedule.take(3, 0) == Assignment(2, left=1)
    assert schedule.take(3, 0) is None


def test_a_worker_that_still_runs_something_takes_nothing_from_others() -> None:
    schedule = Schedule(3, list("abc"), None, dict.fromkeys("abc", 1), [1, 2])
    assert schedule.take(2, 1) is None
    assert schedule.take(2, 0, may_move=False) is None
    assert schedule.take(2, 0) == Assignment(2, left=1)


def test_tasks_of_a_lost_worker_go_to_whoever_is_free_and_their_keys_are_not_there_any_more() -> None:
    homes: dict[Hashable, int] = dict.fromkeys("abcd", 1)
    schedule = Schedule(4, list("abcd"), None, homes, [1, 2])
    assert take_two(schedule, 1) == [0, 1]
    schedule.remove_worker(1)
    schedule.give_back(1)
    schedule.give_back(0)
    assert schedule.n_waiting == 4
    assert [schedule.take(2, 0) for _ in range(5)] == [*(Assignment(n, None) for n in range(4)), None]
    assert homes == dict.fromkeys("abcd", 2)


def test_a_worker_that_joins_gets_its_share() -> None:
    schedule = Schedule(4, list("abcd"), None, {}, [1])
    take_two(schedule, 1)
    schedule.add_worker(2)
    schedule.add_worker(2)
    assert schedule.workers == {1, 2}
    assert schedule.take(2, 0) == Assignment(3, None)  # nobody has loaded it yet


def test_without_workers_tasks_wait() -> None:
    schedule = Schedule(2, ["a", "b"], None, {}, [])
    schedule.add_worker(7)
    assert drain(schedule, 7) == [0, 1]


@pytest.mark.parametrize(("keys", "costs"), [(["a"], None), (None, [1.0])])
def test_every_task_needs_its_key_and_its_cost(keys: list[Hashable] | None, costs: list[float] | None) -> None:
    with pytest.raises(ValueError, match="a key and a cost for each of 2 tasks"):
        Schedule(2, keys, costs, {}, [1])


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 100)), max_size=30),
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 4)),
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["take", "lose", "join"])), max_size=60),
    st.booleans(),
)
def test_every_task_is_handed_out_once_whatever_happens(
    tasks: list[tuple[str, float]],
    homes: dict[Hashable, int],
    events: list[tuple[int, str]],
    has_keys: bool,
) -> None:
    keys = [key for key, _ in tasks] if has_keys else None
    schedule = Schedule(len(tasks), keys, [cost for _, cost in tasks], homes, [1, 2, 3])
    alive = {1, 2, 3}
    handed_out: dict[int, int] = {}
    for worker, event in events:
        if event == "join":
            alive.add(worker)
            schedule.add_worker(worker)
        elif event == "lose" and worker in alive:
            alive.remove(worker)
            schedule.remove_worker(worker)
            for position in [position for position, owner in handed_out.items() if owner == worker]:
                del handed_out[position]
                schedule.give_back(position)
        elif worker in alive and (assignment := schedule.take(worker, 0)) is not None:
            assert assignment.position not in handed_out
            assert assignment.left is None or assignment.left in alive - {worker}
            handed_out[assignment.position] = worker
    schedule.add_worker(9)
    for position in drain(schedule, 9):
        assert position not in handed_out
        handed_out[position] = 9
    assert sorted(handed_out) == list(range(len(tasks)))
    assert schedule.n_waiting == 0
