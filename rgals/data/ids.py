"""Id dictionaries: the caller's ids on one side, row numbers on the other.

The ids are sorted, integers by value and strings by their UTF-8 bytes, so the order of rows is the
order of ids and a dictionary depends on nothing but the set of ids.
"""

import bisect
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rgals.data.storage import Folder
from rgals.errors import DataError, InputError, UnknownIdError
from rgals.names import IntArray, Offsets

__all__ = ["IdDictionary", "IdKind"]

IdKind: TypeAlias = Literal["string", "int64"]

_COLUMN = "id"
_ROW_GROUP_ROWS = 1 << 20
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_FIRST_INT64, _LAST_INT64 = -(2**63), 2**63 - 1
_BISECT_COST = 64  # searching one string by bisection costs about as much as hashing this many


class IdDictionary:
    """The ids of one side, in the order of their rows; made by `from_values` or `read`.

    An integer and its decimal text (``42`` and ``"42"``, but not ``"042"``) name the same id, so ids
    can be looked up as they are typed on a command line whatever the dictionary holds.

    Parameters
    ----------
    values : Arrow array of int64 or large_string
        Ascending and unique, without nulls and empty strings.
    """

    def __init__(self, values: "pa.Array") -> None:
        self._values = values

    @classmethod
    def from_values(cls, values: "pa.Array | pa.ChunkedArray") -> "IdDictionary":
        """Sort unique ids into a dictionary.

        Parameters
        ----------
        values : Arrow array of strings or integers
            In any order.

        Raises
        ------
        InputError
            If the type is neither text nor integers that fit into 64 bits, or an id is null, empty
            or there twice.
        """
        plain = _to_dictionary_type(values, "ids", InputError)
        if plain.null_count:
            raise InputError(f"ids: {plain.null_count} of {len(plain)} are null; every id needs a value")
        ordered = plain.take(pc.sort_indices(plain))
        position = _first_disorder(ordered)
        if position is not None:
            found = ordered[position].as_py()
            raise InputError(f"ids: {found!r} is empty or there twice; pass every id once")
        return cls(ordered)

    @property
    def values(self) -> "pa.Array":
        """The ids in row order: an Arrow array of int64 or large_string."""
        return self._values

    @property
    def kind(self) -> IdKind:
        """Type of the ids."""
        return "int64" if pa.types.is_int64(self._values.type) else "string"

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdDictionary) and bool(self._values.equals(other._values))

    def __hash__(self) -> int:
        return hash((self.kind, len(self)))

    def __repr__(self) -> str:
        return f"IdDictionary({len(self)} ids of kind {self.kind})"

    def rows_of(self, ids: "pa.Array | pa.ChunkedArray | IntArray | Iterable[Any]") -> Offsets:
        """Give the rows of ids.

        Parameters
        ----------
        ids : Arrow array, NumPy array or iterable, of length n
            Strings or integers.

        Returns
        -------
        int64 array of shape (n,)
            -1 where the dictionary does not hold the id; so too for null and the empty string.

        Raises
        ------
        InputError
            If the ids are neither strings nor integers.
        """
        wanted = _to_arrow(ids)
        if pa.types.is_null(wanted.type):
            return np.full(len(wanted), -1, dtype=np.int64)
        if self.kind == "int64":
            return self._integer_rows(wanted)
        texts = wanted.cast(pa.large_string())
        if len(texts) * _BISECT_COST < len(self):
            return np.array([self._bisect(text) for text in texts.to_pylist()], dtype=np.int64)
        rows = pc.index_in(texts, value_set=self._values)
        found: Offsets = rows.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return found

    def row_of(self, wanted: str | int) -> int:
        """Give the row of one id.

        Raises
        ------
        UnknownIdError
            If the dictionary does not hold it.
        """
        is_integer = isinstance(wanted, int | np.integer) and not isinstance(wanted, bool)
        if not isinstance(wanted, str) and not is_integer:
            raise InputError(f"id: expected a string or an integer, found {type(wanted).__name__} {wanted!r}")
        row = -1
        if self.kind == "string":
            row = self._bisect(str(wanted))
        elif is_integer or _CANONICAL_INTEGER.fullmatch(str(wanted)):
            number = int(wanted)
            row = self._bisect(number) if _FIRST_INT64 <= number <= _LAST_INT64 else -1
        if row < 0:
            raise UnknownIdError(f"id {wanted!r}: not among the {len(self)} {self.kind} ids; check its spelling")
        return row

    def ids_of(self, rows: IntArray) -> list[str] | list[int]:
        """Give the ids of rows as Python values; for many rows, take from ``values`` instead.

        Raises
        ------
        InputError
            If a row is outside 0 to the number of ids.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise InputError(f"rows: expected 0 to {len(self) - 1}, found {wanted.min()} to {wanted.max()}")
        ids: list[str] | list[int] = self._values.take(pa.array(wanted)).to_pylist()
        return ids

    def rows_with_prefix(self, prefix: str, limit: int, start: int = 0) -> Offsets:
        """Give the rows of ids whose text begins with a prefix, in ascending order of the ids.

        Parameters
        ----------
        prefix : str
            The beginning; the empty text finds all.
        limit : int
            At most this many rows.
        start : int
            How many matches are passed over first.

        Returns
        -------
        int64 array of shape (at most ``limit``,)
            At a cost that grows with ``limit``, and with the number of ids only by its logarithm.
        """
        ranges = self._integer_ranges(prefix) if self.kind == "int64" else [self._text_range(prefix)]
        found: list[Offsets] = []
        for first, stop in ranges:
            skipped = min(start, stop - first)
            start -= skipped
            taken = min(limit, stop - first - skipped)
            limit -= taken
            found.append(np.arange(first + skipped, first + skipped + taken, dtype=np.int64))
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def write(self, folder: Folder, name: str) -> None:
        """Write the ids as a Parquet file with the one column ``id``."""
        schema = pa.schema([pa.field(_COLUMN, self._values.type, nullable=False)])
        encoding = {_COLUMN: "DELTA_BINARY_PACKED"} if self.kind == "int64" else None
        table = pa.Table.from_arrays([self._values], schema=schema)
        with (
            folder.open_output(name) as stream,
            pq.ParquetWriter(
                stream, schema, compression="zstd", use_dictionary=False, column_encoding=encoding
            ) as writer,
        ):
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)

    @classmethod
    def read(cls, folder: Folder, name: str) -> "IdDictionary":
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is missing, not readable, or does not hold sorted unique ids.
        """
        path = folder.label(name)
        try:
            with folder.open_input(name) as stream:
                column = pq.read_table(stream, columns=[_COLUMN]).column(0)
        except (pa.ArrowException, OSError, IndexError) as error:
            raise DataError(f"{path}: not a readable file of ids ({error}); restore it") from error
        values = _to_dictionary_type(column, path, DataError)
        if values.null_count or _first_disorder(values) is not None:
            raise DataError(f"{path}: expected ascending unique ids, found others; restore it")
        return cls(values)

    def _integer_rows(self, wanted: "pa.Array") -> Offsets:
        """Look up integers, or texts that are the canonical form of one."""
        is_known = np.ones(len(wanted), dtype=np.bool_)
        if not pa.types.is_integer(wanted.type):
            texts = wanted.to_pylist()
            is_known = np.array([text is not None and bool(_CANONICAL_INTEGER.fullmatch(text)) for text in texts], bool)
            numbers = [int(text) if ok else 0 for text, ok in zip(texts, is_known, strict=True)]
            is_known &= np.array([_FIRST_INT64 <= number <= _LAST_INT64 for number in numbers], dtype=np.bool_)
            keys = np.array([number if ok else 0 for number, ok in zip(numbers, is_known, strict=True)], np.int64)
        else:
            if wanted.null_count:
                is_known = wanted.is_valid().to_numpy(zero_copy_only=False)
                wanted = wanted.fill_null(0)
            raw = wanted.to_numpy(zero_copy_only=False)
            if raw.dtype == np.uint64:
                is_known = is_known & (raw <= _LAST_INT64)
            keys = raw.astype(np.int64)
        if not len(self):
            return np.full(len(keys), -1, dtype=np.int64)
        sorted_ids = self._values.to_numpy()
        rows = np.searchsorted(sorted_ids, keys)
        is_known &= sorted_ids[np.minimum(rows, len(self) - 1)] == keys
        return np.where(is_known, rows, -1).astype(np.int64)

    def _text_range(self, prefix: str) -> tuple[int, int]:
        """Give the first row whose id begins with a prefix, and the one after the last."""
        rows, length = range(len(self)), len(prefix)
        first = bisect.bisect_left(rows, prefix, key=lambda at: self._values[at].as_py())
        stop = bisect.bisect_right(rows, prefix, lo=first, key=lambda at: self._values[at].as_py()[:length])
        return first, stop

    def _integer_ranges(self, prefix: str) -> list[tuple[int, int]]:
        """Give the ranges of rows whose decimal texts begin with a prefix: 12, 120 to 129, 1200 to 1299 and so on."""
        values = self._values.to_numpy()
        if prefix in ("", "-"):
            n_negative = int(np.searchsorted(values, 0))
            return [(0, len(self) if prefix == "" else n_negative)]
        if not _CANONICAL_INTEGER.fullmatch(prefix):
            return []
        number = int(prefix)
        bounds: list[tuple[int, int]] = []
        for power in (10**digits for digits in range(1 if number == 0 else 19)):
            low, high = number * power, number * power + (power - 1) * (-1 if number < 0 else 1)
            low, high = max(min(low, high), _FIRST_INT64), min(max(low, high), _LAST_INT64)
            if low <= high:
                bounds.append((low, high))
        return sorted(
            (int(np.searchsorted(values, low)), int(np.searchsorted(values, high, side="right")))
            for low, high in bounds
        )

    def _bisect(self, wanted: str | int | None) -> int:
        """Give the row of one id of the dictionary's own type, -1 if it has none."""
        if wanted is None:
            return -1
        # Python orders strings by code point, which is the order of their UTF-8 bytes.
        row = bisect.bisect_left(range(len(self)), wanted, key=lambda at: self._values[at].as_py())
        return row if row < len(self) and self._values[row].as_py() == wanted else -1


