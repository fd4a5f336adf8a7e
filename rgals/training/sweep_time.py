"""Seconds of a sweep, from the measured speed of the kernels and the network."""

from dataclasses import dataclass

from rgals.errors import InputError

__all__ = ["Calibration", "Rates", "SweepTime"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured speed of the kernels with some number of threads.

    Parameters
    ----------
    n_threads : int
        Threads that all worked on it.
    user_solve_s, item_solve_s : float
        Seconds per interaction and factor of the half-step that solves that side, everything that is
        done for a row included.
    rotate_s : float
        Seconds per row and squared factor to rotate the fixed side.
    """

    n_threads: int
    user_solve_s: float
    item_solve_s: float
    rotate_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Speed of the kernels on one machine.

    Parameters
    ----------
    rates : tuple of Rates
        One for each number of threads that was measured, ascending.
    """

    rates: tuple[Rates, ...]

    def __post_init__(self) -> None:
        threads = [one.n_threads for one in self.rates]
        if not threads or threads != sorted(set(threads)) or threads[0] < 1:
            raise InputError(f"calibration: expected rates for ascending numbers of threads, found {threads}")

    def at(self, n_threads: int) -> Rates:
        """Give the rates for a number of threads.

        Between and beyond what was measured, the nearest smaller measurement (the smallest, below it)
        is taken to scale with the threads.
        """
        smaller = [one for one in self.rates if one.n_threads <= n_threads]
        nearest = smaller[-1] if smaller else self.rates[0]
        scale = nearest.n_threads / n_threads
        return Rates(n_threads, nearest.user_solve_s * scale, nearest.item_solve_s * scale, nearest.rotate_s * scale)


@dataclass(frozen=True, slots=True)
class SweepTime:
    """Seconds of one sweep.

    Parameters
    ----------
    solve_s : float
        The busiest worker's rows, both half-steps.
    rotate_s : float
        Rotating the fixed side, which every worker does for all of it, both half-steps.
    network_s : float
        Receiving the blocks of both sides.
    hottest_row_s : float
        The least that a half-step's solving takes however many workers there are: one worker solves a row,
        with all its threads. It is part of ``solve_s``.
    pass_s : float
        The passes over all scores under ``rg-softmax``; else 0.
    """

    solve_s: float
    rotate_s: float
    network_s: float
    hottest_row_s: float
    pass_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it, one after the other."""
        return self.solve_s + self.rotate_s + self.network_s + self.pass_s

    @classmethod
    def estimate(
        cls,
        calibration: Calibration,
        *,
        n_users: int,
        n_items: int,
        n_interactions: int,
        n_factors: int,
        worker_cpus: int,
        user_share: float,
        item_share: float,
        hottest_row: int,
        network_bytes: int,
        network_gbit: float,
        pass_operations: int = 0,
    ) -> "SweepTime":
        """Compute the seconds.

        Parameters
        ----------
        calibration : Calibration
            Speed of the kernels.
        n_users, n_items, n_interactions, n_factors : int
            Sizes.
        worker_cpus : int
            Threads of a worker.
        user_share, item_share : float
            Share of each half-step that the busiest worker solves.
        hottest_row : int
            Interactions of the row with most of them.
        network_bytes : int
            What a node receives in a sweep.
        network_gbit : float
            Gigabits per second that it can receive.
        pass_operations : int
            Multiplications and additions of the passes over all scores.

        Notes
        -----
        With s the seconds per interaction and factor of each side, r those per row and squared factor:
        solving takes ``n d (s_user share_user + s_item share_item)``, and the item half-step not less than its
        hottest row, ``hottest d s_item``; rotating ``(U + I) d^2 r``; the network bytes over bandwidth.
        """
        if not network_gbit > 0:
            raise InputError(f"network_gbit: expected a positive number, found {network_gbit}")
        rates = calibration.at(worker_cpus)
        work = n_interactions * n_factors
        hottest_row_s = hottest_row * n_factors * rates.item_solve_s
        item_s = max(work * rates.item_solve_s * item_share, hottest_row_s)
        return cls(
            solve_s=work * rates.user_solve_s * user_share + item_s,
            rotate_s=(n_users + n_items) * n_factors**2 * rates.rotate_s,
            network_s=network_bytes * 8 / (network_gbit * 1e9),
            hottest_row_s=hottest_row_s,
            # A rotation is a product of matrices, too: a multiplication and an addition for each of its parts.
            pass_s=pass_operations / 2 * rates.rotate_s * max(user_share, item_share),
        )
