"""Factor blocks as files of a checkpoint: written and read by the workers, side by side."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rgals.data.arrays import read_array, write_array
from rgals.data.storage import FileEntry, Folder, verify_file
from rgals.errors import DataError
from rgals.execution import Block, Executor, WorkerContext
from rgals.names import Factors
from rgals.training.factor_blocks import Layout, SideFactors

__all__ = ["block_name", "read_side", "verify_files", "write_side"]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows ``start`` to ``stop`` of a file."""

    name: str
    start: int
    stop: int


def block_name(side: str, index: int) -> str:
    """Give the file name of a block."""
    return f"{side}-{index:05d}.npy"


def write_side(folder: Folder, side: str, factors: SideFactors, executor: Executor) -> dict[str, FileEntry]:
    """Write the blocks of a side, and its rotation where it has one.

    Parameters
    ----------
    folder : Folder
        The staging folder, seen by every worker.
    side : str
        First part of the files' names.
    factors : SideFactors
        What to write.
    executor : Executor
        Whose workers write.

    Returns
    -------
    dict of str to FileEntry
        Sizes and checksums of the files, as the workers read them back.

    Raises
    ------
    OSError
        If a disk is full or cannot be written to.
    BlockLostError
        If the machine that held a block is gone.
    """
    tasks = [(block_name(side, index), block) for index, block in enumerate(factors.blocks)]
    entries = dict(executor.map_ordered(_write_block, folder, tasks, near=factors.keys))
    if factors.rotation is not None:
        name = _rotation_name(side)
        write_array(folder, name, factors.rotation)
        entries[name] = FileEntry(folder.n_bytes(name), folder.sha256(name))
    return entries


def verify_files(folder: Folder, files: Mapping[str, FileEntry], executor: Executor) -> None:
    """Compare all files with their checksums.

    Raises
    ------
    DataError
        If a file is missing; `ChecksumError` if it is not what was written.
    """
    for _ in executor.map_ordered(_verify, (folder, dict(files)), sorted(files)):
        pass


def read_side(
    folder: Folder,
    side: str,
    files: Mapping[str, FileEntry],
    stored: list[tuple[int, int]],
    layout: Layout,
    n_factors: int,
    executor: Executor,
) -> SideFactors:
    """Read a side, cut as the dataset is cut now.

    Parameters
    ----------
    folder : Folder
        The checkpoint.
    side : str
        First part of the files' names.
    files : mapping
        The files of the checkpoint.
    stored : list of tuple of int
        First row and end of each stored block.
    layout : Layout
        The blocks that are wanted; they may be others than the stored ones.
    n_factors : int
        Length of a row.
    executor : Executor
        Whose workers read, and keep what they read.

    Raises
    ------
    DataError
        If files do not hold what the checkpoint says.
    """
    tasks = [
        [
            _Piece(block_name(side, index), max(start, shard.start) - start, min(stop, shard.stop) - start)
            for index, (start, stop) in enumerate(stored)
            if max(start, shard.start) < min(stop, shard.stop)
        ]
        for shard in layout.ranges
    ]
    found = executor.map_blocks(_read_block, (folder, n_factors), tasks, keys=layout.keys, costs=layout.costs)
    blocks: list[Block[Factors]] = []
    for shard, result in zip(layout.ranges, found, strict=True):
        if result.summary != shard.n_rows:
            raise DataError(f"{folder}: expected {shard.n_rows} rows in files of {side}, found {result.summary}")
        blocks.append(result.block)
    rotation = None
    if _rotation_name(side) in files:
        rotation = np.array(read_array(folder, _rotation_name(side)))
        if rotation.shape != (n_factors, n_factors) or rotation.dtype != np.float64:
            raise DataError(f"{folder}: expected a float64 rotation of {n_factors} factors, found {rotation.shape}")
    return SideFactors(layout.ranges, tuple(blocks), n_factors, rotation, layout.keys)


def _write_block(folder: Folder, task: tuple[str, Block[Factors]], context: WorkerContext) -> tuple[str, FileEntry]:
    name, block = task
    write_array(folder, name, context.fetch(block))
    if folder.local_path is not None:
        # On a network file system only the machine that wrote can make sure that it is stored.
        descriptor = os.open(folder.local_path / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return name, FileEntry(folder.n_bytes(name), folder.sha256(name))


def _verify(shared: tuple[Folder, dict[str, FileEntry]], name: str, context: WorkerContext) -> None:
    del context
    folder, files = shared
    verify_file(folder, name, files)


def _read_block(shared: tuple[Folder, int], pieces: list[_Piece], context: WorkerContext) -> tuple[Factors, int]:
    """Read the rows of a block into memory of their own: the checkpoint may be removed while they are in use."""
    del context
    folder, n_factors = shared
    parts = []
    for piece in pieces:
        array = read_array(folder, piece.name)
        if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != n_factors or piece.stop > len(array):
            raise DataError(
                f"{folder.label(piece.name)}: expected float32 rows of {n_factors} factors, at least {piece.stop}, "
                f"found {array.dtype} of shape {array.shape}; remove the checkpoint and resume again"
            )
        parts.append(array[piece.start : piece.stop])
    empty = np.empty((0, n_factors), dtype=np.float32)
    block = np.concatenate([empty, *parts])
    return block, len(block)


def _rotation_name(side: str) -> str:
    return f"{side}-rotation.npy"