def _to_arrow(ids: Any) -> "pa.Array":
    """Give ids as one Arrow array of integers or text."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if not isinstance(ids, pa.Array):
        try:
            ids = pa.array(ids if isinstance(ids, np.ndarray) else list(ids))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError) as error:
            raise InputError(f"ids: expected all strings or all 64-bit integers ({error})") from error
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    if not (pa.types.is_integer(ids.type) or _is_text(ids.type) or pa.types.is_null(ids.type)):
        raise InputError(f"ids: expected strings or integers, found {ids.type}; convert them first")
    return ids


def _to_dictionary_type(
    values: "pa.Array | pa.ChunkedArray", where: str, error_type: type[InputError] | type[DataError]
) -> "pa.Array":
    """Give ids as one array of int64 or large_string."""
    kind = values.type
    if not (pa.types.is_integer(kind) or _is_text(kind)):
        raise error_type(f"{where}: expected strings or integers, found {kind}; convert them first")
    try:
        plain = values.cast(pa.int64() if pa.types.is_integer(kind) else pa.large_string())
    except pa.ArrowInvalid as error:
        raise error_type(f"{where}: an id is beyond 64-bit integers ({error}); use string ids") from error
    if isinstance(plain, pa.ChunkedArray):
        # combine_chunks gives a chunked array again where one chunk cannot hold everything.
        plain = pa.concat_arrays(plain.chunks) if plain.num_chunks else pa.array([], plain.type)
    return plain


def _first_disorder(values: "pa.Array") -> int | None:
    """Give the first position that is empty or not above its predecessor, None if all are in order."""
    if _is_text(values.type) and len(values) and values[0].as_py() == "":
        return 0
    is_ascending = pc.less(values[:-1], values[1:]) if len(values) > 1 else pa.array([], pa.bool_())
    position = pc.index(is_ascending, pa.scalar(value=False)).as_py()
    return None if position < 0 else int(position) + 1


def _is_text(kind: "pa.DataType") -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
