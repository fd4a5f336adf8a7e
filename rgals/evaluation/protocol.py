"""What is evaluated and how: models that give factors or scores, options, and the users of a held-out part."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rgals.data.dataset import Dataset
from rgals.data.merged import TrainAndValidation
from rgals.data.storage import redact
from rgals.errors import InputError
from rgals.names import BoolArray, Factors, Offsets, Part
from rgals.numerics.ranking import Gains
from rgals.numerics.sparse import InteractionRows

__all__ = [
    "BlockScoringModel",
    "ColdUsers",
    "EvaluatedModel",
    "EvaluatedUsers",
    "EvaluationOptions",
    "Generalization",
    "HeldOutPart",
    "ScoringModel",
    "count_items",
    "read_training",
]

HeldOutPart = Literal["test", "validation"]
"""A part whose interactions are the truth."""

Generalization = Literal["weak", "strong"]
"""Weak: users of the training. Strong: users that it never saw, folded in from a part of their interactions."""

_FOLD_IN_PARTS: dict[HeldOutPart, Part] = {"test": "test_fold_in", "validation": "validation_fold_in"}

_BLOCK_USERS = 1 << 14
"""Users whose pairs are compared at a time."""


ColdUsers = Literal["popular", "miss"]
"""What a user without factors gets: the most popular items, as when serving, or an empty list."""


class ScoringModel(Protocol):
    """A model that scores by products of factors, in the row numbers of the evaluated dataset."""

    @property
    def name(self) -> str:
        """Name in the report."""
        ...

    @property
    def train_s(self) -> float | None:
        """Measured seconds of training; None where unknown."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """How it was trained, as JSON values."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its numbers has to know."""
        ...

    @property
    def item_factors(self) -> Factors:
        """Float32 of shape (n_items, n_factors)."""
        ...

    @property
    def is_known_item(self) -> BoolArray | None:
        """Items that can be ranked, bool of shape (n_items,); None if all can."""
        ...

    def user_factors_of(self, user_rows: Offsets) -> Factors:
        """Give the factors of users of the training, float32 of shape (n_rows, n_factors); zeros where it has none."""
        ...

    def fold_in(self, rows: InteractionRows, n_threads: int) -> Factors:
        """Give the factors of new users from their interactions, float32 of shape (n_rows, n_factors)."""
        ...


@runtime_checkable
class BlockScoringModel(Protocol):
    """A model that gives all items' scores for blocks of users, in the row numbers of the evaluated dataset.

    It is sent to the workers that rank, so it can be pickled, and arrays in it may be read-only there.
    """

    @property
    def name(self) -> str:
        """Name in the report."""
        ...

    @property
    def train_s(self) -> float | None:
        """Measured seconds of training; None where unknown."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """How it was trained, as JSON values."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its numbers has to know."""
        ...

    @property
    def n_items(self) -> int:
        """Number of items that it scores."""
        ...

    @property
    def is_known_item(self) -> BoolArray | None:
        """Items that can be ranked, bool of shape (n_items,); None if all can."""
        ...

    def score_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        """Give the scores of users of the training, float32 of shape (n_rows, n_items), in a new array.

        A row of zeros says that it cannot rank for the user.
        """
        ...

    def score_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        """Give the scores of new users from their interactions, likewise."""
        ...


EvaluatedModel: TypeAlias = ScoringModel | BlockScoringModel
"""A model that can be evaluated."""


def count_items(model: EvaluatedModel) -> int:
    """Give the number of items that a model ranks."""
    return model.n_items if isinstance(model, BlockScoringModel) else int(model.item_factors.shape[0])


