"""Splits: which interaction belongs to which part of a dataset.

Every rule is a pure function of ids, seed and times. Random choices are made by hashes of
(seed, user id, item id), not drawn from a stream, so an interaction's part does not depend on the order
of the input, on how it is divided into files, batches and buckets, or on other users.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rgals.data.hashing import hash_numbers
from rgals.errors import InputError
from rgals.names import BoolArray, Offsets, Part

__all__ = ["PART_NAMES", "HeldOutUsers", "SplitKind", "SplitRule", "assign_parts", "choose_held_out_users"]

SplitKind: TypeAlias = Literal["none", "random", "leave-last", "time", "held-out-users", "official"]
Codes: TypeAlias = NDArray[np.uint8]
Keys: TypeAlias = NDArray[np.uint64]

PART_NAMES: tuple[Part, ...] = ("train", "validation", "test", "validation_fold_in", "test_fold_in")
"""The parts in the order of their codes."""

_TRAIN, _VALIDATION, _TEST, _VALIDATION_FOLD_IN, _TEST_FOLD_IN = (np.uint8(code) for code in range(5))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_USER_SALT = 0x55534552  # so that the choice of users and the order of their interactions are unrelated
_ENTRY_SALT = 0x454E5459

_OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "random": {"test_fraction": 0.2, "validation_fraction": 0.0},
    "leave-last": {"n_test": 1, "n_validation": 0},
    "time": {"test_from": None, "validation_from": None},
    "held-out-users": {"test_users": 0.1, "validation_users": 0.0, "fold_in_fraction": 0.8},
    "official": {"validation_fraction": 0.0},
}


def _to_utc(value: Any) -> Any:
    """Read numbers as seconds since 1970 and times without a zone as UTC."""
    if isinstance(value, str):
        try:
            value = float(value) if "-" not in value[1:] else datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is neither an ISO-8601 time nor a number of seconds since 1970") from error
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return _EPOCH + timedelta(seconds=value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{value} seconds since 1970 is outside the years 1 to 9999") from error
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Moment: TypeAlias = Annotated[AwareDatetime, BeforeValidator(_to_utc)]


class SplitRule(BaseModel):
    """How interactions are divided into parts; options of another kind than ``kind`` are refused.

    An option that is left out takes the default of its kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: SplitKind = "none"
    """``none``: all train. ``random``: of each user, a fraction. ``leave-last``: of each user, the last by
    time. ``time``: by two moments for all users. ``held-out-users``: some users whole, for strong
    generalization. ``official``: the parts that the source files give."""

    test_fraction: Fraction | None = None
    """random: fraction of each user's interactions for test; default 0.2."""

    validation_fraction: Fraction | None = None
    """random, official: fraction of each user's interactions for validation; default 0."""

    n_test: Annotated[int, Field(ge=1)] | None = None
    """leave-last: number of each user's last interactions for test; default 1."""

    n_validation: Annotated[int, Field(ge=0)] | None = None
    """leave-last: number of the interactions before those for validation; default 0."""

    test_from: Moment | None = None
    """time: the first moment of test. A time without a zone is UTC, a number is seconds since 1970."""

    validation_from: Moment | None = None
    """time: the first moment of validation; without it there is no validation part."""

    test_users: Annotated[int, Field(ge=1)] | Fraction | None = None
    """held-out-users: fraction (below 1) or number of users for test; default 0.1."""

    validation_users: Annotated[int, Field(ge=0)] | Fraction | None = None
    """held-out-users: fraction or number of users for validation; default 0."""

    fold_in_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """held-out-users: fraction of a held-out user's interactions that the model is shown; default 0.8."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Refuse options of other kinds, and take the defaults of this one."""
        if not isinstance(values, dict) or values.get("kind", "none") not in _OPTIONS:
            return values
        kind = values.get("kind", "none")
        options = _OPTIONS[kind]
        every_option = {name for names in _OPTIONS.values() for name in names}
        foreign = sorted(name for name in every_option - set(options) if values.get(name) is not None)
        if foreign:
            known = ", ".join(options) or "no options"
            raise ValueError(f"split {kind!r} has no option {', '.join(foreign)}; it takes {known}")
        return {**values, **{name: default for name, default in options.items() if values.get(name) is None}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "random" and (self.test_fraction or 0) + (self.validation_fraction or 0) >= 1:
            raise ValueError("test_fraction and validation_fraction together leave no train part; lower one")
        if self.kind == "time":
            if self.test_from is None:
                raise ValueError("split 'time' needs test_from, the first moment of test")
            if self.validation_from is not None and self.validation_from >= self.test_from:
                raise ValueError(
                    f"validation_from {self.validation_from.isoformat()} is not before test_from "
                    f"{self.test_from.isoformat()}; validation is the time between the two"
                )
        shares = [value for value in (self.test_users, self.validation_users) if isinstance(value, float)]
        if sum(shares) >= 1:
            raise ValueError("test_users and validation_users together leave no train users; lower one")
        return self

    @property
    def needs_times(self) -> bool:
        """Whether interactions must have times."""
        return self.kind in ("leave-last", "time")


class HeldOutUsers(NamedTuple):
    """Which users the held-out-users split holds out: those whose hash is below a bound.

    Parameters
    ----------
    test_below : int
        Users with a hash below are test users.
    validation_below : int
        Other users with a hash below are validation users.
    """

    test_below: int
    validation_below: int


def choose_held_out_users(rule: SplitRule, seed: int, user_keys: Keys) -> HeldOutUsers:
    """Choose the users that are held out.

    Parameters
    ----------
    rule : SplitRule
        Of the kind held-out-users.
    seed : int
        Seed of the split.
    user_keys : uint64 array of shape (n_users,)
        Stable hashes of the ids of all users, in any order. Only numbers of users need them: a
        fraction is that of all possible hashes, so that a user stays where it is when users come or go.

    Raises
    ------
    InputError
        If more users are to be held out than there are, or all.
    """
    hashes = np.sort(_hash_users(seed, user_keys))
    bounds: list[int] = []
    for wanted in (rule.test_users or 0, rule.validation_users or 0):
        start = bounds[-1] if bounds else 0
        n_taken = int(np.searchsorted(hashes, np.uint64(start)))
        if isinstance(wanted, float):
            bounds.append(min(start + int(wanted * 2.0**64), 2**64 - 1))
            continue
        if wanted and n_taken + wanted >= hashes.size:
            raise InputError(
                f"split 'held-out-users': expected fewer than {hashes.size} held-out users, found "
                f"{n_taken + wanted}; lower test_users or validation_users"
            )
        bounds.append(int(hashes[n_taken + wanted]) if wanted else start)
    return HeldOutUsers(bounds[0], bounds[1])


def assign_parts(
    rule: SplitRule,
    seed: int,
    user_keys: Keys,
    item_keys: Keys,
    user_codes: Offsets,
    times: Offsets | None,
    *,
    is_test: BoolArray | None = None,
    held_out_users: HeldOutUsers | None = None,
) -> Codes:
    """Give the part of every interaction of some users.

    Parameters
    ----------
    rule : SplitRule
        The split.
    seed : int
        Key of the random choices.
    user_keys, item_keys : uint64 arrays of shape (n,)
        Stable hash of each interaction's user id and item id.
    user_codes : int64 array of shape (n,)
        Any numbers that are equal for equal users, ascending; all interactions of a user are there.
    times : int64 array of shape (n,) or None
        UTC microseconds since 1970.
    is_test : bool array of shape (n,) or None
        official: the interactions of test files; None: all are of train files.
    held_out_users : HeldOutUsers or None
        held-out-users: what `choose_held_out_users` gave for all users; needed where the rule
        names numbers of users, not fractions.

    Returns
    -------
    uint8 array of shape (n,)
        Positions in ``PART_NAMES``.

    Raises
    ------
    InputError
        If the rule needs times and there are none, or user codes descend.

    Notes
    -----
    A fraction f of a user's n interactions is floor(f n + 1/2) of them. Test takes its share first,
    then validation, and both leave at least one interaction to train (to fold-in, for a held-out
    user); a validation share can therefore be changed without moving test. Interactions of a user at
    the same time are ordered by their hash. Under ``time`` a user may have no train interaction.
    """
    if rule.needs_times and times is None:
        raise InputError(f"split {rule.kind!r}: expected times, found none; name the time column with --time-column")
    n = user_codes.size
    if n and (np.diff(user_codes) < 0).any():
        raise InputError("user_codes: expected ascending numbers; sort the interactions by user")
    parts = np.full(n, _TRAIN, dtype=np.uint8)
    if n == 0 or rule.kind == "none":
        return parts
    entry_keys = _hash_entries(seed, user_keys, item_keys)
    if rule.kind == "time" and times is not None:
        if rule.validation_from is not None:
            parts[times >= _microseconds(rule.validation_from)] = _VALIDATION
        parts[times >= _microseconds(rule.test_from or _EPOCH)] = _TEST
    elif rule.kind == "random":
        ranks, counts = _rank_in_user(user_codes, (entry_keys,))
        n_test = np.minimum(_share(rule.test_fraction, counts), counts - 1)
        _assign_first(parts, ranks, counts, n_test, _share(rule.validation_fraction, counts))
    elif rule.kind == "leave-last" and times is not None:
        # The key that is last sorts first: time descending, then the hash.
        ranks, counts = _rank_in_user(user_codes, (entry_keys, ~times))
        n_test = np.minimum(rule.n_test or 1, counts - 1)
        _assign_first(parts, ranks, counts, n_test, np.full(n, rule.n_validation or 0))
    elif rule.kind == "held-out-users":
        if held_out_users is None:
            held_out_users = _held_out_by_fraction(rule)
        _assign_held_out(parts, rule, held_out_users, seed, user_keys, user_codes, entry_keys)
    elif rule.kind == "official":
        is_train = np.ones(n, dtype=np.bool_) if is_test is None else ~is_test
        parts[~is_train] = _TEST
        of_train = parts[is_train]
        ranks, counts = _rank_in_user(user_codes[is_train], (entry_keys[is_train],))
        _assign_first(of_train, ranks, counts, np.zeros_like(counts), _share(rule.validation_fraction, counts))
        parts[is_train] = of_train
    return parts


def _assign_first(parts: Codes, ranks: Offsets, counts: Offsets, n_test: Offsets, n_validation: Offsets) -> None:
    """Give the lowest ranks to test, the next to validation, and leave one at least."""
    n_validation = np.minimum(n_validation, counts - 1 - n_test)
    parts[ranks < n_test + n_validation] = _VALIDATION
    parts[ranks < n_test] = _TEST


def _assign_held_out(
    parts: Codes,
    rule: SplitRule,
    chosen: HeldOutUsers,
    seed: int,
    user_keys: Keys,
    user_codes: Offsets,
    entry_keys: Keys,
) -> None:
    """Divide the interactions of held-out users into what the model is shown and what is asked."""
    hashes = _hash_users(seed, user_keys)
    is_test = hashes < np.uint64(chosen.test_below)
    is_validation = ~is_test & (hashes < np.uint64(chosen.validation_below))
    ranks, counts = _rank_in_user(user_codes, (entry_keys,))
    n_shown = np.maximum(np.minimum(_share(rule.fold_in_fraction, counts), counts - 1), 1)
    is_shown = ranks < n_shown
    parts[is_test] = np.where(is_shown[is_test], _TEST_FOLD_IN, _TEST)
    parts[is_validation] = np.where(is_shown[is_validation], _VALIDATION_FOLD_IN, _VALIDATION)


def _held_out_by_fraction(rule: SplitRule) -> HeldOutUsers:
    if isinstance(rule.test_users, int) or (isinstance(rule.validation_users, int) and rule.validation_users):
        raise InputError(
            "split 'held-out-users': numbers of users need held_out_users, made by choose_held_out_users from the "
            "keys of all users"
        )
    return choose_held_out_users(rule, 0, np.zeros(0, dtype=np.uint64))


def _rank_in_user(user_codes: Offsets, keys: "tuple[NDArray[Any], ...]") -> tuple[Offsets, Offsets]:
    """Give each interaction's place among those of its user, ordered by keys, and how many there are."""
    n = user_codes.size
    is_first = np.ones(n, dtype=np.bool_)
    is_first[1:] = user_codes[1:] != user_codes[:-1]
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, n))
    ranks = np.empty(n, dtype=np.int64)
    # Users ascend already, so each keeps its range of positions.
    ranks[np.lexsort((*keys, user_codes))] = np.arange(n) - np.repeat(starts, counts)
    return ranks, np.repeat(counts, counts)


def _share(fraction: float | None, counts: Offsets) -> Offsets:
    """Give floor(fraction * count + 1/2)."""
    shares: Offsets = np.floor((fraction or 0.0) * counts + 0.5).astype(np.int64)
    return shares


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _hash_entries(seed: int, user_keys: Keys, item_keys: Keys) -> Keys:
    """Hash (seed, user, item) by chained splitmix64."""
    return _mix(_mix(user_keys ^ _mix_seed(seed, _ENTRY_SALT)) ^ item_keys)


def _hash_users(seed: int, user_keys: Keys) -> Keys:
    """Hash (seed, user)."""
    return _mix(user_keys ^ _mix_seed(seed, _USER_SALT))


def _mix_seed(seed: int, salt: int) -> np.uint64:
    return np.uint64(_mix(np.array([(seed ^ (salt << 32)) % 2**64], dtype=np.uint64))[0])


def _mix(keys: Keys) -> Keys:
    return hash_numbers(keys.view(np.int64))
