"""Matrix factorization under the softmax loss over all items: the loss that the RG losses approximate."""

import numpy as np

from rgals.baselines.model import FittedBaseline, Watch
from rgals.baselines.softmax_fit import SoftmaxFit, SoftmaxOptions, check_memory
from rgals.names import Factors, Float64Array
from rgals.numerics.softmax_gradient import BatchEntries, SoftmaxGradient, buffer_bytes
from rgals.numerics.softmax_gradient_kernels import add_ridge, normalize, through_norm
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads

__all__ = ["SoftmaxOptions", "fit_softmax"]


def fit_softmax(
    train: InteractionRows,
    options: SoftmaxOptions | None = None,
    *,
    n_threads: int | None = None,
    watch: Watch | None = None,
) -> FittedBaseline:
    """Fit user and item vectors to the softmax loss over all items by Adam.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights are the loss's g.
    options : SoftmaxOptions or None
        None takes the defaults.
    n_threads : int or None
        Number of threads; None uses every processor. No result depends on it.
    watch : callable or None
        Called after each epoch.

    Returns
    -------
    FittedBaseline
        Under cosine scores the factors are normalized, so that their products rank. Users without
        interactions have zero factors. New users are folded in where their exact softmax loss has its
        minimum.

    Raises
    ------
    NumericalError
        If the loss is not finite.
    CapacityError
        If the scores of a batch do not fit into the available memory.

    Notes
    -----
    The loss of a batch of users, with g the weights and W their sum over the batch::

        1/W sum_u sum_i g_ui [ -s_ui + log sum_j exp(s_uj) + l2/2 (|p_u|^2 + |q_i|^2) ]

    so that a row's ridge grows with its weight, as in the RG losses with ``nu = 1``. Users take a step
    of Adam when they are in a batch (each with a step count of its own), items at every batch.
    """
    chosen = options or SoftmaxOptions()
    threads = available_threads() if n_threads is None else n_threads
    batch_bytes = buffer_bytes(min(chosen.batch_users, train.n_rows), train.n_columns, chosen.n_factors)
    check_memory(train, chosen, batch_bytes, train.n_columns, "use a smaller batch_users, or the sampled softmax")
    return _FullFit(train, chosen, threads).run(watch)


class _FullFit(SoftmaxFit):
    """Every item takes a step at every batch."""

    def __init__(self, train: InteractionRows, options: SoftmaxOptions, n_threads: int) -> None:
        super().__init__("softmax-cosine" if options.scores == "cosine" else "softmax", train, options)
        self._units, self._norms = self._items, np.ones(train.n_columns, np.float32)
        if self._is_cosine:
            self._units = np.empty_like(self._items)
            normalize(self._items, np.float32(1), self._units, self._norms)
        most = min(options.batch_users, max(1, self._active.size))
        self._gradient = SoftmaxGradient(most, train.n_columns, options.n_factors, n_threads)

    @property
    def _item_vectors(self) -> Factors:
        return self._units

    def _step_items(
        self, vectors: Factors, rows: InteractionRows, weight: float, rate: float
    ) -> tuple[Float64Array, Factors]:
        entries = BatchEntries.from_rows(rows, weight)
        result = self._gradient.user_pass(vectors, self._units, entries)
        self._item_adam.begin_step()

        def step(start: int, gradients: Factors) -> None:
            stop = start + len(gradients)
            items, units, norms = self._items[start:stop], self._units[start:stop], self._norms[start:stop]
            if self._is_cosine:
                through_norm(gradients, units, norms, np.float32(1))
            if self._options.l2 > 0:
                add_ridge(start, *entries.of_items(start, stop), np.float32(self._options.l2), items, gradients)
            self._item_adam.step_range(start, gradients, rate)
            if self._is_cosine:
                normalize(items, np.float32(1), units, norms)

        self._gradient.item_pass(vectors, len(self._items), entries, step)
        return result
