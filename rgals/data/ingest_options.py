"""What an ingest is told to do; every field changes what the dataset holds, except as noted."""

import itertools
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rgals.data.sources import SourceFormat
from rgals.data.splits import SplitRule
from rgals.data.values import IdType, TimeUnit

__all__ = ["DuplicatePolicy", "IngestOptions", "WeightRule"]

DuplicatePolicy = Literal["max", "sum", "last", "count"]
WeightRule = Literal["linear", "binary", "gain"]


class IngestOptions(BaseModel):
    """Columns, rules and split of an ingest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_column: str = "user_id"
    """Column of user ids."""

    item_column: str = "item_id"
    """Column of item ids."""

    weight_column: str | None = None
    """Column of weights or ratings; None gives every row the weight 1."""

    time_column: str | None = None
    """Column of times: numbers since 1970 UTC in ``time_unit``, ISO-8601 text, or Arrow timestamps."""

    time_unit: TimeUnit = "s"
    """Unit of times that are numbers. The dataset stores UTC microseconds."""

    format: Literal["auto"] | SourceFormat = "auto"
    """Format of the source files; ``auto`` goes by their endings."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Separator of CSV files; None takes a tab for .tsv, else a comma."""

    csv_columns: tuple[str, ...] | None = None
    """Column names of CSV files that have no header line."""

    id_type: IdType = "auto"
    """Type of the dictionaries. ``auto``: integer columns of Parquet give int64, text columns of
    Parquet give strings, and text files give int64 if every id of the side is a canonical integer
    (``007`` is not), else strings. Files that disagree give strings."""

    minimum_rating: float | None = None
    """Leave out rows whose value in ``weight_column`` is below this, before it becomes a weight."""

    grades: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    """The lowest ratings of the grades 1, 2, ..., ascending. A rating counts as its grade; rows rated below grade 1 are
    left out."""

    weight_from_rating: WeightRule = "linear"
    """The weight of a rating, or grade, r: ``linear`` r, ``binary`` 1, ``gain`` 2^r - 1."""

    duplicates: DuplicatePolicy = "max"
    """The weight of several rows of one user and item: the largest, their ``sum``, that of the
    ``last`` by time (without times: of the last row read), or their ``count``. The time of the
    merged interaction is the latest."""

    user_core: Annotated[int, Field(ge=1)] = 1
    """Keep users with at least this many items; repeated with ``item_core`` until both hold."""

    item_core: Annotated[int, Field(ge=1)] = 1
    """Keep items with at least this many users."""

    split: SplitRule = SplitRule()
    """How interactions are divided into parts."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split; the parts depend on it and on the ids alone."""

    n_shards: Annotated[int, Field(ge=1)] | None = None
    """Shards on each side; None chooses by the number of interactions. Not part of the fingerprint."""

    reject_limit: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest fraction of rows that may be rejected; with 0 the first bad row is an error."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.user_column == self.item_column:
            raise ValueError(f"user and item column are both {self.user_column!r}; name two different columns")
        if self.weight_column is None and self.minimum_rating is not None:
            raise ValueError("minimum_rating needs a column of ratings; name it with --rating-column")
        if self.grades is not None:
            self._check_grades(self.grades)
        if self.weight_column is None and self.weight_from_rating == "gain":
            raise ValueError("weight_from_rating 'gain' needs a column of ratings; name it with --rating-column")
        return self

    def _check_grades(self, grades: tuple[float, ...]) -> None:
        if self.weight_column is None:
            raise ValueError("grades need a column of ratings; name it with --rating-column")
        if self.minimum_rating is not None:
            raise ValueError("grades and minimum_rating exclude each other: rows below grade 1 are left out; name one")
        if not grades or any(low >= high for low, high in itertools.pairwise(grades)):
            raise ValueError(f"grades: expected ascending ratings such as 3,4,5, found {list(grades)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read."""
        values = (self.weight_column, self.time_column)
        return tuple(dict.fromkeys([self.user_column, self.item_column, *(name for name in values if name)]))
