"""The training run on the real solver: it falls, stops in time, and goes on where it was."""

import math

import numpy as np
import pytest

from rgals.errors import DataError, InputError, NumericalError, OutputExistsError, StaleCheckpointError
from rgals.names import Factors
from rgals.training import run as run_module
from rgals.training.checkpoint import CheckpointStore
from rgals.training.monitor import ValidationScore
from rgals.training.solver import AlternatingSolver
from rgals.training.warm_start import WarmStart
from tests.training.runs import N_ITEMS, N_USERS, StopAfter, planted, run, same_bits, small_config


def kinds(events):
    return [event.kind for event in events]


@pytest.mark.parametrize("loss", ["rg2", "rgx", "ials"])
def test_objective_falls_at_every_half_step(loss):
    events = []
    result = run(small_config(loss=loss), on_event=events.append)
    steps = [event for event in events if event.kind == "half_step"]
    assert [(step.sweep, step.side) for step in steps] == [(s, d) for s in range(1, 6) for d in ("user", "item")]
    assert all(step.fall > 0 for step in steps)
    assert all(step.objective < step.objective_before for step in steps)
    assert len(result.history) == result.n_sweeps == 5
    assert result.stop_reason == "sweeps"


def test_factors_have_the_promised_shapes_and_degrees_are_counted():
    rows = planted()[0]
    result = run(rows=rows)
    assert result.user_factors.shape == (N_USERS, 6)
    assert result.item_factors.shape == (N_ITEMS, 6)
    np.testing.assert_array_equal(result.user_degrees, rows.degrees)
    np.testing.assert_array_equal(result.item_degrees, rows.transpose().degrees)
    assert result.weight_scale == 1


def test_threads_and_shards_do_not_change_a_bit():
    assert same_bits(run(), run(n_shards=2, n_threads=2))


def test_watching_does_not_change_a_bit(tmp_path):
    watched = run(
        small_config(softmax_users=50, checkpoint_every=1),
        validation=planted()[1],
        checkpoints=tmp_path / "c",
        on_event=lambda event: None,
    )
    assert same_bits(run(), watched)


def test_events_come_in_order_and_carry_their_numbers(tmp_path):
    events = []
    config = small_config(n_sweeps=2, softmax_users=50, checkpoint_every=1)
    result = run(config, validation=planted()[1], checkpoints=tmp_path / "c", on_event=events.append)
    a_sweep = ["half_step", "half_step", "sweep", "softmax", "validation", "checkpoint"]
    assert kinds(events) == ["start", *a_sweep, *a_sweep, "stop"]
    start, stop = events[0], events[-1]
    assert (start.sweep, start.n_sweeps, start.n_users, start.n_items) == (0, 2, N_USERS, N_ITEMS)
    assert start.config["softmax_users"] == 50
    softmax = events[4]
    assert softmax.surrogate_gap == pytest.approx(softmax.surrogate - softmax.softmax)
    assert softmax.n_users == 50
    validation = events[5]
    assert (validation.cutoff, validation.is_best) == (20, True)
    assert result.history[0].ndcg == validation.ndcg
    assert result.history[0].softmax == softmax.softmax
    assert (stop.reason, stop.kept_sweep, stop.sweep) == ("sweeps", 2, 2)
    assert stop.objective == result.history[-1].objective_after_items


def test_training_seconds_are_those_of_solving_alone(tmp_path):
    events = []
    config = small_config(softmax_users=50, checkpoint_every=1)
    result = run(config, validation=planted()[1], checkpoints=tmp_path / "c", on_event=events.append)
    by_kind = {
        kind: sum(e.seconds for e in events if e.kind == kind)
        for kind in ("sweep", "validation", "softmax", "checkpoint")
    }
    assert result.train_s == pytest.approx(by_kind["sweep"])
    assert result.checkpoint_s == pytest.approx(by_kind["checkpoint"], rel=0.1)
    watched = result.train_s + result.validate_s + result.monitor_s + result.checkpoint_s
    assert min(result.validate_s, result.monitor_s, result.checkpoint_s) > 0
    assert watched < result.total_s


