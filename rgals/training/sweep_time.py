"""Seconds of the sweeps of a run, from the measured speed of the kernels and the network."""

from dataclasses import dataclass

from rgals.errors import InputError

__all__ = ["Calibration", "Rates", "RunTime", "SweepTime"]


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
    pass_s : float or None
        Seconds per score and factor of a pass over all scores, the mean of the two; None: not measured.
    """

    n_threads: int
    user_solve_s: float
    item_solve_s: float
    rotate_s: float
    pass_s: float | None = None


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
        pass_s = None if nearest.pass_s is None else nearest.pass_s * scale
        solve_s = nearest.user_solve_s * scale, nearest.item_solve_s * scale
        return Rates(n_threads, *solve_s, nearest.rotate_s * scale, pass_s)


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
        n_entries: int,
        n_factors: int,
        worker_cpus: int,
        user_share: float,
        item_share: float,
        hottest_row: int,
        network_bytes: int,
        network_gbit: float,
        n_scores: int = 0,
    ) -> "SweepTime":
        """Compute the seconds.

        Parameters
        ----------
        calibration : Calibration
            Speed of the kernels.
        n_users, n_items, n_entries, n_factors : int
            Sizes; entries are the interactions, and under ``rg-softmax`` the hard negatives.
        worker_cpus : int
            Threads of a worker.
        user_share, item_share : float
            Share of each half-step that the busiest worker solves.
        hottest_row : int
            Entries of the row with most of them.
        network_bytes : int
            What a node receives in a sweep.
        network_gbit : float
            Gigabits per second that it can receive.
        n_scores : int
            Scores that the passes of a sweep look at, both together.

        Notes
        -----
        With s the seconds per entry and factor of each side, r those per row and squared factor, p those per score
        and factor: solving takes ``n d (s_user share_user + s_item share_item)``, and the item half-step not less
        than its hottest row, ``hottest d s_item``; rotating ``(U + I) d^2 r``; the passes ``scores d p share``; the
        network bytes over bandwidth.
        """
        if not network_gbit > 0:
            raise InputError(f"network_gbit: expected a positive number, found {network_gbit}")
        rates = calibration.at(worker_cpus)
        if n_scores and rates.pass_s is None:
            raise InputError("calibration: expected the speed of the passes over all scores; measure it with n_hard")
        work = n_entries * n_factors
        hottest_row_s = hottest_row * n_factors * rates.item_solve_s
        item_s = max(work * rates.item_solve_s * item_share, hottest_row_s)
        return cls(
            solve_s=work * rates.user_solve_s * user_share + item_s,
            rotate_s=(n_users + n_items) * n_factors**2 * rates.rotate_s,
            network_s=network_bytes * 8 / (network_gbit * 1e9),
            hottest_row_s=hottest_row_s,
            pass_s=n_scores * n_factors * (rates.pass_s or 0.0) * max(user_share, item_share),
        )


@dataclass(frozen=True, slots=True)
class RunTime:
    """Seconds of all sweeps of a run.

    Parameters
    ----------
    n_sweeps : int
        All sweeps.
    sweep : SweepTime
        One of them; under ``rg-softmax`` an expanded one with exact passes.
    n_start : int
        First sweeps under ``rg-softmax``, of another loss.
    start : SweepTime or None
        One of those.
    n_sampled : int
        Expanded sweeps that follow, whose passes look at a sample.
    sampled : SweepTime or None
        One of those.
    """

    n_sweeps: int
    sweep: SweepTime
    n_start: int = 0
    start: SweepTime | None = None
    n_sampled: int = 0
    sampled: SweepTime | None = None

    @property
    def n_exact(self) -> int:
        """Sweeps of the kind of ``sweep``."""
        return self.n_sweeps - self.n_start - self.n_sampled

    @property
    def last(self) -> SweepTime:
        """One sweep of the kind that the run ends with."""
        kinds = (self.n_exact, self.sweep), (self.n_sampled, self.sampled), (self.n_start, self.start)
        return next(kind for n, kind in kinds if n > 0 and kind is not None)

    @property
    def total_s(self) -> float:
        """All sweeps, and a pass by user more: one begins the first expanded sweep, and each ends with one."""
        kinds = (self.n_start, self.start), (self.n_sampled, self.sampled), (self.n_exact, self.sweep)
        return sum(n * kind.total_s for n, kind in kinds if kind is not None) + self.last.pass_s / 2
