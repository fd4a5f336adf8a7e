"""`RankingALS`: the loss family as an estimator, in the habits of implicit's and scikit-learn's users."""

import os
from collections.abc import Callable
from typing import IO, Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rgals._estimator.archive import read_archive, write_archive
from rgals._estimator.inputs import interaction_rows, seed_from
from rgals._estimator.queries import Queries
from rgals.data.shards import InMemoryInteractions
from rgals.errors import DataError, InputError
from rgals.execution import InProcessExecutor
from rgals.numerics.fold_in import canonical_factors
from rgals.numerics.loss import LossName
from rgals.numerics.sparse import InteractionRows
from rgals.training.config import SolverName
from rgals.training.reexpanding_solver import make_solver
from rgals.training.solver import AlternatingSolver, FactorState

__all__ = ["RankingALS"]


class RankingALS(Queries):
    """Factors of users and items, trained by alternating least squares on a ranking loss.

    The methods are those of ``implicit.als.AlternatingLeastSquares``, the habits those of scikit-learn:
    the constructor keeps its parameters as they are, `fit` checks them and gives back the estimator, and
    `get_params`, `set_params` and ``sklearn.base.clone`` work. ``docs/estimator.md`` maps the names.

    Parameters
    ----------
    n_factors : int
        Length of a user's and an item's vector, at least 1.
    loss : {"rg2", "rgx", "ials", "rg-softmax"}
        The expansion of the softmax loss, the same with its interaction term, the weighted squared loss, or the
        softmax loss itself, expanded anew at every sweep.
    alpha : float
        Extra weight of the observed entries, at least 0. Under ``ials`` the confidence of an observed
        entry is ``1 + alpha * weight``.
    reg : float or None
        Ridge per unit of a row's total weight raised to ``nu``, at least 0; None takes 0.1, and 0.25 under
        ``rg-softmax``.
    nu : float
        Exponent of a row's total weight in its ridge: 1 scales with it, 0 is flat.
    beta : float
        Exponent of the item degree in the prior of the negatives: 0 is uniform.
    user_exponent, item_exponent : float
        Exponents of the degrees in the observed weights.
    n_sweeps : int or None
        Number of sweeps, at least 1; None takes 8, and 14 under ``rg-softmax``.
    solver : {"auto", "cg", "exact", "woodbury", "cholesky"}
        How rows are solved in the training; fold-in is always exact.
    cg_steps : int
        Conjugate gradient steps of a row, where they are used.
    start_sweeps : int
        Sweeps of RG× from which ``rg-softmax`` starts, counted in ``n_sweeps``; a warm start has none.
    start_reg : float
        Ridge of these sweeps.
    n_hard : int
        Hard negatives of each user whose curvature ``rg-softmax`` keeps one by one.
    eta, kappa : float
        Its damping: curvature added to an observed entry per unit of weight, and the factor of a hard negative's.
    pass_fraction : float
        Share of the items and users that its passes over the scores look at beside a row's own entries; 1: all, exact.
    n_threads : int or None
        Number of threads; 0 or None uses every processor. No result depends on it.
    random_state : int, numpy Generator, RandomState or None
        The starting factors: an int gives the same model each time, None another.
    warm_start : bool
        Whether a second fit goes on from the present factors instead of starting anew.

    Attributes
    ----------
    user_factors : float32 array of shape (n_users, n_factors) or None
        The users' factors; None before the fit. Finite, always.
    item_factors : float32 array of shape (n_items, n_factors) or None
        The items' factors. The score of a user and an item is the product of theirs.
    n_features_in_ : int
        Number of items in the fit.
    n_iter_ : int
        Number of finished sweeps, of earlier fits too after a warm start.
    objectives_ : float64 array of shape (sweeps of the last fit,)
        The objective after each sweep; it does not rise, but where ``rg-softmax`` goes over from its start.
    fitted_loss_ : Loss
        The loss of the last fit, which fold-in uses.
    user_degrees_, item_degrees_ : int64 arrays
        Number of interactions of each row.
    user_weight_sums_ : float64 array of shape (n_users,)
        Sum of observed weights of each user.
    weight_scale_ : float
        The factor that keeps the sum of all weights when degrees enter them.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from rgals import RankingALS
    >>> user_items = csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1]]))
    >>> model = RankingALS(n_factors=2, random_state=0).fit(user_items, show_progress=False)
    >>> ids, scores = model.recommend(0, user_items[0], N=1)
    >>> ids.tolist()
    [2]
    """

    def __init__(
        self,
        n_factors: int = 64,
        loss: LossName = "rg2",
        alpha: float = 0.03,
        reg: float | None = None,
        nu: float = 1.0,
        beta: float = 0.0,
        user_exponent: float = 0.0,
        item_exponent: float = 0.0,
        n_sweeps: int | None = None,
        solver: SolverName = "auto",
        cg_steps: int = 3,
        start_sweeps: int = 6,
        start_reg: float = 0.1,
        n_hard: int = 20,
        eta: float = 0.25,
        kappa: float = 1.5,
        pass_fraction: float = 1.0,
        n_threads: int | None = None,
        random_state: "int | np.random.Generator | np.random.RandomState | None" = None,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.loss = loss
        self.alpha = alpha
        self.reg = reg
        self.nu = nu
        self.beta = beta
        self.user_exponent = user_exponent
        self.item_exponent = item_exponent
        self.n_sweeps = n_sweeps
        self.solver = solver
        self.cg_steps = cg_steps
        self.start_sweeps = start_sweeps
        self.start_reg = start_reg
        self.n_hard = n_hard
        self.eta = eta
        self.kappa = kappa
        self.pass_fraction = pass_fraction
        self.n_threads = n_threads
        self.random_state = random_state
        self.warm_start = warm_start

    def fit(
        self,
        user_items: Any,
        show_progress: bool = True,
        callback: Callable[[int, float, float], Any] | None = None,
    ) -> Self:
        """Train on the weights of users' interactions.

        Parameters
        ----------
        user_items : scipy CSR matrix of shape (n_users, n_items)
            The weights, finite and positive where an interaction was observed; explicit zeros are
            dropped, duplicates summed. Another sparse format is converted with a warning.
        show_progress : bool
            Whether a progress bar with the objective is drawn on standard error.
        callback : callable or None
            Called after each sweep with its number from 0, its seconds and the objective. What it raises
            ends the fit; the model then has the factors of the last finished sweep.

        Returns
        -------
        RankingALS
            The estimator itself.

        Raises
        ------
        InputError
            If a parameter is out of its bounds, the matrix is not sparse, has no interactions or an
            unusable entry, or the factors of a warm start have another shape.
        NumericalError
            If a row has no finite solution, which takes ``reg=0``.
        """
        threads = self._thread_count()
        config = self._checked_config(seed_from(self.random_state))
        rows = interaction_rows(user_items, "user_items", converts=True)
        if rows.n_interactions == 0:
            raise InputError(
                f"fit: expected at least one interaction, found a matrix of shape {(rows.n_rows, rows.n_columns)} "
                "without any; check the filters that made it"
            )
        state = self._starting_state()
        solver = make_solver(
            InMemoryInteractions(rows), config, InProcessExecutor(threads), state=state, is_continued=state is not None
        )
        self._run_sweeps(solver, rows, config.n_sweeps, show_progress, callback)
        return self

    def save(self, file: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write the fitted model into one numpy ``.npz`` file, without pickle.

        Parameters
        ----------
        file : str, path or binary file open for writing
            Where to; a path gets the suffix ``.npz`` if it has another, and is written whole or not at
            all. A ``random_state`` that is a generator is not saved.

        Raises
        ------
        InputError
            If the model is not fitted.
        DataError
            If the place cannot be written to.
        """
        self._fitted_factors()
        write_archive(self, file)

    @classmethod
    def load(cls, file: str | os.PathLike[str] | IO[bytes]) -> Self:
        """Read a model that `save` wrote.

        Parameters
        ----------
        file : str, path or binary file open for reading
            Where from; a path gets the suffix ``.npz`` if it has another.

        Returns
        -------
        RankingALS
            With the parameters and learned attributes of the saved one.

        Raises
        ------
        FileNotFoundError
            If the file is not there.
        DataError
            If it is not such a file, or its fields are not exactly those that are written.
        FormatVersionError
            If a newer rgals wrote it.
        """
        parameters, learned = read_archive(file)
        model = cls()
        try:
            model.set_params(**parameters)
        except InputError as error:
            raise DataError(f"{file}: {error}; load it with the rgals that wrote it") from error
        # The names come from the format's closed list, not from the file.
        for name, value in learned.items():
            setattr(model, name, value)
        return model

    def _starting_state(self) -> FactorState | None:
        """Give the factors that a warm start goes on from."""
        if not self.warm_start or self.user_factors is None or self.item_factors is None:
            return None
        return FactorState(getattr(self, "n_iter_", 0), self.user_factors, self.item_factors)

    def _run_sweeps(
        self,
        solver: AlternatingSolver,
        rows: InteractionRows,
        n_sweeps: int,
        show_progress: bool,
        callback: Callable[[int, float, float], Any] | None,
    ) -> None:
        """Run the sweeps; however they end, keep the factors of the last finished one."""
        objectives: list[float] = []
        finished: FactorState | None = None
        columns = (TextColumn("Training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        status = TextColumn("{task.fields[status]}")
        try:
            with Progress(*columns, status, console=Console(stderr=True), disable=not show_progress) as progress:
                task = progress.add_task("Training", total=n_sweeps, status="")
                for number in range(n_sweeps):
                    record = solver.run_sweep()
                    finished = solver.state
                    objectives.append(record.objective)
                    progress.update(task, advance=1, status=f"objective {objectives[-1]:.6g}")
                    if callback is not None:
                        self._keep(solver, rows, finished, objectives)
                        callback(number, record.user_s + record.item_s, objectives[-1])
        finally:
            if finished is not None:
                self._keep(solver, rows, finished, objectives)

    def _keep(
        self, solver: AlternatingSolver, rows: InteractionRows, state: FactorState, objectives: list[float]
    ) -> None:
        """Store what was learned, with the factors in the basis that fold-in needs no copy for."""
        self.fitted_loss_ = solver.final_loss
        self.weight_scale_ = solver.weight_scale
        self.user_degrees_, self.item_degrees_ = solver.user_degrees, solver.item_degrees
        self.user_weight_sums_ = self._observed_weight_sums(rows, self.item_degrees_)
        self.user_factors, self.item_factors = canonical_factors(
            state.user_factors, state.item_factors, solver.final_loss, solver.item_degrees, self._thread_count()
        )
        self.objectives_ = np.array(objectives)
        self.n_iter_ = state.sweep
        self.n_features_in_ = rows.n_columns
