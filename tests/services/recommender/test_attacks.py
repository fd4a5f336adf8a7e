"""What a client may send: everything is answered, nothing unforeseen, and nobody gets a file."""

import threading
import time

import pytest

from tests.artifact.model_factory import Parts, ids_of
from tests.services.recommender.harness import running

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks") / "model"
    Parts(kind="string").write(folder)
    with running(model=str(folder), max_body_bytes=200_000) as client:
        yield client


def post(client, content: bytes, **headers: str):
    return client.post("/v1/recommendations", content=content, headers={**JSON, **headers})


def check_problem(answer, status: int, kind: str) -> None:
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert (found["type"], found["status"]) == (f"urn:rgals:{kind}", status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000


@pytest.mark.parametrize("k", ["1000000000", "0", "-1", "1.5", "x", "", "1e3", "9" * 400])
def test_a_length_out_of_range_is_refused(client, k):
    check_problem(client.get("/v1/users/u/recommendations", params={"k": k}), 422, "invalid")


@pytest.mark.parametrize("k", [b"1000000000", b"0", b'"5"', b"1.5", b"null", b"true"])
def test_a_length_out_of_range_is_refused_in_a_batch(client, k):
    check_problem(post(client, b'{"requests": [{"user_id": "u", "k": %s}]}' % k), 422, "invalid")


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 20_000 + b"1" + b"}" * 20_000, b'{"requests": ' + b"[" * 1500 + b"]" * 1500 + b"}",
     b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"requests": []}', b'{"requests": [{}]} x', b'{"requests": 1}'],
)  # fmt: skip
def test_bodies_that_are_no_batch_are_refused(client, content):
    check_problem(post(client, content), 422, "invalid")


@pytest.mark.parametrize(
    "weight", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1", b"0", b"1e-30", b'"1"', b"null", b"[]"]
)
def test_weights_that_are_no_positive_number_are_refused(client, weight):
    content = b'{"requests": [{"history": [{"item_id": "i", "weight": %s}]}]}' % weight
    check_problem(post(client, content), 422, "invalid")


@pytest.mark.parametrize(
    "item",
    [
        b"true",
        b"1.5",
        b"null",
        b'""',
        b"[]",
        b"{}",
        b"9007199254740992",
        b'"\\ud800"',
        b'"%s"' % (b"x" * 600),
    ],
)
def test_ids_that_are_none_are_refused(client, item):
    for content in (b'{"requests": [{"history": [%s]}]}', b'{"requests": [{"user_id": "u", "exclude": [%s]}]}'):
        check_problem(post(client, content % item), 422, "invalid")


def test_unknown_fields_and_options_are_refused_by_name(client):
    answer = post(client, b'{"requests": [{"user_id": "u", "exclude_sen": true}]}')
    check_problem(answer, 422, "invalid")
    assert "exclude_sen" in answer.text
    answer = client.get("/v1/users/u/recommendations", params={"exclude_sen": "true"})
    check_problem(answer, 422, "invalid")
    assert "exclude_sen" in answer.text


def test_what_was_sent_is_not_repeated_in_a_problem(client):
    answer = post(client, b'{"requests": [{"user_id": {"secret": "%s"}}]}' % (b"s" * 3000))
    check_problem(answer, 422, "invalid")
    assert "sss" not in answer.text


def test_a_thousand_mistakes_give_a_short_answer(client):
    check_problem(post(client, b'{"requests": [%s{"k": 0}]}' % (b'{"k": 0},' * 999)), 422, "invalid")


def test_a_batch_over_its_limits_is_refused(client):
    check_problem(post(client, b'{"requests": [%s{"user_id": "u"}]}' % (b'{"user_id": "u"},' * 1000)), 422, "invalid")
    check_problem(post(client, b'{"requests": [{"history": [%s1]}]}' % (b"1," * 10_000)), 422, "invalid")


def test_a_body_over_its_limit_is_refused_whether_or_not_it_says_so(client):
    check_problem(post(client, b" " * 200_001), 413, "too-large")

    def in_pieces():
        for _ in range(300):
            yield b" " * 1000

    answer = client.post("/v1/recommendations", content=in_pieces(), headers=JSON)
    check_problem(answer, 413, "too-large")


@pytest.mark.parametrize("length", ["-1", "x", "99999999999999999999"])
def test_a_length_that_is_none_is_refused(client, length):
    check_problem(post(client, b"{}", **{"content-length": length}), 413, "too-large")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_body_that_is_not_json_is_refused(client, kind):
    check_problem(post(client, b'{"requests": [{"user_id": "u"}]}', **{"content-type": kind}), 415, "media-type")


