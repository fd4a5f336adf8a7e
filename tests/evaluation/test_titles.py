from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rgals.errors import DataError, InputError
from rgals.evaluation.report import Report
from rgals.evaluation.titles import TitleTable
from tests.evaluation.page_reports import report_document


def report_naming(*item_ids: str) -> Report:
    """Give a report with one user, who has seen some items, is shown one and has one held out."""
    first, second, *seen = item_ids
    document = report_document(1)
    lists = {"rgx-weighted": [{"item_id": first, "is_hit": False}]}
    user = {"user_id": "u", "n_seen": len(seen), "seen": seen, "held_out": [second], "lists": lists}
    return Report.model_validate({**document, "sample_users": [user], "titles": {}})


def test_titles_of_the_named_items_are_taken_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('item_id,year,title\na,1999,"Alien, the first"\nb,2000,Brazil\nx,2001,nobody asked\nc,2002,\n')
    found = TitleTable.open(path).add_to(report_naming("a", "b", "c", "d"))
    assert found.titles == {"a": "Alien, the first", "b": "Brazil"}


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([1, 2, 7]),
        pa.array([1, 2, 7], pa.int16()),
        pa.array(["1", "2", "7"]),
        pa.array(["1", "2", "7"], pa.large_string()),
        pa.array(["1", "2", "7"]).dictionary_encode(),
    ],
)
def test_ids_match_by_their_text_whatever_the_type_of_a_parquet_column(tmp_path: Path, ids: pa.Array) -> None:
    pq.write_table(pa.table({"movieId": ids, "name": ["one", None, "seven"]}), tmp_path / "items.parquet")
    table = TitleTable.open(tmp_path / "items.parquet", "movieId, name")
    assert table.add_to(report_naming("7", "2", "1")).titles == {"1": "one", "7": "seven"}


def test_the_first_of_two_titles_counts_and_broken_letters_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b"item_id,title\na,first\na,second\nb,caf\xe9\n")
    found = TitleTable.open(tmp_path / "items.csv").add_to(report_naming("a", "b"))
    assert found.titles == {"a": "first", "b": "caf\N{REPLACEMENT CHARACTER}"}


def test_a_table_without_the_columns_is_refused_before_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,title\na,A\n")
    with pytest.raises(InputError, match=r"no column 'item_id'.*with --title-columns$"):
        TitleTable.open(tmp_path / "items.csv")
    with pytest.raises(InputError, match="expected two names such as item_id,title, found 'item'"):
        TitleTable.open(tmp_path / "items.csv", "item")
    with pytest.raises(InputError, match="no such file"):
        TitleTable.open(tmp_path / "none.csv")
    (tmp_path / "items.parquet").write_text("not Parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        TitleTable.open(tmp_path / "items.parquet")
