"""API keys: who gets in, who does not, and what a file of keys may look like."""

import logging
import os

import pytest

from rgals.errors import DataError, InputError
from services.recommender.security import ApiKeys, new_key, read_keys
from tests.artifact.model_factory import Parts
from tests.services.recommender.harness import running, wait_until, write_keys

LIST = "/v1/users/5/recommendations"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("security")
    Parts(kind="int64").write(folder / "model")
    return folder


@pytest.fixture
def guarded(folder, tmp_path):
    keys = write_keys(tmp_path / "keys", shop="read", operator="admin")
    with running(model=str(folder / "model"), api_keys_file=tmp_path / "keys", peer="192.0.2.7") as client:
        yield client, keys, tmp_path / "keys"


def test_a_key_opens_what_its_scope_allows(guarded):
    client, keys, _ = guarded
    for name in keys:
        assert client.get(LIST, headers={"x-api-key": keys[name]}).status_code == 200
        assert client.get(LIST, headers={"authorization": f"Bearer {keys[name]}"}).status_code == 200
    reload = "/v1/admin/reload"
    assert client.post(reload, headers={"x-api-key": keys["operator"]}).status_code == 200
    refused = client.post(reload, headers={"x-api-key": keys["shop"]})
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:rgals:forbidden")


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": ""}, {"x-api-key": "wrong"}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer"},
     {"x-api-key": "k" * 5000}, {"x-api-key": "sch\u00fcssel".encode()}],
)  # fmt: skip
@pytest.mark.parametrize("path", [LIST, "/v1/model", "/v1/nothing", "/metrics", "/v1/admin/versions", "/anything"])
def test_without_a_valid_key_nothing_is_learned(guarded, path, headers):
    client, _, _ = guarded
    answer = client.get(path, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:rgals:unauthorized")
    assert "Bearer" in answer.headers["www-authenticate"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/", "/assets/app.js", "/openapi.json"])
def test_health_and_the_empty_page_need_no_key(guarded, path):
    client, _, _ = guarded
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("name", ["api_key", "key", "X-API-Key", "access_token", "token"])
def test_a_key_in_the_url_is_refused_even_if_it_is_valid(guarded, name):
    client, keys, _ = guarded
    answer = client.get(LIST, params={name: keys["shop"]}, headers={"x-api-key": keys["shop"]})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:rgals:key-in-query")
    assert keys["shop"] not in answer.text


def test_keys_are_replaced_without_a_restart(guarded):
    client, keys, path = guarded
    new, entry = new_key("shop", "read")
    path.write_text(f"# replaced\n\n{entry.to_line()}  # the shop's\n")
    wait_until(lambda: client.get(LIST, headers={"x-api-key": new}).status_code == 200, 10)
    assert client.get(LIST, headers={"x-api-key": keys["shop"]}).status_code == 401


def test_a_broken_file_of_keys_leaves_the_former_keys_in_force(guarded, caplog):
    client, keys, path = guarded
    path.write_text("this is no line of keys\n")
    with caplog.at_level(logging.ERROR, "rgals.service"):
        wait_until(lambda: client.get(LIST, headers={"x-api-key": keys["shop"]}) and caplog.records, 10)
    assert client.get(LIST, headers={"x-api-key": keys["shop"]}).status_code == 200
    assert "former ones stay" in caplog.text


def test_the_log_holds_the_name_of_a_key_and_never_the_key(guarded, caplog):
    client, keys, _ = guarded
    with caplog.at_level(logging.INFO, "rgals.service"):
        client.get(LIST + "?k=3", headers={"x-api-key": keys["shop"]})
    (record,) = [found for found in caplog.records if found.name == "rgals.service.access"]
    assert (record.key, record.route, record.status) == ("shop", "/v1/users/{user_id:path}/recommendations", 200)
    assert all(keys["shop"] not in str(value) and "k=3" not in str(value) for value in vars(record).values())


@pytest.mark.parametrize(
    ("peer", "headers"),
    [("192.0.2.7", {}), ("127.0.0.1", {"host": "attacker.example"}), ("127.0.0.1", {"x-forwarded-for": "192.0.2.7"}),
     ("127.0.0.1", {"forwarded": "for=192.0.2.7"}), ("127.0.0.1", {"host": "localhost.attacker.example"})],
)  # fmt: skip
def test_without_keys_only_this_machine_is_answered(folder, peer, headers):
    with running(model=str(folder / "model"), peer=peer) as client:
        answer = client.get(LIST, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (401, "urn:rgals:unauthorized")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_without_keys_this_machine_is_answered_by_any_of_its_names(folder, host):
    with running(model=str(folder / "model")) as client:
        assert client.get(LIST, headers={"host": host}).status_code == 200


def test_a_key_is_found_by_its_hash(tmp_path):
    keys = write_keys(tmp_path / "keys", a="read", b="admin")
    accepted = ApiKeys(tmp_path / "keys")
    assert {name: accepted.find(key).name for name, key in keys.items()} == {"a": "a", "b": "b"}
    assert accepted.find(keys["a"][:-1]) is None
    assert all(key not in (tmp_path / "keys").read_text() for key in keys.values())
    assert len(set(keys.values())) == 2


@pytest.mark.parametrize(
    "line",
    [
        "a read",
        "a write sha256:" + "0" * 64,
        "a read sha256:" + "0" * 63,
        "a b read sha256:" + "0" * 64,
        "\u00e4 read x",
    ],
)
def test_a_bad_line_is_named_by_its_number_and_not_repeated(tmp_path, line):
    path = tmp_path / "keys"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(DataError, match="line 2: expected NAME") as caught:
        read_keys(path)
    assert line not in str(caught.value)


def test_a_file_of_keys_that_is_missing_or_no_text_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a readable file of keys"):
        read_keys(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(os.urandom(64) + b"\xff")
    with pytest.raises(DataError, match="not a readable file of keys"):
        read_keys(tmp_path / "bytes")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a#b", "\u00e4"])
def test_a_key_needs_a_plain_name(name):
    with pytest.raises(InputError, match="name"):
        new_key(name, "read")
