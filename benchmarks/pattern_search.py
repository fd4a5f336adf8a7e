"""A small search of two positive hyperparameters, the same for every contender."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Trial", "search"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One pair of values and its NDCG on the validation part; NaN if the training failed."""

    alpha: float
    reg: float
    ndcg: float


def search(
    start: tuple[float, float],
    steps: tuple[float, ...],
    n_trials: int,
    measure: Callable[[float, float], float],
    journal: Path,
    identity: str,
) -> tuple[Trial, list[Trial]]:
    """Walk to better neighbors, with large steps and then with small ones.

    Parameters
    ----------
    start : tuple of float
        The first alpha and ridge.
    steps : tuple of float
        Factors by which one of them is multiplied or divided at a time: first far, then near.
    n_trials : int
        Trials at most, those of the journal included.
    measure : callable
        Gives the validation NDCG of an alpha and a ridge.
    journal : Path
        JSON file of the trials done; a search that was interrupted goes on from it.
    identity : str
        What the trials depend on; trials of another are an error.

    Returns
    -------
    Trial
        The best.
    list of Trial
        All, in their order.
    """
    known = _read(journal, identity)
    visited: dict[tuple[float, float], Trial] = {}

    def value_of(alpha: float, reg: float) -> float:
        if (alpha, reg) not in visited and len(visited) >= n_trials:
            return -math.inf
        found = next((trial for trial in known if (trial.alpha, trial.reg) == (alpha, reg)), None)
        if found is None:
            found = Trial(alpha, reg, measure(alpha, reg))
            known.append(found)
            rows = [{**asdict(trial), "ndcg": None if math.isnan(trial.ndcg) else trial.ndcg} for trial in known]
            journal.write_text(json.dumps({"identity": identity, "trials": rows}, indent=2) + "\n")
            print(f"  alpha {alpha:<8g} reg {reg:<8g} validation NDCG {found.ndcg:.4f}", flush=True)
        visited[alpha, reg] = found
        return -math.inf if math.isnan(found.ndcg) else found.ndcg

    best, best_value = start, value_of(*start)
    for step in steps:
        has_moved = True
        while has_moved:
            has_moved = False
            for factors in ((1.0, step), (1.0, 1 / step), (step, 1.0), (1 / step, 1.0)):
                near = (_rounded(best[0] * factors[0]), _rounded(best[1] * factors[1]))
                while (value := value_of(*near)) > best_value:
                    best, best_value, has_moved = near, value, True
                    near = (_rounded(best[0] * factors[0]), _rounded(best[1] * factors[1]))
    if math.isinf(best_value):
        raise SystemExit(f"{journal}: no trial gave a model")
    return Trial(*best, best_value), list(visited.values())


def _rounded(value: float) -> float:
    """Take two digits, so that going back and forth meets the same values."""
    return float(f"{value:.2g}")


def _read(journal: Path, identity: str) -> list[Trial]:
    if not journal.exists():
        return []
    document = json.loads(journal.read_text())
    if document["identity"] != identity:
        raise SystemExit(f"{journal}: trials of {document['identity']}, not of {identity}; take another --work folder")
    return [
        Trial(row["alpha"], row["reg"], row["ndcg"] if row["ndcg"] is not None else math.nan)
        for row in document["trials"]
    ]
