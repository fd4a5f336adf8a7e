"""The ledger: every row read is accounted for once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rgals.data.ledger import Ledger, add_counts

COUNTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 100))


@settings(deadline=None)
@given(kept=st.integers(0, 100), merged=st.integers(0, 100), dropped=COUNTS, rejected=COUNTS, error=st.integers(-3, 3))
def test_a_ledger_is_balanced_exactly_when_its_numbers_add_up(kept, merged, dropped, rejected, error):
    read = kept + merged + sum(dropped.values()) + sum(rejected.values())
    ledger = Ledger(read=max(read + error, 0), kept=kept, merged=merged, dropped=dropped, rejected=rejected)
    assert ledger.is_balanced == (max(read + error, 0) == read)
    assert ledger.n_dropped == sum(dropped.values())
    assert ledger.n_rejected == sum(rejected.values())


@settings(deadline=None)
@given(st.lists(COUNTS))
def test_counts_add_up_by_name_and_zeros_leave_no_entry(several):
    total = {}
    for counts in several:
        add_counts(total, counts)
    assert sum(total.values()) == sum(sum(counts.values()) for counts in several)
    assert all(count > 0 for count in total.values())


def test_a_ledger_reads_from_top_to_bottom():
    ledger = Ledger(read=10, kept=4, merged=3, dropped={"rule": 2}, rejected={"reason": 1})
    assert ledger.describe() == [
        ("rows read", 10),
        ("rejected: reason", 1),
        ("dropped: rule", 2),
        ("merged as duplicates", 3),
        ("interactions kept", 4),
    ]


def test_a_ledger_survives_json_and_refuses_negative_counts():
    ledger = Ledger(read=1, rejected={"reason": 1})
    assert Ledger.model_validate_json(ledger.model_dump_json()) == ledger
    with pytest.raises(ValidationError):
        Ledger(read=-1)
    with pytest.raises(ValidationError):
        Ledger(dropped={"rule": -1})
