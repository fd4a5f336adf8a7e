import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rgals.errors import DataError
from rgals.evaluation.page import render_page, write_page
from rgals.evaluation.page_bucket_tables import bias_table, item_recall_table, user_bucket_table, wins_table
from rgals.evaluation.page_pictures import model_styles
from rgals.evaluation.page_tables import comparison_table, difference_table, key_table, metric_table
from rgals.evaluation.report import Report, read_report, write_report
from tests.evaluation.page_reports import REPORTS, bare_evaluation, full_report, report_document, with_a_start

VOID = {"meta", "link", "br", "hr", "img", "input", "path"}
SECTIONS = (
    "models", "time", "objective", "gap", "metrics", "tests", "buckets", "bias", "tuning", "users", "left-out",
    "provenance",
)  # fmt: skip


class Outline(HTMLParser):
    """Collects tags, sections and texts, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "section":
            self.sections.append(dict(attrs)["id"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)


def outline(report: Report) -> Outline:
    parser = Outline()
    parser.feed(render_page(report))
    parser.close()
    assert parser.open == []
    return parser


def text_of(report: Report) -> str:
    return re.sub(r"\s+", " ", " ".join(outline(report).texts))


@pytest.mark.parametrize("name", REPORTS)
def test_any_report_gives_a_small_page_whose_tags_are_closed(name: str) -> None:
    report = REPORTS[name]()
    found = outline(report)
    assert "table" in found.tags
    assert len(render_page(report).encode()) < 1_000_000


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_refers_to_nothing_outside_and_runs_nothing(name: str) -> None:
    page = render_page(REPORTS[name]())
    assert not re.search(r"<script|<img|<iframe|javascript:|@import|url\(|\son\w+=", page)
    addresses = re.findall(r"""(?:href|src|action|data)=["']([^"']*)""", page)
    assert addresses
    assert all(address.startswith("#") or address == "data:," for address in addresses)


def test_sections_come_in_order_and_those_without_numbers_are_left_out() -> None:
    assert tuple(outline(full_report()).sections) == SECTIONS
    assert outline(bare_evaluation()).sections == ["models", "metrics", "bias", "provenance"]
    assert outline(bare_evaluation(2)).sections == ["models", "metrics", "tests", "bias", "provenance"]


def test_a_report_that_was_written_and_read_gives_the_same_page(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path / "report.json")
    write_page(read_report(tmp_path / "report.json"), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_page(full_report())


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DataError, match="writing failed"):
        write_page(bare_evaluation(), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_letters_that_no_encoding_holds_do_not_stop_the_page(tmp_path: Path) -> None:
    report = bare_evaluation()
    broken = report.models[0].model_copy(update={"label": "broken \udc80 name"})
    write_page(report.model_copy(update={"models": [broken]}), tmp_path / "report.html")
    assert "broken ? name" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_says_who_was_measured_how() -> None:
    text = text_of(full_report())
    for wanted in (
        "29,858 users", "all 40,981 items ranked", "test part", "rgals compare data/gowalla-validation",
        "AMD EPYC 9R14", "24.0 GiB", "numpy 2.4.6", "9f2c4be07a5d16c38e41b0fa27d95c6412ab7e90c3d85f6a1b24e7708c9d3f51",
        "needs 6.7 GB for 40,981 items", "the library draws by thread", "12 users left out",
        "No factors for 4 evaluated",
    ):  # fmt: skip
        assert wanted in text


def test_tables_stay_tables_where_the_style_turns_rows_into_cards() -> None:
    # Some browsers forget what a table is once its parts are blocks; Chromium does not, so no browser test sees this.
    section = render_page(full_report()).split('id="models"')[1].split("</section>")[0]
    assert section.count("<tr") == 9
    assert re.findall(r"<(?:table|thead|tbody|tr|th|td)(?![^>]* role=)[^>]*>", section) == []


def test_strong_generalization_is_said_in_words() -> None:
    protocol = {**report_document(1)["protocol"], "generalization": "strong"}
    assert "users that the training never saw" in text_of(full_report(protocol=protocol))
    assert "never saw" not in text_of(full_report())


def test_the_key_table_has_the_best_first_with_ratios_to_the_best_softmax() -> None:
    report = full_report()
    models = sorted(report.models, key=lambda model: -(model.metrics["ndcg@20"].mean or 0))
    table = key_table(report, models, model_styles(report.models))
    assert table.columns == [
        "model", "NDCG@20", "95% interval", "Recall@20", "time to 99%", "training", "NDCG@20 ratio", "time ratio",
    ]  # fmt: skip
    assert [cell.text for cell in table.rows[1].cells] == [
        "0.1388", "0.1369 to 0.1409", "0.1249", "0.38 s", "0.54 s", "99.0%", "1 / 540",
    ]  # fmt: skip
    assert table.rows[0].cells[5].text == "the yardstick"
    assert [row.cells[0].is_best for row in table.rows] == [True] + [False] * 7
    assert table.rows[-1].cells[1].beyond == "left"
    span = table.rows[1].cells[1].span
    assert span is not None
    assert 0 < span[0] < span[1] < span[2] < 1


def test_slower_than_softmax_is_a_ratio_above_one() -> None:
    document = report_document()
    document["models"][0]["seconds_to_99"] = 4 * document["models"][4]["seconds_to_99"]
    report = Report.model_validate(document)
    table = key_table(report, report.models, model_styles(report.models))
    assert table.rows[0].cells[-1].text == "4 / 1"


def test_columns_without_a_number_are_left_out() -> None:
    report = bare_evaluation(2)
    table = key_table(report, report.models, model_styles(report.models))
    assert table.columns == ["model", "NDCG@20", "Recall@20"]
    assert [len(row.cells) for row in table.rows] == [2, 2]


def test_the_metric_table_holds_the_metrics_of_single_lists_with_intervals() -> None:
    report = full_report()
    table = metric_table(report.models, model_styles(report.models), 20)
    assert table.columns == ["model", "NDCG@20", "Recall@20", "Precision@20", "MAP@20", "MRR@20", "HitRate@20"]
    assert (table.rows[0].cells[0].text, table.rows[0].cells[0].small) == ("0.1388", "0.1369 to 0.1409")
    assert table.rows[4].cells[0].is_best


def test_the_tests_are_shown_with_their_verdicts() -> None:
    report = full_report()
    labels = {model.name: model.label for model in report.models}
    table = comparison_table(report, labels, model_styles(report.models), "ndcg@20")
    texts = {row.name: [cell.text for cell in row.cells] for row in table.rows}
    assert texts["softmax-cosine"][0] == "\N{MINUS SIGN}0.0014"
    assert texts["softmax-cosine"][-1] == "worse"
    assert texts["bpr"][-1] == "better"
    assert texts["bpr"][2] == "6,000 / 5,100"
    everything = difference_table(report, labels, model_styles(report.models), 100)
    assert everything.columns[1:] == ["NDCG@100", "Recall@100", "Precision@100", "MAP@100", "MRR@100", "HitRate@100"]
    assert everything.rows[3].cells[0].small.endswith("\nworse")


def test_wins_and_losses_have_bars_on_one_scale_per_row() -> None:
    report = full_report()
    labels = {model.name: model.label for model in report.models}
    for side in ("users", "items"):
        table = wins_table(report.comparisons, labels, model_styles(report.models), side)
        assert table is not None
        for row in table.rows:
            parts = [part for cell in row.cells if cell.split is not None for part in cell.split]
            assert len(parts) == 10
            assert max(parts) == 1.0
    bare = bare_evaluation(2)
    assert wins_table(bare.comparisons, {}, {}, "users") is None
    assert user_bucket_table(bare.models, {}, "ndcg@20") is None
    assert item_recall_table(bare.models, {}, "20") is None


def test_the_lists_are_held_against_what_users_took() -> None:
    report = full_report()
    table = bias_table(report, report.models, model_styles(report.models))
    assert table.columns[:4] == ["model", "Coverage", "Gini", "Popularity"]
    assert table.rows[-1].name == "held-out truth"
    assert table.rows[-1].cells[-1].text == "18.1%"
    assert [cell.text for cell in table.rows[-2].cells[3:]] == ["0.0%", "0.0%", "0.0%", "0.0%", "100.0%"]


def test_hits_of_sample_users_are_marked_and_counted() -> None:
    report = full_report()
    page = render_page(report)
    shown = [items for user in report.sample_users for items in user.lists.values()]
    n_hits = sum(item.is_hit for items in shown for item in items)
    n_found = sum(
        item_id in {item.item_id for items in user.lists.values() for item in items if item.is_hit}
        for user in report.sample_users
        for item_id in user.held_out
    )
    assert page.count('<li class="hit">✓') == n_hits + n_found
    assert page.count("<summary>User <bdi>user-") == 10


def test_long_lists_are_cut_and_say_so() -> None:
    document = report_document(1)
    user = document["sample_users"][0]
    user["lists"] = {name: items * 5 for name, items in user["lists"].items()}
    user["held_out"] = [f"i{place}" for place in range(50)]
    text = text_of(Report.model_validate({**document, "titles": {}}))
    assert "the first 20 places" in text
    assert "20 of 50" in text


def test_the_page_says_that_an_objective_is_drawn_in_two_parts() -> None:
    document = report_document(2)
    assert "Its start" not in text_of(Report.model_validate(document))
    with_a_start(document["models"][0], 3)
    found = text_of(Report.model_validate(document))
    assert "Its start: the first rounds of a model, which minimize another loss" in found
    assert "rgx-weighted: its start" in found


def test_marks_that_do_not_explain_themselves_are_explained_where_they_are_drawn() -> None:
    full, bare = text_of(full_report()), text_of(bare_evaluation(2))
    for sentence in (
        "A triangle: the interval lies beyond the scale",
        "A time ratio of 1 / 10 is a tenth of the time",
        "With 1,000 resamples the bootstrap's p is never below 0.0020.",
        "Matters: how much of the differences between the trials",
        "Every model has the same data",
    ):
        assert sentence in full
        assert sentence not in bare
    untuned = "none was tuned for this report"
    assert untuned in bare
    assert untuned not in full
    assert untuned not in text_of(bare_evaluation(1))


def test_notes_on_a_model_stand_beside_its_numbers() -> None:
    models = render_page(full_report()).partition('<section id="models">')[2].partition("</section>")[0]
    assert "Note on <bdi>bpr</bdi>: results differ by the number of threads: the library draws by thread." in models


def test_a_user_to_whom_nothing_is_shown_that_was_held_out_is_told_of_in_words() -> None:
    document = report_document(1)
    for item in document["sample_users"][0]["lists"]["rgx-weighted"]:
        item["is_hit"] = False
    found = text_of(Report.model_validate(document))
    assert "4 seen, 2 held out; the best list finds none" in found
    assert "13 seen, 4 held out; the best list finds 1" in found
