"""How the map step of an ingest is cut: which pieces of which files are a task.

Parquet files are cut between row groups. Text files are cut between lines, and only where that is
certainly right: never a compressed file, and never a CSV file with a quote in it, because a quoted
field may hold line breaks. Row numbers are those of the whole file, so pieces have to be counted
before they are read; counting is far cheaper than reading.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from rgals.data.sources import SourceFile, SourcePiece
from rgals.data.tasks import TaskRunner

__all__ = ["choose_piece_bytes", "count_rows", "pack_pieces", "plan_pieces"]

_SMALLEST_PIECE_BYTES, _LARGEST_PIECE_BYTES = 16 << 20, 256 << 20
_TASKS_PER_WORKER = 4
_LONGEST_LINE_BYTES = 64 << 20
_SEARCH_BYTES = 1 << 16
_COUNT_BYTES = 1 << 22
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = ord("\n")
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


class _RowCount(NamedTuple):
    """The rows of a piece of text, and whether the file may be cut at its start."""

    n_rows: int
    can_be_cut: bool


def choose_piece_bytes(files: Sequence[SourceFile], n_workers: int) -> int | None:
    """Give a size of pieces that keeps all workers busy; None, not to cut, where there is one."""
    if n_workers == 1:
        return None
    share = sum(file.n_bytes for file in files) // (_TASKS_PER_WORKER * n_workers)
    return min(max(share, _SMALLEST_PIECE_BYTES), _LARGEST_PIECE_BYTES)


def plan_pieces(files: Sequence[SourceFile], piece_bytes: int | None, runner: TaskRunner) -> list[SourcePiece]:
    """Cut large files into pieces.

    Parameters
    ----------
    files : sequence of SourceFile
        The files.
    piece_bytes : int or None
        About how large a piece is; None does not cut.
    runner : TaskRunner
        Counts the rows of text files.

    Returns
    -------
    list of SourcePiece
        In the order of files and rows; together, every row once. A file that cannot be looked into is
        one piece, so that whoever reads it reports the error in its turn.
    """
    cut: list[list[SourcePiece]] = []
    for file in files:
        pieces = [SourcePiece(file, n_bytes=file.n_bytes)]
        if piece_bytes is not None and file.n_bytes > piece_bytes:
            cut_file = _cut_parquet if file.format == "parquet" else _cut_text
            with suppress(pa.ArrowException, OSError, EOFError):  # the error belongs to the task that reads the file
                pieces = cut_file(file, piece_bytes)
        cut.append(pieces)
    to_count = [piece for pieces in cut if _is_cut_text(pieces) for piece in pieces]
    counts = iter(list(runner.map_ordered(count_rows, None, to_count)))
    return [piece for pieces in cut for piece in (_number(pieces, counts) if _is_cut_text(pieces) else pieces)]


def pack_pieces(pieces: Sequence[SourcePiece], piece_bytes: int | None) -> list[tuple[SourcePiece, ...]]:
    """Put consecutive small pieces together until they are about as large as one; None: all of them."""
    tasks: list[tuple[SourcePiece, ...]] = []
    current: list[SourcePiece] = []
    n_bytes = 0
    for piece in pieces:
        if current and piece_bytes is not None and n_bytes + piece.n_bytes > piece_bytes:
            tasks.append(tuple(current))
            current, n_bytes = [], 0
        current.append(piece)
        n_bytes += piece.n_bytes
    return [*tasks, tuple(current)] if current else tasks


def count_rows(_shared: None, piece: SourcePiece, _context: Any = None) -> _RowCount:
    """Count the rows of a piece of a text file: lines, in CSV without the empty ones.

    A file that cannot be read, or that holds what makes line ends uncertain, cannot be cut.
    """
    is_csv = piece.source.format == "csv"
    n_rows, is_line_start = 0, True
    try:
        with piece.source.filesystem.open_input_file(piece.source.path) as file:
            file.seek(piece.start)
            left = (piece.source.n_bytes if piece.stop is None else piece.stop) - piece.start
            is_first = True
            while left and (block := file.read(min(_COUNT_BYTES, left))):
                if block.endswith(b"\r") and len(block) < left:
                    block += file.read(1)  # line ends of two bytes stay together
                left -= len(block)
                if is_csv:
                    if is_first and block.startswith(_BYTE_ORDER_MARK):
                        if piece.start:
                            return _RowCount(0, can_be_cut=False)  # there it would be taken for a mark of the file
                        block = block[len(_BYTE_ORDER_MARK) :]
                    block = block.replace(b"\r\n", b"\n")
                    if b'"' in block or b"\r" in block:
                        return _RowCount(0, can_be_cut=False)
                is_first = False
                if block:
                    is_end = np.frombuffer(block, dtype=np.uint8) == _LINE_END
                    n_rows += int(np.count_nonzero(is_end))
                    if is_csv:
                        n_rows -= int(np.count_nonzero(is_end[1:] & is_end[:-1])) + int(is_end[0] and is_line_start)
                    is_line_start = bool(is_end[-1])
    except OSError:
        return _RowCount(0, can_be_cut=False)
    return _RowCount(n_rows + int(not is_line_start), can_be_cut=True)


def _is_cut_text(pieces: list[SourcePiece]) -> bool:
    return len(pieces) > 1 and pieces[0].source.format != "parquet"


def _number(pieces: list[SourcePiece], counts: Iterator[_RowCount]) -> list[SourcePiece]:
    """Give the pieces of a text file their first rows, or the whole file where it cannot be cut."""
    found = list(itertools.islice(counts, len(pieces)))
    source = pieces[0].source
    # The header is in the first row, so the first piece must have one.
    if not all(count.can_be_cut for count in found) or found[0].n_rows == 0:
        return [SourcePiece(source, n_bytes=source.n_bytes)]
    numbered, first_row = [], 1
    for piece, count in zip(pieces, found, strict=True):
        if count.n_rows:
            numbered.append(SourcePiece(source, piece.start, piece.stop, first_row, piece.n_bytes))
        first_row += count.n_rows
    return numbered


def _cut_parquet(file: SourceFile, piece_bytes: int) -> list[SourcePiece]:
    """Cut a Parquet file between row groups."""
    with file.filesystem.open_input_file(file.path) as stream:
        metadata = pa.parquet.read_metadata(stream)
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    pieces: list[SourcePiece] = []
    start, first_row, n_rows = 0, 1, 0
    for group, count in enumerate(rows):
        n_rows += count
        n_bytes = file.n_bytes * n_rows // max(metadata.num_rows, 1)
        if n_bytes >= piece_bytes or group + 1 == len(rows):
            pieces.append(SourcePiece(file, start, group + 1, first_row, n_bytes))
            start, first_row, n_rows = group + 1, first_row + n_rows, 0
    return pieces or [SourcePiece(file, n_bytes=file.n_bytes)]


def _cut_text(file: SourceFile, piece_bytes: int) -> list[SourcePiece]:
    """Cut a text file after line ends; where there are none, not at all."""
    starts = [0]
    if not file.path.lower().endswith(_COMPRESSED):
        with file.filesystem.open_input_file(file.path) as stream:
            for wanted in range(piece_bytes, file.n_bytes, piece_bytes):
                if wanted <= starts[-1]:
                    continue
                found = _line_start(stream, wanted)
                if found is None or found >= file.n_bytes:
                    break
                starts.append(found)
    stops = [*starts[1:], file.n_bytes]
    if len(starts) == 1:
        return [SourcePiece(file, n_bytes=file.n_bytes)]
    return [SourcePiece(file, start, stop, n_bytes=stop - start) for start, stop in zip(starts, stops, strict=True)]


def _line_start(stream: "pa.NativeFile", position: int) -> int | None:
    """Give the first start of a line at or after a position; None if there is none near."""
    offset = position - 1
    stream.seek(offset)
    while offset < position + _LONGEST_LINE_BYTES and (block := stream.read(_SEARCH_BYTES)):
        at = block.find(b"\n")
        if at >= 0:
            return int(offset + at + 1)
        offset += len(block)
    return None
