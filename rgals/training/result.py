"""What a training run gives back."""

from dataclasses import dataclass

from rgals.names import Factors, Offsets
from rgals.training.events import StopReason
from rgals.training.factor_blocks import FactorReader
from rgals.training.history import SweepSummary

__all__ = ["TrainResult"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Trained factors, and how they came about.

    Parameters
    ----------
    factors : FactorReader
        Those of sweep ``kept_sweep``, where they are: read block by block, or whole as `user_factors` and
        `item_factors`, as long as the executor is open.
    kept_sweep : int
        With ``patience``, the best validated sweep; otherwise the last.
    n_sweeps : int
        Sweeps done, over all resumed runs.
    history : tuple of SweepSummary
        Every sweep.
    best_sweep, best_ndcg : int or None, float or None
        The sweep with the highest validation NDCG, and that NDCG; None without validation.
    stop_reason : StopReason
        Why the run ended.
    train_s : float
        Seconds spent solving, over all resumed runs; without validation, monitoring and checkpoints.
    validate_s, monitor_s, checkpoint_s, total_s : float
        Seconds of this run spent ranking the validation sample, computing the softmax loss, writing
        checkpoints, and altogether.
    weight_scale : float
        Scale of the observed weights, needed to fold in.
    user_degrees, item_degrees : int64 arrays of shape (n_users,) and (n_items,)
        Training interactions of each user and item.
    checkpoint : str or None
        The last checkpoint that this run committed.
    """

    factors: FactorReader
    kept_sweep: int
    n_sweeps: int
    history: tuple[SweepSummary, ...]
    best_sweep: int | None
    best_ndcg: float | None
    stop_reason: StopReason
    train_s: float
    validate_s: float
    monitor_s: float
    checkpoint_s: float
    total_s: float
    weight_scale: float
    user_degrees: Offsets
    item_degrees: Offsets
    checkpoint: str | None

    @property
    def user_factors(self) -> Factors:
        """All user factors, float32 of shape (n_users, n_factors); not to be modified."""
        return self.factors.read_all("user")

    @property
    def item_factors(self) -> Factors:
        """All item factors, float32 of shape (n_items, n_factors); not to be modified."""
        return self.factors.read_all("item")
