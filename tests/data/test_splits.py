"""Splits: shares, independence of order and batches, edge cases."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rgals.data.hashing import hash_numbers
from rgals.data.splits import PART_NAMES, SplitRule, assign_parts, choose_held_out_users
from rgals.errors import InputError

TRAIN, VALIDATION, TEST, VALIDATION_FOLD_IN, TEST_FOLD_IN = range(5)
RULES = [
    SplitRule(),
    SplitRule(kind="random", test_fraction=0.3, validation_fraction=0.2),
    SplitRule(kind="leave-last", n_test=2, n_validation=1),
    SplitRule(kind="time", test_from=60, validation_from=40),
    SplitRule(kind="held-out-users", test_users=0.3, validation_users=0.2),
    SplitRule(kind="official", validation_fraction=0.25),
]


def split(rule, counts, *, seed=0, times=None, is_test=None, order=None, **options):
    """Split users with the given numbers of interactions; ``order`` shuffles the entries of each user."""
    users = np.repeat(np.arange(len(counts)), counts)
    items = np.concatenate([np.arange(count) for count in counts]) if len(counts) else users
    position = np.arange(users.size) if order is None else order[np.argsort(users[order], kind="stable")]
    parts = assign_parts(
        rule,
        seed,
        hash_numbers(users[position]),
        hash_numbers(items[position] + 1000),
        users[position],
        None if times is None else times[position],
        is_test=None if is_test is None else is_test[position],
        **options,
    )
    assert parts.dtype == np.uint8
    restored = np.empty_like(parts)
    restored[position] = parts
    return users, restored


def per_user(users, parts, part, n_users):
    return np.bincount(users[parts == part], minlength=n_users)


counts_of_users = st.lists(st.integers(1, 12), min_size=1, max_size=25)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
@given(counts=counts_of_users, seed=st.integers(0, 2**64), data=st.data())
def test_a_part_depends_on_ids_seed_and_times_not_on_order_or_bucket(rule, counts, seed, data):
    n = sum(counts)
    times = np.array(data.draw(st.lists(st.integers(0, 100), min_size=n, max_size=n))) * 1_000_000
    is_test = times > 80_000_000
    users, parts = split(rule, counts, seed=seed, times=times, is_test=is_test)
    order = np.array(data.draw(st.permutations(range(n))))
    assert (split(rule, counts, seed=seed, times=times, is_test=is_test, order=order)[1] == parts).all()
    # A bucket of one user gives what all users together give.
    user = data.draw(st.integers(0, len(counts) - 1))
    mine = users == user
    items = np.arange(counts[user]) + 1000
    alone = assign_parts(
        rule,
        seed,
        hash_numbers(users[mine]),
        hash_numbers(items),
        np.zeros(counts[user], dtype=np.int64),
        times[mine],
        is_test=is_test[mine],
    )
    assert (alone == parts[mine]).all()


@given(counts_of_users, st.floats(0, 0.7), st.floats(0, 0.29))
def test_random_takes_rounded_shares_and_leaves_one_to_train(counts, test_fraction, validation_fraction):
    rule = SplitRule(kind="random", test_fraction=test_fraction, validation_fraction=validation_fraction)
    users, parts = split(rule, counts)
    for user, count in enumerate(counts):
        found = np.bincount(parts[users == user], minlength=3)
        n_test = min(int(test_fraction * count + 0.5), count - 1)
        n_validation = min(int(validation_fraction * count + 0.5), count - 1 - n_test)
        assert found.tolist() == [count - n_test - n_validation, n_validation, n_test]


def test_the_seed_changes_a_random_split_and_a_validation_share_does_not_move_test():
    counts = [20] * 50
    parts = [split(SplitRule(kind="random"), counts, seed=seed)[1] for seed in (0, 1)]
    assert (parts[0] != parts[1]).mean() > 0.2
    with_validation = split(SplitRule(kind="random", validation_fraction=0.3), counts)[1]
    assert ((with_validation == TEST) == (parts[0] == TEST)).all()


def test_a_random_split_favors_no_item():
    users, parts = split(SplitRule(kind="random", test_fraction=0.25), [20] * 2000)
    items = np.arange(users.size) % 20
    shares = np.bincount(items[parts == TEST], minlength=20) / 2000
    assert shares.min() > 0.2
    assert shares.max() < 0.3


def test_leave_last_takes_the_latest_and_short_users_keep_one():
    times = np.array([5, 3, 9, 1, 7, 7, 2, 4])
    users, parts = split(SplitRule(kind="leave-last", n_test=2, n_validation=2), [5, 2, 1], times=times)
    assert parts[users == 0].tolist() == [VALIDATION, VALIDATION, TEST, TRAIN, TEST]
    assert sorted(parts[users == 1].tolist()) == [TRAIN, TEST]
    assert parts[users == 1].tolist() == [TEST, TRAIN]
    assert parts[users == 2].tolist() == [TRAIN]


def test_ties_in_time_are_broken_by_user_item_and_seed_not_by_one_order_of_items():
    counts = [4] * 500
    rule = SplitRule(kind="leave-last")
    times = np.zeros(2000, dtype=np.int64)
    users, parts = split(rule, counts, times=times)
    assert (per_user(users, parts, TEST, 500) == 1).all()
    last = np.flatnonzero(parts == TEST) % 4
    assert np.bincount(last, minlength=4).min() > 80
    assert (split(rule, counts, times=times, seed=1)[1] != parts).any()


def test_extreme_times_keep_their_order():
    limits = np.iinfo(np.int64)
    times = np.array([limits.max, 0, limits.min])
    assert split(SplitRule(kind="leave-last"), [3], times=times)[1].tolist() == [TEST, TRAIN, TRAIN]


def test_a_time_cut_is_half_open_to_the_microsecond():
    cut = 1_577_836_800_000_000
    rule = SplitRule(kind="time", validation_from="2019-12-31T23:59:59", test_from="2020-01-01")
    times = np.array([cut - 1_000_001, cut - 1_000_000, cut - 1, cut, cut + 1])
    assert split(rule, [2, 3], times=times)[1].tolist() == [TRAIN, VALIDATION, VALIDATION, TEST, TEST]
    without = SplitRule(kind="time", test_from="2020-01-01")
    assert split(without, [2, 3], times=times)[1].tolist() == [TRAIN, TRAIN, TRAIN, TEST, TEST]


@pytest.mark.parametrize(
    "moment",
    [
        "2020-01-01",
        "2020-01-01T00:00:00Z",
        "2020-01-01 01:00:00+01:00",
        1577836800,
        1577836800.0,
        "1577836800",
        datetime(2020, 1, 1),  # noqa: DTZ001
        datetime(2019, 12, 31, 22, tzinfo=timezone(timedelta(hours=-2))),
    ],
)
def test_a_moment_is_utc_however_it_is_written(moment):
    rule = SplitRule(kind="time", test_from=moment)
    assert rule.test_from == datetime(2020, 1, 1, tzinfo=UTC)
    assert rule.model_dump(mode="json")["test_from"] == "2020-01-01T00:00:00Z"


@given(counts_of_users, st.integers(0, 99))
def test_held_out_users_are_divided_into_fold_in_and_asked_and_others_train(counts, seed):
    rule = SplitRule(kind="held-out-users", test_users=0.4, validation_users=0.3, fold_in_fraction=0.6)
    users, parts = split(rule, counts, seed=seed)
    for user, count in enumerate(counts):
        found = np.bincount(parts[users == user], minlength=5)
        n_shown = max(min(int(0.6 * count + 0.5), count - 1), 1)
        assert found.tolist() in (
            [count, 0, 0, 0, 0],
            [0, count - n_shown, 0, n_shown, 0],
            [0, 0, count - n_shown, 0, n_shown],
        )


def test_fractions_of_users_are_met_on_average_and_validation_does_not_move_test():
    counts = [2] * 20_000
    rule = SplitRule(kind="held-out-users", test_users=0.1, validation_users=0.05)
    users, parts = split(rule, counts)
    assert abs(per_user(users, parts, TEST, 20_000).mean() - 0.1) < 0.01
    assert abs(per_user(users, parts, VALIDATION, 20_000).mean() - 0.05) < 0.01
    alone = split(SplitRule(kind="held-out-users", test_users=0.1), counts)[1]
    assert ((alone == TEST) == (parts == TEST)).all()


def test_the_seed_chooses_the_held_out_users_and_items_do_not():
    rule = SplitRule(kind="held-out-users", test_users=0.3)
    users, parts = split(rule, [2] * 500)
    is_held_out = per_user(users, parts, TRAIN, 500) == 0
    others = split(rule, [2] * 500, seed=1)[1]
    assert (is_held_out != (per_user(users, others, TRAIN, 500) == 0)).mean() > 0.2
    longer_users, longer = split(rule, [9] * 500)
    assert (is_held_out == (per_user(longer_users, longer, TRAIN, 500) == 0)).all()


@pytest.mark.parametrize(("n_test", "n_validation"), [(7, 0), (7, 5), (1, 98)])
def test_numbers_of_users_are_met_exactly(n_test, n_validation):
    rule = SplitRule(kind="held-out-users", test_users=n_test, validation_users=n_validation)
    keys = hash_numbers(np.arange(100))
    chosen = choose_held_out_users(rule, 3, keys)
    assert chosen == choose_held_out_users(rule, 3, keys[::-1])
    users, parts = split(rule, [3] * 100, seed=3, held_out_users=chosen)
    assert np.count_nonzero(per_user(users, parts, TEST, 100)) == n_test
    assert np.count_nonzero(per_user(users, parts, VALIDATION, 100)) == n_validation


def test_a_number_for_test_and_a_fraction_for_validation_go_together():
    rule = SplitRule(kind="held-out-users", test_users=50, validation_users=0.2)
    chosen = choose_held_out_users(rule, 0, hash_numbers(np.arange(1000)))
    users, parts = split(rule, [2] * 1000, held_out_users=chosen)
    assert np.count_nonzero(per_user(users, parts, TEST, 1000)) == 50
    assert 150 < np.count_nonzero(per_user(users, parts, VALIDATION, 1000)) < 250


def test_holding_out_every_user_is_refused():
    for options in ({"test_users": 10}, {"test_users": 5, "validation_users": 5}):
        rule = SplitRule(kind="held-out-users", **options)
        with pytest.raises(InputError, match="fewer than 10 held-out users, found 10"):
            choose_held_out_users(rule, 0, hash_numbers(np.arange(10)))


def test_numbers_of_users_need_the_choice_among_all_users():
    with pytest.raises(InputError, match="choose_held_out_users"):
        split(SplitRule(kind="held-out-users", test_users=2), [2, 2])


@given(counts_of_users, st.data())
def test_an_official_split_is_kept_and_validation_comes_from_train(counts, data):
    n = sum(counts)
    is_test = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    users, parts = split(SplitRule(kind="official", validation_fraction=0.5), counts, is_test=is_test)
    assert ((parts == TEST) == is_test).all()
    for user in range(len(counts)):
        n_train = int((~is_test & (users == user)).sum())
        n_validation = min(int(0.5 * n_train + 0.5), max(n_train - 1, 0))
        assert int((parts[users == user] == VALIDATION).sum()) == n_validation


def test_without_test_marks_an_official_split_is_all_train():
    assert (split(SplitRule(kind="official"), [3, 2])[1] == TRAIN).all()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_no_interactions_give_no_parts(rule):
    empty = np.zeros(0, dtype=np.int64)
    keys = empty.astype(np.uint64)
    assert assign_parts(rule, 0, keys, keys, empty, empty).size == 0


@pytest.mark.parametrize("rule", RULES[2:4], ids=lambda rule: rule.kind)
def test_rules_by_time_need_times(rule):
    assert rule.needs_times
    with pytest.raises(InputError, match="--time-column"):
        split(rule, [2])


def test_users_out_of_order_are_refused():
    keys = np.zeros(2, dtype=np.uint64)
    with pytest.raises(InputError, match="ascending"):
        assign_parts(SplitRule(kind="random"), 0, keys, keys, np.array([1, 0]), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "random", "n_test": 2}, "no option n_test; it takes test_fraction, validation_fraction"),
        ({"test_fraction": 0.1}, "'none' has no option test_fraction; it takes no options"),
        ({"kind": "random", "test_fraction": 0.5, "validation_fraction": 0.5}, "leave no train part"),
        ({"kind": "random", "test_fraction": 1.0}, "less than 1"),
        ({"kind": "random", "test_fraction": -0.1}, "greater than or equal to 0"),
        ({"kind": "leave-last", "n_test": 0}, "greater than or equal to 1"),
        ({"kind": "time"}, "needs test_from"),
        ({"kind": "time", "test_from": 5, "validation_from": 5}, "is not before test_from"),
        ({"kind": "time", "test_from": "soon"}, "neither an ISO-8601 time"),
        ({"kind": "time", "test_from": "2020-13-01"}, "neither an ISO-8601 time"),
        ({"kind": "time", "test_from": 1e30}, "outside the years"),
        ({"kind": "held-out-users", "test_users": 0.6, "validation_users": 0.4}, "leave no train users"),
        ({"kind": "held-out-users", "fold_in_fraction": 1.0}, "less than 1"),
        ({"kind": "weekly"}, "Input should be"),
        ({"kind": "random", "fraction": 0.1}, "Extra inputs"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        SplitRule(**options)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        ("none", {}),
        ("random", {"test_fraction": 0.2, "validation_fraction": 0.0}),
        ("leave-last", {"n_test": 1, "n_validation": 0}),
        ("held-out-users", {"test_users": 0.1, "validation_users": 0.0, "fold_in_fraction": 0.8}),
        ("official", {"validation_fraction": 0.0}),
    ],
)
def test_each_kind_has_its_own_defaults(kind, defaults):
    assert SplitRule(kind=kind).model_dump(exclude_none=True) == {"kind": kind, **defaults}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_a_rule_survives_json(rule):
    assert SplitRule.model_validate_json(rule.model_dump_json()) == rule
    assert SplitRule.model_validate(rule.model_dump(mode="json", exclude_none=True)) == rule


def test_part_names_are_in_the_order_of_codes():
    assert PART_NAMES[TRAIN] == "train"
    assert PART_NAMES[TEST_FOLD_IN] == "test_fold_in"
    assert PART_NAMES[VALIDATION_FOLD_IN] == "validation_fold_in"
