import pytest

from rgals.evaluation.page_format import (
    bytes_text,
    count,
    fixed,
    metric_name,
    metric_value,
    option_value,
    p_value,
    percent,
    plain,
    seconds,
    short,
    signed,
    times,
    unbroken,
)

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0004, "0.00040 s"), (0.04, "0.040 s"), (0.381, "0.38 s"), (9.87, "9.87 s"), (12.34, "12.3 s"),
        (202.4, "202 s"), (5581.4, "5,581 s"), (0.0, "0.00 s"),
    ],
)  # fmt: skip
def test_seconds_keep_the_digits_that_matter(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.25, "1.2"), (9.0, "9"), (14.4, "14"), (537.2, "540"), (51234.0, "51,000")]
)
def test_ratios_say_no_more_than_two_digits(ratio: float, text: str) -> None:
    assert times(ratio) == text


def test_a_difference_has_a_sign_unless_it_rounds_to_zero() -> None:
    assert [signed(0.0014), signed(-0.0014), signed(-0.00001), signed(0.0)] == [
        "+0.0014", f"{MINUS}0.0014", "0.0000", "0.0000",
    ]  # fmt: skip


def test_p_values_are_bounded_where_they_are_tiny() -> None:
    assert [p_value(p) for p in (0.0, 0.00009, 0.0004, 0.013, 1.0)] == [
        "< 0.0001",
        "< 0.0001",
        "0.0004",
        "0.0130",
        "1.00",
    ]


def test_a_p_value_is_never_rounded_across_the_level() -> None:
    assert p_value(0.0496) != p_value(0.0504)


def test_numbers_of_any_size_are_short() -> None:
    assert [short(value) for value in (0, 1234567.0, 0.00123456, -2.5, 1.5e12, 2e-9)] == [
        "0", "1,234,567", "0.00123", f"{MINUS}2.50", "1.50e12", f"2.00e{MINUS}9",
    ]  # fmt: skip
    assert [plain(value) for value in (0.2, 3.0, 0.03303, -0.5, 1e4, 1e-6)] == [
        "0.2",
        "3",
        "0.03303",
        f"{MINUS}0.5",
        "10,000",
        f"1e{MINUS}06",
    ]


def test_what_is_undefined_is_a_dash_everywhere() -> None:
    texts = {
        fixed(None), signed(None), short(None), plain(None), count(None), percent(None), seconds(None), p_value(None),
        metric_value("ndcg@20", None), metric_value("popularity@20", None), bytes_text(None),
    }  # fmt: skip
    assert texts == {"\N{EM DASH}"}


def test_metrics_have_the_names_that_people_use() -> None:
    names = [metric_name(key) for key in ("ndcg@20", "hit_rate@5", "mrr@100", "recall@20", "coverage@20")]
    assert names == ["NDCG@20", "HitRate@5", "MRR@100", "Recall@20", "Coverage@20"]
    assert metric_value("popularity@20", 214.68) == "214.7"
    assert metric_value("popularity@20", 21468.2) == "21,468"
    assert metric_value("recall@20", 0.15) == "0.1500"


def test_options_are_one_line() -> None:
    assert option_value({"a": [1, 0.25], "b": None, "c": True, "d": {}}) == "a: 1, 0.25, b: none, c: yes, d: none"
    assert option_value([]) == "none"


def test_a_number_stays_on_the_line_of_its_unit() -> None:
    assert unbroken("after 0.27 s; 12 sets, p = 0.01 or p < 0.1") == (
        "after 0.27\N{NO-BREAK SPACE}s; 12 sets, p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.01 "
        "or p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.1"
    )


def test_bytes_have_the_largest_unit_that_fits() -> None:
    assert [bytes_text(value) for value in (0, 900, 2048, 24 << 30)] == ["0 B", "900 B", "2.00 KiB", "24.0 GiB"]
