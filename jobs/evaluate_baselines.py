"""The baselines that ``rgals evaluate`` fits beside a model, with options as they are given: nothing is tuned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from jobs.console import progress_bar
from rgals.baselines.implicit_als import IalsOptions, fit_ials
from rgals.baselines.model import FittedBaseline, FittedScorer, Round, Watch
from rgals.baselines.simple import fit_popularity, fit_random
from rgals.data.dataset import Dataset
from rgals.errors import InputError
from rgals.evaluation.protocol import HeldOutPart, read_training
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads
from rgals.tuning.contenders import contender_named

__all__ = ["SoftmaxChoice", "fit_baselines", "read_baselines"]

_SOFTMAX = ("softmax", "softmax-cosine")
_BASELINES = ("popularity", "random", "ials", *_SOFTMAX)


def read_baselines(text: str) -> list[str]:
    """Read the names of baselines, divided by commas; none if the text is ``none``.

    Raises
    ------
    InputError
        If there is no such baseline.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["none"]:
        return []
    unknown = [name for name in names if name not in _BASELINES]
    if unknown:
        raise InputError(f"--baselines: expected some of {', '.join(_BASELINES)}, found {unknown[0]!r}")
    return list(dict.fromkeys(names))


def fit_baselines(
    names: Sequence[str],
    dataset: Dataset,
    part: HeldOutPart,
    trained_on: tuple[str, ...],
    ials: IalsOptions,
    softmax: "SoftmaxChoice",
    threads: int | None,
) -> list[FittedBaseline | FittedScorer]:
    """Fit baselines on what the model was trained on, as far as this dataset has it.

    Parameters
    ----------
    names : sequence of str
        Which.
    dataset : Dataset
        The dataset.
    part : {"test", "validation"}
        The held-out part, which they do not see.
    trained_on : tuple of str
        What the model was trained on.
    ials : IalsOptions
        Options of ``ials``.
    softmax : SoftmaxChoice
        Options of the softmax baselines.
    threads : int or None
        Number of threads; None uses every processor.
    """
    if not names:
        return []
    rows, parts = read_training(dataset, part, trained_on)
    fits: dict[str, tuple[int, Callable[[Watch], FittedBaseline | FittedScorer]]] = {
        "popularity": (1, lambda watch: fit_popularity(rows, watch=watch)),
        "random": (1, lambda watch: fit_random(rows, seed=ials.seed, watch=watch)),
        "ials": (ials.n_sweeps, lambda watch: fit_ials(rows, ials, n_threads=threads, watch=watch)),
    }
    for name in _SOFTMAX:
        fits[name] = (softmax.n_epochs, partial(softmax.fit, name, rows, threads))
    fitted: list[FittedBaseline | FittedScorer] = []
    for name in names:
        n_rounds, fit = fits[name]
        with progress_bar(f"fitting {name}") as progress:
            found = fit(_watch(progress, n_rounds))
        fitted.append(replace(found, options={**found.options, "trained_on": list(parts)}))
    return fitted


@dataclass(frozen=True, slots=True)
class SoftmaxChoice:
    """How the softmax baselines are fitted: those of the comparison, with their defaults.

    Parameters
    ----------
    n_factors, n_epochs, seed : int
        Number of factors, epochs, and the key of every draw.
    """

    n_factors: int
    n_epochs: int
    seed: int

    def fit(self, name: str, rows: InteractionRows, threads: int | None, watch: Watch) -> FittedBaseline | FittedScorer:
        """Fit one of them."""
        contender = contender_named(name)
        found = contender.fit(
            rows,
            contender.space.defaults(),
            n_factors=self.n_factors,
            n_rounds=self.n_epochs,
            seed=self.seed,
            n_threads=threads or available_threads(),
            watch=watch,
        )
        notes = (
            f"fitted for {self.n_epochs} epochs with its defaults, not tuned: rgals compare tunes it",
            *found.notes,
        )
        return replace(found, name=name, notes=notes)


def _watch(progress: Callable[[int, int | None], None], n_rounds: int) -> Watch:
    """Make a watch that shows how far a fit is, and never ends it."""

    def look(found: Round) -> bool:
        progress(found.number, n_rounds)
        return True

    return look
