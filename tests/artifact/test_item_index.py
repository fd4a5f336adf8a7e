"""Approximate indexes: what they find, how they are judged, and that what is not good enough is not used."""

import json

import numpy as np
import pytest

from rgals.artifact.item_index import (
    IndexOptions,
    ItemIndex,
    build_item_index,
    choose_search,
    measure_recall,
    open_item_index,
)
from rgals.artifact.model import Model
from rgals.artifact.queries import RankingRequest
from rgals.artifact.registry import read_current
from rgals.artifact.registry_index import attach_index, build_index, fetch_attached_index, read_index_record
from rgals.artifact.registry_store import RegistryStore
from rgals.errors import ChecksumError, DataError, FormatVersionError
from rgals.numerics.topk import top_k
from tests.artifact.catalog import N_ITEMS, write_catalog
from tests.services.recommender.harness import publish_model

OPTIONS = IndexOptions(n_users=50)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return write_catalog(tmp_path_factory.mktemp("index") / "model")


@pytest.fixture(scope="module")
def index(model) -> ItemIndex:
    return build_item_index(np.array(model.item_factors), OPTIONS, 1)


def test_an_index_finds_nearly_all_of_the_exact_lists(model, index):
    recall, n_users = measure_recall(model.contents, index, OPTIONS, 1)
    assert n_users == 50
    assert recall > 0.97


def test_what_it_finds_keeps_the_contract_and_has_the_scores_of_the_factors(model, index):
    for user in range(30):
        seen = model.seen.columns_of(user)
        rows, scores = index.rank(model.user_factors[user], model.item_factors, 10, seen)
        assert len(set(rows.tolist())) == 10
        assert not set(rows.tolist()) & set(seen.tolist())
        assert list(zip(-scores, rows, strict=True)) == sorted(zip(-scores, rows, strict=True))
        assert scores == pytest.approx(model.item_factors[rows] @ model.user_factors[user], rel=1e-5)
        exact = top_k(
            model.user_factors[user : user + 1], model.item_factors, 10, seen=model.seen.row_slice(user, user + 1)
        )
        assert np.isin(rows, exact.items[0]).mean() >= 0.7


def test_it_gives_up_where_looking_at_all_items_is_no_slower(model, index):
    many = np.arange(0, N_ITEMS, 3, dtype=np.int32)
    assert index.rank(model.user_factors[0], model.item_factors, 10, many) is None
    assert index.rank(model.user_factors[0], model.item_factors, 400, many[:0]) is None


def test_lists_say_whether_they_are_exact(model, index):
    users = list(range(20))
    requests = [
        *[RankingRequest(user_id=user) for user in users],
        RankingRequest(user_id=0, candidates=[1, 2, 3]),
        RankingRequest(user_id="new", fallback="popular"),
        RankingRequest(history=[5, 6, 7]),
    ]
    answers = model.answer(requests, index=index)
    assert [answer.is_exact for answer in answers] == [False] * 20 + [True, True, False]
    exact = model.answer(requests)
    assert all(answer.is_exact for answer in exact)
    assert answers[20:22] == exact[20:22]
    shared = [len(set(a.items) & set(b.items)) for a, b in zip(answers, exact, strict=True)]
    assert sum(shared[:20]) > 0.97 * 200


def test_an_index_comes_back_from_its_file(model, index, tmp_path):
    index.save(tmp_path / "i")
    opened = open_item_index(tmp_path / "i", N_ITEMS, index.expansion_search)
    for user in range(5):
        rows, scores = index.rank(model.user_factors[user], model.item_factors, 5, np.empty(0, np.int32))
        again = opened.rank(model.user_factors[user], model.item_factors, 5, np.empty(0, np.int32))
        assert (rows.tolist(), scores.tolist()) == (again[0].tolist(), again[1].tolist())
    with pytest.raises(DataError, match="expected an index over 7 items, found 3000"):
        open_item_index(tmp_path / "i", 7, 64)


def test_an_index_is_attached_with_its_recall_and_opened_with_its_version(model, tmp_path):
    publish_model(tmp_path / "r", model)
    current = read_current(tmp_path / "r")
    assert fetch_attached_index(tmp_path / "r", current.manifest_sha256, tmp_path) is None
    with build_index(model, OPTIONS.model_copy(update={"gate": 0.9}), 1) as built:
        attach_index(tmp_path / "r", model, built)
    assert not built.path.exists()
    record = read_index_record(tmp_path / "r", current.manifest_sha256)
    assert record == built.record
    assert record.is_passed
    assert record.recall > 0.97
    opened = fetch_attached_index(tmp_path / "r", current.manifest_sha256, tmp_path).open(model)
    assert isinstance(opened, ItemIndex)
    assert opened.expansion_search == record.expansion_search