def test_iteration_stops_when_the_objective_settles():
    config = small_config(n_sweeps=100, tolerance=1e-3)
    result = run(config)
    assert result.stop_reason == "tolerance"
    assert 1 < result.n_sweeps < 100
    falls = [summary.objective_before - summary.objective_after_items for summary in result.history]
    scale = max(abs(v) for s in result.history for v in (s.objective_before, s.objective_after_items))
    assert falls[-1] / scale < 1e-3
    assert min(falls[:-1]) / scale >= 1e-3


class Ndcgs:
    """Stands in for the measured NDCG with a written list, so that the best sweep is known."""

    def __init__(self, monkeypatch, values):
        self.values = values
        monkeypatch.setattr(run_module.ValidationMonitor, "measure", self)

    def __call__(self, factors, item_degrees, weight_scale, n_threads):
        return ValidationScore(self.values[factors.state.sweep], 10)


def test_patience_gives_back_the_best_sweep(monkeypatch):
    Ndcgs(monkeypatch, {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3, 5: 0.9})
    validation = planted()[1]
    result = run(small_config(n_sweeps=9, patience=2), validation=validation)
    assert (result.stop_reason, result.n_sweeps, result.kept_sweep, result.best_ndcg) == ("patience", 4, 2, 0.3)
    assert same_bits(result, run(small_config(n_sweeps=2)))


def test_patience_compares_expanded_sweeps_with_each_other(monkeypatch):
    """The start ranks better than the first expanded sweeps, which rise: they are not given up for that."""
    Ndcgs(monkeypatch, {1: 0.1, 2: 0.5, 3: 0.2, 4: 0.3, 5: 0.35, 6: 0.3, 7: 0.3, 8: 0.9})
    config = small_config(loss="rg-softmax", alpha=0.0, start_sweeps=2, n_hard=5, n_sweeps=9, patience=2)
    result = run(config, validation=planted()[1])
    assert (result.stop_reason, result.n_sweeps, result.kept_sweep) == ("patience", 7, 2)


def test_without_patience_the_last_sweep_is_given_back_and_the_best_is_reported(monkeypatch):
    Ndcgs(monkeypatch, {1: 0.1, 2: 0.3, 3: 0.2})
    result = run(small_config(n_sweeps=3), validation=planted()[1])
    assert (result.kept_sweep, result.best_sweep, result.best_ndcg) == (3, 2, 0.3)
    assert same_bits(result, run(small_config(n_sweeps=3)))


def test_validation_runs_each_n_sweeps_and_after_the_last(monkeypatch):
    Ndcgs(monkeypatch, dict.fromkeys(range(9), 0.1))
    result = run(small_config(n_sweeps=5, validate_every=2), validation=planted()[1])
    assert [summary.sweep for summary in result.history if summary.ndcg is not None] == [2, 4, 5]


def test_validation_ndcg_rises_on_a_planted_problem():
    result = run(validation=planted()[1])
    assert result.best_ndcg > 0.35  # a random order of the 60 items gives about 0.17


def tamper(monkeypatch, sweep, **changes):
    original = AlternatingSolver.run_sweep

    def run_sweep(self):
        record = original(self)
        if record.sweep != sweep:
            return record
        values = {name: getattr(record, name) for name in record.__dataclass_fields__}
        return type(record)(**{**values, **changes})

    monkeypatch.setattr(AlternatingSolver, "run_sweep", run_sweep)


def test_a_rising_objective_is_an_error_that_names_sweep_and_side(monkeypatch):
    tamper(monkeypatch, 3, objective_after_items=1e6)
    with pytest.raises(NumericalError, match=r"sweep 3, item half-step: expected the objective to fall.*alpha 1"):
        run()


def test_an_objective_that_is_not_finite_is_an_error(monkeypatch):
    tamper(monkeypatch, 2, objective_after_users=math.nan)
    with pytest.raises(NumericalError, match=r"sweep 2, user half-step: expected a finite objective"):
        run()


