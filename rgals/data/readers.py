"""Reading source files in bounded batches, every value still as it stands in the file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from rgals.data.sources import SourceFile, SourcePiece
from rgals.errors import DataError, InputError
from rgals.names import Offsets

__all__ = ["DEFAULT_BATCH_ROWS", "MalformedRow", "RawBatch", "estimate_rows", "read_batches"]

DEFAULT_BATCH_ROWS = 1 << 18
"""Rows per Parquet batch; text files are cut by bytes."""

_BLOCK_BYTES = 8 << 20
_BYTES_PER_ROW = {"csv": 20, "jsonl": 60, "parquet": 8}


class MalformedRow(NamedTuple):
    """A row that has no columns to look at: its number in the file, why, and its text."""

    row: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Some consecutive rows of one file.

    Parameters
    ----------
    columns : dict of str to Arrow array
        The wanted columns: binary for text files; for Parquet the type of the file.
    rows : int64 array of shape (n,)
        The number of each row in its file, from 1; in CSV the header is row 1.
    malformed : list of MalformedRow
        Rows among or before these that could not be read at all; they are not in ``columns``.
    """

    columns: dict[str, pa.Array]
    rows: Offsets
    malformed: list[MalformedRow] = field(default_factory=list)


def read_batches(
    source: SourceFile | SourcePiece,
    id_columns: Sequence[str],
    value_columns: Sequence[str],
    *,
    delimiter: str | None = None,
    csv_columns: Sequence[str] | None = None,
    batch_rows: int = DEFAULT_BATCH_ROWS,
) -> Iterator[RawBatch]:
    """Read a file, or a piece of it, batch by batch, in memory that does not grow with the file.

    Parameters
    ----------
    source : SourceFile or SourcePiece
        The file or the piece.
    id_columns, value_columns : sequence of str
        The wanted columns; in JSON Lines an id is text or an integer.
    delimiter : str or None
        Separator of a CSV file; None takes a tab for ``.tsv`` and ``.tab``, else a comma.
    csv_columns : sequence of str or None
        Names of the columns of a CSV file without a header line.
    batch_rows : int
        Rows per batch of a Parquet file.

    Yields
    ------
    RawBatch
        In file order.

    Raises
    ------
    InputError
        If a column is missing, or a Parquet column has a type that cannot hold its values.
    DataError
        If the file cannot be read to its end.
    """
    wanted = list(dict.fromkeys([*id_columns, *value_columns]))
    piece = source if isinstance(source, SourcePiece) else SourcePiece(source)
    source = piece.source
    try:
        if source.format == "parquet":
            yield from _read_parquet(piece, wanted, batch_rows)
        elif source.format == "csv":
            yield from _read_csv(piece, wanted, delimiter, csv_columns)
        else:
            yield from _read_json_lines(piece, id_columns, wanted)
    except (pa.ArrowException, OSError, EOFError) as error:
        # OSError must not pass: around the output it would read as a failed write.
        raise DataError(
            f"{source.path}: cannot be read as {source.format} ({error}); "
            "the file is truncated, corrupted or of another format: restore it, or pass --format"
        ) from error


