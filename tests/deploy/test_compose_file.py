"""docker-compose.yml as a text: who runs, what they may, what is open."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.recommender.settings import Settings, read_settings
from tests.deploy.compose_file import (
    COMPOSE_FILE,
    DASHBOARD_FILE,
    REPOSITORY,
    in_bytes,
    load,
    resolve,
    substitute,
    used_variables,
    words,
)

COMPOSE = load()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ("ray-head", "ray-worker", "train")
JOBS = ("train", "ingest", "evaluate", "publish")
API = "api"
every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $$HOME", "plain $HOME"),
        ("${A:-x}:${B:-y}", "1:y"),
        ("[${A:+--a=${A}}${B:+--b=${B}}]", "[--a=1]"),
        ("${B:-${C:-deep}}", "deep"),
        ("${EMPTY:-x} $A", "x 1"),
    ],
)
def test_variables_are_put_in_as_compose_does(text: str, expected: str) -> None:
    assert substitute(text, {"A": "1", "EMPTY": ""}) == expected


def test_a_variable_without_a_default_must_be_given() -> None:
    with pytest.raises(KeyError):
        substitute("${MISSING}", {})
    assert resolve({"a": [1, "${A}"]}, {"A": "b"}) == {"a": [1, "b"]}


def test_there_are_a_head_workers_and_jobs() -> None:
    assert list(SERVICES) == ["ray-head", "ray-worker", "train", "ingest", "evaluate", "publish", "api"]
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {*JOBS, API}
    assert all(service["profiles"] == [name] for name, service in SERVICES.items() if name in (*JOBS, API))


@every_service
def test_a_service_is_no_root_and_may_do_little(service: dict[str, Any]) -> None:
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    forbidden = {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "container_name", "env_file"}
    assert not forbidden & set(service)


@every_service
def test_a_service_runs_our_pinned_image_within_limits(service: dict[str, Any]) -> None:
    assert re.fullmatch(r"rgals:\d+\.\d+\.\d+", service["image"])
    assert service["build"] == {"context": "."}
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert in_bytes(limits["memory"]) >= 2**30
    assert service["pids_limit"] > 0


def test_the_version_of_the_image_is_that_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert SERVICES["train"]["image"] == f"rgals:{version[1]}"
    assert f'image.version="{version[1]}"' in (REPOSITORY / "Dockerfile").read_text()


@every_service
def test_a_service_writes_to_volumes_that_others_see_or_its_own(service: dict[str, Any]) -> None:
    volumes = {volume["target"]: volume for volume in service["volumes"]}
    assert set(volumes) == {"/data", "/cache", "/scratch"}
    assert volumes["/data"]["source"] == "./data"
    assert volumes["/data"]["bind"] == {"create_host_path": False}  # the engine would make it for root
    assert volumes["/cache"]["source"] in COMPOSE["volumes"]
    assert "source" not in volumes["/scratch"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != API])
def test_nothing_but_the_api_is_open_to_the_outside(name: str) -> None:
    assert "ports" not in SERVICES[name]
    assert SERVICES[name]["networks"] == ["cluster"]
    assert COMPOSE["networks"] == {"front": None, "cluster": {"internal": "true"}}


def test_the_api_is_published_on_this_machine_alone_with_keys_and_away_from_the_cluster() -> None:
    api = SERVICES[API]
    assert api["ports"] == ["127.0.0.1:8000:8000"]
    assert api["networks"] == ["front"]
    assert api["environment"]["RGALS_SERVICE_API_KEYS_FILE"] == "/run/secrets/api_keys"
    assert api["secrets"] == ["api_keys"]
    (data,) = [volume for volume in api["volumes"] if volume["target"] == "/data"]
    assert data["read_only"] is True


def test_the_settings_of_the_api_are_those_that_the_service_knows(tmp_path: Path) -> None:
    environment = dict(SERVICES[API]["environment"])
    (tmp_path / "keys").touch()
    environment["RGALS_SERVICE_API_KEYS_FILE"] = str(tmp_path / "keys")
    options = dict(zip(*[iter(words(SERVICES[API]["command"]))] * 2, strict=True))
    assert read_settings(environment, registry=options["--registry"]).port == 8000


def test_the_api_is_healthy_when_it_answers_and_comes_back() -> None:
    api = load({"API_PORT": "9001"})["services"][API]
    assert "127.0.0.1:9001/readyz" in api["healthcheck"]["test"][-1]
    assert api["restart"] == "unless-stopped"
    assert int(api["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_s"].default


def test_the_dashboard_is_published_on_this_machine_alone() -> None:
    published = load(path=DASHBOARD_FILE)["services"]
    assert list(published) == ["ray-head"]
    assert published["ray-head"] == {"ports": ["127.0.0.1:8265:8265"]}
    assert "--dashboard-port=8265" in words(SERVICES["ray-head"]["command"])


@pytest.mark.parametrize("name", NODES)
def test_a_node_of_the_cluster_knows_the_token_from_a_file(name: str) -> None:
    service = SERVICES[name]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert service["secrets"] == ["ray_token"]
    assert COMPOSE["secrets"]["ray_token"] == {"file": "./secrets/ray_token"}


@every_service
def test_no_secret_is_written_down(service: dict[str, Any]) -> None:
    environment = service.get("environment") or {}
    assert "RAY_AUTH_TOKEN" not in environment
    assert not [name for name in environment if re.search(r"PASSWORD|SECRET|TOKEN$|KEY(?!S_FILE$)", name)]
    if "secrets" not in service:
        assert not [word for word in words(service.get("entrypoint")) if "ray" in word]


def test_secrets_and_data_stay_out_of_git_and_of_the_image() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert {"/secrets/", "/.env", "/data/"} <= set(ignored)
    assert (REPOSITORY / ".dockerignore").read_text().splitlines()[1] == "*"


@pytest.mark.parametrize("name", NODES)
def test_the_object_store_fits_into_shared_memory_and_that_into_memory(name: str) -> None:
    service = SERVICES[name]
    options = dict(word.partition("=")[::2] for word in words(service["command"]))
    store = options.get("--object-store-memory") or service["environment"]["RAY_NODE_STORE_BYTES"]
    shared_memory = in_bytes(service["shm_size"])
    assert int(store) < 0.95 * shared_memory
    assert shared_memory < 0.5 * in_bytes(service["deploy"]["resources"]["limits"]["memory"])


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_a_node_has_a_health_check_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    check = service["healthcheck"]
    assert check["test"] == ["CMD", "python", "/opt/rgals/cluster.py", "check"]
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].removesuffix("s")) > 30  # Ray hands over for up to 30 s
    assert "--block" in words(service["command"])


@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends(name: str) -> None:
    assert SERVICES[name]["restart"] == "no"
    assert "healthcheck" not in SERVICES[name]


def test_workers_can_be_scaled() -> None:
    assert SERVICES["ray-worker"]["deploy"]["replicas"] == "1"
    assert load({"RAY_WORKERS": "3"})["services"]["ray-worker"]["deploy"]["replicas"] == "3"
    worker = SERVICES["ray-worker"]
    assert f"--num-cpus={worker['deploy']['resources']['limits']['cpus']}" in words(worker["command"])


def test_all_agree_on_the_address_of_the_head() -> None:
    changed = load({"RAY_HEAD_HOST": "elsewhere", "RAY_PORT": "1234"})["services"]
    assert "--port=1234" in words(changed["ray-head"]["command"])
    assert "--address=elsewhere:1234" in words(changed["ray-worker"]["command"])
    assert "--address=elsewhere:1234" in words(changed["train"]["entrypoint"])
    assert {changed[name]["environment"]["RAY_ADDRESS"] for name in NODES} == {"elsewhere:1234"}


def test_the_example_shows_every_variable_with_its_default() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    shown = dict(line.partition("=")[::2] for line in lines if line and not line.startswith("#"))
    assert shown == used_variables()
    assert used_variables(DASHBOARD_FILE).items() <= shown.items()


def test_the_file_is_plain_yaml_of_compose() -> None:
    known = {"name", "services", "networks", "volumes", "secrets"}
    assert {key for key in yaml.safe_load(COMPOSE_FILE.read_text()) if not key.startswith("x-")} == known
