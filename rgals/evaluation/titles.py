"""Titles of the items that a report names, from a table of the caller's: a reader knows films, not numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rgals.data.readers import RawBatch, read_batches
from rgals.data.sources import SourceFile, find_sources
from rgals.errors import InputError
from rgals.evaluation.report import Report

__all__ = ["TitleTable"]


@dataclass(frozen=True, slots=True)
class TitleTable:
    """A table with a column of item ids and one of titles; made by `TitleTable.open`.

    Parameters
    ----------
    sources : tuple of SourceFile
        Its files: CSV, JSON Lines or Parquet.
    item_column, title_column : str
        Names of the two columns.
    """

    sources: tuple[SourceFile, ...]
    item_column: str
    title_column: str

    @classmethod
    def open(cls, location: str | Path, columns: str = "item_id,title") -> "TitleTable":
        """Find a table and look at its beginning, so that a mistake is told before long work.

        Parameters
        ----------
        location : str or Path
            A file, folder or glob; a local path or a URI.
        columns : str
            The column of ids and the column of titles, with a comma between them.

        Raises
        ------
        InputError
            If there is no such file, or it lacks a column.
        DataError
            If it cannot be read.
        """
        names = [name.strip() for name in columns.split(",")]
        if len(names) != 2 or not all(names):
            raise InputError(f"title columns: expected two names such as item_id,title, found {columns!r}")
        table = cls(tuple(find_sources([location])), *names)
        try:
            for source in table.sources:
                next(table._read(source), None)
        except InputError as error:
            # The readers speak of the options of rgals ingest.
            what = str(error).partition("; name them with")[0]
            raise InputError(f"{what}; name the columns of ids and titles with --title-columns") from error
        return table

    def add_to(self, report: Report) -> Report:
        """Give a report with the titles of the items that it names; the first where an id occurs twice."""
        named = {
            item_id
            for user in report.sample_users
            for item_id in (
                *user.seen, *user.held_out, *(item.item_id for items in user.lists.values() for item in items)
            )
        }  # fmt: skip
        wanted = pa.array([item_id.encode() for item_id in sorted(named)], pa.binary())
        titles: dict[str, str] = {}
        for source in self.sources:
            for batch in self._read(source):
                ids = _to_bytes(batch.columns[self.item_column])
                rows = pc.indices_nonzero(pc.is_in(ids, value_set=wanted))
                shown = batch.columns[self.title_column].take(rows).to_pylist()
                for item_id, title in zip(ids.take(rows).to_pylist(), map(_to_text, shown), strict=True):
                    if title:
                        titles.setdefault(item_id.decode(), title)
        return report.model_copy(update={"titles": titles})

    def _read(self, source: SourceFile) -> Iterator[RawBatch]:
        return read_batches(source, [self.item_column], [self.title_column])


def _to_bytes(ids: "pa.Array") -> "pa.Array":
    """Write ids as the report does, in the encoding of text files."""
    return ids if pa.types.is_binary(ids.type) else ids.cast(pa.string()).cast(pa.binary())


def _to_text(title: Any) -> str:
    if title is None:
        return ""
    return (title.decode("utf-8", "replace") if isinstance(title, bytes) else str(title)).strip()