def estimate_rows(sources: Sequence[SourceFile]) -> int:
    """Guess the number of rows from the sizes, which only chooses how finely the work is cut."""
    return sum(source.n_bytes // _BYTES_PER_ROW[source.format] for source in sources)


def check_columns(path: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Refuse a file without one of the wanted columns, naming those it has.

    Raises
    ------
    InputError
        If a wanted column is missing or occurs twice.
    """
    for column in wanted:
        if column not in found:
            close = get_close_matches(column, found, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(
                f"{path}: no column {column!r}{hint}; its columns are {', '.join(map(repr, found)) or 'none'}; "
                "name them with --user-column, --item-column, --weight-column, --time-column"
            )
        if list(found).count(column) > 1:
            raise InputError(f"{path}: column {column!r} occurs twice; rename one of them")


def _read_parquet(piece: SourcePiece, wanted: list[str], batch_rows: int) -> Iterator[RawBatch]:
    source = piece.source
    with source.filesystem.open_input_file(source.path) as stream:
        file = pa.parquet.ParquetFile(stream, pre_buffer=False)
        check_columns(source.path, wanted, file.schema_arrow.names)
        n_read = piece.first_row - 1
        for group in range(piece.start, file.num_row_groups if piece.stop is None else piece.stop):
            for batch in file.iter_batches(batch_rows, row_groups=[group], columns=wanted):
                rows = np.arange(n_read + 1, n_read + 1 + batch.num_rows)
                n_read += batch.num_rows
                yield RawBatch({name: batch.column(name) for name in wanted}, rows)


def _read_csv(
    piece: SourcePiece, wanted: list[str], delimiter: str | None, csv_columns: Sequence[str] | None
) -> Iterator[RawBatch]:
    source = piece.source
    plain_path = source.path.lower()
    tab_by_ending = any(ending in plain_path[-9:] for ending in (".tsv", ".tab"))
    malformed: list[MalformedRow] = []

    def set_aside(row: Any) -> str:
        reason = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        malformed.append(
            MalformedRow(piece.first_row - 1 + int(row.number), "wrong number of fields", f"{row.text} ({reason})")
        )
        return "skip"

    parse = pa.csv.ParseOptions(
        delimiter=delimiter or ("\t" if tab_by_ending else ","),
        newlines_in_values=True,
        invalid_row_handler=set_aside,
    )
    # Rows are numbered only when one thread parses.
    read = pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
    if csv_columns is not None:
        read.column_names = list(csv_columns)
    with _open_text(SourcePiece(source)) as stream, pa.csv.open_csv(stream, read, parse) as header:
        names = header.schema.names
    check_columns(source.path, wanted, names)
    malformed.clear()
    has_header = csv_columns is None and piece.start == 0
    if not has_header:
        read.column_names = names
    convert = pa.csv.ConvertOptions(
        check_utf8=False,
        column_types={name: pa.binary() for name in wanted},
        include_columns=wanted,
        strings_can_be_null=False,
    )
    next_row = piece.first_row + 1 if has_header else piece.first_row
    with _open_text(piece) as stream, pa.csv.open_csv(stream, read, parse, convert) as reader:
        for batch in reader:
            # Rows set aside are left out of the batch but keep their number.
            rows = np.arange(next_row, next_row + batch.num_rows + len(malformed))
            rows = rows[~np.isin(rows, [row.row for row in malformed])][: batch.num_rows]
            next_row = int(rows[-1]) + 1 if rows.size else next_row
            aside, later = (
                [row for row in malformed if row.row < next_row],
                [row for row in malformed if row.row >= next_row],
            )
            malformed[:] = later
            yield RawBatch({name: batch.column(name) for name in wanted}, rows, aside)
    if malformed:
        yield RawBatch({name: pa.array([], pa.binary()) for name in wanted}, np.zeros(0, np.int64), list(malformed))


@contextmanager
def _open_text(piece: SourcePiece) -> "Iterator[pa.NativeFile]":
    """Open a text file, decompressed by its ending, or a range of its bytes."""
    filesystem, path = piece.source.filesystem, piece.source.path
    if piece.start == 0 and piece.stop is None:
        with filesystem.open_input_stream(path, compression="detect", buffer_size=1 << 20) as stream:
            yield stream
        return
    stop = piece.source.n_bytes if piece.stop is None else piece.stop
    with (
        filesystem.open_input_file(path) as file,
        pa.BufferedInputStream(file.get_stream(piece.start, stop - piece.start), 1 << 20) as stream,
    ):
        yield stream


def _read_json_lines(piece: SourcePiece, id_columns: Sequence[str], wanted: list[str]) -> Iterator[RawBatch]:
    source = piece.source
    next_row, is_checked = piece.first_row, piece.start > 0
    with _open_text(piece) as stream:
        for lines in _line_blocks(source, stream):
            if not is_checked and (keys := _keys_of(lines, wanted)):
                # A key may be absent from a row; absent from a whole block it is a wrong name.
                check_columns(source.path, wanted, keys)
                is_checked = True
            yield _parse_json_lines(lines, next_row, id_columns, wanted)
            next_row += len(lines)


def _line_blocks(source: SourceFile, stream: "pa.NativeFile") -> Iterator[list[bytes]]:
    """Cut a stream into lists of whole lines of about a block's bytes."""
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > 8 * _BLOCK_BYTES:
            raise DataError(
                f"{source.path}: a line of more than {8 * _BLOCK_BYTES} bytes; expected one object per line"
            )
        if lines:
            yield lines
    if rest:
        yield [rest]


def _parse_json_lines(lines: list[bytes], first_row: int, id_columns: Sequence[str], wanted: list[str]) -> RawBatch:
    """Read one object per line."""
    objects: list[dict[str, Any]] = []
    rows: list[int] = []
    malformed: list[MalformedRow] = []
    for row, line in enumerate(lines, first_row):
        if line.isspace() or not line:
            continue
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            parsed = None
        if type(parsed) is dict:
            objects.append(parsed)
            rows.append(row)
        else:
            malformed.append(MalformedRow(row, "not a JSON object", line.decode(errors="replace")))
    texts = {name: [_json_text(parsed.get(name), name in id_columns) for parsed in objects] for name in wanted}
    is_good = np.ones(len(rows), dtype=np.bool_)
    for side, name in zip(("user", "item"), id_columns, strict=True):
        for place in [place for place, value in enumerate(texts[name]) if value is False]:
            if is_good[place]:
                is_good[place] = False
                text = lines[rows[place] - first_row].decode(errors="replace")
                malformed.append(MalformedRow(rows[place], f"{side} id is neither text nor an integer", text))
            texts[name][place] = None
    columns = {name: pa.array(values, pa.binary()).filter(pa.array(is_good)) for name, values in texts.items()}
    return RawBatch(columns, np.array(rows, dtype=np.int64)[is_good], sorted(malformed))


def _keys_of(lines: list[bytes], wanted: list[str]) -> list[str]:
    """Give the keys of the objects of some lines, as far as it takes to find the wanted ones."""
    keys: dict[str, None] = {}
    for line in lines:
        with suppress(ValueError, RecursionError):
            parsed = json.loads(line)
            if isinstance(parsed, dict):
                keys.update(dict.fromkeys(parsed))
        if keys.keys() >= set(wanted):
            break
    return list(keys)


def _json_text(value: Any, is_id: bool) -> bytes | bool | None:
    """Give a JSON value as text, None where it is missing, False where an id has a wrong type."""
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if value is None:
        return None
    if isinstance(value, bool) or (is_id and not isinstance(value, int)):
        return False if is_id else json.dumps(value).encode()
    if isinstance(value, int | float):
        return repr(value).encode()
    return json.dumps(value).encode()
