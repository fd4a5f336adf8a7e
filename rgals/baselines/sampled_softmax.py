"""Matrix factorization under the sampled softmax loss, for catalogs whose full softmax does not fit."""

import numpy as np
from pydantic import Field

from rgals.baselines.model import FittedBaseline, Watch
from rgals.baselines.softmax_fit import SoftmaxFit, SoftmaxOptions, check_memory
from rgals.names import Factors, Float64Array, Rows
from rgals.numerics.softmax_gradient import BatchEntries, SoftmaxGradient, buffer_bytes
from rgals.numerics.softmax_gradient_kernels import add_ridge, normalize, through_norm
from rgals.numerics.softmax_gradient_sample import ItemSampler
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads

__all__ = ["SampledSoftmaxOptions", "fit_sampled_softmax"]


class SampledSoftmaxOptions(SoftmaxOptions):
    """Options of matrix factorization under the sampled softmax loss."""

    n_samples: int = Field(default=8192, ge=1)
    """Items drawn for a batch, shared by its users; with as many as there are items nothing is left to chance."""
    proposal_exponent: float = Field(default=0.5, ge=0, le=2)
    """Items are drawn in proportion to their number of interactions to this power; 0: uniformly."""


def fit_sampled_softmax(
    train: InteractionRows,
    options: SampledSoftmaxOptions | None = None,
    *,
    n_threads: int | None = None,
    watch: Watch | None = None,
) -> FittedBaseline:
    """Fit user and item vectors to the softmax loss whose partition sum is estimated from sampled items.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights are the loss's g.
    options : SampledSoftmaxOptions or None
        None takes the defaults.
    n_threads : int or None
        Number of threads; None uses every processor. No result depends on it.
    watch : callable or None
        Called after each epoch.

    Returns
    -------
    FittedBaseline
        As of `fit_softmax`. New users are folded in under the exact loss, over all items.

    Raises
    ------
    NumericalError
        If the loss is not finite.
    CapacityError
        If the scores of a batch do not fit into the available memory.

    Notes
    -----
    The loss is that of `fit_softmax` with, in place of the partition sum, the user's observed items
    counted exactly, and the sampled items that the user has not observed divided by their expected
    number of draws (logQ correction; a sampled item that the user has observed is masked). An item
    without interactions is drawn as if it had one. Only items that are in the sample or observed in the
    batch take a step, each with a step count of its own.

    References
    ----------
    .. [1] Bengio and Senécal, Adaptive importance sampling to accelerate training of a neural
       probabilistic language model, IEEE Transactions on Neural Networks 2008.
    """
    chosen = options or SampledSoftmaxOptions()
    threads = available_threads() if n_threads is None else n_threads
    n_scored = min(chosen.n_samples + 2, train.n_columns)
    batch_bytes = buffer_bytes(min(chosen.batch_users, train.n_rows), n_scored, chosen.n_factors)
    check_memory(train, chosen, batch_bytes, n_scored, "use a smaller batch_users, or fewer n_samples")
    return _SampledFit(train, chosen, threads).run(watch)


class _SampledFit(SoftmaxFit):
    """The items of a batch's sample and those observed in it take a step."""

    def __init__(self, train: InteractionRows, options: SampledSoftmaxOptions, n_threads: int) -> None:
        super().__init__("sampled-softmax", train, options)
        degrees = np.bincount(train.columns, minlength=train.n_columns)
        self._sampler = ItemSampler(np.maximum(degrees, 1.0) ** options.proposal_exponent, options.n_samples)
        self._draws = self._generator(2)
        self._places: Rows = np.empty(train.n_columns, dtype=np.int32)
        most = min(options.batch_users, max(1, self._active.size))
        self._gradient = SoftmaxGradient(most, self._sampler.most, options.n_factors, n_threads)

    @property
    def _item_vectors(self) -> Factors:
        if not self._is_cosine:
            return self._items
        units = np.empty_like(self._items)
        normalize(self._items, np.float32(1), units, np.empty(len(units), np.float32))
        return units

    def _step_items(
        self, vectors: Factors, rows: InteractionRows, weight: float, rate: float
    ) -> tuple[Float64Array, Factors]:
        sampled, log_weights = self._sampler.draw(self._draws)
        # The vectors of the passes: sampled items first, then those that are only observed.
        touched = np.concatenate([sampled, np.setdiff1d(rows.columns, sampled)]).astype(np.int64)
        self._places[touched] = np.arange(touched.size, dtype=np.int32)
        local = InteractionRows(rows.indptr, self._places[rows.columns], rows.weights, touched.size)
        entries = BatchEntries.from_rows(local, weight)
        items = self._items[touched]
        units, norms = items, np.ones(touched.size, np.float32)
        if self._is_cosine:
            units = np.empty_like(items)
            normalize(items, np.float32(1), units, norms)
        result = self._gradient.user_pass(vectors, units, entries, log_weights)

        def step(start: int, gradients: Factors) -> None:
            stop = start + len(gradients)
            if self._is_cosine:
                through_norm(gradients, units[start:stop], norms[start:stop], np.float32(1))
            if self._options.l2 > 0:
                ridge = np.float32(self._options.l2)
                add_ridge(start, *entries.of_items(start, stop), ridge, items[start:stop], gradients)
            self._item_adam.step_rows(touched[start:stop], gradients, rate)

        self._gradient.item_pass(vectors, touched.size, entries, step)
        return result
