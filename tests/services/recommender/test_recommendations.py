"""The top-k contract through HTTP, and the same answers as the library's."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgals.artifact.model import Model
from rgals.numerics.loss import Loss
from tests.artifact.model_factory import Parts, brute_force_list, ids_of
from tests.services.recommender.harness import running

N_USERS, N_ITEMS = 9, 13


@pytest.fixture(scope="module", params=["string", "int64"])
def service(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommendations") / "model"
    parts = Parts(N_USERS, N_ITEMS, 2, seed=3, kind=request.param, density=0.4, empty_users=(2, 7))
    model = parts.write(folder)
    with running(model=str(folder)) as client:
        yield client, model


def texts(dictionary) -> list[str]:
    return [str(each) for each in ids_of(dictionary)]


def check_list(answer: dict, model: Model, scores: np.ndarray, allowed: set[int], k: int) -> None:
    """The contract, and equality with the twin."""
    rows = [texts(model.item_ids).index(item["item_id"]) for item in answer["items"]]
    listed = [item["score"] for item in answer["items"]]
    assert len(rows) == len(set(rows)) <= k
    assert set(rows) <= allowed
    assert answer["exhausted"] == (len(rows) < k) == (len(allowed) < k)
    assert list(zip(rows, listed, strict=True)) == brute_force_list(scores, allowed, k)


rows_of_items = st.sets(st.integers(0, N_ITEMS - 1))
contract = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contract
@given(st.integers(0, N_USERS - 1), st.integers(1, N_ITEMS + 4), st.booleans())
def test_the_list_of_a_user_keeps_the_contract(service, user, k, exclude_seen):
    client, model = service
    user_id = texts(model.user_ids)[user]
    answer = client.get(f"/v1/users/{user_id}/recommendations", params={"k": k, "exclude_seen": exclude_seen})
    assert answer.status_code == 200
    found = answer.json()
    seen = set(model.seen.columns_of(user).tolist())
    scores = model.item_factors.astype(float) @ model.user_factors[user].astype(float) if seen else model.popularity
    check_list(found, model, scores, set(range(N_ITEMS)) - (seen if exclude_seen else set()), k)
    assert (found["user_id"], found["known_user"], found["k"], found["exclude_seen"]) == (
        user_id,
        True,
        k,
        exclude_seen,
    )
    assert found["source"] == ("factors" if seen else "popular")
    assert found["model_version"] == answer.headers["x-model-version"] == model.factor_checksum[:12]


@contract
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user": st.integers(0, N_USERS),
                "k": st.integers(1, N_ITEMS),
                "exclude_seen": st.booleans(),
                "exclude": rows_of_items,
                "candidates": st.none() | rows_of_items,
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_list_of_a_batch_keeps_the_contract(service, drawn):
    client, model = service
    users, items = [*texts(model.user_ids), "nobody"], texts(model.item_ids)
    requests = [
        {
            "user_id": users[each["user"]],
            "k": each["k"],
            "exclude_seen": each["exclude_seen"],
            "exclude": [items[row] for row in each["exclude"]],
            **({} if each["candidates"] is None else {"candidates": [items[row] for row in each["candidates"]]}),
        }
        for each in drawn
    ]
    answer = client.post("/v1/recommendations", json={"requests": requests})
    assert answer.status_code == 200
    for each, found in zip(drawn, answer.json()["answers"], strict=True):
        is_known = each["user"] < N_USERS
        seen = set(model.seen.columns_of(each["user"]).tolist()) if is_known else set()
        allowed = (set(range(N_ITEMS)) if each["candidates"] is None else each["candidates"]) - each["exclude"]
        allowed -= seen if each["exclude_seen"] else set()
        scores = model.item_factors.astype(float) @ model.user_factors[each["user"]].astype(float) if seen else None
        check_list(found, model, model.popularity if scores is None else scores, allowed, each["k"])
        assert found["known_user"] is is_known


@contract
@given(
    st.dictionaries(st.integers(0, N_ITEMS - 1), st.sampled_from([0.5, 1.0, 3.0]), min_size=1),
    st.none() | st.integers(0, N_USERS - 1),
    st.integers(1, N_ITEMS),
    rows_of_items,
)
def test_a_history_gives_what_the_library_gives(service, history, user, k, excluded):
    client, model = service
    items, user_ids = ids_of(model.item_ids), ids_of(model.user_ids)
    exclude = [items[row] for row in excluded]
    sent = {"history": [{"item_id": items[r], "weight": w} for r, w in history.items()], "k": k, "exclude": exclude}
    user_id = None if user is None else user_ids[user]
    if user_id is not None:
        sent["user_id"] = user_id
    (found,) = client.post("/v1/recommendations", json={"requests": [sent]}).json()["answers"]
    weights = {items[row]: weight for row, weight in history.items()}
    expected = model.recommend_history(weights, k, user_id=user_id, exclude=exclude)
    assert found["source"] == expected.source == "fold_in"
    assert [item["item_id"] for item in found["items"]] == [str(item) for item in expected.items]
    assert [item["score"] for item in found["items"]] == expected.scores
    assert found["exhausted"] == expected.exhausted


def test_an_explained_list_adds_up(tmp_path):
    rng = np.random.default_rng(2)
    parts = Parts(6, 12, 3, kind="int64", density=0.5, loss=Loss("rgx", alpha=1.0, reg=0.2))
    parts.changes = {
        "user_factors": rng.normal(0, 1, (6, 3)).astype(np.float32),
        "item_factors": rng.normal(0, 1, (12, 3)).astype(np.float32),
    }
    parts.write(tmp_path / "model")
    with running(model=str(tmp_path / "model")) as client:
        one = client.get("/v1/users/5/recommendations", params={"explain": True}).json()
        batch = {
            "requests": [
                {"history": [15, {"item_id": "25", "weight": 2}], "explain": True},
                {"user_id": 5, "explain": True},
            ]
        }
        folded, again = client.post("/v1/recommendations", json=batch).json()["answers"]
    assert again["items"] == one["items"]
    assert one["items"]
    assert folded["items"]
    for item in one["items"] + folded["items"]:
        found = item["explanation"]
        shares = [share["score"] for share in found["contributions"]]
        total = math.fsum([*shares, found["others"], found["background"], found["remainder"]])
        assert total == pytest.approx(item["score"], abs=1e-9)
    assert all(abs(item["explanation"]["remainder"]) < 1e-5 for item in folded["items"])


def test_an_unknown_user_gets_popular_items_or_a_404(service):
    client, model = service
    found = client.get("/v1/users/nobody/recommendations?k=3").json()
    assert (found["source"], found["known_user"], found["user_id"]) == ("popular", False, "nobody")
    check_list(found, model, model.popularity, set(range(N_ITEMS)), 3)
    answer = client.get("/v1/users/nobody/recommendations?fallback=none")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:rgals:unknown-id")
    assert model.location not in answer.text


def test_an_unknown_user_with_a_history_is_folded_in(service):
    client, model = service
    item = texts(model.item_ids)[0]
    sent = {"requests": [{"user_id": "new", "history": [item], "fallback": "none"}]}
    (found,) = client.post("/v1/recommendations", json=sent).json()["answers"]
    assert (found["user_id"], found["source"], found["known_user"]) == ("new", "fold_in", False)


def test_a_request_that_fails_does_not_take_the_others_with_it(service):
    client, model = service
    user, item = texts(model.user_ids)[0], texts(model.item_ids)[0]
    requests = [
        {"user_id": "nobody", "fallback": "none"},
        {"user_id": user},
        {"history": [item, item]},
        {"k": 3},
        {"history": ["nothing"], "fallback": "none"},
    ]
    answers = client.post("/v1/recommendations", json={"requests": requests}).json()["answers"]
    assert [found.get("problem", {}).get("status") for found in answers] == [404, None, 422, 422, 404]
    assert answers[1]["items"]
    assert "given twice" in answers[2]["problem"]["detail"]


def test_a_batch_of_many_chunks_is_answered_in_order(service):
    client, model = service
    users = texts(model.user_ids)
    requests = [{"user_id": users[number % N_USERS], "k": 2} for number in range(300)]
    answers = client.post("/v1/recommendations", json={"requests": requests}).json()["answers"]
    assert [found["user_id"] for found in answers] == [sent["user_id"] for sent in requests]
    assert answers[:N_USERS] == answers[N_USERS : 2 * N_USERS]


def test_items_that_the_model_does_not_hold_are_told(service):
    client, model = service
    sent = {"requests": [{"user_id": texts(model.user_ids)[0], "exclude": ["x"], "history": ["y"]}]}
    (found,) = client.post("/v1/recommendations", json=sent).json()["answers"]
    assert found["unknown_items"] == ["y", "x"]
    assert "rgals_unknown_items_total" in client.get("/metrics").text


def test_similar_items_and_users_are_the_librarys(service):
    client, model = service
    for side, dictionary, find in (
        ("items", model.item_ids, model.similar_items),
        ("users", model.user_ids, model.similar_users),
    ):
        for wanted in ids_of(dictionary):
            found = client.get(f"/v1/{side}/{wanted}/similar", params={"k": 4}).json()
            expected = find(wanted, 4)
            assert [near["id"] for near in found["neighbors"]] == [str(near) for near in expected.neighbors]
            assert [near["score"] for near in found["neighbors"]] == expected.scores
            assert found["exhausted"] == (len(expected.neighbors) < 4)
        assert client.get(f"/v1/{side}/nothing/similar").status_code == 404
        many = client.get(f"/v1/{side}/{wanted}/similar", params={"k": 1000}).json()
        assert many["exhausted"] is True


def test_the_history_of_a_user_is_shown(service):
    client, model = service
    user = ids_of(model.user_ids)[0]
    found = client.get(f"/v1/users/{user}/history").json()
    assert [(item["item_id"], item["weight"]) for item in found["items"]] == [
        (str(i), w) for i, w in model.history(user)
    ]
    assert found["n_items"] == len(found["items"])
    assert len(client.get(f"/v1/users/{user}/history?limit=1").json()["items"]) == 1
    assert client.get("/v1/users/nobody/history").status_code == 404


def test_ids_are_found_by_prefix(service):
    client, model = service
    items = texts(model.item_ids)
    prefix = items[-1][:-1]
    found = client.get("/v1/items", params={"prefix": prefix, "limit": 1000}).json()
    assert found["ids"] == [item for item in items if item.startswith(prefix)]
    assert found["n_total"] == N_ITEMS
    assert client.get("/v1/users", params={"offset": 2, "limit": 3}).json()["ids"] == texts(model.user_ids)[2:5]


def test_the_served_model_describes_itself(service):
    client, model = service
    found = client.get("/v1/model").json()
    assert (found["n_users"], found["n_items"], found["n_factors"]) == (N_USERS, N_ITEMS, 2)
    assert found["factor_sha256"] == model.factor_checksum
    assert found["judgement"] is None
    assert found["problem"] is None
