"""Training where everything is sent through pickle, and training that loses its factors."""

import numpy as np
import pytest

from rgals.data.shards import InMemoryInteractions
from rgals.errors import BlockLostError
from rgals.execution import InProcessExecutor
from rgals.training.factor_blocks import FactorReader
from rgals.training.trainer import train
from tests.training.executors import LosingExecutor, PicklingExecutor
from tests.training.runs import planted, run, same_bits, small_config


def train_on(executor, config, tmp_path=None, n_shards=2, **options):
    rows, validation = planted(is_weighted=True)
    return train(
        InMemoryInteractions(rows, n_shards),
        config,
        executor=executor,
        validation=validation,
        checkpoints=None if tmp_path is None else tmp_path,
        **options,
    )


@pytest.mark.parametrize("loss", ["rg2", "rgx", "ials", "rg-softmax"])
@pytest.mark.parametrize("exponent", [0.0, -0.5])
def test_a_run_whose_data_is_sent_around_gives_the_same_bits(tmp_path, loss, exponent):
    options = {"softmax_users": 16, "checkpoint_every": 2, "patience": 4, "start_sweeps": 2, "n_hard": 7}
    config = small_config(loss=loss, user_exponent=exponent, **options)
    here = train_on(InProcessExecutor(1), config, tmp_path / "a")
    sent = train_on(PicklingExecutor(1), config, tmp_path / "b")
    assert same_bits(here, sent)
    assert [s.objective_after_items for s in here.history] == [s.objective_after_items for s in sent.history]
    assert [s.ndcg for s in here.history] == [s.ndcg for s in sent.history]
    assert [s.softmax for s in here.history] == [s.softmax for s in sent.history]


def test_a_resume_on_another_executor_and_another_cut_gives_the_same_bits(tmp_path):
    whole = train_on(InProcessExecutor(2), small_config(n_sweeps=5))
    train_on(PicklingExecutor(1), small_config(n_sweeps=2, checkpoint_every=1), tmp_path, n_shards=2)
    resumed = train_on(
        InProcessExecutor(1), small_config(n_sweeps=5, checkpoint_every=1), tmp_path, n_shards=1, resume=True
    )
    assert same_bits(whole, resumed)


@pytest.mark.parametrize("lost_at", [1, 2, 3, 6, 9, 10])
@pytest.mark.parametrize("checkpoint_every", [0, 1, 2])
def test_a_run_that_lost_its_factors_goes_back_and_gives_the_same_bits(tmp_path, lost_at, checkpoint_every):
    events = []
    config = small_config(n_sweeps=5, checkpoint_every=checkpoint_every)
    lost = train_on(LosingExecutor([lost_at]), config, tmp_path, on_event=events.append)
    assert same_bits(lost, train_on(InProcessExecutor(1), small_config(n_sweeps=5)))
    (recovery,) = [event for event in events if event.kind == "recovery"]
    done = (lost_at - 1) // 2
    assert recovery.lost_sweep == done
    assert recovery.sweep == (done // checkpoint_every * checkpoint_every if checkpoint_every else 0)
    assert "node 10.0.0.7 left the cluster" in recovery.reason
    assert [summary.sweep for summary in lost.history] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("function", "lost_at"),
    [
        *(("solve_shard", call) for call in (3, 5, 6, 9, 10)),
        *(("expand_shard", call) for call in (1, 2, 4)),
        ("turn_entries", 2), ("cut_entries", 1), ("cut_entries", 3), ("blend_block", 1), ("blend_block", 2),
    ],
)  # fmt: skip
def test_a_run_of_rg_softmax_that_lost_its_factors_gives_the_same_bits(tmp_path, function, lost_at):
    events = []
    options = {"loss": "rg-softmax", "reg": 0.3, "n_sweeps": 5, "start_sweeps": 2, "n_hard": 7}
    config = small_config(**options, checkpoint_every=1)
    lost = train_on(LosingExecutor([lost_at], function=function), config, tmp_path, on_event=events.append)
    assert same_bits(lost, train_on(InProcessExecutor(1), small_config(**options)))
    assert len([event for event in events if event.kind == "recovery"]) == 1


