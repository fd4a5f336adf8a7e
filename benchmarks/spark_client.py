"""Starts the process of Spark for spark_als.py, talks to it, reads the factors that it writes."""

import argparse
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rgals.names import Factors

__all__ = ["SparkProcess", "read_spark_factors"]


class SparkProcess:
    """A Spark in a process of its own that fits on request; a context manager.

    Parameters
    ----------
    args : argparse.Namespace
        The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        options, environment = [args.spark_java_options], {"SPARK_LOCAL_IP": "127.0.0.1", "OPENBLAS_NUM_THREADS": "1"}
        if args.native_blas:
            folder = args.native_blas.resolve()
            options += [
                f"-Ddev.ludovic.netlib.{name}.nativeLibPath={folder}/lib{name}.so.3" for name in ("blas", "lapack")
            ]
            environment["LD_LIBRARY_PATH"] = f"{folder}:{folder.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        settings = {
            "threads": args.threads,
            "memory": args.spark_memory,
            "java_options": " ".join(option for option in options if option),
            "scratch": str(args.work / "spark-scratch"),
            "train": str(args.dataset.resolve() / "by_user"),
        }
        self._log = (args.work / "spark.log").open("ab")
        self._process = subprocess.Popen(
            [args.spark_python, str(Path(__file__).with_name("spark_process.py")), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **environment},
        )
        self.pid = self._process.pid
        """Root of the process tree."""

    def __enter__(self) -> "SparkProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.terminate()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def wait(self) -> dict[str, Any]:
        """Wait for an answer."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                found: dict[str, Any] = json.loads(line.removeprefix("ANSWER "))
                if "error" in found:
                    raise SystemExit(f"Spark: {found['error']}; see {self._log.name}")
                return found
        raise SystemExit(f"Spark ended with code {self._process.wait()}; see {self._log.name}")

    def fit(self, **request: Any) -> dict[str, Any]:
        """Fit with rank, iterations, alpha, reg, blocks and seed; write the factors to ``output`` if given."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.wait()


def read_spark_factors(folder: Path, n_rows: int, n_factors: int) -> Factors:
    """Read factors that Spark wrote; a row without interactions has none and gets zeros."""
    table = pq.read_table(folder)
    factors = np.zeros((n_rows, n_factors), dtype=np.float32)
    features = pa.concat_arrays(table["features"].chunks).flatten()
    factors[table["id"].to_numpy()] = features.to_numpy(zero_copy_only=False).reshape(-1, n_factors)
    return factors
