"""What was measured of one model: by user, by held-out interaction and by item; kept on disk between processes."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from rgals.data.storage import replace_file
from rgals.errors import DataError, FormatVersionError
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.evaluation.samples import choose_sample_users
from rgals.names import BoolArray, Float64Array, Offsets, Rows
from rgals.numerics.ranking import coverage, gini, recommendation_counts

__all__ = ["ListRecorder", "ModelValues", "identify_measurement", "load_values", "save_values"]

_FORMAT_VERSION = 1
_ARRAYS = ("by_user", "catalog", "is_ranked", "counts", "ranks", "sample_lists")
_BLOCK_ENTRIES = 1 << 16
"""Held-out interactions that are looked for in their lists at a time."""


@dataclass(frozen=True, slots=True)
class ModelValues:
    """What was measured of one model.

    Parameters
    ----------
    name : str
        The model.
    by_user : dict of str to float64 array of shape (n_users,)
        Metrics of each evaluated user, by name and cutoff, such as ``"ndcg@20"``.
    catalog : dict of str to float
        Coverage, Gini and popularity of all lists together, such as ``"coverage@20"``; NaN where undefined.
    is_ranked : bool array of shape (n_users,)
        Users whom the model has factors for.
    seconds : float
        Seconds of ranking and measuring.
    counts : dict of int to int64 array of shape (n_items,)
        How many lists of each length hold each item.
    ranks : int32 array of shape (n_held_out,)
        Place of each held-out interaction in its user's list of the longest cutoff, from 1; 0 where it
        is not there. In the order of the entries of ``EvaluatedUsers.held_out``.
    sample_lists : int32 array of shape (n_sample, k_max)
        The lists of the sample users, -1 where a list has no more.
    measurement : str
        What `identify_measurement` says of the users and options that it was measured with.
    train_s : float or None
        Measured seconds of training.
    options : mapping
        How the model was trained, as JSON values.
    notes : tuple of str
        What a reader of its numbers has to know.
    n_items_unranked : int
        Items that the model does not hold.
    """

    name: str
    by_user: dict[str, Float64Array]
    catalog: dict[str, float]
    is_ranked: BoolArray
    seconds: float
    counts: dict[int, Offsets]
    ranks: Rows
    sample_lists: Rows
    measurement: str
    train_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    n_items_unranked: int = 0


def identify_measurement(users: EvaluatedUsers, options: EvaluationOptions) -> str:
    """Give a checksum of everything but the model that decides measured values.

    Parameters
    ----------
    users : EvaluatedUsers
        Their truth, what they have seen and what they are folded in from.
    options : EvaluationOptions
        Of these the cutoffs, the gains and what users without factors get; the bootstrap comes later.
    """
    digest = hashlib.sha256(
        json.dumps(
            [users.generalization, list(options.cutoffs), options.gains, options.cold_users, users.held_out.n_columns]
        ).encode()
    )
    digest.update(users.user_rows.tobytes())
    for rows in (users.held_out, users.seen):
        digest.update(rows.indptr.tobytes())
        digest.update(np.ascontiguousarray(rows.columns).data)
    digest.update(users.popularity.tobytes())
    if options.gains == "graded" and users.held_out.weights is not None:
        digest.update(users.held_out.weights.tobytes())
    return digest.hexdigest()


class ListRecorder:
    """Takes the lists of blocks of users and keeps what a report needs of them.

    Parameters
    ----------
    users : EvaluatedUsers
        Whose lists.
    options : EvaluationOptions
        For the cutoffs.
    """

    def __init__(self, users: EvaluatedUsers, options: EvaluationOptions) -> None:
        self._users, self._cutoffs = users, options.cutoffs
        n_items = users.held_out.n_columns
        self._sample = choose_sample_users(users)
        self.counts = {k: np.zeros(n_items, dtype=np.int64) for k in self._cutoffs}
        self.ranks = np.zeros(users.held_out.n_interactions, dtype=np.int32)
        self.sample_lists = np.full((self._sample.size, max(self._cutoffs)), -1, dtype=np.int32)

    def add(self, start: int, items: Rows) -> None:
        """Take the lists of consecutive users.

        Parameters
        ----------
        start : int
            Position of the first.
        items : int32 array of shape (n_users, k_max)
            Their lists.
        """
        stop, n_items = start + items.shape[0], self._users.held_out.n_columns
        for k in self._cutoffs:
            self.counts[k] += recommendation_counts(items, n_items, k)
        for index in np.flatnonzero((self._sample >= start) & (self._sample < stop)).tolist():
            self.sample_lists[index] = items[self._sample[index] - start]
        held_out = self._users.held_out.row_slice(start, stop)
        list_of_entry = np.repeat(np.arange(held_out.n_rows), held_out.degrees)
        ranks = self.ranks[self._users.held_out.indptr[start] :][: held_out.n_interactions]
        for first in range(0, held_out.n_interactions, _BLOCK_ENTRIES):
            entries = slice(first, first + _BLOCK_ENTRIES)
            matches = items[list_of_entry[entries]] == held_out.columns[entries, None]
            ranks[entries] = np.where(matches.any(axis=1), matches.argmax(axis=1) + 1, 0)

    def catalog_metrics(self) -> dict[str, float]:
        """Give coverage, Gini and popularity of all lists together, by cutoff; NaN without lists."""
        degrees = self._users.popularity[:, 0].astype(np.float64)
        found = {f"coverage@{k}": coverage(counts) for k, counts in self.counts.items()}
        found |= {f"gini@{k}": gini(counts) for k, counts in self.counts.items()}
        return found | {f"popularity@{k}": _mean_degree(counts, degrees) for k, counts in self.counts.items()}


def _mean_degree(counts: Offsets, degrees: Float64Array) -> float:
    """Give the mean training degree of the recommended items over all places of the lists."""
    n_places = int(counts.sum())
    return float(counts @ degrees / n_places) if n_places else float("nan")


def save_values(values: ModelValues, path: str | Path) -> None:
    """Write what was measured of a model as one file, whole or not at all.

    Parameters
    ----------
    values : ModelValues
        From `rgals.evaluation.evaluator.measure`.
    path : str or Path
        The local file, ``NAME.npz``; replaced if it is there.

    Raises
    ------
    DataError
        If the disk is full or the place cannot be written to.
    """
    about = {
        "format_version": _FORMAT_VERSION,
        "name": values.name,
        "seconds": values.seconds,
        "measurement": values.measurement,
        "train_s": values.train_s,
        "options": dict(values.options),
        "notes": list(values.notes),
        "n_items_unranked": values.n_items_unranked,
        "by_user": list(values.by_user),
        "catalog": list(values.catalog),
        "counts": list(values.counts),
    }
    buffer = BytesIO()
    np.savez_compressed(
        buffer,
        about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        by_user=np.array(list(values.by_user.values()), dtype=np.float64),
        catalog=np.array(list(values.catalog.values()), dtype=np.float64),
        is_ranked=values.is_ranked,
        counts=np.array(list(values.counts.values()), dtype=np.int64),
        ranks=values.ranks,
        sample_lists=values.sample_lists,
    )
    replace_file(Path(path), buffer.getvalue())


def load_values(path: str | Path) -> ModelValues:
    """Read what `save_values` wrote.

    Raises
    ------
    DataError
        If the file is missing or damaged.
    FormatVersionError
        If a newer rgals wrote it.
    """
    try:
        with np.load(BytesIO(Path(path).read_bytes()), allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            arrays = {name: stored[name] for name in _ARRAYS}
        if about["format_version"] > _FORMAT_VERSION:
            raise FormatVersionError(
                f"{path}: format version {about['format_version']} of measured values, this rgals reads up to "
                f"{_FORMAT_VERSION}; upgrade rgals"
            )
        return ModelValues(
            name=about["name"],
            by_user=dict(zip(about["by_user"], arrays["by_user"], strict=True)),
            catalog=dict(zip(about["catalog"], arrays["catalog"].tolist(), strict=True)),
            is_ranked=arrays["is_ranked"],
            seconds=about["seconds"],
            counts=dict(zip(about["counts"], arrays["counts"], strict=True)),
            ranks=arrays["ranks"],
            sample_lists=arrays["sample_lists"],
            measurement=about["measurement"],
            train_s=about["train_s"],
            options=about["options"],
            notes=tuple(about["notes"]),
            n_items_unranked=about["n_items_unranked"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not readable as measured values ({error!r}); measure the model again") from error