def test_a_recovered_run_keeps_counting_patience_and_its_best_factors(tmp_path):
    config = small_config(n_sweeps=12, checkpoint_every=3, patience=3)
    unhurt = train_on(InProcessExecutor(1), config, tmp_path / "a")
    hurt = train_on(LosingExecutor([6, 9]), config, tmp_path / "b")
    assert (unhurt.stop_reason, unhurt.kept_sweep, unhurt.best_ndcg) == (
        hurt.stop_reason,
        hurt.kept_sweep,
        hurt.best_ndcg,
    )
    assert same_bits(unhurt, hurt)


def test_a_recovered_warm_start_begins_from_the_same_factors():
    rows = planted()[0]
    start = run(small_config(n_sweeps=1), rows=rows)
    from rgals.training.warm_start import WarmStart

    warm = WarmStart(np.arange(rows.n_rows), np.arange(rows.n_columns), start.user_factors, start.item_factors)
    unhurt = train_on(InProcessExecutor(1), small_config(), initial=warm)
    assert same_bits(unhurt, train_on(LosingExecutor([4]), small_config(), initial=warm))


def test_a_run_that_never_comes_further_gives_up_and_keeps_its_checkpoint(tmp_path):
    config = small_config(n_sweeps=5, checkpoint_every=1)
    with pytest.raises(BlockLostError, match=r"sweep 2 was lost 4 times.*go on with --resume auto"):
        train_on(LosingExecutor(range(5, 100)), config, tmp_path)
    resumed = train_on(InProcessExecutor(1), config, tmp_path, resume="auto")
    assert same_bits(resumed, train_on(InProcessExecutor(1), small_config(n_sweeps=5)))


def test_a_loss_while_the_checkpoint_is_loaded_is_recovered_from_too(tmp_path):
    config = small_config(n_sweeps=4, checkpoint_every=1)
    events = []
    found = train_on(LosingExecutor([5], lost_reads=[1]), config, tmp_path, on_event=events.append)
    assert same_bits(found, train_on(InProcessExecutor(1), small_config(n_sweeps=4)))
    assert [event.kind for event in events].count("recovery") == 1


def test_losses_further_and_further_on_are_not_giving_up(tmp_path):
    config = small_config(n_sweeps=8, checkpoint_every=1)
    found = train_on(LosingExecutor([3, 6, 9, 12, 15]), config, tmp_path)
    assert same_bits(found, train_on(InProcessExecutor(1), small_config(n_sweeps=8)))


def test_rows_are_read_as_the_whole_is(tmp_path):
    result = train_on(PicklingExecutor(1), small_config())
    for side, rows in (("user", np.array([0, 3, 511, 512, 699])), ("item", np.array([0, 59]))):
        reader = FactorReader(PicklingExecutor(1), result.factors.state)
        found = reader.read_rows(side, rows)
        assert found.tobytes() == reader.read_all(side)[rows].tobytes()


def test_blocks_can_be_read_in_another_basis():
    result = train_on(InProcessExecutor(1), small_config())
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    users = np.concatenate(list(result.factors.read_blocks("user", basis)))
    items = np.concatenate(list(result.factors.read_blocks("item", basis)))
    np.testing.assert_allclose(users @ items.T, result.user_factors @ result.item_factors.T, rtol=1e-4, atol=1e-5)


def test_checkpoints_come_after_some_seconds_of_work_without_being_asked_for(tmp_path):
    events = []
    train_on(InProcessExecutor(1), small_config(checkpoint_seconds=1e-9), tmp_path, on_event=events.append)
    assert [event.sweep for event in events if event.kind == "checkpoint"] == [1, 2, 3, 4, 5]
    events.clear()
    train_on(InProcessExecutor(1), small_config(checkpoint_seconds=0), tmp_path / "other", on_event=events.append)
    assert not [event for event in events if event.kind == "checkpoint"]