@pytest.mark.parametrize(
    "path",
    ["a%2Fb", "a/b", "..%2F..%2Fetc%2Fpasswd", "%2e%2e%2f%2e%2e", "%00", "%0d%0aX-Evil:%201", "%F0%9F%98%80", "%ff%fe",
     "a%2Frecommendations", "%25s", "'%20or%201=1", "<script>", "x" * 512, "%E2%80%AE", "..", "."],
)  # fmt: skip
def test_ids_of_any_kind_are_only_ids(client, path):
    for what in ("recommendations", "similar", "history"):
        answer = client.get(f"/v1/users/{path}/{what}")
        if what == "recommendations" and answer.status_code == 200:
            assert answer.json()["source"] == "popular"
        else:
            assert answer.status_code in (404, 405, 422), answer.text  # 405: the client has removed the dots
            assert "root:" not in answer.text
        assert "x-evil" not in answer.headers


def test_an_id_of_ten_kilobytes_is_refused(client):
    check_problem(client.get(f"/v1/users/{'x' * 10_000}/recommendations"), 422, "invalid")


@pytest.mark.parametrize(
    "path",
    ["/v1/../etc/passwd", "/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/index.html", "/v1/reports/../model",
     "/v1/admin/versions/..%2f..", "/.git/config", "//etc/passwd"],
)  # fmt: skip
def test_no_path_becomes_a_file_name(client, path):
    answer = client.get(path)
    assert answer.status_code in (200, 404)
    assert "import" not in answer.text
    if answer.status_code == 200:  # the client itself has removed the dots
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("value", ["0", "-5", "x", "1e3", "9" * 12, ""])
def test_a_deadline_that_is_none_is_refused(client, value):
    answer = client.get("/v1/users/u/recommendations", headers={"x-timeout-ms": value})
    check_problem(answer, 400, "bad-request")


def test_a_request_id_is_kept_if_it_is_plain(client):
    assert client.get("/livez", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 65, "a\tb", "<x>"):
        assert client.get("/livez", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_methods_that_do_not_exist_are_told(client):
    check_problem(client.delete("/v1/recommendations"), 405, "method-not-allowed")
    check_problem(client.post("/v1/model"), 405, "method-not-allowed")


def test_no_other_origin_may_call_unless_it_is_named(client, tmp_path):
    origin = {"origin": "https://shop.example"}
    assert "access-control-allow-origin" not in client.get("/v1/model", headers=origin).headers
    Parts().write(tmp_path / "model")
    with running(model=str(tmp_path / "model"), cors_origins=("https://shop.example",)) as named:
        assert named.get("/v1/model", headers=origin).headers["access-control-allow-origin"] == "https://shop.example"
        other = named.get("/v1/model", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
        assert named.options("/v1/recommendations", headers=asked).status_code == 200


def test_every_answer_has_the_headers_that_keep_browsers_careful(client):
    for path in ("/", "/v1/model", "/nothing", "/livez", "/assets/app.js"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] in ("no-store", "no-cache")
    assert "script-src 'self'" in client.get("/").headers["content-security-policy"]


def test_many_unknown_items_cost_nothing_but_their_names(client, tmp_path):
    names = ",".join(f'"n{number}"' for number in range(9_000)).encode()
    (found,) = post(client, b'{"requests": [{"user_id": "u", "exclude": [%s]}]}' % names).json()["answers"]
    assert len(found["unknown_items"]) == 9_000


def test_health_answers_and_deadlines_hold_while_every_thread_is_busy(client):
    engine = client.app.state.worker.engine
    may_end = threading.Event()
    busy = [
        client.portal.start_task_soon(engine.run, lambda: may_end.wait(30), time.monotonic() + 60)
        for _ in range(engine.n_threads)
    ]
    try:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        answer = client.get("/v1/users/u/recommendations", headers={"x-timeout-ms": "50"})
        check_problem(answer, 504, "deadline")
        assert answer.headers["retry-after"] == "1"
    finally:
        may_end.set()
    assert [task.result(30) for task in busy] == [True] * engine.n_threads
    assert client.get("/v1/users/u/recommendations").status_code == 200


def test_long_ids_of_items_are_text(client):
    model = client.app.state.worker.slot.take().model
    item = ids_of(model.item_ids)[0]
    assert client.get(f"/v1/items/{item}/similar").json()["id"] == item
