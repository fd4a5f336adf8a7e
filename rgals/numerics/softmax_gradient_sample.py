"""Samples of items for the sampled softmax, with their expected numbers of draws."""

import numpy as np

from rgals.errors import InputError
from rgals.names import Float64Array, Rows, Weights

__all__ = ["ItemSampler"]


class ItemSampler:
    """Draws about equally many items at each call, an item's expected number of draws being given.

    Parameters
    ----------
    popularity : float64 array of shape (n_items,)
        What the expected numbers are proportional to, at most 1 each; positive.
    n_samples : int
        Draws of a sample; as many as there are items, or more, give every item once.

    Raises
    ------
    InputError
        If a popularity is not positive and finite, or ``n_samples`` is not positive.

    Notes
    -----
    Systematic: the expected numbers are laid end to end, and one item is drawn in every stretch of
    length 1. An item with the expected number 1 is in every sample. An item that lies across two
    stretches can be drawn twice; it is in the sample once, with twice the weight.
    """

    def __init__(self, popularity: Float64Array, n_samples: int) -> None:
        if n_samples < 1 or not (np.isfinite(popularity).all() and (popularity > 0).all()):
            raise InputError(
                f"ItemSampler: expected positive finite popularities and at least one sample, found "
                f"{n_samples} samples and popularities from {popularity.min()} to {popularity.max()}"
            )
        self.expected = _expected_draws(popularity, n_samples)
        is_certain = self.expected >= 1
        self._certain = np.flatnonzero(is_certain)
        self._others = np.flatnonzero(~is_certain)
        self._ends = np.cumsum(self.expected[self._others])

    @property
    def most(self) -> int:
        """Most items that a sample can hold."""
        return self._certain.size + (int(np.ceil(self._ends[-1])) + 1 if self._ends.size else 0)

    def draw(self, generator: np.random.Generator) -> tuple[Rows, Weights]:
        """Draw a sample.

        Parameters
        ----------
        generator : numpy.random.Generator
            The source of chance.

        Returns
        -------
        rows : int32 array of shape (n_sampled,)
            Items of the sample, ascending, each once.
        log_weights : float32 array of shape (n_sampled,)
            Logarithm of the number of draws over the expected number.
        """
        total = float(self._ends[-1]) if self._ends.size else 0.0
        n_stretches = int(np.ceil(total)) + 1 if total > 0 else 0
        points = np.arange(n_stretches) - generator.random() + generator.random(n_stretches)
        points = points[(points >= 0) & (points < total)]
        drawn = np.minimum(np.searchsorted(self._ends, points, side="right"), max(self._ends.size - 1, 0))
        rows, n_drawn = np.unique(np.concatenate([self._certain, self._others[drawn]]), return_counts=True)
        return rows.astype(np.int32), np.log(n_drawn / self.expected[rows]).astype(np.float32)


def _expected_draws(popularity: Float64Array, n_samples: int) -> Float64Array:
    """Scale popularities to the sum ``n_samples`` with 1 as the most."""
    if n_samples >= popularity.size:
        return np.ones(popularity.size)
    order = np.argsort(-popularity, kind="stable")
    falling = popularity[order]
    rest = np.cumsum(falling[::-1])[::-1]  # of an item and all less popular ones
    # The first item that stays below 1 when all before it are set to 1 ends the certain ones.
    scales = (n_samples - np.arange(falling.size)) / rest
    n_certain = int(np.argmax(falling * scales < 1))
    expected = np.ones(popularity.size)
    expected[order[n_certain:]] = falling[n_certain:] * scales[n_certain]
    return expected