def test_an_index_searches_as_widely_after_it_was_opened_as_when_it_was_judged(model, tmp_path):
    graph = IndexOptions(n_users=200, connectivity=4, expansion_add=16)
    build_item_index(np.array(model.item_factors), graph, 1).save(tmp_path / "i")
    recalls = [
        measure_recall(model.contents, open_item_index(tmp_path / "i", N_ITEMS, n), graph, 1)[0] for n in (20, 500)
    ]
    assert recalls[0] < recalls[1] - 0.02


def test_the_fewest_candidates_that_pass_the_gate_are_chosen(model, index):
    searches = [
        choose_search(model.contents, index, OPTIONS.model_copy(update={"gate": gate}), 1) for gate in (0.01, 0.9, 1.0)
    ]
    assert searches[0] == 64
    assert searches == sorted(searches)
    assert index.expansion_search == searches[-1]
    assert choose_search(model.contents, index, OPTIONS.model_copy(update={"expansion_search": 77}), 1) == 77
    index.expansion_search = 1024


def test_other_users_judge_than_those_by_whom_the_search_was_chosen(model, index, monkeypatch):
    asked: list[np.ndarray] = []
    take = type(model.contents.seen).take
    monkeypatch.setattr(type(model.contents.seen), "take", lambda self, rows: asked.append(rows) or take(self, rows))
    choose_search(model.contents, index, OPTIONS.model_copy(update={"gate": 0.01}), 1)
    measure_recall(model.contents, index, OPTIONS, 1)
    assert [rows.size for rows in asked] == [50, 50]
    assert not np.intersect1d(*asked).size
    index.expansion_search = 1024


def test_an_index_below_its_gate_is_not_used(model, tmp_path):
    publish_model(tmp_path / "r", model)
    weak = IndexOptions(n_users=50, connectivity=2, expansion_add=1, expansion_search=1)
    with build_index(model, weak, 1) as built:
        assert not built.record.is_passed
        attach_index(tmp_path / "r", model, built)
    assert fetch_attached_index(tmp_path / "r", read_current(tmp_path / "r").manifest_sha256, tmp_path) is None


def test_a_damaged_index_and_a_foreign_one_are_refused(model, tmp_path):
    publish_model(tmp_path / "r", model)
    manifest = read_current(tmp_path / "r").manifest_sha256
    with build_index(model, OPTIONS.model_copy(update={"gate": 0.9}), 1) as built:
        attach_index(tmp_path / "r", model, built)
    folder = tmp_path / "r" / "indexes" / manifest
    record = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**record, "factor_sha256": "0" * 64}))
    with pytest.raises(DataError, match="belongs to another model"):
        fetch_attached_index(tmp_path / "r", manifest, tmp_path).open(model)
    (folder / "index.json").write_text(json.dumps({**record, "format_version": 99}))
    with pytest.raises(FormatVersionError):
        read_index_record(tmp_path / "r", manifest)
    (folder / "index.json").write_text("{}")
    with pytest.raises(DataError, match="not a readable record"):
        read_index_record(tmp_path / "r", manifest)
    (folder / "index.json").write_text(json.dumps(record))
    content = bytearray((folder / "index.usearch").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "index.usearch").write_bytes(content)
    with pytest.raises(ChecksumError, match="expected SHA-256"):
        fetch_attached_index(tmp_path / "r", manifest, tmp_path)


@pytest.mark.parametrize("n_writes", [0, 1])
def test_an_index_that_was_being_replaced_when_its_publisher_ended_does_not_count(
    model, tmp_path, monkeypatch, n_writes
):
    publish_model(tmp_path / "r", model)
    manifest = read_current(tmp_path / "r").manifest_sha256
    options = OPTIONS.model_copy(update={"gate": 0.9})
    other = options.model_copy(update={"connectivity": 8})
    with build_index(model, options, 1) as first, build_index(model, other, 1) as second:
        attach_index(tmp_path / "r", model, first)
        write_file, written = RegistryStore.write_file, []

        def ends(self, folder, name, content):
            if len(written) == n_writes:
                raise KeyboardInterrupt
            written.append(name)
            return write_file(self, folder, name, content)

        with monkeypatch.context() as patched:
            patched.setattr(RegistryStore, "write_file", ends)
            with pytest.raises(KeyboardInterrupt):
                attach_index(tmp_path / "r", model, second)
        # The old record must never stand beside the new index: readers see none.
        assert read_index_record(tmp_path / "r", manifest) is None
        assert fetch_attached_index(tmp_path / "r", manifest, tmp_path) is None
        attach_index(tmp_path / "r", model, second)
    assert read_index_record(tmp_path / "r", manifest) == second.record
    assert isinstance(fetch_attached_index(tmp_path / "r", manifest, tmp_path).open(model), ItemIndex)