class EvaluationOptions(BaseModel):
    """How to evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoffs: tuple[int, ...] = Field(default=(10, 20, 100), min_length=1)
    """Lengths k of the ranked lists."""
    part: HeldOutPart = "test"
    """The held-out part."""
    gains: Gains = "binary"
    """What a relevant item is worth in NDCG: 1, or its held-out weight."""
    filter_validation: bool = True
    """Whether a user's validation items are left out of the lists when the test part is evaluated."""
    cold_users: ColdUsers = "popular"
    """What users get whom a model has no factors for: the list of the most popular items that serving gives
    them, the same for every model, or an empty list, which counts as a miss."""
    n_resamples: int = Field(default=1000, ge=0)
    """Bootstrap resamples; 0 for no intervals."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the bootstrap."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level."""

    @field_validator("cutoffs")
    @classmethod
    def _check_cutoffs(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if min(cutoffs) < 1 or len(set(cutoffs)) != len(cutoffs):
            raise ValueError(f"expected different cutoffs of at least 1, found {list(cutoffs)}")
        return cutoffs


@dataclass(frozen=True, slots=True)
class EvaluatedUsers:
    """The users of a part with at least one held-out item, and what is known of them.

    Parameters
    ----------
    generalization : {"weak", "strong"}
        Whether they took part in the training.
    user_rows : int64 array of shape (n_users,)
        Their rows in the dataset, ascending.
    held_out : InteractionRows of shape (n_users, n_items)
        Their truth.
    seen : InteractionRows of shape (n_users, n_items)
        What never appears in their lists.
    fold_in : InteractionRows of shape (n_users, n_items) or None
        What their factors are solved from, under strong generalization.
    popularity : float32 array of shape (n_items, 1)
        Training interactions of each item, as the item factors of a model of one factor.
    seen_parts : tuple of str
        The parts that ``seen`` comes from.
    n_without_held_out : int
        Users of the part's population that were left out because nothing of them is held out.
    """

    generalization: Generalization
    user_rows: Offsets
    held_out: InteractionRows
    seen: InteractionRows
    fold_in: InteractionRows | None
    popularity: Factors
    seen_parts: tuple[Part, ...]
    n_without_held_out: int

    @classmethod
    def read(cls, dataset: Dataset, part: HeldOutPart, *, filter_validation: bool = True) -> "EvaluatedUsers":
        """Read the parts of a dataset that an evaluation needs.

        Under the held-out-users split (the dataset has a fold-in part) the generalization is strong:
        the fold-in items are seen. Otherwise the training items are, and, on the test part and unless
        ``filter_validation`` is false, the validation items. The training part is read a shard at a
        time; of it, only the items of the evaluated users are kept.

        Raises
        ------
        InputError
            If the dataset has no such part, or no user in it has a held-out item.
        """
        held_out = dataset.read_part(part)
        user_rows = np.flatnonzero(held_out.degrees).astype(np.int64)
        if not user_rows.size:
            where = redact(str(dataset.location))
            raise InputError(f"{where}: the part {part!r} has no interactions; ingest with a split that fills it")
        fold_in_part = _FOLD_IN_PARTS[part]
        if dataset.has_part(fold_in_part):
            every_fold_in = dataset.read_part(fold_in_part)
            n_population = int(np.count_nonzero(every_fold_in.degrees + held_out.degrees))
            fold_in = every_fold_in.take(user_rows)
            _, popularity = _read_train(dataset, user_rows[:0])
            return cls(
                "strong",
                user_rows,
                held_out.take(user_rows),
                fold_in,
                fold_in,
                popularity,
                (fold_in_part,),
                n_population - user_rows.size,
            )
        seen, popularity = _read_train(dataset, user_rows)
        parts: tuple[Part, ...] = ("train",)
        if part == "test" and filter_validation and dataset.has_part("validation"):
            seen, parts = unite(seen, dataset.read_part("validation").take(user_rows)), ("train", "validation")
        n_left_out = dataset.n_users - user_rows.size
        return cls("weak", user_rows, held_out.take(user_rows), seen, None, popularity, parts, n_left_out)

    @property
    def n_users(self) -> int:
        """Number of evaluated users."""
        return int(self.user_rows.size)

    @property
    def n_without_history(self) -> int:
        """Evaluated users without a single seen item: nothing is known of them."""
        return int(np.count_nonzero(self.seen.degrees == 0))

    @property
    def n_held_out_seen(self) -> int:
        """Held-out interactions that are seen as well, so that no list can hold them."""
        return sum(
            int(np.intersect1d(_pair_keys(held_out), _pair_keys(seen), assume_unique=True).size)
            for held_out, seen in zip(_blocks_of(self.held_out), _blocks_of(self.seen), strict=True)
        )


def read_training(
    dataset: Dataset, part: HeldOutPart, trained_on: Collection[str]
) -> tuple[InteractionRows, tuple[Part, ...]]:
    """Read what an opponent of a model is fitted on: the parts that the model was trained on.

    Parameters
    ----------
    dataset : Dataset
        What is evaluated on.
    part : {"test", "validation"}
        The held-out part; no opponent sees it.
    trained_on : collection of str
        Parts that the model was trained on, as its lineage names them; empty where unknown.

    Returns
    -------
    interactions : InteractionRows of shape (n_users, n_items)
        Of the training part; with those of the validation part if the model saw them and they are known when
        the test part is judged.
    parts : tuple of str
        Which parts that were.
    """
    # Whole users kept back for validation are new to every model.
    has_validation = dataset.has_part("validation") and not dataset.has_part("validation_fold_in")
    if part == "test" and "validation" in trained_on and has_validation:
        return TrainAndValidation(dataset).read_all(), ("train", "validation")
    return dataset.read_part("train"), ("train",)


def unite(left: InteractionRows, right: InteractionRows) -> InteractionRows:
    """Give the pairs that either holds, without weights.

    Parameters
    ----------
    left, right : InteractionRows
        Of one shape.
    """
    united = []
    for some_left, some_right in zip(_blocks_of(left), _blocks_of(right), strict=True):
        keys = np.union1d(_pair_keys(some_left), _pair_keys(some_right))
        rows, columns = keys // left.n_columns, keys % left.n_columns
        united.append(InteractionRows.from_pairs(rows, columns, None, some_left.n_rows, left.n_columns))
    return _stack(united, left.n_columns)


def _read_train(dataset: Dataset, user_rows: Offsets) -> tuple[InteractionRows, Factors]:
    """Give the training items of the named users, without weights, and the popularity of every item."""
    counts = np.zeros(dataset.n_items, dtype=np.int64)
    kept = []
    for index, shard_range in enumerate(dataset.shard_ranges("user")):
        shard = dataset.load_shard("user", index)
        counts += np.bincount(shard.columns, minlength=dataset.n_items)
        first, last = np.searchsorted(user_rows, (shard_range.start, shard_range.stop))
        unweighted = InteractionRows(shard.indptr, shard.columns, None, shard.n_columns)
        kept.append(unweighted.take(user_rows[first:last] - shard_range.start))
    return _stack(kept, dataset.n_items), counts.astype(np.float32)[:, None]


def _blocks_of(rows: InteractionRows) -> Iterator[InteractionRows]:
    for start in range(0, rows.n_rows, _BLOCK_USERS):
        yield rows.row_slice(start, min(start + _BLOCK_USERS, rows.n_rows))


def _stack(blocks: Sequence[InteractionRows], n_columns: int) -> InteractionRows:
    """Put consecutive rows without weights together."""
    degrees = np.concatenate([np.zeros(1, dtype=np.int64), *(block.degrees for block in blocks)])
    columns = np.concatenate([np.zeros(0, dtype=np.int32), *(block.columns for block in blocks)])
    return InteractionRows(np.cumsum(degrees), columns, None, n_columns)


def _pair_keys(rows: InteractionRows) -> Offsets:
    """Give each pair of row and column a number of its own, int64."""
    row_of_entry = np.repeat(np.arange(rows.n_rows, dtype=np.int64), rows.degrees)
    return row_of_entry * rows.n_columns + rows.columns
