"""rgals: recommenders trained with Ranking-Generalizable losses by alternating least squares.

`RankingALS` is the estimator; it is imported on first use, so that ``import rgals`` stays fast for the
command line and for workers.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rgals.estimator import RankingALS

__all__ = ["RankingALS", "__version__"]

__version__ = version("rgals")


def __getattr__(name: str) -> Any:
    """Import the estimator when it is asked for."""
    if name == "RankingALS":
        from rgals.estimator import RankingALS  # noqa: PLC0415

        return RankingALS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
