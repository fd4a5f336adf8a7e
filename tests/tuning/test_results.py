"""The table and the picture of a search."""

import csv

import numpy as np
import pytest

from rgals.tuning.results import draw_search, write_trials
from rgals.tuning.search import search
from rgals.tuning.space import SearchSpace
from rgals.tuning.study import FinishedTrial
from rgals.tuning.trial import TrialResult
from tests.tuning.problems import SPACE, curve_of, open_study, run


@pytest.fixture
def trials(tmp_path):
    with open_study(tmp_path / "study") as study:
        search(study, run, budget_trials=8)
        failed = FinishedTrial(8, TrialResult.failure(SPACE.defaults(), "no, not finite", 1.0))
        return [*study.trials, failed]


def test_the_table_has_a_line_for_each_trial(trials, tmp_path):
    write_trials(tmp_path / "trials.csv", trials, SPACE)
    with (tmp_path / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["trial"]) for row in rows] == list(range(1, 10))
    first = trials[0].result
    assert float(rows[0]["ndcg"]) == first.best_ndcg
    assert (int(rows[0]["n_rounds"]), int(rows[0]["best_round"]), float(rows[0]["train_s"])) == (8, 8, 0.8)
    assert [rows[0][name] for name in SPACE.names] == ["0.03", "0.0", "3", "flat"]
    assert rows[8] | {"state": "failed", "ndcg": "", "n_rounds": "0", "reason": "no, not finite"} == rows[8]


@pytest.mark.parametrize("n_trials", [0, 1, 9])
def test_the_picture_has_a_panel_for_each_option(trials, tmp_path, n_trials, monkeypatch):
    panels = []
    from matplotlib.figure import Figure

    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: panels.append(self.axes) or original(self, *a, **k))
    draw_search(tmp_path / "a.png", trials[:n_trials], SPACE, "ndcg@20")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_xlabel() for axes in panels[0]] == ["trial", "rate", "tilt", "depth", "kind", ""]
    assert panels[0][0].get_ylabel() == "validation NDCG@20"
    points = [sum(len(drawn.get_offsets()) for drawn in axes.collections) for axes in panels[0]]
    assert points == [min(n_trials, 8)] * 5 + [0], "a failed trial has no point"
    scores = [trial.result.best_ndcg if trial.result.is_scored else 0.0 for trial in trials[: min(n_trials, 8)]]
    line = panels[0][0].lines[0]
    assert line.get_ydata().tolist() == np.maximum.accumulate(scores).tolist()
    assert line.get_xdata().tolist() == list(range(1, len(scores) + 1))


def test_hopeless_trials_do_not_press_the_others_into_a_line(tmp_path, monkeypatch):
    values = [0.30, 0.31, 0.32, 0.33, 0.001]
    trials = [
        FinishedTrial(number, TrialResult.of_curve({}, curve_of(value), 1.0)) for number, value in enumerate(values)
    ]
    limits = []
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: limits.append(self.axes[0].get_ylim()))
    draw_search(tmp_path / "a.png", trials, SearchSpace(()), "ndcg@20")
    assert limits[0][0] > 0.2
    assert limits[0][1] > 0.33
