"""The ledger: what became of every row that an ingest read."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, NonNegativeInt

__all__ = ["Ledger"]


class Ledger(BaseModel):
    """Where every row read went: ``read = kept + merged + all dropped + all rejected``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    read: NonNegativeInt = 0
    """Rows of all source files, without header lines."""

    kept: NonNegativeInt = 0
    """Interactions of the dataset, all parts together."""

    merged: NonNegativeInt = 0
    """Rows that became part of another interaction of the same user and item."""

    dropped: dict[str, NonNegativeInt] = {}
    """Good rows or merged interactions that a rule left out, by rule."""

    rejected: dict[str, NonNegativeInt] = {}
    """Rows that could not be used, by reason; they are in the quarantine file."""

    @property
    def n_dropped(self) -> int:
        """Rows left out by any rule."""
        return sum(self.dropped.values())

    @property
    def n_rejected(self) -> int:
        """Rows rejected for any reason."""
        return sum(self.rejected.values())

    @property
    def is_balanced(self) -> bool:
        """Whether every row read is accounted for exactly once."""
        return self.read == self.kept + self.merged + self.n_dropped + self.n_rejected

    def describe(self) -> list[tuple[str, int]]:
        """Give the ledger line by line, as a person reads it."""
        return [
            ("rows read", self.read),
            *((f"rejected: {reason}", count) for reason, count in sorted(self.rejected.items())),
            *((f"dropped: {rule}", count) for rule, count in sorted(self.dropped.items())),
            ("merged as duplicates", self.merged),
            ("interactions kept", self.kept),
        ]


def add_counts(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts by name to a running total, leaving out zeros."""
    for name, count in more.items():
        if count:
            total[name] = total.get(name, 0) + count