def test_a_failed_sweep_leaves_the_checkpoint_before_it(monkeypatch, tmp_path):
    tamper(monkeypatch, 3, objective_after_items=1e6)
    with pytest.raises(NumericalError):
        run(small_config(checkpoint_every=1), checkpoints=tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["sweep-00001", "sweep-00002"]


@pytest.mark.parametrize("loss", ["rg2", "rgx", "ials"])
@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_an_interrupted_and_resumed_run_gives_the_same_bits(tmp_path, loss, solver):
    rows = planted(is_weighted=True)[0]
    config = small_config(loss=loss, solver=solver, user_exponent=-0.5, n_sweeps=6)
    stop = StopAfter(3)
    first = run(config, rows=rows, checkpoints=tmp_path / "c", on_event=stop, should_stop=stop)
    assert (first.stop_reason, first.n_sweeps) == ("interrupted", 3)
    assert first.checkpoint.endswith("sweep-00003")
    second = run(config, rows=rows, checkpoints=tmp_path / "c", resume=True, n_shards=2)
    whole = run(config, rows=rows)
    assert second.n_sweeps == 6
    assert same_bits(second, whole)
    objectives = [
        [(s.objective_before, s.objective_after_users, s.objective_after_items) for s in result.history]
        for result in (second, whole)
    ]
    assert objectives[0] == objectives[1]


def test_resuming_goes_on_counting_patience_and_keeps_the_best_factors(monkeypatch, tmp_path):
    Ndcgs(monkeypatch, {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.2, 5: 0.2})
    config, validation, stop = small_config(n_sweeps=9, patience=3), planted()[1], StopAfter(3)
    run(config, validation=validation, checkpoints=tmp_path, on_event=stop, should_stop=stop)
    result = run(config, validation=validation, checkpoints=tmp_path, resume=True)
    assert (result.stop_reason, result.n_sweeps, result.kept_sweep) == ("patience", 5, 2)
    assert same_bits(result, run(small_config(n_sweeps=2)))


def test_switching_patience_on_at_resume_forgets_a_best_sweep_whose_factors_are_gone(monkeypatch, tmp_path):
    Ndcgs(monkeypatch, {1: 0.9, 2: 0.3, 3: 0.4, 4: 0.2})
    validation, stop = planted()[1], StopAfter(2)
    run(small_config(), validation=validation, checkpoints=tmp_path, on_event=stop, should_stop=stop)
    result = run(small_config(n_sweeps=4, patience=3), validation=validation, checkpoints=tmp_path, resume=True)
    assert result.kept_sweep == 3
    assert same_bits(result, run(small_config(n_sweeps=3)))


def test_a_finished_run_can_be_resumed_with_more_sweeps(tmp_path):
    run(small_config(n_sweeps=2, checkpoint_every=5), checkpoints=tmp_path)
    more = run(small_config(n_sweeps=4), checkpoints=tmp_path, resume=True)
    assert same_bits(more, run(small_config(n_sweeps=4)))


def test_a_finished_run_resumes_as_finished(tmp_path):
    config = small_config(n_sweeps=50, tolerance=1e-3, checkpoint_every=1)
    first = run(config, checkpoints=tmp_path)
    again = run(config, checkpoints=tmp_path, resume=True)
    assert (again.stop_reason, again.n_sweeps) == ("tolerance", first.n_sweeps)
    assert same_bits(first, again)


def test_a_stop_before_the_first_sweep_is_resumable(tmp_path):
    first = run(checkpoints=tmp_path, should_stop=lambda: True)
    assert (first.n_sweeps, first.stop_reason) == (0, "interrupted")
    assert same_bits(run(checkpoints=tmp_path, resume=True), run())


def test_a_stop_without_a_checkpoint_folder_ends_between_sweeps():
    stop = StopAfter(2)
    result = run(on_event=stop, should_stop=stop)
    assert (result.stop_reason, result.n_sweeps, result.checkpoint) == ("interrupted", 2, None)


def test_no_checkpoint_is_written_unless_asked_for_or_interrupted(tmp_path):
    run(checkpoints=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_checkpoints_come_each_n_sweeps_and_after_the_last(tmp_path):
    run(small_config(checkpoint_every=2, keep_checkpoints=9), checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep-00002", "sweep-00004", "sweep-00005"]


def test_resuming_with_another_configuration_names_both_values(tmp_path):
    run(small_config(checkpoint_every=1), checkpoints=tmp_path)
    with pytest.raises(StaleCheckpointError, match=r"reg 0\.05 there, 0\.5 here"):
        run(small_config(reg=0.5), checkpoints=tmp_path, resume=True)


def test_resuming_with_another_dataset_is_refused(tmp_path):
    run(small_config(checkpoint_every=1), checkpoints=tmp_path)
    with pytest.raises(StaleCheckpointError, match="belongs to dataset"):
        run(rows=planted(1)[0], checkpoints=tmp_path, resume=True)


def test_resuming_with_another_validation_part_is_refused(tmp_path):
    run(small_config(checkpoint_every=1), validation=planted()[1], checkpoints=tmp_path)
    with pytest.raises(StaleCheckpointError, match="validation sample"):
        run(validation=planted(1)[1], checkpoints=tmp_path, resume=True)


def test_resuming_from_nothing_is_an_error_unless_automatic(tmp_path):
    with pytest.raises(DataError, match="expected a checkpoint to resume from"):
        run(checkpoints=tmp_path, resume=True)
    assert run(checkpoints=tmp_path, resume="auto").n_sweeps == 5


def test_automatic_resume_goes_on_where_there_is_a_checkpoint(tmp_path):
    stop = StopAfter(3)
    run(checkpoints=tmp_path, on_event=stop, should_stop=stop)
    events = []
    run(checkpoints=tmp_path, resume="auto", on_event=events.append)
    assert events[0].sweep == 3


def test_a_new_run_does_not_mix_with_old_checkpoints(tmp_path):
    run(small_config(checkpoint_every=1), checkpoints=tmp_path)
    with pytest.raises(OutputExistsError, match="--resume"):
        run(checkpoints=tmp_path)
    run(small_config(checkpoint_every=1, n_sweeps=2), checkpoints=tmp_path, overwrite_checkpoints=True)
    assert CheckpointStore(tmp_path, None, 1).sweeps() == [1, 2]


def test_patience_without_validation_is_an_error():
    with pytest.raises(InputError, match="patience: expected a validation part"):
        run(small_config(patience=2))


def test_checkpoints_without_a_folder_are_an_error():
    with pytest.raises(InputError, match="name the checkpoint folder"):
        run(small_config(checkpoint_every=2))
    with pytest.raises(InputError, match="name the checkpoint folder"):
        run(resume=True)


def test_a_checkpoint_folder_that_cannot_be_written_fails_before_the_first_sweep(tmp_path):
    (tmp_path / "file").write_text("")
    events = []
    with pytest.raises(DataError, match="cannot be written to"):
        run(small_config(checkpoint_every=5), checkpoints=tmp_path / "file" / "c", on_event=events.append)
    assert events == []


def test_a_warm_start_begins_below_a_cold_start():
    trained = run()
    rows = np.arange(N_USERS), np.arange(N_ITEMS)
    warm = WarmStart(*rows, trained.user_factors, trained.item_factors)
    result = run(small_config(n_sweeps=1), initial=warm)
    assert result.history[0].objective_before == pytest.approx(trained.history[-1].objective_after_items, rel=1e-5)
    assert result.history[0].objective_after_items < trained.history[-1].objective_after_items * (1 + 1e-6)


def test_a_resumed_run_goes_on_from_its_checkpoint_and_not_from_the_warm_start(tmp_path):
    trained: tuple[Factors, Factors] = (np.ones((N_USERS, 6), np.float32), np.ones((N_ITEMS, 6), np.float32))
    warm = WarmStart(np.arange(N_USERS), np.arange(N_ITEMS), *trained)
    stop = StopAfter(2)
    run(checkpoints=tmp_path, on_event=stop, should_stop=stop)
    assert same_bits(run(checkpoints=tmp_path, resume=True, initial=warm), run())
