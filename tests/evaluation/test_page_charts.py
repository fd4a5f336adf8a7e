import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgals.evaluation.page_charts import MARKERS, Chart, Series, draw_chart, fit_text, text_width, thin_out
from rgals.evaluation.page_pictures import (
    convergence_charts,
    model_styles,
    objective_charts,
    reach_sentence,
    trial_chart,
)
from rgals.evaluation.report import Report
from tests.evaluation.page_reports import bare_evaluation, full_report, report_document, twelve_models


def chart_of(*series: Series, is_log: bool = False, label_room: float = 0.0) -> Chart:
    return draw_chart(
        series, title="t", description="d", x_label="x", y_label="y", size=(600.0, 300.0), is_log=is_log,
        label_room=label_room, x_unit=" s" if is_log else "",
    )  # fmt: skip


def test_a_larger_value_is_higher_and_a_later_one_further_right() -> None:
    [curve] = chart_of(Series("a", [(1.0, 0.1), (2.0, 0.3)], "rg-0")).curves
    (x_first, y_first), (x_last, y_last) = [
        tuple(map(float, pair.split())) for pair in curve.path.removeprefix("M").split("L")
    ]
    assert x_last > x_first
    assert y_last < y_first


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis() -> None:
    [curve] = chart_of(Series("a", [(0.1, 1.0), (1.0, 2.0), (10.0, 3.0)], "rg-0"), is_log=True).curves
    xs = [float(pair.split()[0]) for pair in curve.path.removeprefix("M").split("L")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_ticks_are_round_numbers_inside_the_axis_and_enough_to_read() -> None:
    chart = chart_of(Series("a", [(1.0, 8.21), (6.0, 9.83)], "rg-0"))
    assert [tick.text for tick in chart.y_ticks] == ["8.25", "8.50", "8.75", "9.00", "9.25", "9.50", "9.75"]
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3", "4", "5", "6"]


@given(low=st.floats(1e-4, 10), ratio=st.floats(1.0, 1e6), n=st.integers(1, 5))
def test_texts_of_a_logarithmic_axis_keep_apart(low: float, ratio: float, n: int) -> None:
    points = [(low * ratio ** (place / n), 0.1 * place) for place in range(n + 1)]
    chart = chart_of(Series("a", points, "rg-0"), is_log=True)
    spoken = [tick for tick in chart.x_ticks if tick.text]
    for before, after in pairwise(spoken):
        assert before.at + text_width(before.text) / 2 < after.at - text_width(after.text) / 2
    assert all(chart.left <= tick.at <= chart.right for tick in chart.x_ticks)


@given(ends=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=14))
def test_names_at_the_ends_never_overlap_and_stay_in_the_box(ends: list[float]) -> None:
    series = [Series(f"model {place}", [(1.0, 0.0), (2.0, end)], "rg-0", place) for place, end in enumerate(ends)]
    chart = chart_of(*series, label_room=150.0)
    placed = sorted(curve.end.y for curve in chart.curves if curve.end is not None)
    assert len(placed) == len(ends)
    assert all(after - before >= 14.9 for before, after in pairwise(placed))
    assert placed[0] >= chart.top - 1
    assert placed[-1] <= chart.bottom + 7


def test_the_order_of_the_names_is_the_order_of_the_curves() -> None:
    series = [Series(name, [(1.0, 0.0), (2.0, end)], "rg-0") for name, end in (("b", 0.5), ("a", 0.9), ("c", 0.49))]
    curves = chart_of(*series, label_room=150.0).curves
    by_height = sorted(curves, key=lambda curve: curve.end.y if curve.end is not None else math.nan)
    assert [curve.label for curve in by_height] == ["a", "b", "c"]


@given(text=st.text(min_size=0, max_size=80), width=st.floats(20, 400))
def test_a_text_is_made_to_fit(text: str, width: float) -> None:
    assert text_width(fit_text(text, width)) <= max(width, text_width("…"))


def test_a_text_is_cut_in_its_middle() -> None:
    assert re.fullmatch(r"a name.*….*256", fit_text("a name of a model whose end matters 256", 150))


def test_a_curve_of_many_points_is_thinned_evenly_along_its_axis() -> None:
    points = [(float(x), 1.0 / x) for x in range(1, 5001)]
    for is_log in (False, True):
        kept = thin_out(points, is_log)
        assert len(kept) <= 152
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert kept == sorted(kept)
    assert len([x for x, _ in thin_out(points, True) if x < 70]) > 40
    assert thin_out(points[:150], True) == points[:150]


def test_a_single_point_has_no_line_but_a_mark() -> None:
    [curve] = chart_of(Series("a", [(0.0, 0.3)], "rg-0", 2, best=(0.0, 0.3))).curves
    assert curve.path == ""
    assert curve.mark is not None
    assert curve.mark.path == MARKERS[2]


