"""A search kept on disk: what was tried, what came out, and what to try next.

One file, the journal of Optuna: JSON Lines, one line per step, synced. Whoever asks for the first trial
owns the file until it is closed; anybody may read it.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from rgals.errors import DataError, FormatVersionError, InputError, StaleCheckpointError
from rgals.tuning.importance import option_importance
from rgals.tuning.sampling import make_sampler, starting_point
from rgals.tuning.space import SearchSpace
from rgals.tuning.thresholds import WARM_UP_ROUNDS, median_thresholds
from rgals.tuning.trial import Pruner, TrialResult

__all__ = ["FinishedTrial", "Study"]

FORMAT_VERSION = 1
"""Of what a study keeps in its journal beyond what Optuna keeps there."""

_NAME = "rgals"
_STATES = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A trial that was told; numbers count from 0."""

    number: int
    result: TrialResult
    charged_s: float = 0.0
    """Seconds of the search that were its own: with what was done to propose it, without what ran beside it."""


class Study:
    """A search on disk; made or opened by `Study.open`.

    A context manager, which closes it. Trials are asked for, run by the caller, and told; a told trial is on
    disk when `tell` returns.
    """

    def __init__(self, path: Path, space: SearchSpace, seed: int, storage: JournalStorage) -> None:
        self.path = path
        self.space = space
        self.seed = seed
        self._storage = storage
        self._asked: set[int] = set()
        self._finished: dict[int, FinishedTrial] = {}
        self._lock: BinaryIO | None = None

    @classmethod
    def open(cls, path: str | Path, identity: Mapping[str, Any], space: SearchSpace, seed: int = 0) -> "Study":
        """Open a study, or begin it where there is none.

        Parameters
        ----------
        path : str or Path
            Its file, on a local disk.
        identity : mapping
            What its trials are comparable under, as JSON values: dataset fingerprint, model, metric and so on.
        space : SearchSpace
            What it may choose from.
        seed : int
            What it chooses depends on the seed, the trial's number and the trials before, and on nothing else.

        Raises
        ------
        StaleCheckpointError
            If the file holds a study with another identity, space or seed.
        DataError
            If the file cannot be read or written, or is no study.
        FormatVersionError
            If it was written by a newer rgals.
        """
        path = Path(path)
        wanted = _describe(identity, space, seed)
        with _errors_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists() or path.stat().st_size == 0
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_OwnLock(str(path))))
        study = cls(path, space, seed, storage)
        with _errors_of(path):
            found = None if is_new else study._read_identity()
        if found is None:
            with study._writing(), _errors_of(path):
                study._begin(wanted)
        else:
            _check_identity(path, found, wanted)
        return study

    def ask(self, n: int = 1) -> list[tuple[int, dict[str, Any]]]:
        """Give trials to run: number and options.

        Trials that a killed process left unfinished come first, with their options; the first of all has
        the defaults.

        Raises
        ------
        InputError
            If another process, or another `Study` of this one, is using the file.
        DataError
            If the file cannot be written.
        """
        with self._writing(), _errors_of(self.path), _quiet():
            return [self._ask() for _ in range(n)]

    def tell(self, number: int, result: TrialResult, charged_s: float | None = None) -> FinishedTrial:
        """Keep the result of a trial that was asked for.

        Parameters
        ----------
        number : int
            The trial's.
        result : TrialResult
            What came out.
        charged_s : float or None
            Seconds of the search that it used up; None takes those of the trial.

        Raises
        ------
        InputError
            If no such trial is running.
        DataError
            If the file cannot be written.
        """
        with self._writing(), _errors_of(self.path), _quiet():
            running = {trial.number: trial for trial in self._frozen_trials((TrialState.RUNNING,))}
            if number not in running:
                known = ", ".join(map(str, running)) or "none"
                raise InputError(f"{self.path}: trial {number} is not running, those running are {known}; ask first")
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            self._storage.set_trial_user_attr(trial_id, "result", result.to_json())
            charged_s = result.seconds if charged_s is None else charged_s
            self._storage.set_trial_user_attr(trial_id, "charged_s", charged_s)
            state = _STATES[result.state]
            values = None if state == TrialState.FAIL or not result.curve else [result.best_ndcg]
            if state == TrialState.PRUNED and values is not None:
                # Optuna ranks the pruned trials by their last round.
                self._storage.set_trial_intermediate_value(trial_id, result.curve[-1].round, result.best_ndcg)
            self._storage.set_trial_state_values(trial_id, state, values)
            self._asked.discard(number)
        return FinishedTrial(number, result, charged_s)

    @property
    def trials(self) -> list[FinishedTrial]:
        """Every trial that was told, by number."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        with _errors_of(self.path):
            told = [trial for trial in self._frozen_trials(states) if "result" in trial.user_attrs]
            for trial in told:
                if trial.number not in self._finished:  # what was told does not change; curves are long
                    self._finished[trial.number] = _read_trial(trial)
        return [self._finished[trial.number] for trial in told]

    @property
    def best(self) -> FinishedTrial | None:
        """The trial with the highest NDCG, the first of equals; None before one was scored."""
        scored = [trial for trial in self.trials if trial.result.is_scored]
        return max(scored, key=lambda trial: trial.result.best_ndcg, default=None)

    @property
    def n_trials(self) -> int:
        """Trials that were told."""
        return len(self.trials)

    @property
    def n_pruned(self) -> int:
        """Trials that were cut as hopeless."""
        return sum(trial.result.state == "pruned" for trial in self.trials)

    @property
    def n_failed(self) -> int:
        """Trials that ended with an error, or without any NDCG."""
        return sum(trial.result.state == "failed" for trial in self.trials)

    @property
    def n_failed_in_a_row(self) -> int:
        """How many of the newest trials failed, up to one that did not."""
        failed = (trial.result.state == "failed" for trial in reversed(self.trials))
        return sum(1 for _ in takewhile(bool, failed))

    @property
    def tune_s(self) -> float:
        """Seconds that the search has worked until its newest result, in all calls."""
        return sum(trial.charged_s for trial in self.trials)

    def pruner(
        self,
        patience: int | None = None,
        deadline_s: float | None = None,
        warm_up: int = WARM_UP_ROUNDS,
        n_start: int = 0,
    ) -> Pruner:
        """Give the rule for a trial that begins now; see `rgals.tuning.thresholds.median_thresholds`."""
        thresholds = median_thresholds([trial.result for trial in self.trials], warm_up, n_start)
        return Pruner(thresholds, patience, deadline_s, n_start)

    def importance(self) -> dict[str, float] | None:
        """Give the share of each option in what made trials good; see `option_importance`."""
        return option_importance(self.space, [trial.result for trial in self.trials])

    def close(self) -> None:
        """Let others use the file."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Study":
        """Give the study itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _ask(self) -> tuple[int, dict[str, Any]]:
        """Give a trial that was left, or a new one."""
        left = [trial for trial in self._frozen_trials((TrialState.RUNNING,)) if trial.number not in self._asked]
        number = left[0].number if left else len(self._frozen_trials(None))
        study = optuna.load_study(study_name=_NAME, storage=self._storage, sampler=make_sampler(self.seed, number))
        start = starting_point(self.space, self.seed, number)
        if left and set(left[0].params) == set(self.space.names):
            options = {name: left[0].params[name] for name in self.space.names}
        elif left:
            # Killed while it was proposed: the same seed and the same trials before propose the same again.
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            options = self.space.sample(optuna.Trial(study, trial_id))
        elif start is not None:
            state, spread = TrialState.RUNNING, self.space.distributions()
            study.add_trial(optuna.trial.create_trial(state=state, params=start, distributions=spread))
            options = start
        else:
            options = self.space.sample(study.ask())
        self._asked.add(number)
        return number, options

    @property
    def _study_id(self) -> int:
        return self._storage.get_study_id_from_name(_NAME)

    def _frozen_trials(self, states: tuple[TrialState, ...] | None) -> list[optuna.trial.FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False, states=states)

    def _read_identity(self) -> dict[str, Any] | None:
        """Read what the study was begun with; None if a process was killed while it began one."""
        names = [study.study_name for study in self._storage.get_all_studies()]
        if not names:
            return None
        if _NAME not in names:
            raise DataError(f"{self.path}: a journal of Optuna, but no study of rgals; choose another place")
        found: dict[str, Any] | None = self._storage.get_study_user_attrs(self._study_id).get("identity")
        if found is None and self._frozen_trials(None):
            raise DataError(f"{self.path}: a study that does not say what it searches; choose another place")
        return found

    def _begin(self, wanted: Mapping[str, Any]) -> None:
        """Write the study's beginning."""
        with _quiet():
            optuna.create_study(storage=self._storage, study_name=_NAME, direction="maximize", load_if_exists=True)
            self._storage.set_study_user_attr(self._study_id, "identity", dict(wanted))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Own the file, from the first time until the study is closed."""
        if self._lock is None:
            self._lock = _lock_file(self.path)
        yield


def _read_trial(trial: optuna.trial.FrozenTrial) -> FinishedTrial:
    result = TrialResult.from_json(trial.user_attrs["result"])
    return FinishedTrial(trial.number, result, float(trial.user_attrs.get("charged_s", result.seconds)))


class _OwnLock(JournalFileSymlinkLock):
    """No lock per line: the study owns the whole file, by a lock that ends with the process."""

    def acquire(self) -> bool:
        """Do nothing."""
        return True

    def release(self) -> None:
        """Do nothing."""


def _describe(identity: Mapping[str, Any], space: SearchSpace, seed: int) -> dict[str, Any]:
    """Give everything that the trials of a study have in common, as it reads after a way through JSON."""
    described = {
        **identity,
        "seed": seed,
        "space": space.describe(),
        "known": [dict(setting) for setting in space.known],
        "whole_numbers": [dimension.name for dimension in space.dimensions if dimension.is_int],
        "format_version": FORMAT_VERSION,
    }
    result: dict[str, Any] = json.loads(json.dumps(described, allow_nan=False))
    return result


def _check_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a study whose trials were run under other conditions."""
    version = found.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: format version {version} of a study, this rgals reads up to {FORMAT_VERSION}; upgrade rgals"
        )
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if names:
        lines = "\n".join(f"  {name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in names)
        raise StaleCheckpointError(
            f"{path}: belongs to another search; go on with the same options, or choose another place:\n{lines}"
        )


def _lock_file(path: Path) -> BinaryIO:
    """Own the journal as long as the stream is open, and cut off a last line that was not written whole."""
    try:
        stream = path.open("r+b")
    except OSError as error:
        raise DataError(f"{path}: the study cannot be written ({error}); choose another place") from error
    try:
        with suppress(NotImplementedError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)
            os.fsync(stream.fileno())
    except BlockingIOError:
        stream.close()
        raise InputError(
            f"{path}: the study is in use by another process; wait for it, or choose another place"
        ) from None
    except BaseException:
        stream.close()
        raise
    return stream


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong with reading or writing it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: the study cannot be written or read ({error}); free space") from error
    except (KeyError, TypeError, AttributeError, AssertionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable study ({error!r}); restore it or choose another place") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own lines off the terminal."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
