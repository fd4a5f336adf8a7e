"""The values of every user behind a report's means, as a Parquet file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rgals.data.ids import IdDictionary
from rgals.data.storage import replace_file
from rgals.evaluation.evaluator import Evaluation
from rgals.evaluation.report import REPORT_NAME

__all__ = ["per_user_path", "write_per_user"]


def per_user_path(report_path: Path) -> Path:
    """Name the file beside a report: ``per_user.parquet`` for ``report.json``, ``NAME.per_user.parquet`` else."""
    stem = "" if report_path.name == REPORT_NAME else f"{report_path.stem}."
    return report_path.with_name(f"{stem}per_user.parquet")


def write_per_user(evaluation: Evaluation, user_ids: IdDictionary, path: Path) -> None:
    """Write one row for each model and evaluated user.

    Columns: ``model``, ``user_id``, ``n_seen``, ``n_held_out``, ``is_ranked``, and each metric, such as
    ``ndcg@20``; models in the order of the report, users in the order of their ids.

    Parameters
    ----------
    evaluation : Evaluation
        From `rgals.evaluation.evaluator.evaluate`.
    user_ids : IdDictionary
        Ids of the dataset's user rows.
    path : Path
        The file; replaced if it is there.

    Raises
    ------
    DataError
        If the disk is full or the place cannot be written to.
    """
    users = evaluation.users
    ids = user_ids.values.take(pa.array(users.user_rows))
    n_models = len(evaluation.values)
    columns = {
        "model": pa.array(np.repeat([value.name for value in evaluation.values], users.n_users)).dictionary_encode(),
        "user_id": pa.concat_arrays([ids] * n_models),
        "n_seen": pa.array(np.tile(users.seen.degrees, n_models)),
        "n_held_out": pa.array(np.tile(users.held_out.degrees, n_models)),
        "is_ranked": pa.array(np.concatenate([value.is_ranked for value in evaluation.values])),
    }
    for key in evaluation.values[0].by_user:
        columns[key] = pa.array(np.concatenate([value.by_user[key] for value in evaluation.values]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    replace_file(path, sink.getvalue().to_pybytes())