def test_every_model_has_a_shape_of_its_own() -> None:
    styles = model_styles(twelve_models().models)
    assert len({style.path for style in styles.values()}) == 12
    assert len({(style.color, style.dash) for style in styles.values()}) == 12
    assert styles["softmax-cosine"].color == "softmax-1"


def test_every_curve_is_drawn_and_the_best_again_in_a_close_up() -> None:
    report = full_report()
    [(wide, narrow), (close, _)] = convergence_charts(report, model_styles(report.models))
    assert [curve.label for curve in wide.curves] == [model.label for model in report.models]
    assert all(curve.end is not None for curve in wide.curves)
    assert all(curve.end is None for curve in narrow.curves)
    assert "popularity" not in {curve.label for curve in close.curves}
    assert len(close.curves) > 2


def test_a_ring_is_where_99_percent_is_reached_and_the_mark_at_the_best() -> None:
    report = full_report()
    [(wide, _), *_] = convergence_charts(report, model_styles(report.models))
    for curve in wide.curves:
        assert curve.ring is not None
        assert curve.mark is not None
        assert curve.ring.x <= curve.mark.x
        assert curve.ring.y >= curve.mark.y


def test_without_curves_there_is_no_picture() -> None:
    report = bare_evaluation(2)
    assert convergence_charts(report, model_styles(report.models)) == []
    assert reach_sentence(report) == ""


def test_zero_seconds_stand_at_the_left_edge() -> None:
    document = report_document(2)
    for point in document["models"][1]["curve"]:
        point["train_s"] = 0.0
    report = Report.model_validate(document)
    [(wide, _), *_] = convergence_charts(report, model_styles(report.models))
    assert wide.curves[1].mark is not None
    assert wide.curves[1].mark.x < wide.left + 40


def test_the_level_of_the_best_softmax_is_the_same_for_all() -> None:
    document = report_document()
    for point in document["models"][0]["curve"]:
        point["ndcg"] = 0.2
    sentence = reach_sentence(Report.model_validate(document))
    assert re.match(
        r"One level for all: 0\.1175, which is 99% of the best of softmax-cosine\. "
        r"Reached by rgx-weighted after 0\.075 s; softmax-cosine after 202 s\. Not reached by rgx; rg2;",
        sentence,
    )
    assert "popularity" not in sentence


def test_the_chart_of_trials_shows_the_best_so_far_and_how_trials_ended() -> None:
    report = full_report()
    model = report.models[0]
    assert model.tuning is not None
    drawn = trial_chart(model.label, model.tuning, model_styles(report.models)[model.name], "NDCG@20")
    assert drawn is not None
    n_pruned = sum(trial.state == "pruned" for trial in model.tuning.trials)
    assert (len(drawn.pruned), len(drawn.complete)) == (n_pruned, 19 - n_pruned)
    heights = [float(pair.split()[1]) for pair in drawn.chart.curves[0].path.removeprefix("M").split("L")]
    assert heights == sorted(heights, reverse=True)
    assert (
        trial_chart("a", model.tuning.model_copy(update={"trials": []}), model_styles(report.models)[model.name], "m")
        is None
    )


@pytest.mark.parametrize(("n_start", "expected"), [(0, [6]), (4, [4, 2]), (5, [5]), (1, [5]), (6, [6])])
def test_the_objective_of_a_start_with_another_loss_is_drawn_apart(n_start: int, expected: list[int]) -> None:
    document = report_document(1)
    document["models"][0]["n_start_rounds"] = n_start
    for point in document["models"][0]["curve"]:
        point["objective"] = -5e6 - point["round"] if point["round"] <= n_start else -1e6 - point["round"]
    report = Report.model_validate(document)
    charts = objective_charts(report, model_styles(report.models))
    assert [chart.curves[0].path.count("L") + 1 for chart in charts] == expected
    rounds = {"rgx-weighted: its start": (1, n_start), "rgx-weighted": (n_start + 1, 6)}
    for chart in charts:
        first, last = rounds[chart.title]
        assert f"at round {first} to" in chart.description
        assert chart.description.endswith(f"at round {last}.")


def test_the_names_of_rgals_own_models_are_written_out_at_the_ends_of_their_curves() -> None:
    document = report_document(2)
    document["models"][0]["label"] = "RG, re-expanded to softmax"
    report = Report.model_validate(document)
    wide, _ = convergence_charts(report, model_styles(report.models))[0]
    ends = [curve.end for curve in wide.curves if curve.end is not None]
    assert [end.text for end in ends] == ["RG, re-expanded to softmax", "rgx"]
